"""A table to train on against the evaluation sets of a data folder: what both have, and the table without it."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from data_cards.overlap.pictures import Maps, find_copies, maps_of, read_grey
from data_cards.overlap.texts import find_shared, pairs_of
from data_cards.readers.tables import find_set
from data_cards.schema import list_cards, load_card
from data_cards.table.cards import read_card, records_of
from data_cards.table.conversations import words_of
from data_cards.table.rows import Row, Table


class Shared(NamedTuple):
    """A row of the table that an evaluation set has too."""

    place: str
    """Of the table's row."""
    what: str
    """`text of CARD record 5 (0.83 of its pairs of words)`, `picture of ...`."""


@dataclass(frozen=True)
class Overlap:
    """What was compared and found."""

    shared: tuple[Shared, ...]
    """A row may be there twice, by its text and by its picture."""
    num_rows: int
    num_evaluation_rows: int
    cards: tuple[str, ...]
    not_compared: tuple[str, ...]
    """One line a card, or a kind of row or file, that could not be compared, and why."""

    @property
    def places(self) -> set[str]:
        """The rows that are shared."""
        return {one.place for one in self.shared}


def overlap(
    table: Table,
    data_dir: Path,
    names: Sequence[str] = (),
    with_train: bool = False,
    advance: Callable[[int], object] = lambda pictures: None,
) -> Overlap:
    """Compare a table with the evaluation sets of a folder.

    Texts are compared where one of two rows has no picture: of two pictures asked the same the pictures decide.

    Args:
        table: To be trained on.
        data_dir: Holds one folder a card name.
        names: Cards; all whose data is there if empty.
        with_train: Also rows on the sets' own training side.
        advance: Told how many more pictures were read.

    Raises:
        ValueError: No set is there, or a card that was named cannot be read.
    """
    sets, not_compared = _evaluation_sets(data_dir, names)
    theirs = [row for rows in sets.values() for row in rows if with_train or row.split != "train"]
    if not theirs:
        raise ValueError(f"{data_dir}: no evaluation set with rows is there ({'; '.join(not_compared)})")
    mine = table.rows
    reader = _Pictures(advance)
    shared = [*_by_text(mine, theirs), *_by_picture(mine, theirs, reader)]
    short = sum(not _pairs(row) and not row.files for row in mine)
    if short:
        not_compared.append(f"{short} rows of {table.source.name}: no picture, and too few words to tell a text by")
    if table.faulty:
        not_compared.append(f"{len(table.faulty)} rows of {table.source.name} that cannot be used")
    order = {row.place: place for place, row in enumerate(mine)}
    shared.sort(key=lambda one: order[one.place])
    return Overlap(tuple(shared), len(mine), len(theirs), tuple(sets), (*not_compared, *reader.said()))


def write_without(table: Table, places: set[str], out: Path) -> int:
    """Write a CSV, TSV or JSONL table without some rows, the others as they are; return how many stayed.

    Raises:
        ValueError: The table is of another form, has several records a row, or is the file to be written.
    """
    form = demand_writable(table, out)
    dropped = {int(place.rpartition(" ")[2]) for place in places}
    draft = out.with_name(out.name + ".partial")
    kept = 0
    with (
        table.source.open(encoding="utf-8-sig", newline="") as read,
        draft.open("w", encoding="utf-8", newline="") as file,
    ):
        if form == "jsonl":
            for number, line in enumerate(read, start=1):
                if number not in dropped:
                    file.write(line)
                    kept += bool(line.strip())
        else:
            write = csv.writer(file, delimiter=form, lineterminator="\n")
            for number, row in enumerate(csv.reader(read, delimiter=form), start=1):
                if number not in dropped:
                    write.writerow(row)
                    kept += number > 1
    draft.replace(out)
    return kept


def demand_writable(table: Table, out: Path) -> str:
    """Return the delimiter of a CSV or TSV, `jsonl` for that; refuse what cannot be written without some rows.

    Raises:
        ValueError: As `write_without`.
    """
    form = {".csv": ",", ".tsv": "\t", ".jsonl": "jsonl"}.get(table.source.suffix.lower(), "")
    if not form or not table.source.is_file():
        raise ValueError(
            f"{table.source}: --exclude writes CSV, TSV and JSONL; take the rows that are named out yourself"
        )
    if out.resolve() == table.source.resolve():
        raise ValueError(f"--exclude {out}: is the table itself; name another file")
    if out.suffix.lower() != table.source.suffix.lower():
        raise ValueError(f"--exclude {out}: expected a name that ends in {table.source.suffix}, as the table's does")
    return form


def _evaluation_sets(data_dir: Path, names: Sequence[str]) -> tuple[dict[str, Sequence[Row]], list[str]]:
    found: dict[str, Sequence[Row]] = {}
    not_compared, absent = [], 0
    for name in names or list_cards():
        card = load_card(name)
        try:
            if not find_set(data_dir, name).is_dir():
                raise ValueError(f"{data_dir}: has no folder {name}")
        except ValueError:
            if names:
                raise
            absent += 1
            continue
        if not names and set(card.tasks) == {"fixture"}:
            continue
        try:
            found[name] = _rows_of(name, data_dir)
        except (ValueError, OSError, KeyError) as fault:
            if names:
                raise
            not_compared.append(f"{name}: {' '.join(str(fault).split())}")
    if absent:
        not_compared.append(f"{absent} cards whose data is not in {data_dir}")
    return found, not_compared


def _rows_of(name: str, data_dir: Path) -> Sequence[Row]:
    """A set's rows; of one that is neither pictures nor questions (dialogues, reports) all words of each record."""
    try:
        return read_card(name, data_dir).rows
    except ValueError:
        texts = [" \n".join(_strings(record)) for record in records_of(name, find_set(data_dir, name))]
        if not any(texts):
            raise
        return [
            Row(f"{name} record {number}", (), f"{name} {number}", "test", question=text)
            for number, text in enumerate(texts, start=1)
        ]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _strings(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for part in value:
            yield from _strings(part)


def _by_text(mine: Sequence[Row], theirs: Sequence[Row]) -> Iterator[Shared]:
    """Rows without a picture against all, rows with one against those without."""
    bare, others = [row for row in mine if not row.files], [row for row in mine if row.files]
    for rows, against in ((bare, list(theirs)), (others, [row for row in theirs if not row.files])):
        for found in find_shared([_pairs(row) for row in rows], [_pairs(row) for row in against]):
            where = against[found.theirs].place
            yield Shared(rows[found.mine].place, f"text of {where} ({found.share:.2f} of its pairs of words)")


def _pairs(row: Row) -> frozenset[tuple[str, str]]:
    said = [str(label) for label in row.labels.values() if isinstance(label, str)] if not row.files else []
    spoken = [words_of(row.messages, role) for role in ("user", "assistant")]
    return pairs_of([row.question, *row.choices, *([] if row.choices else [row.answer]), *spoken, *said])


class _Pictures:
    """Reads each file once, and remembers what could not be read."""

    def __init__(self, advance: Callable[[int], object]) -> None:
        self.advance = advance
        self.faults: list[str] = []
        self.num_folders = 0

    def read(self, rows: Sequence[Row]) -> dict[Path, tuple[Maps, str]]:
        """File to its maps and the hash of its pixels; of equal bytes the first stands for all."""
        found: dict[Path, tuple[Maps, str]] = {}
        for file in dict.fromkeys(file for row in rows for file in row.files):
            self.advance(1)
            if file.is_dir():
                self.num_folders += 1
                continue
            try:
                grey = read_grey(file)
            except ValueError as fault:
                self.faults.append(str(fault))
                continue
            found[file] = maps_of(grey), sha256(repr(grey.shape).encode() + grey.tobytes()).hexdigest()
        return found

    def said(self) -> list[str]:
        lines = [f"{len(self.faults)} files, such as {self.faults[0]}"] if self.faults else []
        return lines + ([f"{self.num_folders} folders of pictures"] if self.num_folders else [])


def _by_picture(mine: Sequence[Row], theirs: Sequence[Row], reader: _Pictures) -> Iterator[Shared]:
    own = reader.read(mine)
    others = reader.read(theirs) if own else {}
    place_of: Mapping[Path, str] = {file: row.place for row in reversed(theirs) for file in row.files}
    equal = {pixels: file for file, (_, pixels) in reversed(others.items())}
    alike: dict[Path, str] = {
        file: f"picture of {place_of[equal[pixels]]} (equal pixels)"
        for file, (_, pixels) in own.items()
        if pixels in equal
    }
    rest = [file for file in own if file not in alike]
    files = list(others)
    for found in find_copies([own[file][0] for file in rest], [others[file][0] for file in files]):
        alike[rest[found.mine]] = f"picture of {place_of[files[found.theirs]]} (correlation {found.correlation:.2f})"
    yield from (Shared(row.place, alike[file]) for row in mine for file in row.files if file in alike)
