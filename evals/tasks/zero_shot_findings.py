"""Chest findings by caption: present against absent, one AUROC a finding and their mean.

Source: MedGemma technical report (arXiv:2507.05201), section 6 and table A4: 13 findings, the captions for present and
    absent, softmax over the two; its 518 films are not named (perhaps the frontal ones of CheXpert's test set).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from data_cards.readers.chest_releases import read_chexpert, read_chexpert_test, read_mimic_cxr_jpg
from data_cards.readers.pictures import LabelledPicture, read_nih14
from data_cards.readers.tables import find_set
from data_cards.split import side as side_of
from evals.items import Item
from evals.measures import Answered, Measure, of_statistic
from evals.tasks.chest_films import film_id, subgroups
from evals.tasks.task import ItemOptions, Task
from evals.tasks.zero_shot import grade_label
from medsiglip.metrics.bootstrap import ratio
from medsiglip.metrics.ranking import auroc_of_weights
from medsiglip.prompts import label_set

FINDINGS = label_set("chest-xray-findings")

CLASSES = ("absent", "present")

CHEXPERT_FINDINGS = {
    "atelectasis": ("Atelectasis",),
    "cardiomegaly": ("Cardiomegaly",),
    "consolidation": ("Consolidation",),
    "edema": ("Edema",),
    "enlarged cardiomediastinum": ("Enlarged Cardiomediastinum",),
    "fracture": ("Fracture",),
    "lung lesion": ("Lung Lesion",),
    "lung opacity": ("Lung Opacity",),
    "pleural effusion": ("Pleural Effusion",),
    "pleural other": ("Pleural Other",),
    "pneumonia": ("Pneumonia",),
    "pneumothorax": ("Pneumothorax",),
    "support devices": ("Support Devices",),
}
"""The report's findings to the labels of which one makes them present."""

NIH14_FINDINGS = {
    "atelectasis": ("Atelectasis",),
    "cardiomegaly": ("Cardiomegaly",),
    "consolidation": ("Consolidation",),
    "edema": ("Edema",),
    "lung lesion": ("Nodule", "Mass"),
    "pleural effusion": ("Effusion",),
    "pleural other": ("Pleural_Thickening",),
    "pneumonia": ("Pneumonia",),
    "pneumothorax": ("Pneumothorax",),
}
"""The 9 of the 13 that NIH's labels say."""


@dataclass(frozen=True)
class FindingSet:
    """One row."""

    card: str
    summary: str
    sides: tuple[str, ...]
    films: Callable[[Path, str], Sequence[LabelledPicture]]
    findings: Mapping[str, tuple[str, ...]]
    version: int = 1


def captions(finding: str) -> dict[str, tuple[str, ...]]:
    """Return the captions of a finding's absence and presence."""
    return {"absent": FINDINGS.absent[finding], "present": FINDINGS.prompts[finding]}


def items(films: FindingSet, data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make one item a film and finding whose label is certain, in a seeded order.

    Raises:
        ValueError: The set is missing or broken.
    """
    pictures = films.films(find_set(data_dir, films.card), options.side)
    made = [
        _item(picture, finding, [picture.labels[name] for name in names])
        for picture in pictures
        for finding, names in films.findings.items()
    ]
    asked = [item for item in made if item is not None]
    random.Random(options.seed).shuffle(asked)
    return asked


def aurocs(answered: Sequence[Answered]) -> dict[str, Measure]:
    """Return the AUROC of every finding, with what DeLong's interval needs, and their unweighted mean.

    Findings that no film has, or all have, are left out of the mean; so are films that could not be read.
    """
    answered = [pair for pair in answered if pair.output.probabilities]
    if not answered:
        return {}
    by_finding: dict[str, list[int]] = {}
    for place, pair in enumerate(answered):
        by_finding.setdefault(pair.item.meta["label_set"], []).append(place)
    found, parts = {}, []
    for finding, places in by_finding.items():
        scores = np.array([answered[place].output.probabilities["present"] for place in places])
        truth = np.array([answered[place].item.reference == "present" for place in places])
        of = auroc_of_weights(scores, truth)
        parts.append((places, of))
        found[f"auroc/{finding}"] = of_statistic([answered[place] for place in places], of, (scores, truth))

    def mean(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        table = np.stack([of(weights[:, places]) for places, of in parts], axis=1)  # (R, findings)
        defined = np.isfinite(table)
        return ratio(np.where(defined, table, 0.0).sum(axis=1), defined.sum(axis=1).astype(np.float64))

    return {"mean_auroc": of_statistic(answered, mean), **found}


def _item(picture: LabelledPicture, finding: str, labels: Sequence[str]) -> Item | None:
    if "1" not in labels and set(labels) != {"0"}:
        return None
    text = "\n".join(f"{label}: {'; '.join(texts)}" for label, texts in captions(finding).items())
    return Item(
        item_id=f"{film_id(picture)}:{finding}",
        files=(str(picture.path),),
        prompt=text,
        reference=CLASSES["1" in labels],
        kind="class",
        group=picture.group,
        meta={"card": picture.card, "label_set": finding, **subgroups(picture.labels)},
    )


def _chexpert(folder: Path, side: str) -> list[LabelledPicture]:
    films = (
        read_chexpert_test(folder) if side == "test" else read_chexpert(folder, cast(Literal["train", "valid"], side))
    )
    return [film for film in films if film.labels["frontal_lateral"] == "Frontal"]


def _mimic(folder: Path, side: str) -> list[LabelledPicture]:
    films = read_mimic_cxr_jpg(folder, cast(Literal["train", "validate", "test"], side)).films
    return [film for film in films if film.labels["view"] in ("AP", "PA")]


def _kit_nih14(folder: Path, side: str) -> list[LabelledPicture]:
    return [film for film in read_nih14(folder) if side in ("all", side_of(film.group))]


SETS: dict[str, FindingSet] = {
    "zero-shot-chexpert-findings": FindingSet(
        "chexpert",
        "CheXpert, frontal films, 13 findings, by caption",
        ("test", "valid", "train"),
        _chexpert,
        CHEXPERT_FINDINGS,
        version=2,
    ),
    "zero-shot-mimic-cxr-findings": FindingSet(
        "mimic-cxr-jpg",
        "MIMIC-CXR, frontal films, 13 findings, by caption",
        ("test", "validate", "train"),
        _mimic,
        CHEXPERT_FINDINGS,
        version=2,
    ),
    "zero-shot-kit-cxr-findings": FindingSet(
        "cxr-nih14",
        "a part of ChestX-ray14, 9 of the 13 findings, by caption",
        ("held-out", "train", "all"),
        _kit_nih14,
        NIH14_FINDINGS,
    ),
}


def _row(name: str, films: FindingSet) -> Task:
    return Task(
        name,
        (films.card,),
        films.summary,
        "label",
        "label",
        items=lambda data_dir, options: items(films, data_dir, options),
        grade=grade_label,
        wording=lambda: {finding: captions(finding) for finding in films.findings},
        sides=films.sides,
        main_metric="mean_auroc",
        pooled=aurocs,
        breakdown="label_set",
        label_sets={finding: captions(finding) for finding in films.findings},
        subgroups=("sex", "age_band", "view"),
        version=films.version,
    )


ROWS = tuple(_row(name, films) for name, films in SETS.items())
