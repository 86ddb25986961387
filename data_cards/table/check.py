"""What is wrong with a table, found without decoding a picture."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_cards.check import at_most
from data_cards.table.files import equal_bytes
from data_cards.table.rows import Row, Table


def check_table(table: Table) -> list[str]:
    """Look for what would spoil training or a figure.

    Returns:
        One line a fault: rows that cannot be used; pictures of equal bytes on two sides (the model has seen them), then
        in two groups, then with two labels; of each kind the first lines, and how many more there are.
    """
    return [*at_most(row.fault for row in table.faulty), *shared_pictures(table)]


def shared_pictures(table: Table) -> list[str]:
    """Name pictures of equal bytes (or one picture named twice) across sides, groups and labels."""
    by_bytes = _by_bytes(table.rows)
    across_sides, across_groups, across_labels = [], [], []
    for rows in by_bytes:
        first = rows[0]
        if other := next((row for row in rows if row.split != first.split), None):
            across_sides.append(f"equal bytes on {first.split} and {other.split}: {_pair(first, other)}")
        elif other := next((row for row in rows if row.group != first.group), None):
            across_groups.append(f"equal bytes in two groups: {_pair(first, other)}")
        elif other := next((row for row in rows if _contradicts(first, row)), None):
            across_labels.append(f"equal bytes with other labels: {_pair(first, other)}")
    return [line for lines in (across_sides, across_groups, across_labels) for line in at_most(lines)]


def _by_bytes(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows that share the bytes of a picture, those of one row left out."""
    leaves = {path: _leaves(path) for row in rows for path in row.files}
    hashes = equal_bytes(leaf for files in leaves.values() for leaf in files)
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for key in dict.fromkeys(hashes.get(leaf, str(leaf)) for path in row.files for leaf in leaves[path]):
            found[key].append(row)
    yield from (together for together in found.values() if len(together) > 1)


def _leaves(path: Path) -> tuple[Path, ...]:
    return tuple(sorted(p for p in path.rglob("*") if p.is_file())) if path.is_dir() else (path,)


def _contradicts(one: Row, other: Row) -> bool:
    """Whether two rows of the same pictures, asked the same, say different things."""
    same_question = (one.files and len(one.files) == len(other.files)) and one.question == other.question
    return bool(same_question) and (one.labels, one.answer) != (other.labels, other.answer) and not one.messages


def _pair(one: Row, other: Row) -> str:
    return f"{one.place} and {other.place}"
