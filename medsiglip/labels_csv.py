"""A user's LABELS.csv: a row a picture file, with its labels, its group and what subgroups it is in.

Letters: N rows, C labels.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medsiglip.imaging import FileProblem

MISSING = frozenset({"", "-1", "-1.0", "nan", "NaN", "NA", "None"})
"""Cells that say nothing of a label: empty, uncertain (CheXpert's -1) and what other programs write for missing."""


@dataclass(frozen=True)
class LabelRow:
    """One row."""

    number: int
    """From 1, below the header."""
    file: Path
    cells: Mapping[str, str]


class Truth(NamedTuple):
    """What the rows say."""

    labels: tuple[str, ...]
    """Those that have a column, or all of exclusive ones."""
    values: np.ndarray
    """(N, C) float64: 1 present, 0 absent, NaN not said."""


def read_labels_csv(path: Path, on_problem: Callable[[FileProblem], None]) -> list[LabelRow]:
    """Read the rows whose file is there, relative to the CSV; each of the others is reported.

    Raises:
        ValueError: no CSV with the column `file`, no rows, or a file is listed twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [{name: (cell or "").strip() for name, cell in row.items() if name} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); give a CSV file in UTF-8 with a column file") from error
    if "file" not in (reader.fieldnames or []):
        raise ValueError(f"{path}: has no column file; its columns are {', '.join(reader.fieldnames or ['none'])}")
    found: list[LabelRow] = []
    for number, cells in enumerate(rows, 1):
        if not cells["file"]:
            on_problem(FileProblem(f"{path}, row {number}", "its file is empty; name the picture, or delete the row"))
        elif not (path.parent / cells["file"]).is_file():
            on_problem(
                FileProblem(f"{path}, row {number}", f"{cells['file']}: no such file beside the CSV; correct it")
            )
        else:
            found.append(LabelRow(number, path.parent / cells["file"], cells))
    _refuse_twice(path, found)
    if not found:
        raise ValueError(f"{path}: no row names a file that is there; files are looked for beside the CSV")
    return found


def column(rows: Sequence[LabelRow], name: str, path: Path) -> list[str]:
    """The cells of a column that must be there and full.

    Raises:
        ValueError: it is not there, or a cell is empty.
    """
    if name not in rows[0].cells:
        raise ValueError(f"{path}: has no column {name!r}; its columns are {', '.join(rows[0].cells)}")
    if empty := [row.number for row in rows if not row.cells[name]]:
        raise ValueError(f"{path}, row {empty[0]}: {name} is empty; fill it, or delete the row")
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
            raise ValueError(f"{path}, row {row.number}: {name!r} is no label here; use {'; '.join(labels)}")
    if len(set(named)) < 2:
        raise ValueError(f"{path}: every row is {named[0]!r}; two labels at least are needed")
    return Truth(tuple(labels), np.array([[name == label for label in labels] for name in named], dtype=np.float64))


def independent_truth(rows: Sequence[LabelRow], labels: Sequence[str], path: Path) -> Truth:
    """A column a label, of 1, 0 and what is missing (see `MISSING`); labels without a column are left out.

    Raises:
        ValueError: no label has a column, a cell is something else, or a label has one class only.
    """
    known = [label for label in labels if label in rows[0].cells]
    if not known:
        raise ValueError(f"{path}: no column is named as a label; add one or more of {'; '.join(labels)}, of 1 and 0")
    values = np.array([[_value(row, label, path) for label in known] for row in rows])
    for label, cells in zip(known, values.T, strict=True):
        if len(set(cells[np.isfinite(cells)].tolist())) < 2:
            raise ValueError(
                f"{path}: {label!r} has no 1 or no 0 among its cells; both are needed, or delete the column"
            )
    return Truth(tuple(known), values)


def _value(row: LabelRow, label: str, path: Path) -> float:
    cell = row.cells[label]
    if cell in MISSING:
        return float("nan")
    try:
        number = float(cell)
    except ValueError:
        number = -2.0
    if number not in (0.0, 1.0):
        raise ValueError(
            f"{path}, row {row.number}: {label} is {cell!r}; expected 1, 0, or -1 or nothing where unknown"
        )
    return number


def _refuse_twice(path: Path, rows: Sequence[LabelRow]) -> None:
    seen: dict[Path, int] = {}
    for row in rows:
        place = row.file.resolve()
        if place in seen:
            raise ValueError(
                f"{path}, row {row.number}: {row.cells['file']} is in row {seen[place]} already; keep one row a file"
            )
        seen[place] = row.number
