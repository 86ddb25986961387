"""The items of a table, and what happens to them.

Source: Cassirer et al., Reverb, arXiv:2102.04736 (2021); reverb/cc/table.cc.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experience.replay.data.arena import Cells
from experience.replay.data.items import Data, part
from experience.replay.tables.contents import Contents
from experience.replay.tables.draws import Draw, SampleInfo, earlier, together
from experience.replay.tables.fields import NOTHING, FieldColumns, Fields
from experience.replay.tables.groups import Groups
from experience.replay.tables.order import Order
from experience.replay.tables.rate_limiters import LimiterState
from experience.replay.tables.selectors import Fifo, made
from experience.replay.tables.table import Table

ROW_BITS = 32
"""A key is the row that the item lies in, and above it how many items lay there before."""

ONCE_MORE = 1 << ROW_BITS

ROW_MASK = ONCE_MORE - 1

FIRST_ROWS = 64


class TableState:
    """The items of a table. Whoever calls holds the lock of the replay, and has asked the limiter."""

    def __init__(self, table: Table, generator: np.random.Generator) -> None:
        self.table = table
        self.generator = generator
        self.keys = np.zeros(0, np.int64)
        """A free row has the next key less one, which is that of another row and finds nothing."""
        self.priorities = np.zeros(0)
        self.times_sampled = np.zeros(0, np.int64)
        self.contents = Contents()
        self._num_rows = 0
        """Rows that were ever in use."""
        self._grow()
        self._counts_items = table.rate_limiter.counts == "items"
        self._is_plain = self._counts_items and not table.group_size
        """The limiter counts every item as one, as soon as it is there."""
        self._turns = self._is_plain and table.remover == Fifo()
        """A new item takes the row of the oldest one, once the table is full."""
        self._empty()

    def reset(self) -> None:
        """Empty the table and zero its counters."""
        for row in self.order.oldest(len(self)).tolist():
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
        self.order = Order(max_size=table.max_size)
        self.sampler = self.order if table.sampler == Fifo() and self.groups is None else made(table.sampler)
        self.remover = self.order if table.remover == Fifo() else made(table.remover)
        self._selectors = list({id(one): one for one in (self.order, self.sampler, self.remover)}.values())
        self._of_rows = [one for one in self._selectors if self.groups is None or one is not self.sampler]
        """Those that know rows, and not groups."""
        self._free = list(range(self._num_rows - 1, -1, -1))

    def __len__(self) -> int:
        return self._num_rows - len(self._free)

    def arrays(self) -> dict[str, Any]:
        """Return all that `restore` needs beside the items."""
        count = self._num_rows
        keys = self.keys[:count].copy()
        keys[self._free] += 1
        return {
            "keys": keys,
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
        count = self._num_rows = len(arrays["keys"])
        while count > len(self.keys):
            self._grow()
        self._free = arrays["free"].tolist()
        self.keys[:count] = arrays["keys"]
        self.keys[self._free] -= 1
        self.priorities[:count] = arrays["priorities"]
        self.times_sampled[:count] = arrays["times_sampled"]
        self.contents.restore(items)
        for selector, held in zip(self._selectors, arrays["selectors"], strict=True):
            selector.restore(held)
        self.fields.restore(np.arange(count), arrays.get("fields"))
        self.newest, self.stale = arrays.get("ages", (-1, 0))
        if self.groups is not None:
            self.groups.restore(arrays["groups"])

    def rows_of(self, keys: Any) -> Any:
        """Return the rows of keys, (n,) int64, and -1 of those that are gone."""
        rows = keys & ROW_MASK
        return np.where(self.keys.take(rows, mode="clip") == keys, rows, -1)

    def most_inserts(self, count: int) -> int:
        """Return how many of so many items may go through the limiter at once."""
        limiter = self.limiter
        if self._is_plain or limiter.limiter.max_diff == math.inf:
            return limiter.most_inserts(min(count, self.table.max_size))
        return int(limiter.can_insert())

    def most_samples(self, count: int) -> int:
        """Return how many draws, of so many, `sample_many` may be asked for; those of several each may end it early."""
        return self.limiter.most_samples(count) if self._is_plain and count > 1 else count

    def insert(self, data: Data, priority: float, fields: Fields | None = None) -> int:
        """Insert an item, whose data is held already; return its key."""
        table = self.table
        if self._is_plain:
            self.limiter.inserts += 1
        turns = self._turns and self._num_rows - len(self._free) == table.max_size
        if turns:
            row = self.order.turn()
            if table.extensions:
                self._tell("on_delete", row)
            self.limiter.deletes += 1
            key: int = self._key[row] + ONCE_MORE
            self.contents.replace(row, data)
            if self.sampler is not self.order:
                self.sampler.replace(row, priority)
            if self.fields.used:
                self.fields.forget(row)
        else:
            row = self._free_row()
            key = self._key[row] + 1
            self.contents.lay(row, data)
            for selector in self._of_rows:
                selector.insert(row, priority)
        self._key[row] = key
        self._priority[row] = priority
        self._times[row] = 0
        if fields is not None or not self._is_plain:
            self._know(row, fields or NOTHING)
        if table.extensions:
            self._tell("on_insert", row)
        if fields is not None and fields.policy_version is not None:
            self._age(row, fields.policy_version)
        if not turns and len(self) > table.max_size:
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
        room = table.max_size - len(self)
        if 0 < room < count:
            halves = (slice(room), slice(room, count))
            return np.concatenate([self.insert_many(part(data, half), priorities[half]) for half in halves])
        self.limiter.inserts += count
        if room:
            rows = self._free_rows(count)
            self.keys[rows] += 1
            self.contents.lay_many(rows, data)
            for selector in self._selectors:
                selector.insert_many(rows, priorities)
        else:
            rows = self.order.turn_many(count)
            self.limiter.deletes += count
            self.keys[rows] += ONCE_MORE
            self.contents.replace_many(rows, data)
            if self.sampler is not self.order:
                self.sampler.replace_many(rows, priorities)
            if self.fields.used:
                for row in rows.tolist():
                    self.fields.forget(row)
        self.priorities[rows] = priorities
        self.times_sampled[rows] = 0
        return self.keys[rows]

    def sample_many(self, count: int) -> Draw:
        """Draw items, or groups of them, one after another.

        There are fewer than `count` if the limiter stops it: because items went that were sampled for the last time, or
        because it counts tokens, episodes or the items of groups.
        """
        is_bounded = not self._is_plain and self.limiter.limiter.min_diff > -math.inf
        if self.table.max_times_sampled or self.table.extensions or is_bounded:
            draws = [self._sample()]
            while len(draws) < count and self.limiter.can_sample():
                draws.append(self._sample())
            held, infos, gone = zip(*(item for draw in draws for item in draw), strict=True)
            return Draw(held, together(infos), [one for one, went in zip(held, gone, strict=True) if went], len(draws))
        if count == 1 and self.groups is None:
            return self._draw_one()
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
        return Draw(self.contents.of_many(rows), info, [], count)

    def update(self, keys: Any, priorities: Any) -> int:
        """Give items other priorities; return of how many that are there."""
        rows = keys & ROW_MASK
        there = self.keys.take(rows, mode="clip") == keys
        if not there.all():
            rows, keys, priorities = rows[there], keys[there], priorities[there]
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
                    extension.on_update(self, keys)
        return len(rows)

    def delete(self, keys: Any) -> int:
        """Remove items, and the complete groups that they are in; return how many."""
        rows = dict.fromkeys(self.rows_of(keys).tolist())
        return sum(self.delete_row(row) for row in rows if row >= 0 and self._holds(row))

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
            rows = self.order.oldest(len(self))
            for row in rows[self.fields.policy_version[rows] < self.newest - self.table.max_age].tolist():
                if self._holds(row):  # else it went with its group
                    self.delete_row(row, for_age=True)
        return self.stale - before

    def _draw_one(self) -> Draw:
        """One item that stays, as quickly as may be."""
        row, probability = self.sampler.draw(self.generator)
        rows = np.array([row])
        self.limiter.samples += self._units(rows)
        times = self.times_sampled[row] = self.times_sampled.item(row) + 1
        info = SampleInfo(
            self.keys[rows],
            np.array([probability]),
            np.array([self._num_rows - len(self._free)]),
            self.priorities[rows],
            np.array([times]),
            np.zeros(1, np.bool_),
            *self.fields.known(rows, self.newest),
        )
        return Draw(self.contents.of_many(rows), info, [], 1)

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
            data = self.contents.of(row)
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

    def _holds(self, row: int) -> bool:
        return self.keys.item(row) & ROW_MASK == row

    def _free_row(self) -> int:
        if self._free:
            return self._free.pop()
        if self._num_rows == len(self.keys):
            self._grow()
        self._num_rows += 1
        return self._num_rows - 1

    def _free_rows(self, count: int) -> Any:
        start = max(0, len(self._free) - count)
        rows = self._free[start:][::-1]
        del self._free[start:]
        stop = self._num_rows + count - len(rows)
        while stop > len(self.keys):
            self._grow()
        rows += range(self._num_rows, stop)
        self._num_rows = stop
        return np.array(rows, np.int64)

    def _grow(self) -> None:
        row, more = len(self.keys), max(FIRST_ROWS, len(self.keys))
        self.keys = np.append(self.keys, np.arange(row, row + more) - 1)
        self.priorities = np.append(self.priorities, np.zeros(more))
        self.times_sampled = np.append(self.times_sampled, np.zeros(more, np.int64))
        self.contents.grow(more)
        # of these arrays, but one element is read and written in half the time
        self._key: Any = self.keys.data
        self._priority: Any = self.priorities.data
        self._times: Any = self.times_sampled.data

    def _take(self, row: int) -> Data:
        self.keys[row] += ONCE_MORE - 1
        if self.fields.used:
            self.fields.forget(row)
        return self.contents.take(row)

    def _tell(self, what: str, row: int) -> None:
        for extension in self.table.extensions:
            if function := getattr(extension, what):
                function(self, self.keys[row : row + 1].copy())
