"""Where data lies: rows of arrays, one row a step, shared by all items that refer to it.

Source: the chunk store of Reverb (Cassirer et al., arXiv:2102.04736), whose chunks live as long as an item refers to
them. Here a row does; rows of one structure lie in one arena, so that a batch of them is one `take` a column.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experience.replay.data.structure import Flat, Structure, flatten

FIRST_ROWS = 64

KEPT_BYTES = 1 << 20
"""Of an arena without rows in use, at most."""


class Arena:
    """Rows of one structure. A column is an array of the leaves' dtype and shape, or of objects where they differ."""

    def __init__(self, structure: Structure, leaves: Sequence["LeafSpec | None"]) -> None:
        """Make an arena without rows.

        Args:
            structure: Of the data.
            leaves: Dtype and shape of each leaf; None for one that is kept as the object that it is.
        """
        self.structure = structure
        self.leaves = tuple(leaves)
        self.row_bytes = sum(one.dtype.itemsize * int(np.prod(one.shape)) for one in self.leaves if one is not None)
        self.ragged = [number for number, one in enumerate(self.leaves) if one is None]
        self.num_bytes = 0
        """Of the rows in use."""
        self._clear()

    def __len__(self) -> int:
        """Rows in use."""
        return self.capacity - len(self._free)

    @property
    def capacity(self) -> int:
        """Rows, in use or not."""
        return len(self.references)

    def rows(self) -> Any:
        """Return the rows in use, (n,) int64."""
        return np.array(self.references, np.int64).nonzero()[0]

    def fits(self, leaves: Sequence[Any]) -> bool:
        """Say whether leaves, in order, are what the columns hold."""
        for number, spec in enumerate(self.leaves):
            if spec is not None:
                leaf = leaves[number]
                if type(leaf) is not np.ndarray or leaf.shape != spec[1]:
                    return False
                if leaf.dtype is not spec[0] and leaf.dtype != spec[0]:
                    return False
        return True

    def put(self, leaves: Sequence[Any], references: int) -> int:
        """Store one row and return it; it lives until all its references are dropped."""
        if not self._free:
            self._grow(1)
        row = self._free.pop()
        for number, column in enumerate(self.columns):
            column[row] = leaves[number]
        self.references[row] = references
        self.num_bytes += self.row_bytes
        if self.ragged:
            for number in self.ragged:
                self.columns[number][row] = _own(leaves[number])
            self.num_bytes += self._loose_bytes(row)
        return row

    def put_many(self, leaves: Sequence[Any], count: int, references: int) -> Any:
        """Store rows, each leaf with a first axis of `count`, and return them, (count,) int64."""
        if len(self._free) < count:
            self._grow(count - len(self._free))
        start = len(self._free) - count
        rows = sorted(self._free[start:])
        del self._free[start:]
        where: Any = rows
        if count and rows[-1] - rows[0] == count - 1:
            where = slice(rows[0], rows[0] + count)  # which NumPy copies as one
        for column, leaf in zip(self.columns, leaves, strict=True):
            column[where] = leaf
        for row in rows:
            self.references[row] = references
        self.num_bytes += self.row_bytes * count
        if self.ragged:
            self.num_bytes += sum(map(self._loose_bytes, rows))
        return np.array(rows, np.int64) if where is rows else np.arange(where.start, where.stop)

    def hold_one(self, row: int) -> None:
        """Take one more reference of a row."""
        self.references[row] += 1

    def drop(self, rows: Any) -> None:
        """Drop one reference of rows, (n,) int64; a row without any is free."""
        references, freed = self.references, []
        for row in rows.tolist():
            left = references[row] - 1
            references[row] = left
            if not left:
                freed.append(row)
        if freed:
            self._release(freed)

    def drop_one(self, row: int) -> None:
        """Drop one reference of a row, as `drop` does."""
        left = self.references[row] - 1
        self.references[row] = left
        if not left:
            if self.ragged or len(self._free) + 1 == len(self.references):
                self._release([row])
            else:
                self._free.append(row)
                self.num_bytes -= self.row_bytes

    def take(self, leaf: int, rows: Any) -> Any:
        """Return a copy of rows of a column, of the shape of `rows` and that of the leaf; of a ragged one a list."""
        taken = self.columns[leaf].take(rows, axis=0)
        return _own_all(taken.tolist()) if leaf in self.ragged else taken

    def read(self, leaf: int, rows: Any) -> Any:
        """Return what `take` does; where that leaves the reading to another process, read here."""
        return self.take(leaf, rows)

    def values(self, row: int) -> list[Any]:
        """Return copies of the leaves of a row."""
        return [_own(column[row]) for column in self.columns]

    def _release(self, rows: list[int]) -> None:
        """Rows are free; an arena without any in use gives back its memory."""
        self._free += rows
        self.num_bytes -= self.row_bytes * len(rows)
        if self.ragged:
            self._forget(rows)
        if len(self._free) == self.capacity and self.capacity * self.row_bytes > KEPT_BYTES:
            self._clear()

    def _forget(self, rows: Sequence[int]) -> None:
        for row in rows:
            self.num_bytes -= self._loose_bytes(row)
            for number in self.ragged:
                self.columns[number][row] = None

    def _loose_bytes(self, row: int) -> int:
        return sum(_size_of(self.columns[number][row]) for number in self.ragged)

    def _grow(self, least: int) -> None:
        old = self.capacity
        new = max(2 * old, old + least, FIRST_ROWS)
        for number, column in enumerate(self.columns):
            spec = self.leaves[number]
            larger = np.empty((new, *spec.shape), spec.dtype) if spec else np.empty(new, object)
            larger[:old] = column
            self.columns[number] = larger
        self.references += [0] * (new - old)
        self.cells.extend(Cell(self, row) for row in range(old, new))
        self._free.extend(range(new - 1, old - 1, -1))

    def _clear(self) -> None:
        self.columns: list[Any] = [
            np.empty((0, *spec.shape), spec.dtype) if spec else np.empty(0, object) for spec in self.leaves
        ]
        self.references: list[int] = []
        """Of each row."""
        self.cells: list[Cell] = []
        self._free: list[int] = []


class LeafSpec(NamedTuple):
    """What a leaf is."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Cell(NamedTuple):
    """A row of an arena: the data of one step."""

    arena: Arena
    row: int

    def drop(self) -> None:
        """Drop one reference."""
        self[0].drop_one(self[1])

    def hold(self) -> None:
        """Take one more reference."""
        self[0].hold_one(self[1])


class Cells(NamedTuple):
    """Rows of one arena."""

    arena: Arena
    rows: Any
    """(n,) int64."""

    def drop(self) -> None:
        """Drop one reference of each."""
        self.arena.drop(self.rows)

    def each(self) -> list[Cell]:
        """Return them one by one."""
        cells = self.arena.cells
        return [cells[row] for row in self.rows.tolist()]


class Store:
    """The arenas of a replay; one lock guards them, its replay's."""

    def __init__(self) -> None:
        self.arenas: dict[Hashable, Arena] = {}
        self._of_structure: dict[Structure, Arena] = {}
        """The arena that data of a structure was put into last."""
        self._ragged: dict[Structure, set[int]] = {}
        """Leaves of a structure that came in more than one dtype or shape."""

    def new_arena(self, structure: Structure, specs: Sequence[LeafSpec | None]) -> Arena:
        """Return an arena without rows; where it lies is for a store of another kind to say."""
        return Arena(structure, specs)

    @property
    def num_bytes(self) -> int:
        """Of all rows in use."""
        return sum(arena.num_bytes for arena in self.arenas.values())

    def put(self, data: Any, references: int = 1) -> Cell:
        """Store the data of a step, with so many references."""
        structure, leaves = (None, [data]) if type(data) is np.ndarray else flatten(data)
        arena = self._of_structure.get(structure)
        if arena is None or not arena.fits(leaves):
            arena = self.arena_for(structure, [_spec_of(leaf) for leaf in leaves])
        row = arena.put(leaves, references)
        return arena.cells[row]

    def put_many(self, flat: Flat, count: int, references: int = 1) -> Cells:
        """Store the data of `count` steps, stacked: each leaf has a first axis of that length."""
        specs = [LeafSpec(leaf.dtype, leaf.shape[1:]) for leaf in flat.leaves]
        arena = self._of_structure.get(flat.structure)
        if arena is None or arena.leaves != tuple(specs):
            arena = self.arena_for(flat.structure, specs)
        leaves = [
            _objects(leaf) if spec is None else leaf for spec, leaf in zip(arena.leaves, flat.leaves, strict=True)
        ]
        return Cells(arena, np.asarray(arena.put_many(leaves, count, references)))

    def restored(self, structure: Structure, specs: Sequence[LeafSpec | None]) -> Arena:
        """Return a new arena as a checkpoint describes it."""
        arena = self.arenas[structure, tuple(specs)] = self.new_arena(structure, specs)
        self._of_structure[structure] = arena
        ragged = self._ragged.setdefault(structure, set())
        ragged |= {number for number, spec in enumerate(specs) if spec is None}
        return arena

    def arena_for(self, structure: Structure, specs: Sequence[LeafSpec | None]) -> Arena:
        """Return the arena of leaves; a leaf that came in two dtypes or shapes is kept as an object from then on."""
        ragged = self._ragged.setdefault(structure, set())
        before = self._of_structure.get(structure)
        if before is not None:
            pairs = zip(before.leaves, specs, strict=True)
            ragged |= {number for number, (one, other) in enumerate(pairs) if one != other}
        kept = tuple(None if number in ragged else spec for number, spec in enumerate(specs))
        key = (structure, kept)
        arena = self.arenas.setdefault(key, self.new_arena(structure, kept))
        self._of_structure[structure] = arena
        return arena


def _spec_of(leaf: Any) -> LeafSpec | None:
    if isinstance(leaf, np.ndarray) and not leaf.dtype.hasobject:
        return LeafSpec(leaf.dtype, leaf.shape)
    return None


def _own_all(values: list[Any]) -> list[Any]:
    return [_own_all(one) if isinstance(one, list) else _own(one) for one in values]


def _own(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def _objects(leaf: Any) -> Any:
    column = np.empty(len(leaf), object)
    for number, one in enumerate(leaf):
        column[number] = np.array(one)
    return column


def _size_of(value: Any) -> int:
    return int(value.nbytes) if isinstance(value, np.ndarray) else len(value) if isinstance(value, str | bytes) else 8
