"""Captions about labelled pictures, as plain data: what contrastive training says, and what zero-shot asks.

Each statement has many wordings for training and a few held out. The held-out ones are whole sentences that training
never has; most of their words occur in other training sentences, or no encoder trained from nothing could know them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evals.tasks.phrasings import Phrasings, phrasings
from evals.tasks.wording import FINDINGS, NO_FINDING

_SHOWN = "[|a picture of|an image of|an image showing|this is|picture of|a medical image of|a view of]"


class CaptionWording(NamedTuple):
    """Captions that all state the same facts."""

    facts: Mapping[str, str]
    phrasings: Phrasings


def _modality(value: str, *patterns: str, held_out: tuple[str, ...]) -> CaptionWording:
    framed = tuple(f"[|this is|made as|imaging modality:] {pattern}" for pattern in patterns)
    return CaptionWording({"modality": value}, phrasings(*framed, held_out=held_out))


def _body_part(value: str, *patterns: str, held_out: tuple[str, ...]) -> CaptionWording:
    framed = tuple(f"{_SHOWN} {pattern}" for pattern in patterns)
    return CaptionWording({"body_part": value}, phrasings(*framed, f"body part: [{value}]", held_out=held_out))


def _kind(modality: str, body_part: str, *patterns: str, held_out: tuple[str, ...]) -> CaptionWording:
    return CaptionWording({"modality": modality, "body_part": body_part}, phrasings(*patterns, held_out=held_out))


def _tissue(value: str, *patterns: str, held_out: tuple[str, ...]) -> CaptionWording:
    facts = {"modality": "histology", "body_part": "lung", "tissue": value}
    frame = "[|histology of|H&E of|H&E slide:|a slide of|a microscopy image of|photomicrograph of|lung biopsy:|this is]"
    return CaptionWording(facts, phrasings(*(f"{frame} {pattern}" for pattern in patterns), held_out=held_out))


def _chest(fact: str, value: str, *patterns: str, held_out: tuple[str, ...]) -> CaptionWording:
    return CaptionWording(
        {"modality": "X-ray", "body_part": "chest", fact: value}, phrasings(*patterns, held_out=held_out)
    )


def _finding(fact: str, name: str) -> CaptionWording:
    bare = name.removeprefix("a ")
    film = "[chest X-ray|chest film|chest radiograph|radiograph of the chest|X-ray of the chest|film]"
    return _chest(
        fact,
        "present",
        f"[|a] {film} [with|showing|, signs of|, findings:|suggesting] {bare}",
        f"{film} with {name}",
        f"[|there is|findings of|signs of|suspected|in keeping with|suggesting|impression:|diagnosis:] {bare}",
        f"there is {name}",
        held_out=(f"suggestive of {bare}", f"radiograph of the chest, findings of {bare}"),
    )


_CT = "[|a|an axial|axial] [CT|CT scan|CT slice|CT image|computed tomography|CT section]"
_MRI = "[|an] [MRI|MRI scan|MRI slice|MR image|MR scan|magnetic resonance image]"
_XRAY = "[|an|a frontal] [X-ray|radiograph|film|X-ray image|X-ray film]"

CAPTIONS: tuple[CaptionWording, ...] = (
    _modality(
        "X-ray",
        "[|an|a plain|a digital] [X-ray|X-ray film|X-ray image|radiograph]",
        "[plain film|film radiograph|radiography|plain radiography|X-rays|a film]",
        held_out=("a plain film",),
    ),
    _modality(
        "CT",
        _CT,
        "[computed tomography scan|CAT scan|tomography]",
        held_out=("a CT image",),
    ),
    _modality(
        "MRI",
        _MRI,
        "[magnetic resonance imaging|MR imaging|MR|a magnetic resonance scan]",
        held_out=("an MR image",),
    ),
    _modality(
        "histology",
        "[|a] [histology slide|histology image|histology|microscopy image|microscopy slide|pathology slide]",
        "[H&E stained tissue|H&E|tissue under the microscope|histopathology|a stained section]",
        "photomicrograph of tissue",
        "[micrograph|a micrograph|photomicrographs|pathology photomicrograph]",
        held_out=("a photomicrograph",),
    ),
    _body_part(
        "head",
        "[the|a] [head|skull|brain]",
        "[head|brain|skull|cranium|the cranium]",
        held_out=("an image of the skull",),
    ),
    _body_part(
        "chest",
        "[the|a] [chest|thorax]",
        "[chest|thorax|thoracic|the lungs and heart]",
        held_out=("an image of the thorax",),
    ),
    _body_part(
        "abdomen",
        "[the|an] [abdomen|belly]",
        "[abdomen|belly|abdominal|abdominal organs|the abdominal region]",
        "[abdominal|an abdominal] [picture|view|region]",
        held_out=("an abdominal image",),
    ),
    _body_part(
        "breast", "[the|a] breast", "[breast|breasts|the breasts|breast tissue]", held_out=("an image of a breast",)
    ),
    _body_part(
        "hand",
        "[the|a] hand",
        "[hand|hand bones|the hand and wrist|fingers|the fingers]",
        held_out=("an image of a hand",),
    ),
    _kind(
        "CT",
        "abdomen",
        f"{_CT} [of|through] the [abdomen|belly]",
        f"{_CT}[:|,] [abdomen|abdominal|abdominal slice]",
        "[|an|axial] [abdominal|abdomen] [CT|CT scan|CT slice|CT image|computed tomography]",
        held_out=("computed tomography, abdominal slice", "CT image: abdomen"),
    ),
    _kind(
        "MRI",
        "breast",
        f"{_MRI} of [the|a] breast",
        f"{_MRI}[:|,] [breast|breasts]",
        "[|a] breast [MRI|MRI scan|MRI slice|MR image|MR|magnetic resonance image]",
        "[MR|MRI|an MR] mammography",
        "[magnetic resonance imaging of the breast|breast magnetic resonance]",
        held_out=("magnetic resonance mammography", "MR image: breast"),
    ),
    _kind(
        "X-ray",
        "chest",
        f"{_XRAY} of the [chest|thorax]",
        f"{_XRAY}[:|,] [chest|thorax|frontal]",
        "[|a|a frontal] chest [X-ray|film|radiograph|X-ray image]",
        "[radiograph of the thorax, frontal|chest radiograph, frontal]",
        held_out=("radiograph of the chest, frontal", "X-ray image: chest"),
    ),
    _kind(
        "CT",
        "chest",
        f"{_CT} [of|through] the [chest|thorax]",
        f"{_CT}[:|,] [chest|thorax|thoracic slice|thoracic]",
        "[|a|axial] [chest|thoracic] [CT|CT scan|CT slice|CT image|computed tomography]",
        held_out=("computed tomography, thoracic slice", "CT image: chest"),
    ),
    _kind(
        "X-ray",
        "hand",
        f"{_XRAY} of [the|a] hand",
        f"{_XRAY}[:|,] [hand|hand bones]",
        "[|a] hand [X-ray|film|radiograph|X-ray image]",
        "a film of the hand bones",
        held_out=("radiograph of a hand", "X-ray image: hand"),
    ),
    _kind(
        "CT",
        "head",
        f"{_CT} [of|through] the [head|brain|skull]",
        f"{_CT}[:|,] [head|brain|cranial|cranial slice]",
        "[|a|axial] [head|brain|cranial] [CT|CT scan|CT slice|CT image|computed tomography]",
        held_out=("computed tomography, cranial slice", "CT image: head"),
    ),
    _kind(
        "MRI",
        "head",
        f"{_MRI} of the [head|brain]",
        "[|a] [head|brain] [MRI|MRI scan|MR image|MR]",
        held_out=("magnetic resonance image of the skull",),
    ),
    _kind(
        "X-ray",
        "abdomen",
        f"{_XRAY} of the abdomen",
        "[|an] abdominal [X-ray|film|radiograph]",
        held_out=("radiograph of the belly",),
    ),
    _kind(
        "histology",
        "lung",
        "[|H&E stained|H&E|a microscopy image of|histology of|photomicrograph of|micrograph of] lung tissue",
        "[lung histology|lung biopsy, H&E|a lung specimen|a slide of a lung specimen|micrograph of a lung specimen]",
        "[|a] [microscopy image|photomicrograph|histology slide] of [lung|the lung|a lung biopsy]",
        held_out=("photomicrograph of a lung specimen",),
    ),
    _tissue(
        "benign lung tissue",
        "[benign lung tissue|benign lung|normal lung|normal lung tissue|lung without tumour]",
        "[lung parenchyma|lung parenchyma without tumour|lung tissue, no malignancy|no malignancy|not cancer]",
        "normal lung with open alveoli",
        held_out=("lung parenchyma, no malignancy", "H&E image: benign lung tissue"),
    ),
    _tissue(
        "lung adenocarcinoma",
        "[lung adenocarcinoma|adenocarcinoma of the lung|adenocarcinoma|a gland forming lung cancer]",
        "[adenocarcinoma type|lung cancer of adenocarcinoma type|lung tumour, adenocarcinoma]",
        held_out=("lung cancer, adenocarcinoma type", "H&E image: lung adenocarcinoma"),
    ),
    _tissue(
        "lung squamous cell carcinoma",
        "[lung squamous cell carcinoma|squamous cell carcinoma of the lung|squamous cell carcinoma]",
        "a squamous lung cancer",
        "[squamous cell type|lung cancer of squamous type|lung tumour, squamous cell]",
        held_out=("lung cancer, squamous cell type", "H&E image: lung squamous cell carcinoma"),
    ),
    _chest(
        "view",
        "PA",
        "[PA|posteroanterior] [chest X-ray|chest film|chest radiograph|view|projection]",
        "[chest X-ray, PA view|PA view of the chest|frontal film, PA]",
        held_out=("PA film",),
    ),
    _chest(
        "view",
        "AP",
        "[AP|anteroposterior] [chest X-ray|chest film|chest radiograph|view|projection]",
        "[chest X-ray, AP view|AP view of the chest|frontal film, AP]",
        held_out=("AP film",),
    ),
    _chest(
        NO_FINDING,
        "present",
        "[|a] [normal|clear] [chest X-ray|chest film|chest radiograph|study of the chest|radiograph of the chest]",
        "[chest X-ray|chest film|radiograph of the chest] [with|, ] [no finding|no abnormality|clear lungs]",
        "[clear lungs on a chest film|no abnormality|lungs clear|lungs are clear|both lungs are clear]",
        "chest [X-ray|film|radiograph], normal [study|film]",
        held_out=("the lungs are clear", "radiograph of the chest, normal study"),
    ),
    *(_finding(fact, name) for fact, name in FINDINGS.items()),
)


def all_findings(present: Sequence[str]) -> Phrasings:
    """Captions that name every finding of a film with two or more, by their fact names."""
    listed = " and ".join(FINDINGS[name].removeprefix("a ") for name in present)
    return phrasings(
        f"[chest X-ray|chest film|radiograph of the chest] with {listed}",
        f"[there is|findings:|signs of] {listed}",
        held_out=(f"radiograph of the chest showing {listed}",),
    )
