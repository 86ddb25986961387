"""A user's LABELS.csv: a row a picture file, with its labels, its group and what subgroups it is in.

Letters: N rows, C labels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_cards.table.records import records_of
from data_cards.table.values import UNCERTAIN, class_of, is_missing, presence_of, text_of
from medsiglip.imaging import FileProblem


@dataclass(frozen=True)
class LabelRow:
    """One row."""

    place: str
    """For messages: "labels.csv row 17", the header being row 1."""
    file: Path
    cells: Mapping[str, str]


class Truth(NamedTuple):
    """What the rows say."""

    labels: tuple[str, ...]
    """Those that have a column, or all of exclusive ones."""
    values: np.ndarray
    """(N, C) float64: 1 present, 0 absent, NaN not said."""


def read_rows(path: Path) -> list[LabelRow]:
    """Read a table as `data_cards.table` reads it, whether or not its files are there; they are relative to it.

    Raises:
        ValueError: no table, no column `file`, or no rows.
    """
    records = records_of(path)
    if "file" not in records.columns:
        raise ValueError(f"{path}: has no column file; its columns are {', '.join(records.columns)}")
    read = ((record.place, {name: text_of(cell) for name, cell in record.cells.items()}) for record in records.read())
    rows = [LabelRow(place, path.parent / cells.get("file", ""), cells) for place, cells in read]
    if not rows:
        raise ValueError(f"{path}: has no rows; give a row a picture")
    return rows


def read_labels_csv(path: Path, on_problem: Callable[[FileProblem], None]) -> list[LabelRow]:
    """Read the rows whose file is there; each of the others is reported.

    Raises:
        ValueError: as `read_rows`; no file is there, or a file is listed twice.
    """
    found: list[LabelRow] = []
    for row in read_rows(path):
        if not row.cells["file"]:
            on_problem(FileProblem(row.place, "its file is empty; name the picture, or delete the row"))
        elif not row.file.is_file():
            on_problem(FileProblem(row.place, f"{row.cells['file']}: no such file beside the CSV; correct it"))
        else:
            found.append(row)
    _refuse_twice(found)
    if not found:
        raise ValueError(f"{path}: no row names a file that is there; files are looked for beside the CSV")
    return found


def says_nothing(cell: str) -> bool:
    """Whether a cell says nothing of a label: missing, or uncertain as CheXpert's -1."""
    return is_missing(cell) or class_of(cell) == "-1"


def column(rows: Sequence[LabelRow], name: str, path: Path) -> list[str]:
    """The cells of a column that must be there and full.

    Raises:
        ValueError: it is not there, or a cell is empty.
    """
    if name not in rows[0].cells:
        raise ValueError(f"{path}: has no column {name!r}; its columns are {', '.join(rows[0].cells)}")
    if empty := [row.place for row in rows if not row.cells[name]]:
        raise ValueError(f"{empty[0]}: {name} is empty; fill it, or delete the row")
    return [row.cells[name] for row in rows]


def groups_of(rows: Sequence[LabelRow], name: str, path: Path) -> list[str]:
    """The group of each row: the column `name`, or with no name each file alone."""
    return column(rows, name, path) if name else [str(row.file) for row in rows]


def exclusive_truth(rows: Sequence[LabelRow], target: str, labels: Sequence[str], path: Path) -> Truth:
    """One label a row, by name.

    Raises:
        ValueError: the column is not there, a label is unknown, or all rows have the same.
    """
    named = column(rows, target, path)
    for row, name in zip(rows, named, strict=True):
        if name not in labels:
            raise ValueError(f"{row.place}: {name!r} is no label here; use {'; '.join(labels)}")
    if len(set(named)) < 2:
        raise ValueError(f"{path}: every row is {named[0]!r}; two labels at least are needed")
    return Truth(tuple(labels), np.array([[name == label for label in labels] for name in named], dtype=np.float64))


def independent_truth(rows: Sequence[LabelRow], labels: Sequence[str], path: Path) -> Truth:
    """A column a label, of 1, 0 and what is missing or uncertain; labels without a column are left out.

    Raises:
        ValueError: no label has a column, a cell is something else, or a label has one class only.
    """
    known = [label for label in labels if label in rows[0].cells]
    if not known:
        raise ValueError(f"{path}: no column is named as a label; add one or more of {'; '.join(labels)}, of 1 and 0")
    values = np.array([[_value(row, label) for label in known] for row in rows])
    for label, cells in zip(known, values.T, strict=True):
        if len(set(cells[np.isfinite(cells)].tolist())) < 2:
            raise ValueError(
                f"{path}: {label!r} has no 1 or no 0 among its cells; both are needed, or delete the column"
            )
    return Truth(tuple(known), values)


def _value(row: LabelRow, label: str) -> float:
    cell = row.cells[label]
    said = presence_of(cell)
    if is_missing(cell) or said == UNCERTAIN:
        return float("nan")
    if said is None:
        raise ValueError(f"{row.place}: {label} is {cell!r}; expected 1, 0, or -1 or nothing where unknown")
    return float(said is True)


def _refuse_twice(rows: Sequence[LabelRow]) -> None:
    seen: dict[Path, str] = {}
    for row in rows:
        place = row.file.resolve()
        if place in seen:
            raise ValueError(f"{row.place}: {row.cells['file']} is in {seen[place]} already; keep one row a file")
        seen[place] = row.place
