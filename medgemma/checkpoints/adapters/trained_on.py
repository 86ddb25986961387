"""What an adapter was trained on, written beside it: two bases of one shape take each other's adapters without a word.

Written by `finetune.adapters`; an adapter that another trainer made has no such file, and nothing is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medgemma.checkpoints.layouts import TIED_HEADS, hub_key_of, kind_of
from medsiglip.checkpoints.folders import read_json
from medsiglip.checkpoints.identity import fingerprint
from medsiglip.checkpoints.layout import hub_names
from medsiglip.checkpoints.quantised import scheme_of
from medsiglip.checkpoints.safetensors_files import opened, stored_tensors

TRAINED_ON_FILE = "trained_on.json"
SAMPLED = 64
"""Values of each tensor that make up `sampled_weights`."""


@dataclass(frozen=True)
class TrainedOn:
    """An adapter's base and how it was asked."""

    base: str
    """"nano", a Hub id, or a folder."""
    fingerprint: str
    """Of the base's files, byte for byte."""
    weights: str | None
    """`sampled_weights` of the base; None of one that is stored in fewer bits."""
    is_head_tied: bool
    """Whether the base's output head is its input embeddings."""
    method: str
    """lora, dora or qlora."""
    prompt_form: Mapping[str, Any]
    """How the examples were put; a later caller gets answers as trained only in this form."""


def trained_on(base: str, folder: Path, method: str, prompt_form: Mapping[str, Any]) -> TrainedOn:
    """The record of a base; its files are read."""
    return TrainedOn(base, fingerprint(folder), sampled_weights(folder), _is_head_tied(folder), method, prompt_form)


def write_trained_on(record: TrainedOn, adapter: Path) -> None:
    """Write it into an adapter's folder."""
    text = json.dumps(asdict(record), indent=2, ensure_ascii=False)
    (adapter / TRAINED_ON_FILE).write_text(text + "\n", encoding="utf-8")


def read_trained_on(adapter: Path) -> TrainedOn | None:
    """What stands in an adapter's folder; None if nothing does.

    Raises:
        ValueError: the file is damaged.
    """
    path = adapter / TRAINED_ON_FILE
    if not path.is_file():
        return None
    try:
        return TrainedOn(**read_json(path))
    except TypeError as error:
        raise ValueError(
            f"{path}: has not the fields of a record; fetch the adapter again, or delete the file"
        ) from error


def refuse_other_base(adapter: Path, base: Path) -> None:
    """Refuse a base that the adapter was not trained on; another layout, dtype or sharding of it is the same base.

    Raises:
        ValueError: both are named.
    """
    record = read_trained_on(adapter)
    if record is None or record.fingerprint == fingerprint(base):
        return
    if record.is_head_tied and not _is_head_tied(base):
        raise ValueError(
            f"adapter {adapter}: trained on {record.base}, whose output head is its embeddings; {base} has a head of "
            "its own; give the base that it was trained on"
        )
    found = sampled_weights(base)
    if record.weights is not None and found is not None and found != record.weights:
        raise ValueError(
            f"adapter {adapter}: trained on {record.base} ({record.fingerprint}); the weights of {base} are others; "
            "give the base that it was trained on"
        )


def sampled_weights(folder: Path) -> str | None:
    """16 hex digits of the first values of every tensor, in bfloat16 and by Hub name: equal for all copies of a model.

    Returns:
        None of weights that are stored in fewer bits.
    """
    config, stored = read_json(folder / "config.json"), stored_tensors(folder)
    if scheme_of(config, stored) is not None:
        return None
    kind = kind_of(config, folder)
    named = hub_names(stored, hub_key_of(kind), f"model {folder}")
    if _is_head_tied(folder):
        named = {key: tensor for key, tensor in named.items() if key not in TIED_HEADS.get(kind, {})}
    digest = hashlib.sha256()
    with opened(sorted({t.file for t in named.values()}), "pt") as handles:
        for key in sorted(named):
            tensor = named[key]
            digest.update(f"{key} {tensor.shape} ".encode())
            digest.update(_first_values(handles[tensor.file], tensor.name, bool(tensor.shape)))
    return digest.hexdigest()[:16]


def _first_values(handle: Any, name: str, has_rows: bool) -> bytes:
    import torch

    values = handle.get_slice(name)[:1] if has_rows else handle.get_tensor(name)
    rounded = values.flatten()[:SAMPLED].to(torch.bfloat16)
    return bytes(rounded.view(torch.uint8).numpy())


def _is_head_tied(folder: Path) -> bool:
    """As transformers decides it for these models: tied unless config.json says otherwise."""
    config = read_json(folder / "config.json")
    return bool(config.get("tie_word_embeddings", (config.get("text_config") or {}).get("tie_word_embeddings", True)))
