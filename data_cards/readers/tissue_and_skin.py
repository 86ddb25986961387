"""Histology and skin releases as their owners hand them out: NCT-CRC-HE, LC25000, HAM10000, PAD-UFES-20."""

from collections import Counter
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

LC25000_CLASSES = {
    "lung_n": "benign lung tissue",
    "lung_aca": "lung adenocarcinoma",
    "lung_scc": "lung squamous cell carcinoma",
    "colon_n": "benign colonic tissue",
    "colon_aca": "colon adenocarcinoma",
}
"""Folder name to tissue; lung's in the order of the lung part's question."""
LC25000_FOLDERS = ("lung_image_sets", "colon_image_sets")
LC25000_TILES = "lc25000_image_groups.csv"
"""Of LC25000-clean (github.com/GeorgeBatch/LC25000-clean, folder kaggle): which pictures are turns of one tile."""

HAM10000_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
PAD_UFES_CLASSES = ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")
LC25000_LICENCE = "none named; published for research, citation asked"
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


def read_lc25000(folder: Path) -> list[LabelledPicture]:
    """Read LC25000; labels: `label` (a key of LC25000_CLASSES), label_text, copy ("1" for the first of a tile, and on).

    The 25,000 pictures are turns and flips of 1,250 tiles, some twenty each, and the release does not say of which; so
    LC25000-clean's list is asked for. The group is the tile, under the same key as in the card histo-lc25000-lung. No
    patients or slides are named.

    Args:
        folder: Holds lung_image_sets, colon_image_sets, or both, each with a folder a class, as LC25000.zip unpacks (in
            lung_colon_image_set or not), and lc25000_image_groups.csv beside them.

    Raises:
        ValueError: The list or the pictures are missing, a picture is not in the list, or a class is none of the five.
    """
    unpacked = folder / "lung_colon_image_set"
    unpacked = unpacked if unpacked.is_dir() else folder
    organs = [unpacked / name for name in LC25000_FOLDERS if (unpacked / name).is_dir()]
    if not organs:
        raise ValueError(f"{folder}: holds neither {' nor '.join(LC25000_FOLDERS)}; unpack LC25000.zip there")
    tiles = _lc25000_tiles(folder if (folder / LC25000_TILES).is_file() else unpacked)
    copies: Counter[str] = Counter()
    pictures = []
    for organ in organs:
        for row in read_class_folders(organ):
            path = unpacked / row["file"]
            if row["label"] not in LC25000_CLASSES:
                raise ValueError(f"{path}: lies in no folder of {', '.join(LC25000_CLASSES)}; move it")
            group = tiles.get((row["label"], path.stem))
            if group is None:
                raise ValueError(f"{path}: is not in {LC25000_TILES}, so its tile is not known; fetch both again")
            copies[group] += 1
            labels = {"label": row["label"], "label_text": LC25000_CLASSES[row["label"]], "copy": str(copies[group])}
            pictures.append(LabelledPicture("lc25000", path, labels, group, LC25000_LICENCE))
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


def _lc25000_tiles(folder: Path) -> Mapping[tuple[str, str], str]:
    """Class and file name without its ending to the key of the tile."""
    table = folder / LC25000_TILES
    if not table.is_file():
        raise ValueError(
            f"{table}: no such file; LC25000's pictures are some twenty turns of each tile and do not say of which, so "
            "any split would leak; fetch it from github.com/GeorgeBatch/LC25000-clean, folder kaggle"
        )
    columns = ("stem", "label", "local_cluster_label")
    found = {}
    for number, row in enumerate(read_csv(table, columns), start=1):
        stem, label, tile = cells(table, number, row, columns).values()
        if not tile.isdecimal():
            raise ValueError(f"{table}: record {number} has local_cluster_label {tile!r}; expected a number")
        found[label, stem] = f"lc25000_{label}_tile{int(tile):03d}"
    return found


def _pad_ufes_sides(table: Path) -> Mapping[str, str]:
    rows = enumerate(read_csv(table, ("PATIENT_ID", "SPLIT")), start=1)
    return {row["PATIENT_ID"]: one_of(table, number, row, "SPLIT", ("train", "test")) for number, row in rows}
