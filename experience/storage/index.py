"""The index of a data set, held as the Arrow table that it is: some 200 bytes an episode, no object an episode."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.compute as pc

from experience.storage.layout import Entry, entries_in, index_table, metadata_specs, specs_of, steps_specs_of
from experience.storage.schema import Spec, merged, settled
from experience.storage.shards import open_parquet

ROWS_AT_ONCE = 1024
"""Of which entries are made while iterating."""

REPEATED = ("split", "shard", "agent_id", "environment_config", "code_version", "experiment_id", "environment", "group")
"""Texts that many episodes have in common: held once."""


class Index(Sequence[Entry]):
    """What an index says, episode by episode."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, place: int) -> Entry: ...

    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...

    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        (entry,) = entries_in(self.table.slice(range(len(self))[place], 1))
        return entry

    def __iter__(self) -> Iterator[Entry]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from entries_in(self.table.slice(start, ROWS_AT_ONCE))

    def place_of(self, episode_id: str) -> int | None:
        """Return the place of an episode, or None."""
        if not len(self):
            return None
        ids, order = self.table["episode_id"].chunk(0), self._order
        found = bisect_left(range(len(self)), episode_id, key=lambda number: ids[order[number]].as_py())
        there = found < len(self) and ids[order[found]].as_py() == episode_id
        return int(order[found]) if there else None

    def sha256_of(self, episode_id: str) -> str | None:
        """Return the SHA-256 of an episode, or None."""
        place = self.place_of(episode_id)
        return None if place is None else str(self.table["sha256"][place].as_py())

    def values(self, name: str) -> list[Any]:
        """Return a column of the index, a value an episode."""
        values: list[Any] = self.table[name].to_pylist()
        return values

    def shards(self) -> list[str]:
        """Return the names of the shards."""
        return list(dict.fromkeys(self.table["shard"].unique().to_pylist()))

    def steps_specs(self) -> dict[str, Spec]:
        """Return the spec of every column of the steps, over all shards."""
        return steps_specs_of(self.table.schema)

    @cached_property
    def _order(self) -> Any:
        """Places of the episodes in the order of their ids."""
        return pc.sort_indices(self.table["episode_id"]).to_numpy()


def open_index(path: Path) -> Index:
    """Read the index of a data set.

    Raises:
        ValueError: It is missing, cut, broken or none of ours.
    """
    schema = open_parquet(path).schema_arrow
    repeated = [one.name for one in schema if one.name in REPEATED and pa.types.is_large_string(one.type)]
    return Index(open_parquet(path, repeated).read().combine_chunks())


def grown(kept: Index, fresh: Sequence[Entry], steps_specs: Mapping[str, Spec]) -> pa.Table:
    """Return the table of an index with further episodes."""
    before = specs_of(kept.table.schema)
    both = merged(Spec("dict", fields=before), Spec("dict", fields=metadata_specs(fresh)))
    assert both is not None
    specs = {name: settled(one) for name, one in both.fields.items()}
    if specs != before:
        return index_table([*kept, *fresh], steps_specs)
    further = index_table(fresh, steps_specs, specs)
    return pa.concat_tables([kept.table.cast(further.schema), further])
