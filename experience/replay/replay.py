"""Replay in this process: tables that agents insert into and learners sample from.

Source: Cassirer et al., Reverb: A Framework For Experience Replay, arXiv:2102.04736 (2021). The words are Reverb's.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experience.replay.arena import Store
from experience.replay.batch import Batch
from experience.replay.data import Data, drop_all
from experience.replay.live import Deadline, LiveTable, TableInfo
from experience.replay.signature import check_signature
from experience.replay.structure import flatten
from experience.replay.structured import Pattern, StructuredWriter
from experience.replay.table import SampleInfo, Table, TableState, joined
from experience.replay.writers import TrajectoryWriter


class Replay:
    """Tables of items; every method may be called from any thread."""

    def __init__(self, tables: Sequence[Table], *, seed: int = 0, max_bytes: int | None = None) -> None:
        """Make empty tables.

        Args:
            tables: Of different names.
            seed: Decides every draw: the same calls in the same order give the same items.
            max_bytes: Of the data of all items; what the remover of a table selects goes when an insert needs room.

        Raises:
            ValueError: There is no table, or two have one name.
        """
        names = [table.name for table in tables]
        if not tables or len(set(names)) < len(names):
            raise ValueError(f"got the tables {names}; expected at least one, each with its own name")
        self.lock = threading.RLock()
        self.store = Store()
        self._max_bytes = max_bytes
        self._tables = {
            table.name: LiveTable(TableState(table, np.random.default_rng([seed, place])), self.lock)
            for place, table in enumerate(tables)
        }

    def insert(self, data: Any, priorities: Mapping[str, float], timeout: float | None = None) -> dict[str, int]:
        """Insert one step as an item of some tables, which share its data.

        Args:
            data: Dicts, lists and tuples of arrays, numbers, texts and bytes; copied.
            priorities: Table to priority, from 0.
            timeout: Seconds to wait for each table; None: without end.

        Returns:
            Table to the key of the item.

        Raises:
            SignatureMismatch: The data is not what a table expects.
            ValueError: There is no such table, or a priority is negative or no number.
            RateLimited: A table does not take it in time; those before it in `priorities` have.
        """
        lives = [self.live(name) for name in priorities]
        for name, priority in priorities.items():
            if not 0 <= priority < float("inf"):
                raise ValueError(f"table {name!r}: got the priority {priority}; expected a finite number from 0")
        for live in lives:
            if live.state.table.signature is not None:
                check_signature(live.state.table, data)
        keys = {}
        with self.lock:
            cell = self.store.put(data)
            try:
                for live, (name, priority) in zip(lives, priorities.items(), strict=True):
                    if not live.state.limiter.can_insert():
                        live.wait_or_refuse("insert", 1, Deadline(timeout))
                    cell.hold()
                    keys[name] = self.insert_held(live, cell, priority)
            finally:
                cell.drop()
        return keys

    def insert_many(self, data: Any, priorities: Mapping[str, Any], timeout: float | None = None) -> dict[str, Any]:
        """Insert steps, stacked, as items of some tables: as `insert` does one after another, and much faster.

        Args:
            data: Dicts, lists and tuples of arrays, each with a first axis over the steps.
            priorities: Table to priorities, (n,).
            timeout: Seconds to wait for each table; None: without end.

        Returns:
            Table to the keys of its items, (n,) int64.

        Raises:
            ValueError, SignatureMismatch, RateLimited: As `insert`; what had been taken in time stays.
        """
        flat = flatten(data)
        lengths = {leaf.shape[0] if isinstance(leaf, np.ndarray) and leaf.ndim else -1 for leaf in flat.leaves}
        if len(lengths) != 1 or -1 in lengths:
            raise ValueError(
                "got data without one common first axis; expected arrays, each with an axis over the steps"
            )
        (count,) = lengths
        lives = [self.live(name) for name in priorities]
        weights = {name: np.asarray(given, np.float64) for name, given in priorities.items()}
        for name, given in weights.items():
            if given.shape != (count,) or not (given >= 0).all() or np.isinf(given).any():
                raise ValueError(f"table {name!r}: expected {count} priorities, finite and from 0")
        for live in lives:
            if live.state.table.signature is not None:
                check_signature(live.state.table, data, batched=True)
        keys = {}
        with self.lock:
            cells = self.store.put_many(flat, count) if count else []
            try:
                for live, (name, given) in zip(lives, weights.items(), strict=True):
                    keys[name] = self._insert_some(live, cells, given, timeout)
            finally:
                drop_all(cells)
        return keys

    def sample(self, table: str, num_samples: int = 1, timeout: float | None = None) -> Batch:
        """Sample items.

        Args:
            table: Its name.
            num_samples: How many.
            timeout: Seconds to wait for the limiter; None: without end.

        Returns:
            The items; fewer than asked for if the time was up.

        Raises:
            ValueError: There is no such table.
            RateLimited: The time was up before the first item.
        """
        live, deadline = self.live(table), Deadline(timeout)
        if num_samples < 1:
            raise ValueError(f"got num_samples={num_samples}; expected at least 1")
        limiter, held, infos = live.state.limiter, list[Data](), list[SampleInfo]()
        with self.lock:
            try:
                while len(held) < num_samples:
                    if waited := not limiter.can_sample():
                        if not live.wait("sample", deadline):
                            break
                        limiter = live.state.limiter  # another one after a reset
                    data, info = live.state.sample_many(limiter.most_samples(num_samples - len(held)))
                    held += data
                    infos.append(info._replace(rate_limited=np.full(len(data), waited)))
                    live.changed()
                if not held:
                    raise live.refusal("sample", num_samples, deadline)
                return Batch(held, joined(infos))
            finally:
                drop_all(held)

    def update_priorities(self, table: str, keys: Any, priorities: Any) -> int:
        """Give items other priorities, and return of how many; keys of items that are gone are passed over.

        Args:
            table: Its name.
            keys: (n,) int64, `batch.info.key`.
            priorities: (n,), from 0.

        Raises:
            ValueError: A priority is negative or no number; nothing was changed.
        """
        live = self.live(table)
        keys, priorities = np.asarray(keys, np.int64), np.asarray(priorities, np.float64)
        if keys.shape != priorities.shape or not (priorities >= 0).all() or np.isinf(priorities).any():
            raise ValueError(f"table {table!r}: expected as many priorities as keys, finite and from 0")
        with self.lock:
            return live.state.update(keys, priorities)

    def delete(self, table: str, keys: Any) -> int:
        """Remove items, and return how many; keys of items that are gone are passed over."""
        live = self.live(table)
        with self.lock:
            count = live.state.delete(np.asarray(keys, np.int64))
            live.changed()
        return count

    def reset(self, table: str) -> None:
        """Empty a table and zero the counters of its limiter."""
        live = self.live(table)
        with self.lock:
            live.state.reset()
            live.changed()

    def can_sample(self, table: str, num_samples: int = 1) -> bool:
        """Whether so many samples would not wait now."""
        with self.lock:
            return self.live(table).state.limiter.can_sample(num_samples)

    def can_insert(self, table: str, num_inserts: int = 1) -> bool:
        """Whether so many inserts would not wait now."""
        with self.lock:
            return self.live(table).state.limiter.can_insert(num_inserts)

    def info(self) -> dict[str, TableInfo]:
        """Return what every table is at."""
        with self.lock:
            return {name: live.info() for name, live in self._tables.items()}

    @property
    def num_bytes(self) -> int:
        """Of the data of all items, and of the steps that writers keep."""
        with self.lock:
            return self.store.num_bytes

    def trajectory_writer(self, num_keep_alive_refs: int) -> TrajectoryWriter:
        """Return a writer of items of any part of the last so many steps."""
        return TrajectoryWriter(self, num_keep_alive_refs)

    def structured_writer(self, patterns: Sequence[Pattern]) -> StructuredWriter:
        """Return a writer of the items that patterns make of its steps."""
        return StructuredWriter(self, patterns)

    def live(self, table: str) -> LiveTable:
        """Return a table at work; for use under `lock`.

        Raises:
            ValueError: There is no such table.
        """
        if table not in self._tables:
            raise ValueError(f"got the table {table!r}; expected one of {', '.join(self._tables)}")
        return self._tables[table]

    def insert_held(self, live: LiveTable, data: Data, priority: float) -> int:
        """Insert data of which a reference is handed over; for use under `lock`, after the limiter was asked."""
        try:
            self._make_room(live.state)
        except ValueError:
            data.drop()
            raise
        key = live.state.insert(data, priority)
        live.changed()
        return key

    def _insert_some(self, live: LiveTable, cells: Sequence[Data], priorities: Any, timeout: float | None) -> Any:
        keys, start, deadline = [], 0, Deadline(timeout)
        while start < len(cells):
            allowed = live.state.limiter.most_inserts(min(len(cells) - start, live.state.table.max_size))
            if not allowed:
                live.wait_or_refuse("insert", len(cells) - start, deadline)
                continue
            self._make_room(live.state)
            some = cells[start : start + allowed]
            for one in some:
                one.hold()
            keys.append(live.state.insert_many(some, priorities[start : start + allowed]))
            start += allowed
            live.changed()
        return np.concatenate(keys) if keys else np.zeros(0, np.int64)

    def _make_room(self, state: TableState) -> None:
        """Remove items until what is stored, the data of the insert included, is within max_bytes."""
        if self._max_bytes is None:
            return
        while self.store.num_bytes > self._max_bytes:
            if not len(state):
                raise ValueError(
                    f"table {state.table.name!r}: what is stored takes {self.store.num_bytes} bytes with this insert, "
                    f"and no item is left to remove; expected at most max_bytes={self._max_bytes}"
                )
            state.remove_one()
