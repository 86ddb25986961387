"""Finding a set's folder and reading its tables; a fault names the file, what is missing and what to do."""

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

Row = TypeVar("Row")

TABLE_FILES = ("labels.csv", "train.jsonl.gz")
"""A folder that holds one of these is a data set's own folder."""


def find_set(data_dir: str | Path, name: str) -> Path:
    """Return the folder of one data set.

    Args:
        data_dir: A folder with one folder a card name, or the set's own folder.
        name: The card's name, for example `vqa-rad`.

    Raises:
        ValueError: Neither is the case.
    """
    root = Path(data_dir)
    if (root / name).is_dir():
        return root / name
    if any((root / table).is_file() for table in TABLE_FILES):
        return root
    raise ValueError(
        f"{root}: found no data set {name!r}; expected the folder {root / name}, or {root} itself to hold "
        f"{' or '.join(TABLE_FILES)}; `medgemma-data show {name}` says how to get the set"
    )


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV table with a header.

    Args:
        path: The file, UTF-8.
        columns: Columns that must be there.

    Returns:
        One mapping a row, header name to cell.

    Raises:
        ValueError: The file or a column is missing, a row is shorter or longer than the header, or no row is
            left.
    """
    _demand_file(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{path}: has no column {', '.join(missing)}; add it, or use the set of the card")
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as fault:
        raise ValueError(f"{path}: is no UTF-8 CSV table ({fault}); save it as UTF-8 CSV") from fault
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {number} has not as many cells as the header; mend or drop the row")
    return _demand_rows(path, rows)


def read_json_lines(path: Path, columns: Sequence[str]) -> list[dict[str, object]]:
    """Read JSON objects, one a line, from a plain or gzipped file.

    Raises:
        ValueError: The file is missing or cut short, a line is no JSON object, or a field of `columns` is
            missing.
    """
    _demand_file(path)
    try:
        text = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8")
        with text as lines:
            rows = [_object(path, number, line, columns) for number, line in enumerate(lines, 1) if line.strip()]
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as fault:
        raise ValueError(f"{path}: cannot be read ({fault}); fetch the file again") from fault
    return _demand_rows(path, rows)


def cell(path: Path, number: int, row: Mapping[str, object], column: str) -> str:
    """Return a cell that must not be empty; `number` counts rows from 1."""
    text = str(row[column]).strip()
    if not text:
        raise ValueError(f"{path}: record {number} has an empty {column!r}; fill it or drop the record")
    return text


def _object(path: Path, number: int, line: str, columns: Sequence[str]) -> dict[str, object]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as fault:
        raise ValueError(f"{path}: line {number} is no JSON ({fault}); mend or drop the line") from fault
    missing = [name for name in columns if name not in row] if isinstance(row, dict) else list(columns)
    if missing:
        raise ValueError(f"{path}: line {number} has no field {', '.join(missing)}; mend or drop the line")
    return dict(row)


def _demand_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the table of the data set; fetch the set, or correct --data")


def _demand_rows(path: Path, rows: list[Row]) -> list[Row]:
    if not rows:
        raise ValueError(f"{path}: has no rows; fetch the file again")
    return rows
