"""Selectors: which item is sampled, and which is removed. The names and rules are Reverb's.

A selector is a description; `made` gives the state that a table keeps of it. Items are named by the row that they lie
in.

Source: Cassirer et al., Reverb, arXiv:2102.04736 (2021); reverb/cc/selectors.
"""

import heapq
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from experience.replay.tables.draws import Drawn
from experience.replay.tables.order import Order
from experience.replay.tables.weights import BlockSums


@dataclass(frozen=True)
class Uniform:
    """Any item, each with the same probability."""


@dataclass(frozen=True)
class Prioritized:
    """An item in proportion to priority ** priority_exponent; 0 ** 0 is 0. If all weights are 0, any item."""

    priority_exponent: float

    def __post_init__(self) -> None:
        if not self.priority_exponent >= 0:
            raise ValueError(f"got priority_exponent={self.priority_exponent}; expected a number from 0")


@dataclass(frozen=True)
class Fifo:
    """The item that was inserted first."""


@dataclass(frozen=True)
class Lifo:
    """The item that was inserted last."""


@dataclass(frozen=True)
class MinHeap:
    """The item of the lowest priority; of several the one whose priority was given first."""


@dataclass(frozen=True)
class MaxHeap:
    """The item of the highest priority; of several the one whose priority was given first."""


Selector = Uniform | Prioritized | Fifo | Lifo | MinHeap | MaxHeap


LARGEST_WEIGHT = 1e290
"""Of an item: sums stay finite."""


class SelectorState(Protocol):
    """What a table tells a selector, and asks it."""

    def insert(self, row: int, priority: float) -> None:
        """A new item lies in a row."""

    def insert_many(self, rows: Any, priorities: Any) -> None:
        """New items lie in rows; (n,) each, int64 and float64."""

    def replace(self, row: int, priority: float) -> None:
        """The item of a row is gone, and a new one lies there."""

    def replace_many(self, rows: Any, priorities: Any) -> None:
        """The items of rows are gone, and new ones lie there."""

    def update(self, rows: Any, priorities: Any) -> None:
        """Items have other priorities; (n,) each. Of several for one row the last counts."""

    def delete(self, row: int) -> None:
        """The item of a row is gone."""

    def draw(self, generator: np.random.Generator) -> tuple[int, float]:
        """Select one of at least one item; return its row and the probability."""

    def draw_many(self, count: int, generator: np.random.Generator) -> Drawn:
        """Select so many times, with replacement."""

    def state(self) -> dict[str, Any]:
        """Return arrays that `restore` makes an equal state of."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the arrays of `state`."""


def made(selector: Selector) -> SelectorState:
    """Return the state of a selector for an empty table."""
    if isinstance(selector, Uniform):
        return _Uniform()
    if isinstance(selector, Prioritized):
        return _Prioritized(selector.priority_exponent)
    if isinstance(selector, Fifo | Lifo):
        return Order(newest_first=isinstance(selector, Lifo))
    return _Heap(largest=isinstance(selector, MaxHeap))


def total_weight(state: SelectorState) -> float | None:
    """Return the sum of the weights that items are drawn in proportion to; None of a selector that knows none."""
    return state.total if isinstance(state, _Prioritized) else None


class _Dense:
    """Rows in places from 0 without a gap: the last one moves to where one goes."""

    def __init__(self) -> None:
        self.count = 0
        self.rows = np.zeros(64, np.int64)
        self.places = np.zeros(64, np.int64)
        """Row to place."""

    def append(self, row: int) -> None:
        if self.count == len(self.rows) or row >= len(self.places):
            self.append_many(np.array([row]))
        else:
            self.rows[self.count] = row
            self.places[row] = self.count
            self.count += 1

    def append_many(self, rows: Any) -> None:
        stop = self.count + len(rows)
        if stop > len(self.rows):
            self.rows = np.resize(self.rows, max(stop, 2 * len(self.rows)))
        self.rows[self.count : stop] = rows
        if (largest := int(rows.max())) >= len(self.places):
            self.places = np.resize(self.places, 2 * largest)
        self.places[rows] = np.arange(self.count, stop)
        self.count = stop

    def remove(self, row: int) -> int:
        """Return the place that the last row moved to."""
        self.count -= 1
        place, last = int(self.places[row]), int(self.rows[self.count])
        self.rows[place] = last
        self.places[last] = place
        return place

    def restore(self, rows: Any) -> None:
        self.count = 0
        if len(rows):
            self.append_many(rows)


class _Uniform:
    def __init__(self) -> None:
        self._dense = _Dense()

    def insert(self, row: int, priority: float) -> None:
        self._dense.append(row)

    def insert_many(self, rows: Any, priorities: Any) -> None:
        self._dense.append_many(rows)

    def replace(self, row: int, priority: float) -> None:
        """Any row is like any other."""

    def replace_many(self, rows: Any, priorities: Any) -> None:
        """Any row is like any other."""

    def update(self, rows: Any, priorities: Any) -> None:
        """Priorities mean nothing here."""

    def delete(self, row: int) -> None:
        self._dense.remove(row)

    def draw(self, generator: np.random.Generator) -> tuple[int, float]:
        return _any(self._dense, generator)

    def draw_many(self, count: int, generator: np.random.Generator) -> Drawn:
        return _any_many(self._dense, count, generator)

    def state(self) -> dict[str, Any]:
        return {"rows": self._dense.rows[: self._dense.count]}

    def restore(self, state: dict[str, Any]) -> None:
        self._dense.restore(state["rows"])


class _Prioritized:
    def __init__(self, priority_exponent: float) -> None:
        self._exponent = priority_exponent
        self._largest = LARGEST_WEIGHT ** (1 / max(priority_exponent, 1))
        """A larger priority counts as this one."""
        self._dense = _Dense()
        self._sums = BlockSums()

    def insert(self, row: int, priority: float) -> None:
        self._dense.append(row)
        self._sums.make_room(self._dense.count)
        self._sums.set(self._dense.count - 1, self._weight(priority))

    def insert_many(self, rows: Any, priorities: Any) -> None:
        start = self._dense.count
        self._dense.append_many(rows)
        self._sums.make_room(self._dense.count)
        self._sums.set_many(np.arange(start, self._dense.count), self._weights(priorities))

    def replace(self, row: int, priority: float) -> None:
        self._sums.set(int(self._dense.places[row]), self._weight(priority))

    def replace_many(self, rows: Any, priorities: Any) -> None:
        self._sums.set_many(self._dense.places[rows], self._weights(priorities))

    def update(self, rows: Any, priorities: Any) -> None:
        self._sums.set_many(self._dense.places[rows], self._weights(priorities))

    def delete(self, row: int) -> None:
        place, last = self._dense.remove(row), self._dense.count
        self._sums.set(place, self._sums.get_one(last))
        self._sums.set(last, 0.0)

    @property
    def total(self) -> float:
        return self._sums.total

    def draw(self, generator: np.random.Generator) -> tuple[int, float]:
        total = self._sums.total
        if not total:
            return _any(self._dense, generator)
        place = self._sums.draw(generator.random())
        return self._dense.rows.item(place), self._sums.get_one(place) / total

    def draw_many(self, count: int, generator: np.random.Generator) -> Drawn:
        total = self._sums.total
        if not total:
            return _any_many(self._dense, count, generator)
        places = self._sums.draw_many(generator.random(count))
        return Drawn(self._dense.rows[places], self._sums.get(places) / total)

    def state(self) -> dict[str, Any]:
        places = np.arange(self._dense.count)
        weights = {"weights": self._sums.get(places), "size": np.array(self._sums.size)}
        return {"rows": self._dense.rows[: self._dense.count], **weights}

    def restore(self, state: dict[str, Any]) -> None:
        self._dense.restore(state["rows"])
        self._sums = BlockSums(int(state["size"]))
        self._sums.set_many(np.arange(self._dense.count), state["weights"])

    def _weight(self, priority: float) -> float:
        return float(min(priority, self._largest) ** self._exponent) if priority else 0.0

    def _weights(self, priorities: Any) -> Any:
        if self._exponent == 0:
            return (priorities > 0).astype(np.float64)
        if len(priorities) == 1:  # NumPy's power of arrays may differ in the last bit
            return np.array([self._weight(priorities.item(0))])
        return np.minimum(priorities, self._largest) ** self._exponent


class _Heap:
    """Entries of (priority, when it was given, row); one that is no longer true is passed over when it comes up."""

    def __init__(self, *, largest: bool) -> None:
        self._sign = -1.0 if largest else 1.0
        self._heap: list[tuple[float, int, int]] = []
        self._given: dict[int, int] = {}
        """Row to when its priority was given."""
        self._clock = 0

    def insert(self, row: int, priority: float) -> None:
        self._clock += 1
        self._given[row] = self._clock
        heapq.heappush(self._heap, (self._sign * priority, self._clock, row))
        if len(self._heap) > 64 + 2 * len(self._given):
            self._heap = [entry for entry in self._heap if self._given.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def insert_many(self, rows: Any, priorities: Any) -> None:
        for row, priority in zip(rows.tolist(), priorities.tolist(), strict=True):
            self.insert(row, priority)

    replace = insert
    replace_many = insert_many

    def update(self, rows: Any, priorities: Any) -> None:
        self.insert_many(rows, priorities)

    def delete(self, row: int) -> None:
        del self._given[row]

    def draw(self, generator: np.random.Generator) -> tuple[int, float]:
        while self._given.get(self._heap[0][2]) != self._heap[0][1]:
            heapq.heappop(self._heap)
        return self._heap[0][2], 1.0

    def draw_many(self, count: int, generator: np.random.Generator) -> Drawn:
        return Drawn(np.full(count, self.draw(generator)[0]), np.ones(count))

    def state(self) -> dict[str, Any]:
        held = sorted(entry for entry in self._heap if self._given.get(entry[2]) == entry[1])
        priorities, given, rows = zip(*held, strict=True) if held else ((), (), ())
        numbers = {"given": np.array(given, np.int64), "rows": np.array(rows, np.int64)}
        return numbers | {"priorities": np.array(priorities, np.float64), "clock": np.array(self._clock)}

    def restore(self, state: dict[str, Any]) -> None:
        self._clock = int(state["clock"])
        columns = (state[name].tolist() for name in ("priorities", "given", "rows"))
        self._heap = list(zip(*columns, strict=True))
        self._given = {row: given for _, given, row in self._heap}


def _any(dense: _Dense, generator: np.random.Generator) -> tuple[int, float]:
    return dense.rows.item(int(generator.random() * dense.count)), 1.0 / dense.count


def _any_many(dense: _Dense, count: int, generator: np.random.Generator) -> Drawn:
    places = (generator.random(count) * dense.count).astype(np.int64)
    return Drawn(dense.rows[places], np.full(count, 1.0 / dense.count))
