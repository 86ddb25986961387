"""Files to test software with, not to evaluate models on: DICOM files, a slide and a volume, an RLDS sample."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_cards.readers.fields import cells
from data_cards.readers.tables import read_csv

RLDS_VERSION = "bridge_dataset/1.0.0"


@dataclass(frozen=True)
class DicomFile:
    """A DICOM file and what it decodes to."""

    path: Path
    modality: str
    photometric_interpretation: str
    transfer_syntax_uid: str
    bits_stored: int
    rows: int
    columns: int
    num_frames: int
    pixel_min: int
    """Smallest stored value, before rescale."""
    pixel_max: int
    group: str
    """The subject named in the table, or the file's name where it names none."""
    licence: str


class OriginalFile(NamedTuple):
    """A file in the bytes of its owners."""

    path: Path
    label: str
    group: str
    licence: str


class RldsSplit(NamedTuple):
    """One split of a TFDS folder, from dataset_info.json."""

    name: str
    shards: tuple[Path, ...]
    num_episodes: int


def read_dicom_files(folder: Path) -> list[DicomFile]:
    """Read the table of dicom-real; no file is opened.

    Raises:
        ValueError: labels.csv or a column is missing, a cell is empty or no number where one is due.
    """
    table = folder / "labels.csv"
    words = ("file", "modality", "photometric", "transfer_syntax_uid", "licence")
    numbers = ("bits_stored", "rows", "columns", "frames", "pixel_min", "pixel_max")
    files = []
    for number, row in enumerate(read_csv(table, (*words, *numbers, "patient_id")), start=1):
        found = cells(table, number, row, words)
        values = {name: _whole(table, number, row, name) for name in numbers}
        path = folder / found["file"]
        files.append(
            DicomFile(
                path=path,
                modality=found["modality"],
                photometric_interpretation=found["photometric"],
                transfer_syntax_uid=found["transfer_syntax_uid"],
                bits_stored=values["bits_stored"],
                rows=values["rows"],
                columns=values["columns"],
                num_frames=values["frames"],
                pixel_min=values["pixel_min"],
                pixel_max=values["pixel_max"],
                group=row["patient_id"].strip() or path.name,
                licence=found["licence"],
            )
        )
    return files


def read_slide_and_volume(folder: Path) -> list[OriginalFile]:
    """Read the table of wsi-nifti-real; no file is opened.

    Raises:
        ValueError: labels.csv or a column is missing, or a cell is empty.
    """
    table = folder / "labels.csv"
    columns = ("file", "label", "patient_id", "licence")
    rows = [cells(table, number, row, columns) for number, row in enumerate(read_csv(table, columns), start=1)]
    return [OriginalFile(folder / row["file"], row["label"], row["patient_id"], row["licence"]) for row in rows]


def read_rlds_info(folder: Path) -> list[RldsSplit]:
    """Read what rlds-bridge-sample says of its splits; the room `experience` reads the episodes themselves.

    Raises:
        ValueError: dataset_info.json is missing, is no JSON or names no splits, or a shard is missing.
    """
    info = folder / RLDS_VERSION / "dataset_info.json"
    try:
        fields = json.loads(info.read_text(encoding="utf-8"))
        splits = [(str(s["name"]), [int(count) for count in s["shardLengths"]]) for s in fields["splits"]]
        name = str(fields["name"])
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError) as fault:
        raise ValueError(f"{info}: names no splits with shardLengths ({fault!r}); fetch the file again") from fault
    return [_rlds_split(info.parent, name, split, lengths) for split, lengths in splits]


def _rlds_split(folder: Path, name: str, split: str, lengths: list[int]) -> RldsSplit:
    count = len(lengths)
    shards = tuple(folder / f"{name}-{split}.tfrecord-{shard:05d}-of-{count:05d}" for shard in range(count))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ValueError(f"{folder}: has no {', '.join(missing)}, which dataset_info.json names; fetch the set again")
    return RldsSplit(split, shards, sum(lengths))


def _whole(table: Path, number: int, row: Mapping[str, object], column: str) -> int:
    text = cells(table, number, row, (column,))[column]
    try:
        return int(text)
    except ValueError as fault:
        raise ValueError(f"{table}: record {number} has {column} {text!r}; expected a whole number") from fault
