"""The data of items: one step, or columns of several; and batches of them, stacked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from experience.replay.data.arena import Arena, Cell, Cells
from experience.replay.data.structure import Flat, Structure


class Part(NamedTuple):
    """Values of one leaf, from one arena."""

    arena: Arena
    leaf: int
    rows: tuple[int, ...]


class Column(NamedTuple):
    """A column of a trajectory."""

    parts: tuple[Part, ...]
    squeeze: bool
    """One value, without the axis of time."""


@dataclass(frozen=True)
class Trajectory:
    """Columns of several steps, each with its own steps."""

    structure: Structure
    columns: tuple[Column, ...]

    def hold(self) -> None:
        """Take a reference of every row."""
        for arena, row in self._rows():
            arena.hold_one(row)

    def drop(self) -> None:
        """Drop a reference of every row."""
        for arena, row in self._rows():
            arena.drop_one(row)

    def _rows(self) -> list[tuple[Arena, int]]:
        found = {
            (id(part.arena), row): (part.arena, row)
            for column in self.columns
            for part in column.parts
            for row in part.rows
        }
        return list(found.values())


Data = Cell | Trajectory


def stacked(items: Sequence[Data] | Cells) -> Flat:
    """Return the data of items as one, copied: each leaf with a first axis over the items.

    Where leaves differ in dtype or shape, or are no arrays, a list of them stands instead.

    Raises:
        ValueError: The items differ in structure.
    """
    if cells := items if isinstance(items, Cells) else of_one_arena(items):
        arena, rows = cells
        return Flat(arena.structure, [_as_array(arena.take(leaf, rows)) for leaf in range(len(arena.leaves))])
    assert not isinstance(items, Cells)
    first = items[0]
    if isinstance(first, Trajectory) and (alike := _alike(items)):
        return Flat(first.structure, alike)
    structures = {structure_of(one) for one in items}
    if len(structures) > 1:
        raise ValueError(f"got items of {len(structures)} structures in one batch; iterate over the batch instead")
    columns = zip(*map(leaves_of, items), strict=True)
    return Flat(structures.pop(), [_together(list(leaves)) for leaves in columns])


def drop_all(items: Sequence[Data]) -> None:
    """Drop one reference of each."""
    if cells := of_one_arena(items):
        cells.drop()
    else:
        for one in items:
            one.drop()


def hold_all(items: Sequence[Data] | Cells) -> list[Data]:
    """Take one more reference of each; return them one by one."""
    each: list[Data] = [*(items.each() if isinstance(items, Cells) else items)]
    for one in each:
        one.hold()
    return each


def part(items: Sequence[Data] | Cells, where: slice) -> Any:
    """Return some of items, in the form that they are in."""
    return Cells(items.arena, items.rows[where]) if isinstance(items, Cells) else items[where]


def joined_data(parts: Sequence[Sequence[Data] | Cells]) -> Any:
    """Return items, one after another."""
    found: list[Data] = []
    for part in parts:
        found += part.each() if isinstance(part, Cells) else part
    return found


def of_one_arena(items: Sequence[Data]) -> Cells | None:
    """Return items as rows of one arena, if that is what they all are."""
    if not items or not isinstance(items[0], Cell):
        return None
    arena = items[0].arena
    rows = [one[1] for one in items if type(one) is Cell and one[0] is arena]
    return Cells(arena, np.array(rows, np.int64)) if len(rows) == len(items) else None


def structure_of(item: Data) -> Structure:
    """Return the structure of an item's data."""
    return item.arena.structure if isinstance(item, Cell) else item.structure


def leaves_of(item: Data) -> list[Any]:
    """Return the leaves of an item's data, copied."""
    if isinstance(item, Cell):
        return item.arena.values(item.row)
    return [_values(column) for column in item.columns]


def _values(column: Column) -> Any:
    parts = [_as_array(part.arena.read(part.leaf, np.array(part.rows))) for part in column.parts]
    if any(isinstance(part, list) for part in parts) or len(parts) > 1:
        whole = _together([value for part in parts for value in part])
    else:
        (whole,) = parts
    return whole[0] if column.squeeze else whole


def _alike(items: Sequence[Any]) -> list[Any] | None:
    """The stacked columns of trajectories that differ in nothing but their rows, or None."""
    first = items[0]
    leaves = []
    for number, column in enumerate(first.columns):
        (part, *more) = column.parts
        if more:
            return None
        rows = []
        for one in items:
            if type(one) is not Trajectory or one.structure != first.structure:
                return None
            (other, *further) = one.columns[number].parts
            same = other.arena is part.arena and other.leaf == part.leaf and len(other.rows) == len(part.rows)
            if further or not same or one.columns[number].squeeze != column.squeeze:
                return None
            rows.append(other.rows[0] if column.squeeze else other.rows)
        leaves.append(_as_array(part.arena.take(part.leaf, np.array(rows))))
    return leaves


def _as_array(values: Any) -> Any:
    return _together(values) if isinstance(values, list) else values


def _together(values: list[Any]) -> Any:
    """Values as one array with a first axis, where they agree; else the list."""
    if values and isinstance(values[0], list):  # of trajectories: each its steps
        values = [_together(one) for one in values]
    arrays = all(isinstance(one, np.ndarray | np.generic) for one in values)
    if arrays and len({(one.dtype, one.shape) for one in values}) == 1:
        return np.stack(values)
    return values
