"""Chest films, one yes/no question a condition; macro F1 over the named conditions.

A film's uncertain and missing labels are either left out or taken as negative: two rows, since the figures differ.

Source: MedGemma technical report (arXiv:2507.05201), section 3 and appendix A7: "Is there <CONDITION> in this image?"
    ("Are there any fractures in the image?"), free reasoning, `Final Answer: X`; MedGemma 1.5 must end with
    `Final Answer: yes` or `no` (arXiv:2604.05081, appendix B). The sentences around the question are ours.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from data_cards.readers.chest_releases import (
    read_chexpert,
    read_chexpert_test,
    read_mimic_cxr_jpg,
    read_nih14_radiologist_labels,
)
from data_cards.readers.pictures import LabelledPicture, read_nih14
from data_cards.readers.pneumothorax_masks import read_siim_pneumothorax
from data_cards.readers.tables import find_set
from data_cards.split import side as side_of
from evals.items import Item
from evals.measures import Answered, Measure, of_statistic
from evals.metrics.conditions import CHEXPERT_5, CXR14_3, Rate, rate_of_columns
from evals.outputs import Output
from evals.tasks.final_answer import parse_yes_no
from evals.tasks.task import ItemOptions, Task

QUESTIONS = {"fracture": "Are there any fractures in the image?"}
"""Conditions whose question is not "Is there ... in this image?"."""

INSTRUCTION = 'You may reason first. End with the line "Final Answer: yes" or "Final Answer: no".'

NIH14_CONDITIONS = {
    "atelectasis": "Atelectasis",
    "cardiomegaly": "Cardiomegaly",
    "consolidation": "Consolidation",
    "edema": "Edema",
    "pleural effusion": "Effusion",
    "infiltration": "Infiltration",
    "mass": "Mass",
    "nodule": "Nodule",
    "pneumonia": "Pneumonia",
    "pneumothorax": "Pneumothorax",
    "emphysema": "Emphysema",
    "fibrosis": "Fibrosis",
    "pleural thickening": "Pleural_Thickening",
    "hernia": "Hernia",
}
"""Condition as it is asked about to NIH's label."""

CHEXPERT_CONDITIONS = {
    "atelectasis": "Atelectasis",
    "cardiomegaly": "Cardiomegaly",
    "consolidation": "Consolidation",
    "edema": "Edema",
    "pleural effusion": "Pleural Effusion",
}
CXR14_CONDITIONS = {"lung opacity": "Airspace opacity", "pneumothorax": "Pneumothorax", "fracture": "Fracture"}

PRESENT, ABSENT = frozenset({"1", "YES"}), frozenset({"0", "NO"})

FRONTAL_VIEWS = frozenset({"AP", "PA"})

RATES: tuple[Rate, ...] = ("f1", "precision", "recall")


@dataclass(frozen=True)
class FilmSet:
    """One row: the films, the conditions, and what an uncertain or missing label counts as."""

    card: str
    summary: str
    sides: tuple[str, ...]
    films: Callable[[Path, str], Sequence[LabelledPicture]]
    labels: Mapping[str, str]
    """Condition to the film's label."""
    named: tuple[str, ...]
    """The conditions that macro F1 is over."""
    doubtful: Literal["left out", "negative"] = "left out"


def question(condition: str) -> str:
    """Return the question about one condition."""
    return QUESTIONS.get(condition, f"Is there {condition} in this image?")


def prompt(condition: str) -> str:
    """Return the text put to a model."""
    return f"{question(condition)}\n{INSTRUCTION}"


def parse(item: Item, text: str) -> str:
    """Return yes, no, or an empty text."""
    return parse_yes_no(text, item.prompt.partition("\n")[0])


def grade(item: Item, output: Output) -> dict[str, float]:
    """Grade one reply: `accuracy`, and `unparsed` (1 where neither yes nor no can be told; such a reply is wrong)."""
    said = parse(item, output.text)
    return {"accuracy": float(said == item.reference), "unparsed": float(not said)}


def items(films: FilmSet, data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make one item a film and condition, in a seeded order.

    Raises:
        ValueError: The set is missing or broken.
    """
    pictures = films.films(find_set(data_dir, films.card), options.side)
    made = [_item(films, picture, condition) for picture in pictures for condition in films.labels]
    asked = [item for item in made if item is not None]
    random.Random(options.seed).shuffle(asked)
    return asked


def over_conditions(named: Sequence[str]) -> Callable[[Sequence[Answered]], dict[str, Measure]]:
    """Return the function from answers to macro F1, precision and recall over conditions, and to each condition's F1.

    Items carry their condition in Item.meta["condition"] and yes or no as reference; an answer that is neither is a
    miss where the condition is present, and no false alarm where it is not. Conditions without a positive item are
    left out of the means.

    Args:
        named: The conditions of `macro_f1`; where items ask about more, `macro_f1_all` has all of them.
    """

    def pooled(answered: Sequence[Answered]) -> dict[str, Measure]:
        asked = tuple(dict.fromkeys(pair.item.meta["condition"] for pair in answered))
        found = {f"macro_{rate}": _macro(answered, _present(named, asked), rate) for rate in RATES}
        if set(asked) - set(named):
            found["macro_f1_all"] = _macro(answered, asked, "f1")
        return found | {f"f1/{condition}": _macro(answered, (condition,), "f1") for condition in asked}

    return pooled


def age_band(age: str) -> str:
    """Return 0-17, 18-39, 40-64, 65-79, 80+, or an empty text if the age is not known."""
    try:
        years = float(age)
    except ValueError:
        return ""
    if not 0 <= years < 150:
        return ""
    limits = {18: "0-17", 40: "18-39", 65: "40-64", 80: "65-79"}
    return next((name for limit, name in limits.items() if years < limit), "80+")


def subgroups(labels: Mapping[str, str]) -> dict[str, str]:
    """Return sex (F, M), age_band and view of a picture, those that its labels say."""
    sex = labels.get("sex", "").strip().upper()[:1]
    found = {
        "sex": sex if sex in ("F", "M") else "",
        "age_band": age_band(labels.get("age", "")),
        "view": labels.get("view", ""),
    }
    return {name: value for name, value in found.items() if value}


def _present(named: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    return tuple(condition for condition in named if condition in asked)


def _macro(answered: Sequence[Answered], conditions: Sequence[str], rate: Rate) -> Measure:
    columns = np.zeros((len(answered), 3, len(conditions)))
    for row, (item, output) in enumerate(answered):
        if item.meta["condition"] in conditions:
            said, present = parse(item, output.text) == "yes", item.reference == "yes"
            columns[row, :, conditions.index(item.meta["condition"])] = (said and present, said, present)
    flat = columns.reshape(len(answered), -1)

    def macro(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return rate_of_columns(weights @ flat, len(conditions), rate)

    return of_statistic(answered, macro)


def _item(films: FilmSet, picture: LabelledPicture, condition: str) -> Item | None:
    label = picture.labels[films.labels[condition]]
    if label not in PRESENT | ABSENT and films.doubtful == "left out":
        return None
    return Item(
        item_id=f"{film_id(picture)}:{condition}",
        files=(str(picture.path),),
        prompt=prompt(condition),
        reference="yes" if label in PRESENT else "no",
        kind="closed",
        group=picture.group,
        meta={"card": picture.card, "condition": condition, **subgroups(picture.labels)},
    )


def film_id(picture: LabelledPicture) -> str:
    """Return a film's id; CheXpert's file names repeat in every study, so its last folders are in it too."""
    if picture.card == "chexpert":
        return "/".join((picture.card, *picture.path.parts[-3:]))
    return picture.picture_id


def _siim(folder: Path, side: str) -> list[LabelledPicture]:
    return [
        LabelledPicture(
            "siim-acr-pneumothorax",
            film.path,
            {"pneumothorax": str(int(film.pneumothorax))},
            film.group,
            "see the card",
        )
        for film in read_siim_pneumothorax(folder)
        if side in ("all", side_of(film.group))
    ]


def _kit_nih14(folder: Path, side: str) -> list[LabelledPicture]:
    return [film for film in read_nih14(folder) if side in ("all", side_of(film.group))]


def _cxr14(folder: Path, side: str) -> list[LabelledPicture]:
    names = (f"four_findings_expert_labels_{'validation' if side == 'val' else side}_labels.csv", "labels.csv")
    table = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
    films = read_nih14_radiologist_labels(table)
    return [film for film in films if film.labels.get("set", side) == side]


def _chexpert(folder: Path, side: str) -> list[LabelledPicture]:
    return (
        read_chexpert_test(folder) if side == "test" else read_chexpert(folder, cast(Literal["train", "valid"], side))
    )


def _mimic(folder: Path, side: str) -> list[LabelledPicture]:
    films = read_mimic_cxr_jpg(folder, cast(Literal["train", "validate", "test"], side)).films
    return [film for film in films if film.labels["view"] in FRONTAL_VIEWS]


SETS: dict[str, FilmSet] = {
    "mimic-cxr-conditions": FilmSet(
        "mimic-cxr-jpg",
        "MIMIC-CXR, frontal films, 5 conditions; labels missing or uncertain are negative",
        ("test", "validate", "train"),
        _mimic,
        CHEXPERT_CONDITIONS,
        CHEXPERT_5,
        "negative",
    ),
    "mimic-cxr-conditions-labelled": FilmSet(
        "mimic-cxr-jpg",
        "MIMIC-CXR, frontal films, 5 conditions; labels missing or uncertain are left out",
        ("test", "validate", "train"),
        _mimic,
        CHEXPERT_CONDITIONS,
        CHEXPERT_5,
    ),
    "chexpert-conditions": FilmSet(
        "chexpert",
        "CheXpert, 5 conditions",
        ("test", "valid", "train"),
        _chexpert,
        CHEXPERT_CONDITIONS,
        CHEXPERT_5,
    ),
    "cxr14-conditions": FilmSet(
        "nih-chestxray14",
        "ChestX-ray14, radiologists' labels, 3 conditions",
        ("test", "val"),
        _cxr14,
        CXR14_CONDITIONS,
        CXR14_3,
    ),
    "siim-pneumothorax": FilmSet(
        "siim-acr-pneumothorax",
        "SIIM-ACR, pneumothorax; macro F1 is the F1 of it",
        ("held-out", "train", "all"),
        _siim,
        {"pneumothorax": "pneumothorax"},
        ("pneumothorax",),
    ),
    "kit-cxr-conditions": FilmSet(
        "cxr-nih14",
        "a part of ChestX-ray14, text-mined labels, 14 conditions; macro F1 over the report's 5",
        ("held-out", "train", "all"),
        _kit_nih14,
        NIH14_CONDITIONS,
        CHEXPERT_5,
    ),
}


def _row(name: str, films: FilmSet) -> Task:
    return Task(
        name,
        (films.card,),
        films.summary,
        "text",
        "yes-no",
        items=lambda data_dir, options: items(films, data_dir, options),
        grade=grade,
        wording=lambda: [prompt(condition) for condition in films.labels],
        sides=films.sides,
        main_metric="macro_f1",
        parse=parse,
        pooled=over_conditions(films.named),
        breakdown="condition",
        subgroups=("sex", "age_band", "view"),
        max_new_tokens=256,
        version=2,
    )


ROWS = tuple(_row(name, films) for name, films in SETS.items())
