"""Replay in this process: tables that agents insert into and learners sample from.

Source: Cassirer et al., Reverb: A Framework For Experience Replay, arXiv:2102.04736 (2021). The words are Reverb's.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from experience.replay.batch import Batch
from experience.replay.core import Core
from experience.replay.data.arena import Store
from experience.replay.data.errors import RateLimited
from experience.replay.data.items import Data, drop_all, hold_all
from experience.replay.data.structure import flatten
from experience.replay.durable import Durable
from experience.replay.structured import Pattern, StructuredWriter
from experience.replay.tables.draws import Draw, joined
from experience.replay.tables.fields import Fields, demand_fields, is_whole
from experience.replay.tables.live import Deadline, TableInfo
from experience.replay.tables.signature import check
from experience.replay.tables.table import Table
from experience.replay.writers import TrajectoryWriter

if TYPE_CHECKING:
    from experience.replay.on_ray.client import RayReplay


class Replay:
    """Tables of items; every method may be called from any thread."""

    def __init__(
        self,
        tables: Sequence[Table],
        *,
        seed: int = 0,
        max_bytes: int | None = None,
        folder: Path | None = None,
        sync: bool = False,
        replace_limiters: bool = False,
        store: Store | None = None,
    ) -> None:
        """Make tables, empty or with what a folder holds of them.

        Args:
            tables: Of different names.
            seed: Decides every draw: the same calls in the same order give the same items.
            max_bytes: Of the data of all items; what the remover of a table selects goes when an insert needs room.
            folder: Where every call that changes something is logged before it returns, and from which the same state
                comes again after a crash; None: nowhere.
            sync: Calls return when the log is on the disk, so that they survive the loss of power as well.
            replace_limiters: The limiters of the tables may differ from those that the folder knows.
            store: Where the data of items lies; None: in this process.

        Raises:
            ValueError: There is no table, two have one name, or the folder's are others.
            Broken: The checkpoint in the folder is damaged.
        """
        self.core = Core(tables, seed, max_bytes, store or Store())
        self._durable = Durable(folder, self.core, sync=sync, replace_limiters=replace_limiters) if folder else None

    @classmethod
    def on_ray(
        cls,
        address: str | None,
        tables: Sequence[Table],
        *,
        name: str = "replay",
        shards: int = 1,
        least_row_bytes: int = 32 << 10,
        **options: Any,
    ) -> "RayReplay":
        """Return a replay for many machines: the same calls, the tables in actors of a Ray cluster.

        Args:
            address: Of the cluster, as `ray.init` takes it; None: the one that this process is connected to, or a new
                one on this machine.
            tables: As above; of no meaning if the replay is there already.
            name: Of the actor: who asks for the same name gets the same replay. It lives until `close`.
            shards: Number of actors. Each has the tables, sizes and limiters included, and a share of the items.
            least_row_bytes: Of a step whose data lies in Ray's object store, in groups; smaller ones lie with the
                actor.
            options: seed, max_bytes, folder, sync, replace_limiters as above. With a folder it comes back after its
                death with all that was acknowledged; the folder is the actor's.

        Raises:
            ValueError: Ray is not installed, or `Replay` refuses what it is given.
            WrongVersion: The replay is there, of another version.
            Unavailable: The actor is dead.
        """
        try:
            from experience.replay.on_ray.client import connect
        except ModuleNotFoundError as fault:
            raise ValueError("a replay on Ray needs ray; run `pip install 'open-medgemma[ray]'`") from fault
        return connect(cls, address, tables, name, shards, least_row_bytes, options)

    def insert(
        self, data: Any, priorities: Mapping[str, float], timeout: float | None = None, fields: Fields | None = None
    ) -> dict[str, int]:
        """Insert one step as an item of some tables, which share its data.

        Args:
            data: Dicts, lists and tuples of arrays, numbers, texts and bytes; copied.
            priorities: Table to priority, from 0.
            timeout: Seconds to wait for each table; None: without end.
            fields: What is known of it beside its data.

        Returns:
            Table to the key of the item; the item may be gone already, by a remover or for its age.

        Raises:
            SignatureMismatch: The data is not what a table expects.
            ValueError: There is no such table, a priority is negative or no number, or a table needs fields that are
                not given.
            RateLimited: A table does not take it in time; those before it in `priorities` have.
        """
        core = self.core
        tables = core.lives(priorities)
        if fields is not None:
            demand_fields(fields)
        for name, priority in priorities.items():
            try:
                is_priority = 0 <= priority < math.inf
            except TypeError:
                is_priority = False
            if not is_priority:
                raise ValueError(f"table {name!r}: got the priority {priority!r}; expected a finite number from 0")
            if tables[name].is_checked:
                check(tables[name].state.table, data, fields)
        keys: dict[str, int] = {}
        with core.lock:
            cell = core.put(data, len(priorities))
            try:
                for name, priority in priorities.items():
                    keys[name] = core.insert(tables[name], cell, priority, timeout, fields)
            except BaseException:
                for _ in range(len(priorities) - len(keys) - 1):
                    cell.drop()
                raise
        core.acknowledge()
        return keys

    def insert_many(
        self,
        data: Any,
        priorities: Mapping[str, Any],
        timeout: float | None = None,
        fields: Sequence[Fields] | None = None,
    ) -> dict[str, Any]:
        """Insert steps, stacked, as items of some tables: as `insert` does one after another, and much faster.

        Args:
            data: Dicts, lists and tuples of arrays, each with a first axis over the steps.
            priorities: Table to priorities, (n,).
            timeout: Seconds to wait for each table; None: without end.
            fields: Of each.

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
        tables = self.core.lives(priorities)
        weights = {name: np.asarray(given, np.float64) for name, given in priorities.items()}
        for name, given in weights.items():
            if given.shape != (count,) or not _are_priorities(given):
                raise ValueError(f"table {name!r}: expected {count} priorities, finite and from 0")
        if fields is not None:
            each = [fields] if isinstance(fields, Fields) else fields
            if len(each) != count or each is not fields:
                raise ValueError(f"got {len(each)} fields for {count} steps; expected one each, in a list")
            for one in each:
                demand_fields(one)
        for name in priorities:
            if tables[name].is_checked:
                check(tables[name].state.table, data, *(fields or (None,)), batched=True)
        keys: dict[str, Any] = {}
        with self.core.lock:
            at_once = bool(self.core.log) and fields is None and self.core.takes_at_once(weights, count)
            cells = self.core.put_many(flat, count, len(weights), weights if at_once else None)
            try:
                for name, given in weights.items():
                    keys[name] = self.core.insert_many(tables[name], cells, given, timeout, fields, logged=at_once)
            except BaseException:
                for _ in range(len(weights) - len(keys) - 1):
                    cells.drop()
                raise
        self.core.acknowledge()
        return keys

    def sample(self, table: str, num_samples: int = 1, timeout: float | None = None) -> Batch:
        """Sample items.

        Args:
            table: Its name.
            num_samples: How many; of a table with a group_size, how many groups.
            timeout: Seconds to wait for the limiter; None: without end.

        Returns:
            The items; fewer than asked for if the time was up.

        Raises:
            ValueError: There is no such table.
            RateLimited: The time was up before the first item.
        """
        live, deadline = self.core.live(table), Deadline(timeout)
        if not is_whole(num_samples, 1):
            raise ValueError(f"got num_samples={num_samples!r}; expected a whole number from 1")
        drawn: list[Draw] = []
        gone: list[Data] = []
        missing = num_samples
        with self.core.lock:
            try:
                while missing:
                    waited = not live.state.limiter.can_sample()
                    if waited and not live.wait("sample", deadline):
                        break
                    draw = self.core.sample(live, missing)
                    if waited:
                        draw.info.rate_limited[:] = True
                    drawn.append(draw)
                    gone += draw.gone
                    missing -= draw.num_draws
                    if missing:  # others may remove what was drawn, while this waits
                        gone += hold_all(draw.data)
                if not drawn:
                    raise live.refusal("sample", num_samples, deadline)
                whole = joined(drawn)
                batch = Batch(whole.data, whole.info)
            finally:
                if gone:
                    drop_all(gone)
        self.core.acknowledge()
        return batch

    def batches(self, table: str, num_samples: int, timeout: float | None = None) -> Iterator[Batch]:
        """Yield what `sample` gives, again and again, until a limiter lets none through in time."""
        while True:
            try:
                batch = self.sample(table, num_samples, timeout)
            except RateLimited:
                return
            yield batch

    def update_priorities(self, table: str, keys: Any, priorities: Any) -> int:
        """Give items other priorities, and return of how many; keys of items that are gone are passed over.

        Args:
            table: Its name.
            keys: (n,) int64, `batch.info.key`.
            priorities: (n,), from 0.

        Raises:
            ValueError: A priority is negative or no number; nothing was changed.
        """
        live = self.core.live(table)
        keys, priorities = np.asarray(keys, np.int64), np.asarray(priorities, np.float64)
        if keys.shape != priorities.shape or not _are_priorities(priorities):
            raise ValueError(f"table {table!r}: expected as many priorities as keys, finite and from 0")
        with self.core.lock:
            count = self.core.update(live, keys.ravel(), priorities.ravel())
        self.core.acknowledge()
        return count

    def set_policy_version(self, table: str, policy_version: int) -> int:
        """Say which policy the learner has now, and return how many items went for their age.

        Staleness and max_age are measured by the newest version that a table knows, from here or from an item.

        Raises:
            ValueError: The version is no whole number from 0.
        """
        live = self.core.live(table)
        if not is_whole(policy_version, 0):
            raise ValueError(f"got policy_version={policy_version!r}; expected a whole number from 0")
        with self.core.lock:
            count = self.core.set_policy_version(live, int(policy_version))
        self.core.acknowledge()
        return count

    def delete(self, table: str, keys: Any) -> int:
        """Remove items, and return how many; keys of items that are gone are passed over.

        Of a table with a group_size, the complete groups that they are in.
        """
        live = self.core.live(table)
        with self.core.lock:
            count = self.core.delete(live, np.asarray(keys, np.int64).ravel())
        self.core.acknowledge()
        return count

    def reset(self, table: str) -> None:
        """Empty a table and zero the counters of its limiter."""
        live = self.core.live(table)
        with self.core.lock:
            self.core.reset(live)
        self.core.acknowledge()

    def checkpoint(self) -> Path:
        """Write all that the replay holds to its folder, and begin a new log; nobody else is served meanwhile.

        Raises:
            ValueError: It has no folder.
        """
        return self._folder().checkpoint()

    def sync(self) -> None:
        """Make every call that has returned survive the loss of power.

        Raises:
            ValueError: It has no folder.
        """
        self._folder().sync()

    def close(self) -> None:
        """Let go of the folder, if there is one; what it knows stays in it."""
        if self._durable:
            self._durable.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def can_sample(self, table: str, num_samples: int = 1) -> bool:
        """Whether so many samples would not wait now, in what the limiter counts."""
        with self.core.lock:
            return self.core.live(table).state.limiter.can_sample(num_samples)

    def can_insert(self, table: str, num_inserts: int = 1) -> bool:
        """Whether so many inserts would not wait now, in what the limiter counts."""
        with self.core.lock:
            return self.core.live(table).state.limiter.can_insert(num_inserts)

    def info(self) -> dict[str, TableInfo]:
        """Return what every table is at."""
        with self.core.lock:
            return {name: live.info() for name, live in self.core.tables.items()}

    @property
    def num_bytes(self) -> int:
        """Of the data of all items, and of the steps that writers keep."""
        with self.core.lock:
            return self.core.store.num_bytes

    def trajectory_writer(self, num_keep_alive_refs: int) -> TrajectoryWriter:
        """Return a writer of items of any part of the last so many steps."""
        return TrajectoryWriter(self.core, num_keep_alive_refs)

    def structured_writer(self, patterns: Sequence[Pattern]) -> StructuredWriter:
        """Return a writer of the items that patterns make of its steps."""
        return StructuredWriter(self.core, patterns)

    def _folder(self) -> Durable:
        if self._durable is None:
            raise ValueError("the replay has no folder; give it one: Replay(tables, folder=...)")
        return self._durable


def _are_priorities(given: Any) -> bool:
    """Whether numbers are finite and from 0; of some with a NaN both the least and the largest are NaN."""
    least, largest = np.minimum.reduce(given, None, initial=0.0), np.maximum.reduce(given, None, initial=0.0)
    return bool(least >= 0 and largest < math.inf)
