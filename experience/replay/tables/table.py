"""A table: what it is, and the items that it holds.

Source: Cassirer et al., Reverb, arXiv:2102.04736 (2021); reverb/server.py, reverb/cc/table.cc.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from experience.replay.data.arena import Arena, Cell, Cells
from experience.replay.data.items import Data, drop_all, of_one_arena
from experience.replay.tables.rate_limiters import LimiterState, Queue, RateLimiter, Stack
from experience.replay.tables.selectors import Fifo, Lifo, Order, Selector, made

ROW_BITS = 32
"""A key is the row that the item lies in, and above it how many items lay there before."""

FIRST_ROWS = 64


@dataclass(frozen=True)
class Extension:
    """Functions that a table calls under its lock, with itself and the keys concerned, (n,) int64."""

    on_insert: Callable[["TableState", Any], None] | None = None
    on_sample: Callable[["TableState", Any], None] | None = None
    on_update: Callable[["TableState", Any], None] | None = None
    on_delete: Callable[["TableState", Any], None] | None = None
    """Before the items are gone."""
    on_reset: Callable[["TableState"], None] | None = None


@dataclass(frozen=True)
class Table:
    """What a table is, in Reverb's words."""

    name: str
    sampler: Selector
    """Which item is sampled."""
    remover: Selector
    """Which item goes when there are more than max_size."""
    max_size: int
    """Of items."""
    rate_limiter: RateLimiter
    max_times_sampled: int = 0
    """An item that was sampled so often goes; 0: never."""
    extensions: Sequence[Extension] = ()
    signature: Any = None
    """Data as it must be: nested `ArraySpec`, None for an axis of any length. None: anything."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("got a table without a name; expected one, which samples and inserts name it by")
        if self.max_size < 1:
            raise ValueError(f"table {self.name!r}: got max_size={self.max_size}; expected at least 1")
        if self.max_times_sampled < 0:
            raise ValueError(f"table {self.name!r}: got max_times_sampled={self.max_times_sampled}; expected 0 or more")

    @classmethod
    def queue(cls, name: str, max_size: int, **options: Any) -> Self:
        """Return a table whose items are sampled once, in the order of their insertion."""
        return cls(name, Fifo(), Fifo(), max_size, Queue(max_size), 1, **options)

    @classmethod
    def stack(cls, name: str, max_size: int, **options: Any) -> Self:
        """Return a table whose items are sampled once, the newest first."""
        return cls(name, Lifo(), Lifo(), max_size, Stack(max_size), 1, **options)


class SampleInfo(NamedTuple):
    """What is known of a sampled item; of a batch, an array a field."""

    key: Any
    """Names the item in its table. int64."""
    probability: Any
    """With which it was drawn. float64."""
    table_size: Any
    """Items when it was drawn. int64."""
    priority: Any
    """float64."""
    times_sampled: Any
    """This time included. int64."""
    rate_limited: Any
    """Whether the call had to wait for it."""


class Draw(NamedTuple):
    """Items that were drawn."""

    data: Sequence[Data] | Cells
    info: SampleInfo
    gone: list[Data]
    """Data of those that are in the table no more, whose references are the caller's now."""


class TableState:
    """The items of a table. Whoever calls holds the lock of the replay, and has asked the limiter."""

    def __init__(self, table: Table, generator: np.random.Generator) -> None:
        self.table = table
        self.generator = generator
        self.keys = np.zeros(0, np.int64)
        self.priorities = np.zeros(0)
        self.times_sampled = np.zeros(0, np.int64)
        self.data: list[Data | None] = []
        self.arena: Arena | None = None
        """That all items lie in, as single steps; None if there are others."""
        self.places = np.zeros(0, np.int64)
        """Row to row of that arena."""
        self._empty()

    def reset(self) -> None:
        """Empty the table and zero its counters."""
        for row in self.order.oldest(len(self)):
            self._take(row).drop()
        self._empty()
        for extension in self.table.extensions:
            if extension.on_reset:
                extension.on_reset(self)

    def _empty(self) -> None:
        table = self.table
        self.limiter = LimiterState(table.rate_limiter)
        self.arena = None
        self.order = Order()
        self.sampler = self.order if table.sampler == Fifo() else made(table.sampler)
        self.remover = self.order if table.remover == Fifo() else made(table.remover)
        self._selectors = list({id(one): one for one in (self.order, self.sampler, self.remover)}.values())
        self._free = list(range(len(self.data) - 1, -1, -1))

    def __len__(self) -> int:
        return len(self.data) - len(self._free)

    def arrays(self) -> dict[str, Any]:
        """Return all that `restore` needs beside the items."""
        count = len(self.data)
        return {
            "keys": self.keys[:count],
            "priorities": self.priorities[:count],
            "times_sampled": self.times_sampled[:count],
            "free": np.array(self._free, np.int64),
            "selectors": [selector.state() for selector in self._selectors],
        }

    def restore(self, arrays: dict[str, Any], items: dict[int, Data]) -> None:
        """Take over what `arrays` gave, and items by their rows, whose data is held already."""
        self.data = [items.get(row) for row in range(len(arrays["keys"]))]
        self.keys, self.priorities, self.times_sampled = (
            arrays[name].copy() for name in ("keys", "priorities", "times_sampled")
        )
        self._free = arrays["free"].tolist()
        self.places = np.array([one.row if isinstance(one, Cell) else 0 for one in self.data], np.int64)
        cells = of_one_arena(list(items.values()))
        self.arena = cells.arena if cells else None
        for selector, held in zip(self._selectors, arrays["selectors"], strict=True):
            selector.restore(held)

    def rows_of(self, keys: Any) -> Any:
        """Return the rows of keys, (n,) int64, and -1 of those that are gone."""
        rows = keys & ((1 << ROW_BITS) - 1)
        inside = rows < len(self.data)
        rows = np.where(inside, rows, -1)
        return np.where(inside & (self.keys[rows] == keys), rows, -1) if self.data else rows

    def insert(self, data: Data, priority: float) -> int:
        """Insert an item, whose data is held already; return its key."""
        limiter, table = self.limiter, self.table
        size = limiter.inserts - limiter.deletes
        limiter.inserts += 1
        if size == table.max_size and self.remover is self.order:
            row = self.order.first()
            if table.extensions:
                self._tell("on_delete", row)
            limiter.deletes += 1
            self._take(row).drop()
            if self.sampler is not self.order:
                self.sampler.replace(row, priority)
            self.order.replace(row, priority)
            size -= 1
        else:
            row = self._row()
            for selector in self._selectors:
                selector.insert(row, priority)
        self.priorities[row] = priority
        self.times_sampled[row] = 0
        self._lay(row, data)
        key = int(self.keys[row])
        if table.extensions:
            self._tell("on_insert", row)
        if size == table.max_size:
            self.remove_one()
        return key

    def insert_many(self, data: Sequence[Data] | Cells, priorities: Any) -> Any:
        """Insert items, whose data is held already; return their keys. What is inserted one by one goes alike."""
        count = len(priorities)
        if self.remover is not self.order or count > self.table.max_size or self.table.extensions:
            pairs = zip(data.each() if isinstance(data, Cells) else data, priorities.tolist(), strict=True)
            return np.array([self.insert(one, priority) for one, priority in pairs], np.int64)
        new = min(count, self.table.max_size - len(self))
        rows = [self._row() for _ in range(new)]
        if new:
            for selector in self._selectors:
                selector.insert_many(rows, priorities[:new])
        if old := count - new:
            freed = self.order.oldest(old)
            self._take_many(freed)
            if self.sampler is not self.order:
                self.sampler.replace_many(freed, priorities[new:])
            self.order.replace_many(freed, priorities[new:])
            rows += freed
        self.limiter.inserts += count
        self.limiter.deletes += old
        self.priorities[rows] = priorities
        self.times_sampled[rows] = 0
        if isinstance(data, Cells) and (data.arena is self.arena or count == len(self)):
            self.arena = data.arena
            self.places[rows] = data.rows
        else:
            self.arena = None
        for row, one in zip(rows, data.each() if isinstance(data, Cells) else data, strict=True):
            self.data[row] = one
        return self.keys[rows]

    def sample(self) -> tuple[Data, SampleInfo, bool]:
        """Draw one item; the flag says that it is in the table no more, and its reference the caller's."""
        row, probability = self.sampler.draw(self.generator)
        self.limiter.samples += 1
        times = int(self.times_sampled[row]) + 1
        self.times_sampled[row] = times
        data = self.data[row]
        assert data is not None
        info = SampleInfo(int(self.keys[row]), probability, len(self), float(self.priorities[row]), times, False)
        self._tell("on_sample", row)
        if gone := times == self.table.max_times_sampled:
            data.hold()
            self.delete_row(row)
        return data, info, gone

    def sample_many(self, count: int) -> Draw:
        """Draw items, one after another.

        There are fewer than `count` if the limiter stops it because items went that were sampled for the last time.
        """
        if count == 1 or self.table.max_times_sampled or self.table.extensions:
            draws = [self.sample()]
            while len(draws) < count and self.limiter.can_sample():
                draws.append(self.sample())
            held, infos, _ = zip(*draws, strict=True)
            return Draw(held, together(infos), [one for one, _, gone in draws if gone])
        rows, probabilities = self.sampler.draw_many(count, self.generator)
        self.limiter.samples += count
        times = self.times_sampled[rows] + 1 + _earlier(rows)
        np.maximum.at(self.times_sampled, rows, times)
        info = SampleInfo(
            self.keys[rows],
            probabilities,
            np.full(count, len(self)),
            self.priorities[rows],
            times,
            np.zeros(count, bool),
        )
        if self.arena:
            return Draw(Cells(self.arena, self.places[rows]), info, [])
        data: list[Any] = [self.data[row] for row in rows.tolist()]
        return Draw(data, info, [])

    def update(self, keys: Any, priorities: Any) -> int:
        """Give items other priorities; return of how many that are there."""
        rows = self.rows_of(keys)
        there = rows >= 0
        rows, priorities = rows[there], priorities[there]
        if len(rows):
            self.priorities[rows] = priorities
            for selector in self._selectors:
                selector.update(rows, priorities)
            for extension in self.table.extensions:
                if extension.on_update:
                    extension.on_update(self, keys[there])
        return len(rows)

    def delete(self, keys: Any) -> int:
        """Remove items; return how many were there."""
        rows = [row for row in dict.fromkeys(self.rows_of(keys).tolist()) if row >= 0]
        for row in rows:
            self.delete_row(row)
        return len(rows)

    def remove_one(self) -> None:
        """Remove what the remover selects."""
        self.delete_row(self.remover.draw(self.generator)[0])

    def delete_row(self, row: int) -> None:
        """Remove the item of a row."""
        self._tell("on_delete", row)
        self.limiter.deletes += 1
        for selector in self._selectors:
            selector.delete(row)
        self._take(row).drop()
        self._free.append(row)

    def _row(self) -> int:
        if self._free:
            return self._free.pop()
        row = len(self.data)
        if row == len(self.keys):
            more = max(FIRST_ROWS, row)
            self.keys = np.concatenate([self.keys, np.arange(row, row + more)])
            self.priorities = np.concatenate([self.priorities, np.zeros(more)])
            self.times_sampled = np.concatenate([self.times_sampled, np.zeros(more, np.int64)])
            self.places = np.concatenate([self.places, np.zeros(more, np.int64)])
        self.data.append(None)
        return row

    def _lay(self, row: int, data: Data) -> None:
        self.data[row] = data
        if type(data) is Cell and (data.arena is self.arena or len(self) == 1):
            self.arena = data.arena
            self.places[row] = data.row
        else:
            self.arena = None

    def _take(self, row: int) -> Data:
        data = self.data[row]
        assert data is not None
        self.data[row] = None
        self.keys[row] += 1 << ROW_BITS
        return data

    def _take_many(self, rows: list[int]) -> None:
        self.keys[rows] += 1 << ROW_BITS
        if self.arena:
            self.arena.drop(self.places[rows].tolist())
        else:
            drop_all([data for row in rows if (data := self.data[row]) is not None])

    def _tell(self, what: str, row: int) -> None:
        for extension in self.table.extensions:
            if function := getattr(extension, what):
                function(self, self.keys[row : row + 1].copy())


def together(infos: Sequence[SampleInfo]) -> SampleInfo:
    """Return what is known of several items as arrays."""
    types = (np.int64, np.float64, np.int64, np.float64, np.int64, np.bool_)
    columns = zip(*infos, strict=True) if infos else [()] * len(types)
    return SampleInfo(*(np.array(column, kind) for column, kind in zip(columns, types, strict=True)))


def joined(infos: Sequence[SampleInfo]) -> SampleInfo:
    """Return arrays of what is known of items, one after another."""
    return infos[0] if len(infos) == 1 else SampleInfo(*map(np.concatenate, zip(*infos, strict=True)))


def _earlier(rows: Any) -> Any:
    """How often each row stands before, (n,) int64."""
    order = np.argsort(rows, kind="stable")
    ordered, place = rows[order], np.arange(len(rows))
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    earlier = np.empty(len(rows), np.int64)
    earlier[order] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return earlier
