"""Groups: large rows in Ray's object store, put there together and once, by the actor, which owns them.

An object of Ray dies with the process that put it. So no client puts one that others need: the actor does, and with it
die the objects, which a log brings back.
"""

from collections.abc import Iterable, Sequence
from itertools import count as counted
from secrets import randbits
from typing import Any, NamedTuple

import numpy as np
import ray

from experience.replay.data.arena import Arena, LeafSpec, Store
from experience.replay.data.structure import Structure

GROUP_BYTES = 4 << 20
"""Rows that come in smaller numbers are gathered to as much before they are put."""


class Group:
    """Rows that lie together: gathered by the actor, then in the object store."""

    def __init__(self, number: int, columns: Sequence[Any]) -> None:
        self.number = number
        self.reference: Any = None
        """Of a list of columns, once it is in the object store."""
        self._columns: Sequence[Any] = columns
        self.size = 0
        """Rows that were written."""
        self.used = 0
        """Rows in use."""

    @property
    def columns(self) -> Sequence[Any]:
        """The rows, a column a leaf; in the object store without a copy."""
        found: Sequence[Any] = self._columns or ray.get(self.reference)
        return found

    def put(self) -> None:
        """Put the rows into the object store."""
        self.reference = ray.put(list(self._columns))
        self._columns = ()


class Taken(NamedTuple):
    """Rows of a leaf, not read yet."""

    leaf: int
    spec: LeafSpec
    numbers: Any
    """Group of each row: any shape, int64."""
    places: Any
    """In the group: the same shape, int64."""
    groups: dict[int, Group]


class GroupArena(Arena):
    """Rows in groups; `take` says where they are, `read` reads them."""

    def __init__(self, structure: Structure, leaves: Sequence[LeafSpec], groups: dict[int, Group]) -> None:
        """Make an arena without rows.

        Args:
            structure: Of the data.
            leaves: Dtype and shape of each leaf.
            groups: Number to group, of all arenas: those with rows in use.
        """
        self._groups = groups
        self._open: Group | None = None
        self.kept_bytes = 0
        """Of all groups, with the rows that are in use no more."""
        self._numbers = np.zeros(0, np.int64)
        self._places = np.zeros(0, np.int64)
        self._specs = leaves
        super().__init__(structure, leaves)
        self.columns = []

    def put(self, leaves: Sequence[Any], references: int) -> int:
        """See `Arena.put`."""
        (row,) = self.put_many([np.asarray(leaf)[None] for leaf in leaves], 1, references)
        return row

    def put_many(self, leaves: Sequence[Any], count: int, references: int) -> list[int]:
        """See `Arena.put_many`: rows enough for a group become one, others are gathered."""
        if len(self._free) < count:
            self._grow(count - len(self._free))
        rows = self._free[len(self._free) - count :][::-1]
        self._lay(rows, leaves)
        del self._free[len(self._free) - count :]
        for row in rows:
            self.references[row] = references
        self.num_bytes += count * self.row_bytes
        return rows

    def drop_one(self, row: int) -> None:
        """See `drop`."""
        self.drop((row,))

    def drop(self, rows: Iterable[int]) -> None:
        """See `Arena.drop`; a group without rows in use is gone.

        Where half of what lies in groups is in use no more, what is left of a group is gathered anew.
        """
        for row in rows:
            self.references[row] -= 1
            if not self.references[row]:
                self._free.append(row)
                self.num_bytes -= self.row_bytes
                group = self._groups[int(self._numbers[row])]
                group.used -= 1
                wasteful = self.kept_bytes > 2 * (self.num_bytes + GROUP_BYTES)
                if not group.used:
                    self._remove(group)
                elif wasteful and group is not self._open and 2 * group.used <= group.size:
                    self._gather(group)

    def take(self, leaf: int, rows: Any) -> Any:
        """Return where rows lie."""
        rows = np.asarray(rows)
        numbers = self._numbers[rows]
        groups = {number: self._groups[number] for number in np.unique(numbers).tolist()}
        return Taken(leaf, self._specs[leaf], numbers, self._places[rows], groups)

    def read(self, leaf: int, rows: Any) -> Any:
        """Return a copy of rows of a column."""
        taken = self.take(leaf, rows)
        columns = {number: group.columns[leaf] for number, group in taken.groups.items()}
        return gathered(taken.spec, taken.numbers, taken.places, columns)

    def values(self, row: int) -> list[Any]:
        """Return copies of the leaves of a row."""
        return [self.read(leaf, row) for leaf in range(len(self._specs))]

    def _lay(self, rows: Sequence[int], leaves: Sequence[Any]) -> None:
        start = 0
        while start < len(rows):
            group, stop = self._group_for(leaves, start, len(rows))
            taken = rows[start:stop]
            self._numbers[taken] = group.number
            self._places[taken] = np.arange(group.size - len(taken), group.size)
            group.used += len(taken)
            start = stop

    def _gather(self, group: Group) -> None:
        rows = [row for row in np.nonzero(self._numbers == group.number)[0].tolist() if self.references[row]]
        places = self._places[rows]
        self._lay(rows, [column[places] for column in group.columns])
        self._remove(group)

    def _group_for(self, leaves: Sequence[Any], start: int, stop: int) -> tuple[Group, int]:
        """The group that rows were written to from `start`, and where those end that it had room for."""
        if (stop - start) * self.row_bytes >= GROUP_BYTES:
            group = Group(next(_NUMBERS), [leaf[start:stop] for leaf in leaves])
            group.put()
            self._groups[group.number] = group
            self._count(group, stop - start)
            return group, stop
        if self._open is None:
            num_rows = -(-GROUP_BYTES // self.row_bytes)
            columns = [np.empty((num_rows, *spec.shape), spec.dtype) for spec in self._specs]
            group = self._open = Group(next(_NUMBERS), columns)
            self._groups[group.number] = group
        group = self._open
        room = len(group.columns[0]) - group.size
        stop = min(stop, start + room)
        for column, leaf in zip(group.columns, leaves, strict=True):
            column[group.size : group.size + stop - start] = leaf[start:stop]
        self._count(group, stop - start)
        if stop - start == room:
            group.put()
            self._open = None
        return group, stop

    def _count(self, group: Group, num_rows: int) -> None:
        group.size += num_rows
        self.kept_bytes += num_rows * self.row_bytes

    def _remove(self, group: Group) -> None:
        del self._groups[group.number]
        self.kept_bytes -= group.size * self.row_bytes
        if group is self._open:
            self._open = None

    def _grow(self, least: int) -> None:
        super()._grow(least)
        more = np.zeros(len(self.references) - len(self._numbers), np.int64)
        self._numbers, self._places = np.append(self._numbers, more), np.append(self._places, more)


class GroupStore(Store):
    """Arenas of groups where rows are large, else in the actor's memory."""

    def __init__(self, least_row_bytes: int) -> None:
        super().__init__()
        self.groups: dict[int, Group] = {}
        self._least_row_bytes = least_row_bytes

    def new_arena(self, structure: Structure, specs: Sequence[LeafSpec | None]) -> Arena:
        """See `Store.new_arena`."""
        fixed = [one for one in specs if one is not None]
        arena = Arena(structure, specs)
        if len(fixed) < len(specs) or arena.row_bytes < max(1, self._least_row_bytes):
            return arena
        return GroupArena(structure, fixed, self.groups)


def gathered(spec: LeafSpec, numbers: Any, places: Any, columns: dict[int, Any]) -> Any:
    """Return rows of several groups as one array.

    Args:
        spec: Of the rows.
        numbers: Group of each row; any shape, int64.
        places: In the group; the same shape, int64.
        columns: Number of a group to its column.
    """
    rows = np.empty((*numbers.shape, *spec.shape), spec.dtype)
    flat = rows.reshape(-1, *spec.shape)
    for place, (number, source) in enumerate(zip(numbers.ravel().tolist(), places.ravel().tolist(), strict=True)):
        flat[place] = columns[number][source]
    return rows


_NUMBERS = counted(randbits(62))
"""Of groups: an actor that comes back does not name others alike."""
