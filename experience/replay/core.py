"""What all calls of a replay go through: one lock, the store, the tables, and the log of what was changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from experience.replay.data.arena import Cell, Cells, Store
from experience.replay.data.items import Data, part
from experience.replay.data.structure import Flat, unflatten
from experience.replay.log import CallLog
from experience.replay.tables.draws import Draw
from experience.replay.tables.fields import Fields
from experience.replay.tables.live import Deadline, LiveTable
from experience.replay.tables.state import TableState
from experience.replay.tables.table import Table


class Tables(dict[str, LiveTable]):
    """Tables at work by their names; one that is not there is refused."""

    def __missing__(self, name: str) -> LiveTable:
        raise ValueError(f"got the table {name!r}; expected one of {', '.join(self)}")


class Core:
    """Tables and what they hold. Whoever calls a method holds `lock`."""

    def __init__(self, tables: Sequence[Table], seed: int, max_bytes: int | None, store: Store) -> None:
        names = [table.name for table in tables]
        if not tables or len(set(names)) < len(names):
            raise ValueError(f"got the tables {names}; expected at least one, each with its own name")
        self.lock = threading.RLock()
        self.store = store
        self.max_bytes = max_bytes
        self.log: CallLog | None = None
        self.synced: Callable[[], None] | None = None
        """Called before a call that changed something returns, without the lock."""
        self.tables = Tables(
            (table.name, LiveTable(TableState(table, np.random.default_rng([seed, place])), self.lock))
            for place, table in enumerate(tables)
        )

    def live(self, table: str) -> LiveTable:
        """Return a table at work.

        Raises:
            ValueError: There is no such table.
        """
        return self.tables[table]

    def lives(self, priorities: Collection[str]) -> Tables:
        """Return the tables, if there is one to insert into.

        Raises:
            ValueError: There is none.
        """
        if not priorities:
            raise ValueError("got no table to insert into; expected priorities={TABLE: PRIORITY}")
        return self.tables

    def acknowledge(self) -> None:
        """End a call: what it changed is as safe as was asked for. Not under the lock."""
        if self.synced:
            self.synced()

    def put(self, data: Any, references: int = 1) -> Cell:
        """Store the data of a step, with so many references."""
        if not self.log:
            return self.store.put(data, references)
        number = self.log.put(data, 1)
        cell = self.store.put(data, references)
        self.log.numbers.number(Cells(cell.arena, [cell.row]), number)
        return cell

    def takes_at_once(self, priorities: Collection[str], count: int) -> bool:
        """Whether tables take so many items of single steps now, with no wait and nothing else to log in between."""
        states = [self.tables[name].state for name in priorities]
        return self.max_bytes is None and all(
            state.most_inserts(count) == count and not state.table.extensions for state in states
        )

    def put_many(self, flat: Flat, count: int, references: int, inserted: Mapping[str, Any] | None = None) -> Cells:
        """Store the data of steps, stacked, with so many references each.

        Args:
            flat: The data.
            count: Of steps.
            references: Of each.
            inserted: Tables that they are inserted into at once, to priorities: logged here.
        """
        if not self.log:
            return self.store.put_many(flat, count, references)
        numbers = self.log.put(unflatten(*flat), count, batched=True, inserted=inserted)
        cells = self.store.put_many(flat, count, references)
        self.log.numbers.number(cells, numbers)
        return cells

    def insert(
        self, live: LiveTable, data: Data, priority: float, timeout: float | None, fields: Fields | None = None
    ) -> int:
        """Insert an item and return its key; takes over a reference of its data, whatever happens.

        Raises:
            RateLimited: The limiter does not let it through in time.
        """
        try:
            if not live.state.limiter.can_insert():
                live.wait_or_refuse("insert", 1, Deadline(timeout))
            if self.max_bytes is not None:
                self._make_room(live, self.max_bytes)
            if self.log:
                self.log.insert(live, [data], [priority], [fields] if fields else None)
        except BaseException:
            data.drop()
            live.changed()
            raise
        key = live.state.insert(data, priority, fields)
        live.changed()
        return key

    def insert_many(
        self,
        live: LiveTable,
        cells: Cells,
        priorities: Any,
        timeout: float | None,
        fields: Sequence[Fields] | None = None,
        *,
        logged: bool = False,
    ) -> Any:
        """Insert items one after another and return their keys; takes over a reference of each, whatever happens.

        Args:
            live: The table.
            cells: Data of the items.
            priorities: (n,).
            timeout: Seconds to wait; None: without end.
            fields: Of each.
            logged: Whether the log has them, from `put_many`.

        Raises:
            RateLimited: The limiter does not let all through in time; those that it did are in the table.
        """
        keys, start, count, deadline = [np.zeros(0, np.int64)], 0, len(priorities), Deadline(timeout)
        while start < count:
            try:
                if not (allowed := live.state.most_inserts(count - start)):
                    live.wait_or_refuse("insert", count - start, deadline)
                    continue
                if self.max_bytes is not None:
                    self._make_room(live, self.max_bytes)
                where = slice(start, start + allowed)
                some, weights, known = part(cells, where), priorities[where], fields and fields[where]
                if self.log and not logged:
                    self.log.insert(live, some, weights, known)
            except BaseException:
                cells.arena.drop(cells.rows[start:])
                live.changed()
                raise
            keys.append(live.state.insert_many(some, weights, known))
            start += allowed
            live.changed()
        return np.concatenate(keys) if len(keys) != 2 else keys[1]

    def sample(self, live: LiveTable, count: int) -> Draw:
        """Draw as many items or groups as the limiter lets through at once, one at least."""
        count = live.state.most_samples(count)
        if self.log:
            self.log.call("sample", live, count=count)
        drawn = live.state.sample_many(count)
        live.changed()
        return drawn

    def update(self, live: LiveTable, keys: Any, priorities: Any) -> int:
        """Give items other priorities; return of how many that are there."""
        if self.log:
            self.log.call("update", live, keys=keys, priorities=priorities)
        return live.state.update(keys, priorities)

    def set_policy_version(self, live: LiveTable, policy_version: int) -> int:
        """Take note of a newer policy; return how many items went for their age."""
        if self.log:
            self.log.call("policy", live, policy_version=policy_version)
        count = live.state.advance(policy_version)
        live.changed()
        return count

    def delete(self, live: LiveTable, keys: Any) -> int:
        """Remove items; return how many were there."""
        if self.log:
            self.log.call("delete", live, keys=keys)
        count = live.state.delete(keys)
        live.changed()
        return count

    def reset(self, live: LiveTable) -> None:
        """Empty a table and zero the counters of its limiter."""
        if self.log:
            self.log.call("reset", live)
        live.state.reset()
        live.changed()

    def _make_room(self, live: LiveTable, max_bytes: int) -> None:
        """Remove items until what is stored, the data of the insert included, is within max_bytes."""
        while self.store.num_bytes > max_bytes:
            if not len(live.state):
                raise ValueError(
                    f"table {live.state.table.name!r}: what is stored takes {self.store.num_bytes} bytes with this "
                    f"insert, and no item is left to remove; expected at most max_bytes={max_bytes}"
                )
            if self.log:
                self.log.call("remove", live)
            live.state.remove_one()
