"""The data sets that have a card, through the same door: what a card's reader gives becomes the records of a table."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from data_cards.readers.tables import find_set
from data_cards.table.read import table_of
from data_cards.table.records import Record, Records
from data_cards.table.rows import NONE, Columns, Table


def read_card(name: str, data_dir: str | Path, columns: Columns | None = None) -> Table:
    """Read a data set by its card's reader, to the same rows as a user's table.

    The group is the card's, and rows are divided by it, whatever division the set's owners published (some share
    patients between sides).

    Args:
        name: The card's.
        data_dir: A folder with one folder a card name, or the set's own folder.
        columns: Label, question and answer columns by the names of the reader's fields and labels; the rest is guessed.

    Raises:
        ValueError: The card has no reader of pictures, questions or texts, the set is missing or broken, or as for
            `read_table`.
    """
    folder = find_set(data_dir, name)
    records = records_of(name, folder)
    if not all(is_dataclass(record) for record in records) or not records:
        raise ValueError(f"the card {name} has no reader that gives rows; name its table with --table")
    cells = [_cells(record) for record in records]
    column_names = tuple(dict.fromkeys(column for row in cells for column in row))

    def read() -> Iterator[Record]:
        yield from (Record(f"{name} record {number}", row) for number, row in enumerate(cells, start=1))

    given = columns or Columns()
    group = "group" if "group" in column_names else ""
    return table_of(
        folder,
        Records(folder, column_names, read),
        replace(given, group=given.group or group, split=given.split or NONE),
    )


def records_of(name: str, folder: Path) -> list[Any]:
    """Return what the card's reader gives of a folder, nothing if it has none or gives no list."""
    from data_cards.schema import load_card

    card = load_card(name)
    if not card.reader:
        return []
    module, _, function = card.reader.partition(":")
    found = getattr(import_module(module), function)(folder)
    return list(found) if not isinstance(found, Mapping) else []


def _cells(record: Any) -> dict[str, Any]:
    """A reader's record as cells: `path` as `file`, `options` as `choices`, each of `labels` a column."""
    found: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name == "labels":
            found |= value
        elif isinstance(value, Path):
            found["file"] = str(value)
        elif field.name == "options":
            found["choices"] = dict(value)
        elif not is_dataclass(value):
            found[field.name] = value
    return found
