"""Items that come together: groups of a fixed size, in the order in which they are complete."""

from collections.abc import Iterable
from typing import Any

import numpy as np


class Groups:
    """Which rows of a table are a group. A complete group has a number, by which a sampler knows it."""

    def __init__(self, size: int) -> None:
        """Begin without items.

        Args:
            size: Items of a group.
        """
        self._size = size
        self._open: dict[str, list[int]] = {}
        """Rows of groups that are not complete."""
        self._rows: dict[int, list[int]] = {}
        """Number of a complete group to its rows."""
        self._number: dict[int, int] = {}
        """Row to the number of its complete group."""
        self._free: list[int] = []

    def __len__(self) -> int:
        """Complete groups."""
        return len(self._rows)

    @property
    def num_waiting(self) -> int:
        """Items whose group is not complete."""
        return sum(map(len, self._open.values()))

    def add(self, row: int, name: str) -> int | None:
        """Add an item; return the number of its group if that is complete now."""
        rows = self._open.setdefault(name, [])
        rows.append(row)
        if len(rows) < self._size:
            return None
        number = self._free.pop() if self._free else len(self._rows)
        self._close(number, self._open.pop(name))
        return number

    def rows(self, number: int) -> list[int]:
        """Return the rows of a complete group, in the order of their insertion."""
        return self._rows[number]

    def rows_of(self, numbers: Iterable[int]) -> Any:
        """Return the rows of complete groups, one group after another."""
        return np.array([self._rows[number] for number in numbers], np.int64).ravel()

    def number_of(self, row: int) -> int | None:
        """Return the number of a row's group; None: it is not complete."""
        return self._number.get(row)

    def remove(self, row: int, name: str) -> list[int]:
        """Remove an item; return its row, or those of its whole group if that is complete, which goes with it."""
        number = self._number.get(row)
        if number is None:
            self._open[name].remove(row)
            if not self._open[name]:
                del self._open[name]
            return [row]
        rows = self._rows.pop(number)
        for one in rows:
            del self._number[one]
        self._free.append(number)
        return rows

    def state(self) -> dict[str, Any]:
        """Return what `restore` makes an equal state of."""
        return {
            "open": [[name, *rows] for name, rows in self._open.items()],
            "numbers": np.array(list(self._rows), np.int64),
            "rows": self.rows_of(self._rows),
            "free": np.array(self._free, np.int64),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self._open = {name: rows for name, *rows in state["open"]}
        for number, rows in zip(state["numbers"].tolist(), state["rows"].reshape(-1, self._size).tolist(), strict=True):
            self._close(number, rows)
        self._free = state["free"].tolist()

    def _close(self, number: int, rows: list[int]) -> None:
        self._rows[number] = rows
        self._number.update(dict.fromkeys(rows, number))
