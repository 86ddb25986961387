"""Comparing a user's copy of a data set with its card."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from data_cards.readers.tables import cell_text, read_rows
from data_cards.schema import DataCard, Split

MOST_LINES = 20
"""Differences of one kind that are named one by one; the rest are counted."""


@dataclass(frozen=True)
class _Table:
    name: str
    split: Split
    path: Path
    rows: Sequence[Mapping[str, object]]
    groups: Sequence[str]
    """Group key of each row; empty where the card names no group column."""


def table_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as in `Split.sha256`."""
    with path.open("rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_copy(card: DataCard, folder: Path) -> list[str]:
    """Compare a copy with its card.

    Args:
        card: The card.
        folder: The set's own folder.

    Returns:
        One line for each difference: tables missing, changed or of another split, counts of items, groups and
        values, items that are there twice, groups on two sides, licences, pictures missing. None means the copy is
        the card's.
    """
    differences: list[str] = []
    tables: list[_Table] = []
    for name, split in card.splits.items():
        try:
            tables.append(_read(card, folder, name, split))
        except ValueError as fault:
            differences.append(str(fault))
    for table in tables:
        differences += _compare_table(card, table)
    if not tables:
        return differences or [f"{folder}: the card {card.name} names no table, so there is nothing to compare"]
    differences += _repeated_items(card, tables)
    differences += _shared_groups(card, tables)
    if len(tables) == len(card.splits):
        differences += _compare_counts("", card.counts, [row for table in tables for row in table.rows])
    return differences + _compare_files(card, folder, tables)


def _read(card: DataCard, folder: Path, name: str, split: Split) -> _Table:
    path = folder / split.file
    rows = read_rows(path, tuple(card.columns_of(split)))
    column = split.group_column or card.group_column
    return _Table(name, split, path, rows, [_group(card, path, n, row, column) for n, row in enumerate(rows, 1)])


def _group(card: DataCard, path: Path, number: int, row: Mapping[str, object], column: str) -> str:
    if not column:
        return ""
    text = cell_text(row[column])
    if not card.group_pattern:
        return text
    found = re.search(card.group_pattern, text)
    if not found:
        raise ValueError(f"{path}: record {number} has no group key ({card.group_pattern}) in {column!r}; mend the row")
    return found.group()


def _compare_table(card: DataCard, table: _Table) -> list[str]:
    split, path, differences = table.split, table.path, []
    if split.sha256 is not None and (found := table_sha256(path)) != split.sha256:
        others = [name for name, other in card.splits.items() if other.sha256 == found]
        what = f"is the card's {others[0]}, not {table.name}" if others else f"has SHA-256 {found[:12]}..."
        differences.append(f"{path}: {what}, the card {split.sha256[:12]}...")
    if split.items is not None and len(table.rows) != split.items:
        differences.append(f"{path}: has {len(table.rows)} items, the card {split.items} ({table.name})")
    column = split.group_column or card.group_column
    if split.groups is not None and (groups := len(set(table.groups))) != split.groups:
        differences.append(f"{path}: has {groups} groups ({column}), the card {split.groups} ({table.name})")
    return differences + _compare_counts(f"{path}: ", split.counts, table.rows)


def _repeated_items(card: DataCard, tables: Sequence[_Table]) -> list[str]:
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for table in tables:
        column = table.split.item_column or card.item_column
        for number, row in enumerate(table.rows, start=1):
            if column in row:
                places[column, cell_text(row[column])].append(f"{table.split.file} record {number}")
    repeated = {key: found for key, found in places.items() if len(found) > 1}
    return at_most(f"the item {key!r} ({column}) is there {len(found)} times: {', '.join(found[:4])}"
                    for (column, key), found in repeated.items())  # fmt: skip


def _shared_groups(card: DataCard, tables: Sequence[_Table]) -> list[str]:
    sides: dict[str, set[str]] = defaultdict(set)
    for table in tables:
        if table.split.side == "*":
            continue
        column = table.split.side_column
        for group, row in zip(table.groups, table.rows, strict=True):
            sides[group].add(cell_text(row[column]) if column else table.split.side or table.name)
    sides.pop("", None)
    shared = {group: found for group, found in sides.items() if len(found) > 1}
    if len(shared) == card.shared_groups:
        return []
    head = f"{len(shared)} groups ({card.group_is}) lie on more than one side, the card {card.shared_groups}"
    return [head, *at_most(f"the group {group!r} lies in {' and '.join(sorted(found))}"
                            for group, found in shared.items())]  # fmt: skip


def _compare_counts(
    place: str, counts: Mapping[str, Mapping[str, int]], rows: Sequence[Mapping[str, object]]
) -> list[str]:
    differences = []
    for column, expected in counts.items():
        found = Counter(cell_text(row[column]) for row in rows if column in row)
        for value, count in expected.items():
            if found[value] != count:
                differences.append(f"{place}{column} = {value!r}: has {found[value]} items, the card {count}")
    return differences


def _compare_files(card: DataCard, folder: Path, tables: Sequence[_Table]) -> list[str]:
    rows = [row for table in tables for row in table.rows]
    unlicensed = sum(not str(row["licence"]).strip() for row in rows if "licence" in row)
    differences = []
    if unlicensed:
        differences.append(f"{folder}: {unlicensed} items name no licence; the card's is {card.licence}")
    files = sorted({file for table in tables for file in _pictures(card, table)})
    if card.pictures and len(files) != card.pictures:
        differences.append(f"{folder}: names {len(files)} pictures, the card {card.pictures}")
    missing = (file for file in files if not (folder / file).is_file())
    return differences + at_most(f"{folder / file}: named in the table, but there is no such file" for file in missing)


def _pictures(card: DataCard, table: _Table) -> Iterator[str]:
    for row in table.rows:
        if table.split.picture:
            yield table.split.picture.format_map({name: cell_text(value) for name, value in row.items()})
        elif card.pictures and "file" in row:
            yield str(row["file"])


def at_most(lines: Iterable[str]) -> list[str]:
    """Return the first MOST_LINES lines, and how many more there are."""
    every = list(lines)
    if len(every) <= MOST_LINES:
        return every
    return [*every[:MOST_LINES], f"... and {len(every) - MOST_LINES} more like the last"]
