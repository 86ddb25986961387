"""Labelled pictures in named classes: as a lettered question, by caption (zero-shot), and by a linear probe.

Sources: the lettered form is that of Google's notebook on NCT-CRC-HE (`A: adipose` ... on lines of their own); skin and
    fundus end with `The most likely diagnosis is: X` (MedGemma technical report, arXiv:2507.05201, appendix A7); the
    captions of diabetic retinopathy are its table A4, those of the other sets are ours; zero-shot and probe are its
    section 6 (mean of each class's text vectors; logistic regression), the probe's strength chosen by grouped
    cross-validation on the training side.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from data_cards.readers.pictures import (
    LabelledPicture,
    read_fundus_dr,
    read_ham10000_part,
    read_lung_histology,
    read_mednist,
)
from data_cards.readers.tables import find_set
from data_cards.readers.tissue_and_skin import (
    LC25000_CLASSES,
    NCT_CRC_CLASSES,
    read_ham10000,
    read_lc25000,
    read_nct_crc,
    read_pad_ufes,
)
from data_cards.split import side as side_of
from evals.items import Item
from evals.measures import Answered, Measure, of_confusion, of_statistic
from evals.outputs import Output
from evals.tasks.chest_films import subgroups
from evals.tasks.final_answer import parse_letter
from evals.tasks.task import ItemOptions, Task
from evals.tasks.zero_shot import grade_label
from medsiglip.metrics.classification import (
    as_counts,
    balanced_accuracy_of_counts,
    confusion_columns,
    macro_f1_of_counts,
    weighted_f1_of_counts,
    weighted_kappa_of_counts,
)

FINAL_ANSWER = 'You may reason first. End with a line of the form "Final Answer: X", X being the letter.'
DIAGNOSIS = 'You may reason first. End with the line "The most likely diagnosis is: X", X being the letter.'
BY_PROBE = "linear probe, trained on the side {side!r}"

SKIN = {
    "akiec": "actinic keratosis or Bowen's disease",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "vasc": "vascular lesion",
}
PAD_UFES = {
    "ACK": "actinic keratosis",
    "BCC": "basal cell carcinoma",
    "MEL": "melanoma",
    "NEV": "melanocytic nevus",
    "SCC": "squamous cell carcinoma",
    "SEK": "seborrheic keratosis",
}
RETINOPATHY = {
    "0": "no diabetic retinopathy",
    "1": "mild non-proliferative diabetic retinopathy",
    "2": "moderate non-proliferative diabetic retinopathy",
    "3": "severe non-proliferative diabetic retinopathy",
    "4": "proliferative diabetic retinopathy",
}
RETINOPATHY_CAPTIONS = {
    label: (f"diabetic retinopathy severity: {severity}.",)
    for label, severity in zip(RETINOPATHY, ("none", "mild", "moderate", "severe", "proliferative"), strict=True)
}
LUNG = {
    "lung_n": "benign lung tissue",
    "lung_aca": "lung adenocarcinoma",
    "lung_scc": "lung squamous cell carcinoma",
}
MEDNIST = {
    "AbdomenCT": "abdominal CT",
    "BreastMRI": "breast MRI",
    "CXR": "chest X-ray",
    "ChestCT": "chest CT",
    "Hand": "hand X-ray",
    "HeadCT": "head CT",
}


@dataclass(frozen=True)
class PictureSet:
    """One set, its classes, and how they are named."""

    card: str
    title: str
    read: Callable[[Path, str], list[LabelledPicture]]
    """The set's folder and a side to its pictures."""
    options: Mapping[str, str]
    """Label to what a lettered option says, in the order of the letters."""
    question: str
    instruction: str = FINAL_ANSWER
    sides: tuple[str, ...] = ("held-out", "train", "all")
    trained_on: str = "train"
    """The side a probe learns from."""
    captions: Mapping[str, Sequence[str]] | None = None
    """Label to captions; None: zero_shot.py has the set."""
    in_order: bool = False
    """The classes are a scale: quadratic weighted kappa is given too."""


def _captions(options: Mapping[str, str], *templates: str) -> dict[str, tuple[str, ...]]:
    return {label: tuple(template.format(text) for template in templates) for label, text in options.items()}


def _of_side(read: Callable[[Path], list[LabelledPicture]]) -> Callable[[Path, str], list[LabelledPicture]]:
    def of(folder: Path, side: str) -> list[LabelledPicture]:
        return [
            picture
            for picture in read(folder)
            if side in ("all", side_of(picture.group)) and picture.labels.get("copy", "1") == "1"
        ]

    return of


def _nct_crc(folder: Path, side: str) -> list[LabelledPicture]:
    return read_nct_crc(folder, cast(Literal["NCT-CRC-HE-100K", "CRC-VAL-HE-7K", "NCT-CRC-HE-100K-NONORM"], side))


def _pad_ufes(folder: Path) -> list[LabelledPicture]:
    table = folder / "pad_ufes_20_split.tsv"
    return read_pad_ufes(folder, table if table.is_file() else None)


SETS: dict[str, PictureSet] = {
    "kit-lung-histology": PictureSet(
        "histo-lc25000-lung",
        "lung tissue, 3 classes",
        _of_side(read_lung_histology),
        LUNG,
        "What is the most likely tissue type shown in the histopathology image?",
    ),
    "kit-skin": PictureSet(
        "derm-ham10000",
        "skin lesions, 7 classes, a part of HAM10000",
        _of_side(read_ham10000_part),
        SKIN,
        "Which skin condition does the image show?",
        DIAGNOSIS,
        captions=_captions(SKIN, "a skin lesion: {}", "dermatoscopy of {}"),
    ),
    "kit-fundus": PictureSet(
        "fundus-dr",
        "diabetic retinopathy, 5 grades",
        _of_side(read_fundus_dr),
        RETINOPATHY,
        "Which grade of diabetic retinopathy does the fundus photograph show?",
        DIAGNOSIS,
        captions=RETINOPATHY_CAPTIONS,
        in_order=True,
    ),
    "kit-mednist": PictureSet(
        "modality-mednist",
        "modality and body part, 6 classes",
        _of_side(read_mednist),
        MEDNIST,
        "Which kind of examination is this image from?",
    ),
    "nct-crc": PictureSet(
        "nct-crc-he",
        "colorectal tissue, 9 classes",
        _nct_crc,
        NCT_CRC_CLASSES,
        "What is the most likely tissue type shown in the histopathology image?",
        sides=("CRC-VAL-HE-7K", "NCT-CRC-HE-100K", "NCT-CRC-HE-100K-NONORM"),
        trained_on="NCT-CRC-HE-100K",
        captions=_captions(NCT_CRC_CLASSES, "a histopathology image of {}", "H&E stained {}"),
    ),
    "lc25000": PictureSet(
        "lc25000",
        "lung and colon tissue, 5 classes, one picture a tile",
        _of_side(read_lc25000),
        LC25000_CLASSES,
        "What is the most likely tissue type shown in the histopathology image?",
        captions=_captions(LC25000_CLASSES, "a histopathology image of {}", "H&E stained {}"),
    ),
    "ham10000": PictureSet(
        "ham10000",
        "skin lesions, 7 classes, HAM10000",
        _of_side(read_ham10000),
        SKIN,
        "Which skin condition does the image show?",
        DIAGNOSIS,
        captions=_captions(SKIN, "a skin lesion: {}", "dermatoscopy of {}"),
    ),
    "pad-ufes-20": PictureSet(
        "pad-ufes-20",
        "skin lesions by smartphone, 6 classes",
        _of_side(_pad_ufes),
        PAD_UFES,
        "Which skin condition does the image show?",
        DIAGNOSIS,
        captions=_captions(PAD_UFES, "a skin lesion: {}", "a photograph of {}"),
    ),
}


def lettered(options: Mapping[str, str]) -> dict[str, str]:
    """Return label to letter, A for the first."""
    return {label: chr(ord("A") + place) for place, label in enumerate(options)}


def prompt(pictures: PictureSet) -> str:
    """Return the text put to a model."""
    letters = lettered(pictures.options)
    lines = [f"{letters[label]}: {text}" for label, text in pictures.options.items()]
    return "\n".join((pictures.question, *lines, pictures.instruction))


def parse(pictures: PictureSet, text: str) -> str:
    """Return the label that a reply names by letter or by text; empty if none."""
    labels = {letter: label for label, letter in lettered(pictures.options).items()}
    named = parse_letter(text, {letter: pictures.options[label] for letter, label in labels.items()})
    return labels.get(named, "")


def _items(
    pictures: PictureSet, text: str, kind: Literal["closed", "class"], data_dir: str | Path, options: ItemOptions
) -> list[Item]:
    found = pictures.read(find_set(data_dir, pictures.card), options.side)
    random.Random(options.seed).shuffle(found)
    return [
        Item(
            item_id=picture.picture_id,
            files=(str(picture.path),),
            prompt=text,
            reference=picture.labels["label"],
            kind=kind,
            group=picture.group,
            meta={"card": picture.card, **subgroups(picture.labels)},
        )
        for picture in found
        if picture.labels["label"] in pictures.options
    ]


def _asked(name: str, pictures: PictureSet) -> Task:
    def grade(item: Item, output: Output) -> dict[str, float]:
        said = parse(pictures, output.text)
        return {"accuracy": float(said == item.reference), "unparsed": float(not said)}

    def pooled(answered: Sequence[Answered]) -> dict[str, Measure]:
        said = [parse(pictures, pair.output.text) for pair in answered]
        rates = {
            "macro_f1": macro_f1_of_counts,
            "weighted_f1": weighted_f1_of_counts,
            "balanced_accuracy": balanced_accuracy_of_counts,
        }
        found = {rate: of_confusion(answered, said, of) for rate, of in rates.items()}
        return found | ({"weighted_kappa_quadratic": _kappa(pictures, answered, said)} if pictures.in_order else {})

    return Task(
        name,
        (pictures.card,),
        f"{pictures.title}: a lettered question",
        "text",
        "letter",
        items=lambda data_dir, options: _items(pictures, prompt(pictures), "closed", data_dir, options),
        grade=grade,
        wording=lambda: prompt(pictures),
        sides=pictures.sides,
        parse=lambda item, text: parse(pictures, text),
        pooled=pooled,
        subgroups=("sex", "age_band"),
        max_new_tokens=256,
        version=2,
    )


def _kappa(pictures: PictureSet, answered: Sequence[Answered], said: Sequence[str]) -> Measure:
    """Return the measure of quadratic weighted kappa; a reply that names no grade counts as the one farthest off."""
    grades = list(pictures.options)
    labels = [pair.item.reference for pair in answered]
    farthest = {label: grades[0] if place >= len(grades) / 2 else grades[-1] for place, label in enumerate(grades)}
    named = [label or farthest[truth] for label, truth in zip(said, labels, strict=True)]
    columns = confusion_columns(named, labels, grades)  # (n, C * C)

    def kappa(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return weighted_kappa_of_counts(as_counts(weights @ columns), "quadratic")

    return of_statistic(answered, kappa)


def _by_caption(name: str, pictures: PictureSet, captions: Mapping[str, Sequence[str]]) -> Task:
    text = "\n".join(f"{label}: {'; '.join(texts)}" for label, texts in captions.items())
    return Task(
        f"zero-shot-{name}",
        (pictures.card,),
        f"{pictures.title}, by caption",
        "label",
        "label",
        items=lambda data_dir, options: _items(pictures, text, "class", data_dir, options),
        grade=grade_label,
        wording=lambda: text,
        sides=pictures.sides,
        label_sets={"": captions},
        subgroups=("sex", "age_band"),
    )


def _by_probe(name: str, pictures: PictureSet) -> Task:
    text = BY_PROBE.format(side=pictures.trained_on)
    return Task(
        f"probe-{name}",
        (pictures.card,),
        f"{pictures.title}, by a linear probe on embeddings",
        "label",
        "label",
        items=lambda data_dir, options: _items(pictures, text, "class", data_dir, options),
        grade=grade_label,
        wording=lambda: text,
        sides=tuple(side for side in pictures.sides if side not in (pictures.trained_on, "all")),
        trained_on=pictures.trained_on,
        subgroups=("sex", "age_band"),
    )


def _rows(name: str, pictures: PictureSet) -> tuple[Task, ...]:
    by_caption = (_by_caption(name, pictures, pictures.captions),) if pictures.captions else ()
    return (_asked(name, pictures), *by_caption, _by_probe(name, pictures))


ROWS = tuple(task for name, pictures in SETS.items() for task in _rows(name, pictures))
