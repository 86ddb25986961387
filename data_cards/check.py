"""Comparing a user's copy of a data set with its card."""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from data_cards.readers.tables import read_csv, read_json_lines
from data_cards.schema import DataCard, Split


def table_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as in `Split.sha256`."""
    return sha256(path.read_bytes()).hexdigest()


def check_copy(card: DataCard, folder: Path) -> list[str]:
    """Compare a copy with its card.

    Args:
        card: The card.
        folder: The set's own folder.

    Returns:
        One line for each difference: tables missing or changed, counts of rows and groups, values, licences,
        pictures missing. None means the copy is the card's.
    """
    differences: list[str] = []
    rows: list[Mapping[str, object]] = []
    for name, split in card.splits.items():
        try:
            table = _read(folder / split.file, card)
        except ValueError as fault:
            differences.append(str(fault))
            continue
        differences += _compare_split(card, folder, name, split, table)
        rows += table
    if len(differences) == len(card.splits) and not rows:
        return differences
    return differences + _compare_counts(card, rows) + _compare_files(card, folder, rows)


def _read(path: Path, card: DataCard) -> Sequence[Mapping[str, object]]:
    columns = [name for name in card.columns if name in (card.group_column, "file", "licence", *card.counts)]
    return read_csv(path, columns) if path.suffix == ".csv" else read_json_lines(path, columns)


def _compare_split(
    card: DataCard, folder: Path, name: str, split: Split, table: Sequence[Mapping[str, object]]
) -> list[str]:
    path, differences = folder / split.file, []
    if (found := table_sha256(path)) != split.sha256:
        differences.append(f"{path}: has SHA-256 {found[:12]}..., the card {split.sha256[:12]}...")
    if len(table) != split.items:
        differences.append(f"{path}: has {len(table)} items, the card {split.items} ({name})")
    groups = len({str(row[card.group_column]) for row in table})
    if groups != split.groups:
        differences.append(f"{path}: has {groups} groups ({card.group_column}), the card {split.groups} ({name})")
    return differences


def _compare_counts(card: DataCard, rows: Sequence[Mapping[str, object]]) -> list[str]:
    differences = []
    for column, expected in card.counts.items():
        found = Counter(str(row[column]) for row in rows)
        for value, count in expected.items():
            if found[value] != count:
                differences.append(f"{column} = {value!r}: has {found[value]} items, the card {count}")
    return differences


def _compare_files(card: DataCard, folder: Path, rows: Sequence[Mapping[str, object]]) -> list[str]:
    differences = []
    files = sorted({str(row["file"]) for row in rows if "file" in row})
    if len(files) != card.pictures:
        differences.append(f"{folder}: names {len(files)} pictures, the card {card.pictures}")
    missing = [file for file in files if not (folder / file).is_file()]
    differences += [f"{folder / file}: named in the table, but there is no such file" for file in missing]
    unlicensed = sum(not str(row["licence"]).strip() for row in rows if "licence" in row)
    if unlicensed:
        differences.append(f"{folder}: {unlicensed} items name no licence; the card's is {card.licence}")
    return differences
