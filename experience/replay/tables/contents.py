"""The data of a table's items, by the rows that they lie in."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experience.replay.data.arena import Arena, Cell, Cells
from experience.replay.data.items import Data, drop_all, of_one_arena


class Contents:
    """What lies in rows; single steps of one arena are known by their places alone, so that many are handled as one."""

    def __init__(self) -> None:
        self._count = 0
        self._arena: Arena | None = None
        """That all lie in as single steps; None if there are others."""
        self._places = np.zeros(0, np.int64)
        """Row to row of that arena; 0 where nothing lies."""
        self._data: list[Data | None] = []
        """By row; of use where there is no such arena."""

    def grow(self, rows: int) -> None:
        """Have room for so many more rows."""
        self._places = np.append(self._places, np.zeros(rows, np.int64))
        self._data += [None] * rows
        self._place: Any = self._places.data  # one element of it is read and written in half the time

    def of(self, row: int) -> Data:
        """Return what lies in a row."""
        if self._arena is not None:
            return self._arena.cells[self._places.item(row)]
        data = self._data[row]
        assert data is not None
        return data

    def of_many(self, rows: Any) -> list[Data] | Cells:
        """Return what lies in rows, (n,) int64."""
        if self._arena is not None:
            return Cells(self._arena, self._places[rows])
        return list(map(self.of, rows.tolist()))

    def lay(self, row: int, data: Data) -> None:
        """Lay something into a free row."""
        self._count += 1
        self._set(row, data)

    def lay_many(self, rows: Any, data: Sequence[Data] | Cells) -> None:
        """Lay something into free rows."""
        self._count += len(rows)
        self._set_many(rows, data)

    def take(self, row: int) -> Data:
        """Take out what lies in a row."""
        data = self.of(row)
        self._places[row], self._data[row] = 0, None
        self._count -= 1
        if not self._count:
            self._arena = None
        return data

    def replace(self, row: int, data: Data) -> None:
        """Lay something into a row, and drop what lay there."""
        if type(data) is Cell and data[0] is self._arena:
            place = self._place[row]
            self._place[row] = data[1]
            self._arena.drop_one(place)
        else:
            before = self.of(row)
            self._set(row, data)
            before.drop()

    def replace_many(self, rows: Any, data: Sequence[Data] | Cells) -> None:
        """Lay something into rows, and drop what lay there."""
        before = self.of_many(rows)
        self._set_many(rows, data)
        if isinstance(before, Cells):
            before.drop()
        else:
            drop_all(before)

    def restore(self, items: dict[int, Data]) -> None:
        """Take over items by their rows."""
        data = list(items.values())
        self.lay_many(np.array(list(items), np.int64), of_one_arena(data) or data)

    def _set(self, row: int, data: Data) -> None:
        if type(data) is Cell and (data[0] is self._arena or self._count == 1):
            self._arena = data[0]
            self._places[row] = data[1]
        else:
            self._spread()
            self._data[row] = data

    def _set_many(self, rows: Any, data: Sequence[Data] | Cells) -> None:
        if isinstance(data, Cells) and (data.arena is self._arena or self._count == len(rows)):
            self._arena = data.arena
            self._places[rows] = data.rows
        else:
            self._spread()
            for row, one in zip(rows.tolist(), data.each() if isinstance(data, Cells) else data, strict=True):
                self._data[row] = one

    def _spread(self) -> None:
        """Something else comes to what lies in one arena."""
        if self._arena is not None:
            self._data = [self._arena.cells[place] for place in self._places.tolist()]
            self._arena = None
