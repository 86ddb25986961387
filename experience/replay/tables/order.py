"""Items in the order of their insertion."""

import sys
from typing import Any

import numpy as np

from experience.replay.tables.draws import Drawn

FIRST_PLACES = 64


class Order:
    """Rows in a ring: the first one lies at `_begin`, and -1 where one was taken out.

    In a full ring the first place is the next after the last. So the oldest row becomes the newest by a step of
    `_begin` alone, which is all that happens to a full table of which the oldest items go.
    """

    def __init__(self, *, newest_first: bool = False, max_size: int = sys.maxsize) -> None:
        """Begin without rows.

        Args:
            newest_first: `draw` selects the newest.
            max_size: Of the table.
        """
        self._newest_first = newest_first
        self._max_size = max_size
        self._places = np.zeros(FIRST_PLACES, np.int64)
        """Row to place in the ring."""
        self._begin, self._span, self._count = 0, 0, 0
        """First place, places up to the last, rows in them."""
        self._lay(np.zeros(0, np.int64))

    def insert(self, row: int, priority: float) -> None:
        """Put a row at the end."""
        if self._span == len(self._ring):
            self._make_room(1)
        place = (self._begin + self._span) % len(self._ring)
        self._ring[place] = row
        if row >= len(self._places):
            self._places = np.resize(self._places, 2 * row)
        self._places[row] = place
        self._span += 1
        self._count += 1

    def insert_many(self, rows: Any, priorities: Any) -> None:
        """Put rows at the end."""
        if self._span + len(rows) > len(self._ring):
            self._make_room(len(rows))
        stop = self._begin + self._span + len(rows)
        self._put(rows, np.arange(stop - len(rows), stop) % len(self._ring))
        self._span += len(rows)
        self._count += len(rows)

    def replace(self, row: int, priority: float) -> None:
        """Move a row to the end."""
        self.delete(row)
        self.insert(row, priority)

    def replace_many(self, rows: Any, priorities: Any) -> None:
        """Move rows to the end."""
        self._ring[self._places[rows]] = -1
        self._count -= len(rows)
        self.insert_many(rows, priorities)

    def update(self, rows: Any, priorities: Any) -> None:
        """Priorities mean nothing here."""

    def delete(self, row: int) -> None:
        """Take a row out."""
        self._ring[self._places[row]] = -1
        self._count -= 1

    def first(self) -> int:
        """Return the row that was inserted first, of at least one."""
        while (row := int(self._ring.item(self._begin))) < 0:
            self._step(1)
            self._span -= 1
        return row

    def turn(self) -> int:
        """Move the row that was inserted first to the end, and return it."""
        row: int = self._ring.item(self._begin)
        if row < 0:
            row = self.first()
        if self._span < len(self._ring):
            self.replace(row, 0.0)
        else:
            self._begin += 1
            if self._begin == len(self._ring):
                self._begin = 0
        return row

    def turn_many(self, count: int) -> Any:
        """Move the rows that were inserted first to the end, and return them."""
        rows = self.oldest(count)
        if self._count == len(self._ring):
            self._step(count)
        else:
            self.replace_many(rows, rows)
        return rows

    def oldest(self, count: int) -> Any:
        """Return the rows that were inserted first, (n,) int64."""
        width = count
        while True:
            rows = self._front(width)
            rows = rows[rows >= 0]
            if len(rows) >= count or width >= self._span:
                return rows[:count]
            width *= 2

    def draw(self, generator: np.random.Generator) -> tuple[int, float]:
        """Return the row at the end that counts."""
        if not self._newest_first:
            return self.first(), 1.0
        while (row := self._ring.item((self._begin + self._span - 1) % len(self._ring))) < 0:
            self._span -= 1
        return row, 1.0

    def draw_many(self, count: int, generator: np.random.Generator) -> Drawn:
        """Return the same row so many times."""
        return Drawn(np.full(count, self.draw(generator)[0]), np.ones(count))

    def state(self) -> dict[str, Any]:
        """Return the rows in order."""
        return {"rows": self.oldest(self._count)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the rows in order."""
        self._lay(state["rows"])

    def _make_room(self, count: int) -> None:
        if self._count:
            self.first()  # places before it are free
        if self._span + count > len(self._ring):
            self._lay(self.oldest(self._count), count)

    def _lay(self, rows: Any, more: int = 0) -> None:
        """Lay rows into a new ring, with room for more."""
        needed = len(rows) + more
        size = 2 * needed + FIRST_PLACES
        if self._span == self._count and needed <= self._max_size:  # no more than a full table needs
            size = min(size, self._max_size)
        self._begin, self._span, self._count = 0, len(rows), len(rows)
        self._ring = np.full(size, -1)
        self._put(rows, np.arange(len(rows)))

    def _put(self, rows: Any, places: Any) -> None:
        self._ring[places] = rows
        if (largest := int(rows.max(initial=0))) >= len(self._places):
            self._places = np.resize(self._places, 2 * largest)
        self._places[rows] = places

    def _front(self, width: int) -> Any:
        stop = self._begin + min(width, self._span)
        round_again = max(0, stop - len(self._ring))
        return np.concatenate([self._ring[self._begin : stop], self._ring[:round_again]])

    def _step(self, count: int) -> None:
        self._begin = (self._begin + count) % len(self._ring)
