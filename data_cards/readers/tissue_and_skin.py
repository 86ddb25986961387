"""Histology and skin releases as their owners hand them out: NCT-CRC-HE, HAM10000, PAD-UFES-20."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from data_cards.readers.fields import cells, one_of
from data_cards.readers.pictures import LabelledPicture
from data_cards.readers.tables import read_class_folders, read_csv

NCT_CRC_CLASSES = {
    "ADI": "adipose",
    "BACK": "background",
    "DEB": "debris",
    "LYM": "lymphocytes",
    "MUC": "mucus",
    "MUS": "smooth muscle",
    "NORM": "normal colon mucosa",
    "STR": "cancer-associated stroma",
    "TUM": "colorectal adenocarcinoma epithelium",
}
"""Folder name to tissue, in the order of the report's multiple choice."""

HAM10000_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
PAD_UFES_CLASSES = ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")
PAD_UFES_LICENCE = "as its owners state at data.mendeley.com/datasets/zr7vgbcyr2"


def read_nct_crc(
    folder: Path, split: Literal["NCT-CRC-HE-100K", "CRC-VAL-HE-7K", "NCT-CRC-HE-100K-NONORM"] = "CRC-VAL-HE-7K"
) -> list[LabelledPicture]:
    """Read one folder of the release; labels: `label` (a key of NCT_CRC_CLASSES), label_text.

    The group is the patch itself: the release names neither patient nor slide, so patches of one patient cannot be
    kept on one side within a folder. The two folders come from different patients.

    Raises:
        ValueError: The folder is missing or empty, or holds a class that is none of the nine.
    """
    pictures = []
    for row in read_class_folders(folder / split):
        if row["label"] not in NCT_CRC_CLASSES:
            raise ValueError(f"{folder / row['file']}: lies in no folder of {', '.join(NCT_CRC_CLASSES)}; move it")
        labels = {"label": row["label"], "label_text": NCT_CRC_CLASSES[row["label"]]}
        group = f"nct-crc_{Path(row['file']).stem}"
        pictures.append(LabelledPicture("nct-crc-he", folder / row["file"], labels, group, "CC BY 4.0"))
    return pictures


def read_ham10000(folder: Path) -> list[LabelledPicture]:
    """Read HAM10000; labels: `label` (HAM10000_CLASSES), dx_type, sex, localization, age (may be empty).

    The group is the lesion, under the same key as in the card derm-ham10000; no patients are named.

    Args:
        folder: Holds HAM10000_metadata.csv (or HAM10000_metadata) and ISIC_*.jpg in any subfolder.

    Raises:
        ValueError: The table or a column is missing, a cell is empty, or a class is unknown.
    """
    table = folder / "HAM10000_metadata.csv"
    table = table if table.is_file() or not table.with_suffix("").is_file() else table.with_suffix("")
    columns = ("lesion_id", "image_id", "dx", "dx_type", "sex", "localization")
    paths = {path.stem: path for path in folder.rglob("ISIC_*.jpg")}
    pictures = []
    for number, row in enumerate(read_csv(table, (*columns, "age")), start=1):
        found = cells(table, number, row, columns)
        labels = {"label": one_of(table, number, row, "dx", HAM10000_CLASSES), "dx_type": found["dx_type"]}
        labels |= {"sex": found["sex"], "localization": found["localization"], "age": row["age"].strip()}
        path = paths.get(found["image_id"], folder / f"{found['image_id']}.jpg")
        pictures.append(LabelledPicture("ham10000", path, labels, found["lesion_id"], "CC BY-NC-SA 4.0"))
    return pictures


def read_pad_ufes(folder: Path, split_table: Path | None = None) -> list[LabelledPicture]:
    """Read PAD-UFES-20; labels: `label` (PAD_UFES_CLASSES), lesion_id, region, and official_split where one is given.

    The group is the patient.

    Args:
        folder: Holds metadata.csv and PAT_*.png in any subfolder.
        split_table: pad_ufes_20_split.tsv of Google-Health/google-health (columns PATIENT_ID and SPLIT), the division
            that the report uses; the release itself has none.

    Raises:
        ValueError: A table or column is missing, a cell is empty, a class is unknown, or a patient has no split.
    """
    table = folder / "metadata.csv"
    sides = _pad_ufes_sides(split_table) if split_table else None
    paths = {path.name: path for path in folder.rglob("PAT_*.png")}
    columns = ("patient_id", "lesion_id", "img_id", "diagnostic", "region")
    pictures = []
    for number, row in enumerate(read_csv(table, columns), start=1):
        found = cells(table, number, row, columns)
        label = one_of(table, number, row, "diagnostic", PAD_UFES_CLASSES)
        labels = {"label": label, "lesion_id": found["lesion_id"], "region": found["region"]}
        if sides is not None:
            if found["patient_id"] not in sides:
                raise ValueError(
                    f"{table}: record {number} is of a patient whom {split_table} does not have; fetch both"
                )
            labels["official_split"] = sides[found["patient_id"]]
        path = paths.get(found["img_id"], folder / "images" / found["img_id"])
        pictures.append(LabelledPicture("pad-ufes-20", path, labels, f"pad_{found['patient_id']}", PAD_UFES_LICENCE))
    return pictures


def _pad_ufes_sides(table: Path) -> Mapping[str, str]:
    rows = enumerate(read_csv(table, ("PATIENT_ID", "SPLIT")), start=1)
    return {row["PATIENT_ID"]: one_of(table, number, row, "SPLIT", ("train", "test")) for number, row in rows}
