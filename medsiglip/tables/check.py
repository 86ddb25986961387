"""A user's table looked over by decoding every picture: what cannot be read, and what is there under two names."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_cards.check import at_most
from data_cards.table import Row, Table
from data_cards.table.files import equal_bytes
from medsiglip.imaging import ImageError, Notes, Source, list_files, shared_pool
from medsiglip.tables.near_duplicates import SMALL_PX, NearDuplicate, polar_map

METHOD = "correlation of log-polar maps about the centre"


@dataclass(frozen=True)
class Decoded:
    """The pictures of a table, each decoded once."""

    files: list[Path]
    """Those of which something could be read, in the order of the table."""
    maps: list[Any]
    """`polar_map` of each; of a volume or series that of its middle slice."""
    small: list[bool]
    """Whether its shorter side is under SMALL_PX."""
    faults: list[str]
    """One line a file that cannot be read: the row, the file, the reason."""
    notes: Notes
    num_frames: int


def decode_pictures(table: Table, advance: Callable[[int], object] = lambda files: None) -> Decoded:
    """Decode every picture that the usable rows name, in worker processes, several at once."""
    maps: dict[Path, list[Any]] = {}
    small: dict[Path, bool] = {}
    faults: list[str] = []
    notes, num_frames = Notes(), 0
    sources = list(_sources(table, faults))
    results = shared_pool().pictures(named.source for named in sources)
    for named, result in zip(sources, results, strict=True):
        if isinstance(result, ImageError):
            faults.append(f"{named.place}: {result.file}: {result.reason}")
        else:
            for picture in result:
                notes.add(picture.file, picture.findings)
            maps.setdefault(named.file, []).extend(polar_map(picture.pixels) for picture in result)
            small[named.file] = any(min(picture.pixels.shape[:2]) < SMALL_PX for picture in result)
            num_frames += len(result)
        advance(1)
    middles = [slices[len(slices) // 2] for slices in maps.values()]
    return Decoded(list(maps), middles, [small[file] for file in maps], faults, notes, num_frames)


class Twice(NamedTuple):
    """Near-duplicates, by where they do harm."""

    across_sides: list[str]
    across_groups: list[str]
    within_groups: int
    """Pairs of one group; they do none."""

    @property
    def faults(self) -> list[str]:
        """The lines, of each kind the first ones and how many more there are."""
        return [*at_most(iter(self.across_sides)), *at_most(iter(self.across_groups))]


def near_duplicates_of(table: Table, files: Sequence[Path], pairs: Sequence[NearDuplicate]) -> Twice:
    """Say of each pair whether it lies on two sides or in two groups; pairs of equal bytes are left out.

    Args:
        table: The table.
        files: What the pairs number.
        pairs: From `find_near_duplicates`.
    """
    rows: dict[Path, list[Row]] = defaultdict(list)
    for row in table.rows:
        for file in row.files:
            rows[file].append(row)
    hashes = equal_bytes(files)
    sides, groups, within = [], [], 0
    for pair in pairs:
        one, other = files[pair.first], files[pair.second]
        if hashes.get(one, "") == hashes.get(other, "none"):
            continue
        first, second = rows[one][0], rows[other][0]
        if first.split != second.split:
            sides.append(f"near-duplicates on {first.split} and {second.split}: {_said(first, second, pair)}")
        elif first.group != second.group:
            groups.append(f"near-duplicates in two groups: {_said(first, second, pair)}")
        else:
            within += 1
    return Twice(sides, groups, within)


class _Named(NamedTuple):
    source: Source
    file: Path
    """As the table names it: the file itself, or the folder or zip it lies in."""
    place: str


def _sources(table: Table, faults: list[str]) -> Iterator[_Named]:
    places: dict[Path, str] = {}
    for row in table.rows:
        for file in row.files:
            places.setdefault(file, row.place)
    for file, place in places.items():
        listed = list_files([file])
        faults += [f"{place}: {problem}" for problem in listed.problems]
        yield from (_Named(source, file, place) for source in listed.files)


def _said(one: Row, other: Row, pair: NearDuplicate) -> str:
    return f"{one.place} and {other.place} (correlation {pair.correlation:.2f})"
