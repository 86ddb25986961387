"""A table: what it is, and the items that it holds.

Source: Cassirer et al., Reverb, arXiv:2102.04736 (2021); reverb/server.py, reverb/cc/table.cc.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from experience.replay.data.arena import Arena, Cell, Cells
from experience.replay.data.items import Data, drop_all, of_one_arena
from experience.replay.tables.draws import Draw, SampleInfo, earlier, together
from experience.replay.tables.fields import NOTHING, FieldColumns, Fields, is_whole
from experience.replay.tables.groups import Groups
from experience.replay.tables.rate_limiters import LimiterState, Queue, RateLimiter, Stack
from experience.replay.tables.selectors import Fifo, Lifo, Order, Selector, made

ROW_BITS = 32
"""A key is the row that the item lies in, and above it how many items lay there before."""

ONCE_MORE = 1 << ROW_BITS

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
    group_size: int = 0
    """Items of one group are sampled together, and go together, once there are so many; 0: each item by itself.

    The sampler draws groups, of the mean priority of their items. An item whose group is not complete is not counted by
    the limiter, and takes room. The next items of a complete group's name are another group.
    """
    max_age: int | None = None
    """By how many policy versions an item may be older than the newest; what is older goes. None: it never does."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("got a table without a name; expected one, which samples and inserts name it by")
        for name, least in (("max_size", 1), ("max_times_sampled", 0), ("group_size", 0), ("max_age", 0)):
            value = getattr(self, name)
            if not (is_whole(value, least) or (name == "max_age" and value is None)):
                raise ValueError(f"table {self.name!r}: got {name}={value!r}; expected a whole number from {least}")
        if self.group_size > self.max_size:
            raise ValueError(
                f"table {self.name!r}: got group_size={self.group_size}; expected 0 to max_size={self.max_size}"
            )

    @property
    def needs_fields(self) -> bool:
        """Whether items cannot be without fields."""
        return bool(self.group_size) or self.max_age is not None or self.rate_limiter.counts == "tokens"

    @classmethod
    def queue(cls, name: str, max_size: int, **options: Any) -> Self:
        """Return a table whose items are sampled once, in the order of their insertion."""
        return cls(name, Fifo(), Fifo(), max_size, Queue(max_size), 1, **options)

    @classmethod
    def stack(cls, name: str, max_size: int, **options: Any) -> Self:
        """Return a table whose items are sampled once, the newest first."""
        return cls(name, Lifo(), Lifo(), max_size, Stack(max_size), 1, **options)


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
        self._counts_items = table.rate_limiter.counts == "items"
        self._is_plain = self._counts_items and not table.group_size
        """The limiter counts every item as one, as soon as it is there."""
        self._turns = self._is_plain and table.remover == Fifo()
        """A new item takes the row of the oldest one, once the table is full."""
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
        self.fields = FieldColumns()
        self.newest = -1
        """Policy version; -1 while none is known."""
        self.stale = 0
        """Items that went for their age."""
        self.groups = Groups(table.group_size) if table.group_size else None
        self.arena = None
        self.order = Order()
        self.sampler = self.order if table.sampler == Fifo() and self.groups is None else made(table.sampler)
        self.remover = self.order if table.remover == Fifo() else made(table.remover)
        self._selectors = list({id(one): one for one in (self.order, self.sampler, self.remover)}.values())
        self._of_rows = [one for one in self._selectors if self.groups is None or one is not self.sampler]
        """Those that know rows, and not groups."""
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
            "fields": self.fields.arrays(np.arange(count)),
            "groups": self.groups.state() if self.groups is not None else None,
            "ages": [self.newest, self.stale],
        }

    def restore(self, arrays: dict[str, Any], items: dict[int, Data]) -> None:
        """Take over what `arrays` gave, and items by their rows, whose data is held already."""
        count = len(arrays["keys"])
        self.data = [items.get(row) for row in range(count)]
        self.keys, self.priorities, self.times_sampled = (
            arrays[name].copy() for name in ("keys", "priorities", "times_sampled")
        )
        self._free = arrays["free"].tolist()
        self.places = np.array([one.row if isinstance(one, Cell) else 0 for one in self.data], np.int64)
        cells = of_one_arena(list(items.values()))
        self.arena = cells.arena if cells else None
        for selector, held in zip(self._selectors, arrays["selectors"], strict=True):
            selector.restore(held)
        self.fields.restore(np.arange(count), arrays.get("fields"))
        self.newest, self.stale = arrays.get("ages", (-1, 0))
        if self.groups is not None:
            self.groups.restore(arrays["groups"])

    def rows_of(self, keys: Any) -> Any:
        """Return the rows of keys, (n,) int64, and -1 of those that are gone."""
        rows = keys & ((1 << ROW_BITS) - 1)
        inside = rows < len(self.data)
        rows = np.where(inside, rows, -1)
        return np.where(inside & (self.keys[rows] == keys), rows, -1) if self.data else rows

    def most_inserts(self, count: int) -> int:
        """Return how many of so many items may go through the limiter at once."""
        limiter = self.limiter
        if self._is_plain or limiter.limiter.max_diff == math.inf:
            return limiter.most_inserts(min(count, self.table.max_size))
        return int(limiter.can_insert())

    def most_samples(self, count: int) -> int:
        """Return how many draws, of so many, `sample_many` may be asked for; those of several each may end it early."""
        return self.limiter.most_samples(count) if self._is_plain else count

    def insert(self, data: Data, priority: float, fields: Fields | None = None) -> int:
        """Insert an item, whose data is held already; return its key."""
        table = self.table
        if self._is_plain:
            self.limiter.inserts += 1
        if self._turns and len(self.data) - len(self._free) == table.max_size:
            row = self.order.turn()
            if table.extensions:
                self._tell("on_delete", row)
            self.limiter.deletes += 1
            self._take(row).drop()
            if self.sampler is not self.order:
                self.sampler.replace(row, priority)
        else:
            row = self._row()
            for selector in self._of_rows:
                selector.insert(row, priority)
        self.priorities[row] = priority
        self.times_sampled[row] = 0
        self._lay(row, data)
        key = self.keys.item(row)
        if fields is not None or not self._is_plain:
            self._know(row, fields or NOTHING)
        if table.extensions:
            self._tell("on_insert", row)
        if fields is not None and fields.policy_version is not None:
            self._age(row, fields.policy_version)
        if len(self.data) - len(self._free) > table.max_size:
            self.remove_one()
        return key

    def insert_many(
        self, data: Sequence[Data] | Cells, priorities: Any, fields: Sequence[Fields | None] | None = None
    ) -> Any:
        """Insert items, whose data is held already; return their keys. What is inserted one by one goes alike."""
        count, table = len(priorities), self.table
        one_by_one = fields is not None or bool(table.extensions)
        if one_by_one or not self._turns or count > table.max_size:
            each = data.each() if isinstance(data, Cells) else data
            known = [None] * count if fields is None else fields
            return np.array(list(map(self.insert, each, priorities.tolist(), known)), np.int64)
        new = min(count, table.max_size - len(self))
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

    def sample_many(self, count: int) -> Draw:
        """Draw items, or groups of them, one after another.

        There are fewer than `count` if the limiter stops it: because items went that were sampled for the last time, or
        because it counts tokens, episodes or the items of groups.
        """
        is_bounded = not self._is_plain and self.limiter.limiter.min_diff > -math.inf
        if count == 1 or self.table.max_times_sampled or self.table.extensions or is_bounded:
            draws = [self._sample()]
            while len(draws) < count and self.limiter.can_sample():
                draws.append(self._sample())
            held, infos, gone = zip(*(item for draw in draws for item in draw), strict=True)
            return Draw(held, together(infos), [one for one, went in zip(held, gone, strict=True) if went], len(draws))
        rows, probabilities = self.sampler.draw_many(count, self.generator)
        size = len(self)
        if self.groups is not None:
            size, rows = len(self.groups), self.groups.rows_of(rows.tolist())
            probabilities = probabilities.repeat(self.table.group_size)
        self.limiter.samples += self._units(rows)
        times = self.times_sampled[rows] + 1 + earlier(rows)
        np.maximum.at(self.times_sampled, rows, times)
        waited = np.zeros(len(rows), bool)
        known = self.fields.known(rows, self.newest)
        sizes = np.full(len(rows), size)
        info = SampleInfo(self.keys[rows], probabilities, sizes, self.priorities[rows], times, waited, *known)
        if self.arena:
            return Draw(Cells(self.arena, self.places[rows]), info, [], count)
        data: list[Any] = [self.data[row] for row in rows.tolist()]
        return Draw(data, info, [], count)

    def update(self, keys: Any, priorities: Any) -> int:
        """Give items other priorities; return of how many that are there."""
        rows = self.rows_of(keys)
        there = rows >= 0
        rows, priorities = rows[there], priorities[there]
        if len(rows):
            self.priorities[rows] = priorities
            for selector in self._of_rows:
                selector.update(rows, priorities)
            if self.groups is not None:
                for number in dict.fromkeys(map(self.groups.number_of, rows.tolist())):
                    if number is not None:
                        self.sampler.update(np.array([number]), self._mean_priority(self.groups.rows(number)))
            for extension in self.table.extensions:
                if extension.on_update:
                    extension.on_update(self, keys[there])
        return len(rows)

    def delete(self, keys: Any) -> int:
        """Remove items, and the complete groups that they are in; return how many."""
        rows = [row for row in dict.fromkeys(self.rows_of(keys).tolist()) if row >= 0]
        return sum(self.delete_row(row) for row in rows if self.data[row] is not None)

    def remove_one(self) -> None:
        """Remove what the remover selects."""
        self.delete_row(self.remover.draw(self.generator)[0])

    def delete_row(self, row: int, *, for_age: bool = False) -> int:
        """Remove the item of a row, with its group if that is complete; return how many items that are."""
        number = None if self.groups is None else self.groups.number_of(row)
        rows = [row] if self.groups is None or number is None else self.groups.rows(number)
        for one in rows:
            self._tell("on_delete", one)
        if self.groups is None or number is not None:
            units = self._units(rows)
            self.limiter.deletes += units
            if for_age and self.table.max_times_sampled:
                self.limiter.forgone += units * int(self.table.max_times_sampled - self.times_sampled[row])
        if self.groups is not None:
            self.groups.remove(row, self.fields.group[row])
            if number is not None:
                self.sampler.delete(number)
        for one in rows:
            for selector in self._of_rows:
                selector.delete(one)
            self._take(one).drop()
            self._free.append(one)
        self.stale += len(rows) * for_age
        return len(rows)

    def advance(self, policy_version: int) -> int:
        """Take note of a newer policy; return how many items are too old now, and gone."""
        before, self.newest = self.stale, max(policy_version, self.newest)
        if self.table.max_age is not None and len(self):
            rows = np.array(self.order.oldest(len(self)), np.int64)
            for row in rows[self.fields.policy_version[rows] < self.newest - self.table.max_age].tolist():
                if self.data[row] is not None:  # else it went with its group
                    self.delete_row(row, for_age=True)
        return self.stale - before

    def _sample(self) -> list[tuple[Data, SampleInfo, bool]]:
        """One item, or those of one group; the flag says that it is in the table no more, and its reference is ours."""
        place, probability = self.sampler.draw(self.generator)
        rows = [place] if self.groups is None else self.groups.rows(place)
        size = len(self) if self.groups is None else len(self.groups)
        self.limiter.samples += self._units(rows)
        drawn: list[tuple[Data, SampleInfo, bool]] = []
        for row in rows:
            times = int(self.times_sampled[row]) + 1
            self.times_sampled[row] = times
            data = self.data[row]
            assert data is not None
            known = self.fields.known_of(row, self.newest)
            priority = float(self.priorities[row])
            info = SampleInfo(int(self.keys[row]), probability, size, priority, times, False, *known)
            drawn.append((data, info, times == self.table.max_times_sampled))
            self._tell("on_sample", row)
        if drawn[0][2]:
            for data, _, _ in drawn:
                data.hold()
            self.delete_row(rows[0])
        return drawn

    def _know(self, row: int, fields: Fields) -> None:
        """Keep the fields of a new item; what they say is counted, with its group where there are groups."""
        self.fields.set(row, fields)
        if self._is_plain:
            return
        rows = [row]
        if self.groups is not None:
            number = self.groups.add(row, str(fields.group))
            if number is None:
                return
            rows = self.groups.rows(number)
            self.sampler.insert(number, float(self._mean_priority(rows)[0]))
        self.limiter.inserts += self._units(rows)

    def _age(self, row: int, policy_version: int) -> None:
        """A new item has come from a policy: from a newer one than was known, or from one that is too old."""
        if policy_version > self.newest:
            self.advance(policy_version)
        elif self.table.max_age is not None and policy_version < self.newest - self.table.max_age:
            self.delete_row(row, for_age=True)

    def _units(self, rows: Any) -> int:
        """What the items of rows are in what the limiter counts."""
        if self._counts_items:
            return len(rows)
        column = self.fields.tokens if self.table.rate_limiter.counts == "tokens" else self.fields.episodes
        return int(column[rows].sum())

    def _mean_priority(self, rows: list[int]) -> Any:
        return np.array([self.priorities[rows].mean()])

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
        if type(data) is Cell and (data[0] is self.arena or len(self) == 1):
            self.arena = data[0]
            self.places[row] = data[1]
        else:
            self.arena = None

    def _take(self, row: int) -> Data:
        data = self.data[row]
        assert data is not None
        self.data[row] = None
        self.keys[row] = self.keys.item(row) + ONCE_MORE
        if self.fields.used:
            self.fields.forget(row)
        return data

    def _take_many(self, rows: list[int]) -> None:
        if self.fields.used:
            for row in rows:
                self.fields.forget(row)
        self.keys[rows] += ONCE_MORE
        if self.arena:
            self.arena.drop(self.places[rows].tolist())
        else:
            drop_all([data for row in rows if (data := self.data[row]) is not None])

    def _tell(self, what: str, row: int) -> None:
        for extension in self.table.extensions:
            if function := getattr(extension, what):
                function(self, self.keys[row : row + 1].copy())
