"""Labelled picture sets: MedNIST, LC25000 lung, NIH ChestX-ray14, COVID-19 films, HAM10000, fundus, VQA-RAD."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_cards.readers.tables import cell, find_set, read_csv
from data_cards.readers.vqa_rad_modality import MODALITY_OF_FILE

NIH14_FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""The 14 text-mined findings; NIH's own names and order (Wang et al. 2017; Data_Entry_2017_v2020.csv)."""


@dataclass(frozen=True)
class LabelledPicture:
    """One picture with its labels."""

    card: str
    """The data set's card name."""
    path: Path
    """The picture's file; not opened by the reader."""
    labels: Mapping[str, str]
    """Label columns as the data gives them; the reader's docstring names those that may be empty."""
    group: str
    """What pictures that are not independent share (patient, source tile, index block); never empty."""
    licence: str

    @property
    def picture_id(self) -> str:
        """Card name and file name: unique over all sets."""
        return f"{self.card}/{self.path.name}"


def read_mednist(folder: Path) -> list[LabelledPicture]:
    """Read modality-mednist; labels: `label` (AbdomenCT, BreastMRI, CXR, ChestCT, Hand, HeadCT), label_text.

    The group is the index block, with the set's name before it as in the other sets' groups. (With the bare
    block names data_cards/split.py would hold out no block of Hand, and a sixth of the set could not be
    measured.)

    Raises:
        ValueError: labels.csv or one of its columns is missing or a cell is empty.
    """
    pictures = _read(folder, "modality-mednist", labels=("label", "label_text"), group="group")
    return [replace(picture, group=f"modality-mednist/{picture.group}") for picture in pictures]


def read_lung_histology(folder: Path) -> list[LabelledPicture]:
    """Read histo-lc25000-lung; labels: `label` (lung_n, lung_aca, lung_scc), label_text, copy (1 to 4).

    The group is the source tile. Copies are rotations and flips of one tile; `copy` 1 gives one picture a
    tile.

    Raises:
        ValueError: labels.csv or one of its columns is missing or a cell is empty.
    """
    return _read(folder, "histo-lc25000-lung", labels=("label", "label_text", "copy"), group="patient_id")


def read_nih14(folder: Path) -> list[LabelledPicture]:
    """Read cxr-nih14 (448 px); labels: NIH14_FINDINGS and no_finding as "1" or "0", view (PA, AP), age, sex.

    Raises:
        ValueError: labels.csv or one of its columns is missing or a cell is empty.
    """
    return _read(folder, "cxr-nih14", labels=_NIH14_LABELS, group="patient_id")


def read_nih14_64px(folder: Path) -> list[LabelledPicture]:
    """Read cxr-nih14-64px; labels as in `read_nih14`, whose patient numbers its groups share.

    Raises:
        ValueError: labels.csv or one of its columns is missing or a cell is empty.
    """
    return _read(folder, "cxr-nih14-64px", labels=_NIH14_LABELS, group="patient_id")


def read_cxr_covid(folder: Path) -> list[LabelledPicture]:
    """Read cxr-covid; labels: `label` (COVID-19, other pneumonia/ARDS, No Finding), finding, view, age, sex.

    Age and sex are "nan" where the collection does not say.

    Raises:
        ValueError: labels.csv or one of its columns is missing or a cell is empty.
    """
    return _read(folder, "cxr-covid", labels=("label", "finding", "view", "age", "sex"), group="patient_id")


def read_ham10000_part(folder: Path) -> list[LabelledPicture]:
    """Read derm-ham10000; labels: `label` (akiec, bcc, bkl, df, mel, nv, vasc), label_text, dx_type, sex, age.

    The site is the label `localization`, the group the lesion; age may be empty.

    Raises:
        ValueError: labels.csv or one of its columns is missing or a cell is empty.
    """
    labels = ("label", "label_text", "dx_type", "sex", "localization")
    return _read(folder, "derm-ham10000", labels=labels, optional=("age",), group="patient_id")


def read_fundus_dr(folder: Path) -> list[LabelledPicture]:
    """Read fundus-dr; labels: `label` ("0" to "5"), label_text, eye (L, R), dr_grade, maculopathy.

    dr_grade and maculopathy are empty for advanced diabetic eye disease ("5"), which the scale does not grade.

    Raises:
        ValueError: labels.csv or one of its columns is missing or a cell is empty.
    """
    optional = ("dr_grade", "maculopathy")
    return _read(folder, "fundus-dr", labels=("label", "label_text", "eye"), optional=optional, group="patient_id")


def read_vqa_rad_pictures(folder: Path) -> list[LabelledPicture]:
    """Read the pictures of vqa-rad; labels: organ (HEAD, CHEST, ABD), modality (CT, MRI, X-ray).

    The group is the MedPix case. The modality is not the release's (see `vqa_rad_modality`); it is empty for pictures
    that are not in the kit's part.

    Raises:
        ValueError: labels.csv or one of its columns is missing or a cell is empty.
    """
    asked_about = _read(folder, "vqa-rad", labels=("organ",), group="patient_id")
    pictures = {picture.path: picture for picture in asked_about}.values()
    return [
        replace(picture, labels={**picture.labels, "modality": MODALITY_OF_FILE.get(picture.path.name, "")})
        for picture in pictures
    ]


PICTURE_READERS: dict[str, Callable[[Path], list[LabelledPicture]]] = {
    "modality-mednist": read_mednist,
    "histo-lc25000-lung": read_lung_histology,
    "cxr-nih14": read_nih14,
    "cxr-nih14-64px": read_nih14_64px,
    "cxr-covid": read_cxr_covid,
    "derm-ham10000": read_ham10000_part,
    "fundus-dr": read_fundus_dr,
    "vqa-rad": read_vqa_rad_pictures,
}
"""Card name to reader."""


def read_labelled_pictures(data_dir: str | Path, name: str) -> list[LabelledPicture]:
    """Find the set `name` under `data_dir` (see `find_set`) and read it.

    Raises:
        ValueError: The card is no labelled picture set, or the set is missing or broken.
    """
    if name not in PICTURE_READERS:
        raise ValueError(f"got {name!r}; expected one of the picture sets {', '.join(sorted(PICTURE_READERS))}")
    return PICTURE_READERS[name](find_set(data_dir, name))


_NIH14_LABELS = (*NIH14_FINDINGS, "no_finding", "view", "age", "sex")


def _read(
    folder: Path, card: str, labels: Sequence[str], group: str, optional: Sequence[str] = ()
) -> list[LabelledPicture]:
    table = folder / "labels.csv"
    rows = read_csv(table, ("file", *labels, *optional, group, "licence"))
    return [
        LabelledPicture(
            card=card,
            path=folder / cell(table, number, row, "file"),
            labels={name: cell(table, number, row, name) for name in labels}
            | {name: row[name].strip() for name in optional},
            group=cell(table, number, row, group),
            licence=cell(table, number, row, "licence"),
        )
        for number, row in enumerate(rows, start=1)
    ]
