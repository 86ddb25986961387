"""Groups and sides: rows that are not independent lie together, as data_cards/split.py divides."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from data_cards.readers.fields import text_group
from data_cards.split import FINAL_PERCENT, KEPT_PERCENT, is_kept_from_training, side
from data_cards.table.conversations import words_of
from data_cards.table.files import equal_bytes
from data_cards.table.records import SPLIT_NAMES, split_named
from data_cards.table.rows import NONE, SPLITS, Columns, Row, Split

VALIDATION_PERCENT = KEPT_PERCENT * (100 - FINAL_PERCENT) // 100
"""Share of the train groups that become `validation` where a table names train and test only."""

_OF_SIDE: dict[str, Split] = {"train": "train", "held-out": "validation", "final": "test"}


class Draft(NamedTuple):
    """A row before its group and its side are known."""

    row: Row
    group: str
    """As the table has it; empty where it has none."""
    side: str
    """Likewise."""


def with_groups(drafts: Sequence[Draft], folder: Path, columns: Columns) -> tuple[list[Draft], list[str]]:
    """Give every row a group: the group column's key, else its files' (equal bytes being one), else its words'.

    Returns:
        The rows, and what one should know, a line each.
    """
    without = [draft.row for draft in drafts if not draft.group]
    if not without:
        return _keyed(drafts, {}), []
    of_files = _groups_by_files(without, folder)
    findings = [_without_group(len(without), len(drafts), columns, any(row.files for row in without))]
    return _keyed(drafts, of_files), findings


class Sided(NamedTuple):
    """Rows with their sides."""

    rows: list[Row]
    given: tuple[Split, ...]
    """The sides that the table names; empty where they are ours."""
    findings: list[str]


def with_sides(source: Path, drafts: Sequence[Draft], columns: Columns) -> Sided:
    """Give every row its side: the table's own, else by group.

    Raises:
        ValueError: A side is called by a name not known here, or a group lies on two sides.
    """
    named = {text: split_named(text) for text in {draft.side for draft in drafts if draft.side}}
    unknown = sorted(text for text, split in named.items() if split is None)
    if unknown:
        raise ValueError(
            f"{source}: {columns.split} is {unknown[0]!r}; expected train, validation or test, or one of "
            f"{', '.join(SPLIT_NAMES)}; rename it, or divide by group: --split none"
        )
    given = tuple(split for split in SPLITS if split in named.values())
    if not given:
        return Sided([replace(d.row, split=_OF_SIDE[side(d.row.group)]) for d in drafts], (), _small_sides(drafts))
    unsided = [draft.row for draft in drafts if not draft.side and not draft.row.fault]
    if unsided:
        raise ValueError(
            f"{source}: {len(unsided)} rows name no side, the first is {unsided[0].place}; fill {columns.split}, or "
            "divide by group: --split none"
        )
    rows = [replace(draft.row, split=named.get(draft.side) or "train") for draft in drafts]
    _demand_one_side_a_group(source, rows, columns)
    if given == ("train",):
        said = "every row is on the side train; the sides are divided by group instead"
        return Sided([replace(row, split=_OF_SIDE[side(row.group)]) for row in rows], (), [said])
    if given == ("train", "test"):
        said = f"{VALIDATION_PERCENT} % of the train groups are kept from training as validation, since none is named"
        return Sided([_with_validation(row) for row in rows], given, [said])
    return Sided(rows, given, [])


def _with_validation(row: Row) -> Row:
    is_kept = row.split == "train" and is_kept_from_training(row.group, VALIDATION_PERCENT)
    return replace(row, split="validation") if is_kept else row


def _demand_one_side_a_group(source: Path, rows: Sequence[Row], columns: Columns) -> None:
    first: dict[str, Row] = {}
    shared: dict[str, tuple[Row, Row]] = {}
    for row in rows:
        other = first.setdefault(row.group, row)
        if other.split != row.split:
            shared.setdefault(row.group, (other, row))
    if shared:
        group, (one, two) = next(iter(shared.items()))
        more = f", and {len(shared) - 1} more groups are on two sides" if len(shared) > 1 else ""
        what = columns.group if columns.group not in ("", NONE) else "files of equal bytes"
        raise ValueError(
            f"{source}: the group {group!r} ({what}) is on {one.split} ({one.place}) and on {two.split} ({two.place})"
            f"{more}; put every group on one side, or divide anew by group: --split none"
        )


def _keyed(drafts: Sequence[Draft], of_files: dict[str, str]) -> list[Draft]:
    return [d._replace(row=replace(d.row, group=d.group or of_files[d.row.place])) for d in drafts]


def _groups_by_files(rows: Sequence[Row], folder: Path) -> dict[str, str]:
    """Place to group: rows that share a file, or files of equal bytes, directly or over other rows, are one group."""
    hashes = equal_bytes(path for row in rows for path in row.files)
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            key = parents[key] = parents[parents[key]]
        return key

    keys: dict[str, list[str]] = {}
    for row in rows:
        keys[row.place] = [hashes.get(path) or _relative(path, folder) for path in row.files] or [_words_group(row)]
        for key in keys[row.place]:
            low, high = sorted((root(keys[row.place][0]), root(key)))
            parents[high] = low
    return {place: root(found[0]) for place, found in keys.items()}


def _words_group(row: Row) -> str:
    words = row.question or words_of(row.messages, "user")
    return text_group("text", words) if words else row.place


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _without_group(num_without: int, num_rows: int, columns: Columns, by_files: bool) -> str:
    by = "file (equal bytes are one group)" if by_files else "their words"
    if num_without == num_rows:
        return (
            f"no group column: rows are grouped by {by}; if a patient or lesion has several rows, name the column that "
            "says so (--group), or pictures of one lie on two sides"
        )
    return f"{num_without} of {num_rows} rows have no {columns.group}; they are grouped by {by}"


def _small_sides(drafts: Sequence[Draft]) -> list[str]:
    groups: dict[str, set[str]] = defaultdict(set)
    for draft in drafts:
        groups[_OF_SIDE[side(draft.row.group)]].add(draft.row.group)
    empty = [split for split in SPLITS if not groups[split]]
    if not empty:
        return []
    return [f"no group falls on {' and '.join(empty)}: give more groups, or a column of sides (--split)"]


def group_key(text: str, pattern: str) -> str | None:
    """The group in a cell; None if the pattern does not find it."""
    if not pattern:
        return text
    found = re.search(pattern, text)
    return found.group() if found else None
