"""nano's gate: the kinds of picture it was trained on, and how well it tells them from kinds it never saw.

The training side places the kinds, `held-out` measures how far out their own lie, `final` is what is scored.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data_cards.readers.pictures import LabelledPicture, read_labelled_pictures
from data_cards.split import side
from finetune.recipes.nano.calibrate import SITE
from medsiglip.gate.files import SHIPPED, write_gate
from medsiglip.gate.fit import fit_gate
from medsiglip.gate.gate import Gate, Kind
from medsiglip.gate.shift import shift
from medsiglip.imaging.frame import VOI
from medsiglip.metrics.estimates import auroc_estimate
from medsiglip.metrics.statistics import grouped_bootstrap_ci
from medsiglip.performance.figures import estimate_json

if TYPE_CHECKING:
    from medsiglip.encoder import MedSigLIP

KINDS = (
    Kind("abdominal CT", "CT", "abdomen"),
    Kind("breast MRI", "MRI", "breast"),
    Kind("chest CT", "CT", "chest"),
    Kind("chest X-ray", "X-ray", "chest"),
    Kind("hand X-ray", "X-ray", "hand"),
    Kind("head CT", "CT", "head"),
    Kind("lung histology", "histology", "lung"),
)
SLIDES = "lung histology"
NEVER_SEEN = {"fundus photographs": "fundus-dr", "skin": "derm-ham10000"}
OTHER_SITES = {"chest films of COVID-19 papers": "cxr-covid", "teaching files of VQA-RAD": "vqa-rad"}
LEVEL = 0.9


class Embedded(NamedTuple):
    """Pictures of one or several kinds."""

    vectors: np.ndarray
    kinds: np.ndarray
    groups: np.ndarray
    sides: np.ndarray

    def of(self, rows: np.ndarray) -> "Embedded":
        """Some of them."""
        return Embedded(*(column[rows] for column in self))


def write_nano_gate(encoder: "MedSigLIP", data: Path, out: Path) -> Path:
    """Fit, score and write OUT/gate/gate.safetensors.

    Raises:
        ValueError: a set of the kit is missing or broken.
    """
    known = _known(encoder, data)
    elsewhere = {
        name: _embedded(encoder, read_labelled_pictures(data, card), "")
        for name, card in (NEVER_SEEN | OTHER_SITES).items()
    }
    gate = fit(encoder, known, KINDS)
    figures = {"coverage": coverage(gate, known.of(known.sides == "final"), LEVEL)}
    slides = known.of((known.kinds == SLIDES) & (known.sides == "final"))
    radiology = known.of(known.kinds != SLIDES)
    without_slides = fit(encoder, radiology, [kind for kind in KINDS if kind.name != SLIDES])
    figures["never seen"] = {name: told_apart(gate, known, elsewhere[name]) for name in NEVER_SEEN}
    figures["never seen"]["slides, by a gate without them"] = told_apart(without_slides, radiology, slides)
    figures["other sites"] = {name: told_apart(gate, known, elsewhere[name]) for name in OTHER_SITES}
    write_gate(replace(gate, figures=figures), out / SHIPPED)
    return out / SHIPPED


def fit(encoder: "MedSigLIP", known: Embedded, kinds: Sequence[Kind]) -> Gate:
    """A gate of the training side, measured on `held-out`."""
    used = known.of(known.sides != "final")
    return fit_gate(
        used.vectors,
        used.kinds.tolist(),
        used.groups.tolist(),
        kinds=kinds,
        encoder=encoder.identity,
        pixels=f"{VOI}+{encoder.preprocessing.policy}",
        site=SITE,
        calibrating=used.sides == "held-out",
    )


def coverage(gate: Gate, pictures: Embedded, level: float) -> dict[str, Any]:
    """How often the right kind is in the set, and how large sets are."""
    verdicts = gate.judge(pictures.vectors, level)
    right = np.array([kind in verdict.kinds for kind, verdict in zip(pictures.kinds, verdicts, strict=True)], float)
    by_kind = {
        kind.name: {"share": round(float(right[pictures.kinds == kind.name].mean()), 6),
                    "n": int((pictures.kinds == kind.name).sum()), "calibrated on": len(own)}
        for kind, own in zip(gate.kinds, gate.own_distances, strict=True)
    }  # fmt: skip
    sizes = np.array([len(verdict.kinds) for verdict in verdicts])
    return {
        "level": level,
        "share": estimate_json(grouped_bootstrap_ci(right, pictures.groups.tolist())),
        "kinds": by_kind,
        "sets of one": round(float((sizes == 1).mean()), 6),
        "empty sets": round(float((sizes == 0).mean()), 6),
    }


def told_apart(gate: Gate, known: Embedded, other: Embedded) -> dict[str, Any]:
    """AUROC of the distance, the gate's own final side against others; the share held back; the shift."""
    own = known.of(known.sides == "final")
    distances = np.concatenate([gate.relative_distances(one.vectors).min(axis=1) for one in (own, other)])
    is_other = np.arange(len(distances)) >= len(own.vectors)
    groups = [*own.groups.tolist(), *other.groups.tolist()]
    held_back = [not verdict.accepted for verdict in gate.judge(other.vectors, LEVEL)]
    shifted = shift(gate, other.vectors, other.groups.tolist())
    assert shifted is not None
    return {
        "auroc": estimate_json(auroc_estimate(distances, is_other, groups).bootstrap),
        "held back": estimate_json(grouped_bootstrap_ci(np.array(held_back, float), other.groups.tolist())),
        "shift": [round(number, 6) for number in (shifted.value, *shifted.ci95)],
    }


def _known(encoder: "MedSigLIP", data: Path) -> Embedded:
    mednist = read_labelled_pictures(data, "modality-mednist")
    slides = [p for p in read_labelled_pictures(data, "histo-lc25000-lung") if p.labels["copy"] == "1"]
    parts = [
        _embedded(encoder, mednist, ""),
        _embedded(encoder, read_labelled_pictures(data, "cxr-nih14"), "chest X-ray"),
        _embedded(encoder, slides, SLIDES),
    ]
    return Embedded(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _embedded(encoder: "MedSigLIP", pictures: Sequence[LabelledPicture], kind: str) -> Embedded:
    """Pictures of a kind, or each of the kind that its label_text names."""
    return Embedded(
        encoder.encode_images([picture.path for picture in pictures]),
        np.array([kind or picture.labels.get("label_text", "") for picture in pictures]),
        np.array([picture.group for picture in pictures]),
        np.array([side(picture.group) for picture in pictures]),
    )
