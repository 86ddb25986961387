"""A gate as one safetensors file; nobody's picture can be told from it: means, a covariance, distances."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from medsiglip.gate.gate import Gate, Kind

FORM = "medsiglip gate 1"
SHIPPED = Path("gate") / "gate.safetensors"
"""Below a checkpoint's folder."""


def write_gate(gate: Gate, out: Path) -> None:
    """Write a gate; the file appears under its name only when it is whole."""
    from safetensors.numpy import save

    facts = {
        "form": FORM,
        "kinds": [asdict(kind) for kind in gate.kinds],
        "encoder": gate.encoder,
        "pixels": gate.pixels,
        "site": gate.site,
        "figures": gate.figures,
    }
    tensors = {"means": np.ascontiguousarray(gate.means), "whitening": np.ascontiguousarray(gate.whitening)}
    tensors |= {f"distances.{place}": own for place, own in enumerate(gate.own_distances)}
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    partial.write_bytes(save(tensors, metadata={"gate": json.dumps(facts, ensure_ascii=False)}))
    partial.replace(out)


def read_gate(path: Path) -> Gate:
    """Read what `write_gate` wrote.

    Raises:
        ValueError: the file is missing, or is no gate.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            facts = json.loads((file.metadata() or {})["gate"])
            if facts["form"] != FORM:
                raise ValueError("it is of another form")
            kinds = tuple(Kind(**kind) for kind in facts["kinds"])
            own = tuple(file.get_tensor(f"distances.{place}") for place in range(len(kinds)))
            means, whitening = file.get_tensor("means"), file.get_tensor("whitening")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: no gate ({reason}); write one with medsiglip gate-fit") from error
    if means.shape != (len(kinds), len(whitening)) or whitening.shape != (len(whitening),) * 2:
        raise ValueError(f"{path}: no gate (its parts do not fit each other); write it again with medsiglip gate-fit")
    return Gate(kinds, means, whitening, own, facts["encoder"], facts["pixels"], facts["site"], facts["figures"])


def gate_for(asked: str, folder: Path, encoder: str, pixels: str) -> Gate:
    """The gate that was asked for.

    Args:
        asked: a file, or "auto": what ships beside the encoder.
        folder: the encoder's.
        encoder: its identity.
        pixels: pixel and resize policy.

    Raises:
        ValueError: there is none, or it is of another encoder or of other pixels.
    """
    path = folder / SHIPPED if asked == "auto" else Path(asked)
    if asked == "auto" and not path.is_file():
        raise ValueError("no gate ships with this encoder; fit one on your own pictures: medsiglip gate-fit")
    gate = read_gate(path)
    if gate.encoder != encoder:
        raise ValueError(f"{path}: a gate of the encoder {gate.encoder}, not of {encoder}; fit it again")
    if gate.pixels != pixels:
        raise ValueError(f"{path}: a gate of the pixels {gate.pixels}, not of {pixels}; give it that --policy")
    return gate
