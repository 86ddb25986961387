"""Chest film releases as their owners hand them out: NIH ChestX-ray14, CheXpert, MIMIC-CXR-JPG."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from data_cards.readers.fields import cells, one_of
from data_cards.readers.pictures import NIH14_FINDINGS, LabelledPicture
from data_cards.readers.tables import read_csv

NIH14_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
NIH14_LICENCE = "NIH Clinical Center public release"

GOOGLE_NIH14_FINDINGS = ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass")
"""Labels that radiologists gave films of ChestX-ray14 (Majkowska et al. 2020), YES or NO."""

CHEXPERT_OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The 14 observations of the CheXpert labeler, in the order of CheXpert's tables; MIMIC-CXR-JPG has the same names."""

CHEXPERT_TEST_TABLES = ("groundtruth.csv", "test_labels.csv")

OBSERVATION_VALUES = {"1.0": "1", "0.0": "0", "-1.0": "-1", "": ""}
"""1 present, 0 absent, -1 uncertain, empty: not mentioned. Nothing is turned into anything else."""


class MimicFilms(NamedTuple):
    """One split of MIMIC-CXR-JPG."""

    films: list[LabelledPicture]
    num_without_labels: int
    """Films whose study the label table does not have; they are among `films`, all their labels empty."""


def read_nih14_release(folder: Path) -> list[LabelledPicture]:
    """Read all of NIH ChestX-ray14.

    Labels: NIH14_FINDINGS and no_finding as "1" or "0", view (PA, AP), age, sex, and official_split: train_val, test,
    or empty where train_val_list.txt and test_list.txt are not beside the table. The group is the patient, under the
    same key as in `pictures.read_nih14`.

    Args:
        folder: Holds Data_Entry_2017_v2020.csv (or Data_Entry_2017.csv) and the pictures in images/ or
            images_001/images/ to images_012/images/.

    Raises:
        ValueError: No table is there, a column is missing, a cell is empty, or a finding is unknown.
    """
    table = next((folder / name for name in NIH14_TABLES if (folder / name).is_file()), folder / NIH14_TABLES[0])
    columns = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
    rows = read_csv(table, columns)
    paths = {path.name: path for parent in sorted(folder.glob("images*")) for path in parent.rglob("*.png")}
    splits = _nih14_splits(folder)
    return [_nih14_film(folder, table, number, row, paths, splits) for number, row in enumerate(rows, start=1)]


def read_nih14_radiologist_labels(table: Path) -> list[LabelledPicture]:
    """Read the radiologists' labels of ChestX-ray14 films, the reference of the report's CXR14 row.

    Labels: GOOGLE_NIH14_FINDINGS as YES or NO, and, where the table says it, set (val, test).

    Args:
        table: CSV with the columns Image Index, Patient ID and GOOGLE_NIH14_FINDINGS; the pictures are looked for in
            images/ beside it.

    Raises:
        ValueError: The table or a column is missing, a cell is empty, or a label is not YES or NO.
    """
    films = []
    for number, row in enumerate(read_csv(table, ("Image Index", "Patient ID", *GOOGLE_NIH14_FINDINGS)), start=1):
        found = cells(table, number, row, ("Image Index", "Patient ID"))
        labels = {name: one_of(table, number, row, name, ("YES", "NO")) for name in GOOGLE_NIH14_FINDINGS}
        films.append(
            LabelledPicture(
                card="nih-chestxray14",
                path=table.parent / "images" / found["Image Index"],
                labels=labels | ({"set": row["Set Id"]} if "Set Id" in row else {}),
                group=_nih_patient(table, number, found["Patient ID"]),
                licence=NIH14_LICENCE,
            )
        )
    return films


def read_chexpert(folder: Path, split: Literal["train", "valid"] = "valid") -> list[LabelledPicture]:
    """Read one split of CheXpert.

    Labels: CHEXPERT_OBSERVATIONS as "1" (present), "0" (absent), "-1" (uncertain) or "" (not mentioned), sex, age,
    frontal_lateral, view (AP, PA, LL, RL or empty), official_split. The group is the patient.

    Args:
        folder: Holds train.csv and valid.csv and the folders train/ and valid/. The first part of a row's Path
            (CheXpert-v1.0 or CheXpert-v1.0-small) stands for this folder.
        split: Which table.

    Raises:
        ValueError: The table or a column is missing, a Path names no patient, or a label is unknown.
    """
    table = folder / f"{split}.csv"
    columns = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_OBSERVATIONS)
    return [_chexpert_film(folder, table, split, number, row) for number, row in enumerate(read_csv(table, columns), 1)]


def read_chexpert_test(folder: Path) -> list[LabelledPicture]:
    """Read CheXpert's test set: 668 films of 500 studies, labelled by the majority of five radiologists.

    Labels: CHEXPERT_OBSERVATIONS as "1" or "0", frontal_lateral (from the file name), official_split.

    Not run on the real table; its columns and paths as public code on GitHub reads them.

    Args:
        folder: Holds groundtruth.csv (rajpurkarlab/cheXpert-test-set-labels; or test_labels.csv as CheXlocalize hands
            it out) and test/patientNNNNN/studyN/*.jpg.

    Raises:
        ValueError: No table is there, a column is missing, a Path names no patient, or a label is unknown.
    """
    table = next(
        (folder / name for name in CHEXPERT_TEST_TABLES if (folder / name).is_file()), folder / "groundtruth.csv"
    )
    films = []
    for number, row in enumerate(read_csv(table, ("Path", *CHEXPERT_OBSERVATIONS)), start=1):
        parts = cells(table, number, row, ("Path",))["Path"].split("/")
        patients = [part for part in parts if part.startswith("patient")]
        if not patients or "test" not in parts:
            raise ValueError(f"{table}: record {number} has Path {row['Path']!r}; expected test/patientNNNNN/...")
        numbers = {name: {"1": "1.0", "0": "0.0"}.get(row[name], row[name]) for name in CHEXPERT_OBSERVATIONS}
        labels = _observations(table, number, numbers)
        labels |= {"frontal_lateral": "Lateral" if "lateral" in parts[-1] else "Frontal", "official_split": "test"}
        films.append(
            LabelledPicture(
                card="chexpert",
                path=folder.joinpath(*parts[parts.index("test") :]),
                labels=labels,
                group=f"chexpert_{patients[0]}",
                licence="Stanford University Dataset Research Use Agreement",
            )
        )
    return films


def read_mimic_cxr_jpg(
    folder: Path,
    split: Literal["train", "validate", "test"] = "test",
    labeler: Literal["chexpert", "negbio"] = "chexpert",
) -> MimicFilms:
    """Read one split of MIMIC-CXR-JPG.

    Labels: CHEXPERT_OBSERVATIONS as in `read_chexpert`, view (ViewPosition; may be empty), study_id, official_split.
    The group is the patient.

    Args:
        folder: Holds mimic-cxr-2.0.0-metadata.csv.gz, -split.csv.gz, -chexpert.csv.gz (each also unzipped) and
            files/pNN/pNNNNNNNN/sNNNNNNNN/*.jpg.
        split: Which part of the owners' division.
        labeler: Whose labels.

    Raises:
        ValueError: A table or column is missing, a label is unknown, or a film of the metadata has no split.
    """
    views = {row["dicom_id"]: row["ViewPosition"].strip() for row in _mimic_rows(folder, "metadata", "ViewPosition")}
    table = _mimic_table(folder, labeler)
    labels = {row["study_id"]: _observations(table, n, row) for n, row in _mimic_labels(table)}
    films, without = [], 0
    for row in _mimic_rows(folder, "split", "split"):
        if row["dicom_id"] not in views:
            raise ValueError(
                f"{folder}: the split table names {row['dicom_id']}, the metadata does not; fetch both again"
            )
        if row["split"].strip() != split:
            continue
        found = labels.get(row["study_id"])
        without += found is None
        films.append(
            _mimic_film(folder, row, views[row["dicom_id"]], found or dict.fromkeys(CHEXPERT_OBSERVATIONS, ""))
        )
    if not films:
        raise ValueError(f"{_mimic_table(folder, 'split')}: has no films of the split {split!r}; fetch it again")
    return MimicFilms(films, without)


def _nih14_splits(folder: Path) -> Mapping[str, str]:
    splits: dict[str, str] = {}
    for name, file in (("train_val", "train_val_list.txt"), ("test", "test_list.txt")):
        if (folder / file).is_file():
            splits |= dict.fromkeys((folder / file).read_text(encoding="utf-8").split(), name)
    return splits


def _nih14_film(
    folder: Path, table: Path, number: int, row: Mapping[str, str], paths: Mapping[str, Path], splits: Mapping[str, str]
) -> LabelledPicture:
    columns = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
    found = cells(table, number, row, columns)
    findings = found["Finding Labels"].split("|")
    unknown = [finding for finding in findings if finding not in (*NIH14_FINDINGS, "No Finding")]
    if unknown:
        raise ValueError(
            f"{table}: record {number} has the finding {unknown[0]!r}; expected {', '.join(NIH14_FINDINGS)}"
        )
    labels = {finding: str(int(finding in findings)) for finding in NIH14_FINDINGS}
    labels["no_finding"] = str(int(findings == ["No Finding"]))
    labels |= {"view": found["View Position"], "sex": found["Patient Gender"]}
    labels |= {"age": found["Patient Age"].removesuffix("Y").lstrip("0") or "0"}
    name = found["Image Index"]
    return LabelledPicture(
        card="nih-chestxray14",
        path=paths.get(name, folder / "images" / name),
        labels=labels | {"official_split": splits.get(name, "")},
        group=_nih_patient(table, number, found["Patient ID"]),
        licence=NIH14_LICENCE,
    )


def _nih_patient(table: Path, number: int, text: str) -> str:
    if not text.isdigit():
        raise ValueError(f"{table}: record {number} has Patient ID {text!r}; expected a whole number")
    return f"nih_{int(text):05d}"


def _chexpert_film(folder: Path, table: Path, split: str, number: int, row: Mapping[str, str]) -> LabelledPicture:
    path = cells(table, number, row, ("Path",))["Path"]
    parts = path.split("/")
    patients = [part for part in parts if part.startswith("patient")]
    if not patients or len(parts) < 3:
        raise ValueError(f"{table}: record {number} has Path {path!r}; expected CheXpert-v1.0/{split}/patientNNNNN/...")
    labels = _observations(table, number, row)
    labels |= {"sex": row["Sex"], "age": row["Age"], "frontal_lateral": row["Frontal/Lateral"], "view": row["AP/PA"]}
    return LabelledPicture(
        card="chexpert",
        path=folder.joinpath(*parts[1:]),
        labels=labels | {"official_split": split},
        group=f"chexpert_{patients[0]}",
        licence="Stanford University Dataset Research Use Agreement",
    )


def _observations(table: Path, number: int, row: Mapping[str, str]) -> dict[str, str]:
    labels = {}
    for name in CHEXPERT_OBSERVATIONS:
        if row[name].strip() not in OBSERVATION_VALUES:
            raise ValueError(f"{table}: record {number} has {name} {row[name]!r}; expected 1.0, 0.0, -1.0 or nothing")
        labels[name] = OBSERVATION_VALUES[row[name].strip()]
    return labels


def _mimic_table(folder: Path, kind: str) -> Path:
    plain = folder / f"mimic-cxr-2.0.0-{kind}.csv"
    return plain if plain.is_file() else folder / f"{plain.name}.gz"


def _mimic_rows(folder: Path, kind: str, column: str) -> list[dict[str, str]]:
    table = _mimic_table(folder, kind)
    rows = read_csv(table, ("dicom_id", "study_id", "subject_id", column))
    for number, row in enumerate(rows, start=1):
        cells(table, number, row, ("dicom_id", "study_id", "subject_id"))
    return rows


def _mimic_labels(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    yield from enumerate(read_csv(table, ("subject_id", "study_id", *CHEXPERT_OBSERVATIONS)), start=1)


def _mimic_film(folder: Path, row: Mapping[str, str], view: str, labels: Mapping[str, str]) -> LabelledPicture:
    patient, study = row["subject_id"], row["study_id"]
    path = folder / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}" / f"{row['dicom_id']}.jpg"
    return LabelledPicture(
        card="mimic-cxr-jpg",
        path=path,
        labels={**labels, "view": view, "study_id": study, "official_split": row["split"].strip()},
        group=f"mimic_{patient}",
        licence="PhysioNet credentialed access",
    )
