"""Cells of a record, checked one by one; a fault names the file and the record."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from data_cards.readers.tables import cell


def cells(table: Path, number: int, row: Mapping[str, object], columns: Sequence[str]) -> dict[str, str]:
    """Return cells that must not be empty, as text."""
    return {name: cell(table, number, row, name) for name in columns}


def one_of(table: Path, number: int, row: Mapping[str, object], column: str, allowed: Sequence[str]) -> str:
    """Return a cell that must be one of a few values."""
    text = cell(table, number, row, column)
    if text not in allowed:
        raise ValueError(
            f"{table}: record {number} has {column} {text!r}; expected {', '.join(allowed)}; mend the record"
        )
    return text


def texts(table: Path, number: int, row: Mapping[str, object], column: str) -> tuple[str, ...]:
    """Return a field that must be a list of texts; it may be empty."""
    value = row[column]
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"{table}: record {number} has no list of texts in {column!r}; fetch the file again")
    return tuple(value)


def mapping(table: Path, number: int, row: Mapping[str, object], column: str) -> Mapping[str, object]:
    """Return a field that must be a JSON object."""
    value = row[column]
    if not isinstance(value, dict):
        raise ValueError(f"{table}: record {number} has no object in {column!r}; fetch the file again")
    return value


def text_group(prefix: str, text: str) -> str:
    """Return a group key for items that share a text, whatever its case and white space."""
    return f"{prefix}_{sha256(' '.join(text.lower().split()).encode()).hexdigest()[:16]}"
