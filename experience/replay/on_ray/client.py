"""The calls of `Replay`, from any process of a Ray cluster."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count as counted
from pathlib import Path
from typing import Any

import numpy as np
import ray

from experience.replay.batch import Batch
from experience.replay.data.errors import RateLimited, Unavailable, WrongVersion
from experience.replay.data.structure import flatten, unflatten
from experience.replay.on_ray import shards
from experience.replay.on_ray.actor import CALLS_AT_ONCE, IN_THE_MESSAGE_BYTES, MAY_WAIT, ReplayActor, Standing
from experience.replay.on_ray.calls import Actor, Groups
from experience.replay.on_ray.slabs import Lender, NotHere
from experience.replay.on_ray.writer import RayWriter
from experience.replay.structured import Pattern
from experience.replay.tables.fields import Fields
from experience.replay.tables.live import Deadline, TableInfo
from experience.replay.tables.table import Table

NAMESPACE = "open-medgemma"
"""Of the actors' names."""

IN_THE_MESSAGE = "RAY_max_direct_call_object_size", str(IN_THE_MESSAGE_BYTES)

LOOK_S = 0.1
"""How old what a client knows of the shards' weights may be, and how long it waits for all before it looks again."""


def connect(
    make: Callable[..., Any],
    address: str | None,
    tables: Sequence[Table],
    name: str,
    num_shards: int,
    least_row_bytes: int,
    options: Mapping[str, Any],
) -> RayReplay:
    """Return the replay of a name; the first who asks makes it (see `Replay.on_ray`)."""
    if num_shards < 1:
        raise ValueError(f"got shards={num_shards}; expected 1 or more")
    if not ray.is_initialized():
        os.environ.setdefault(*IN_THE_MESSAGE)
        ray.init(address=address, log_to_driver=False)
    options = dict(options)
    if options.get("folder"):
        options["folder"] = Path(options["folder"]).absolute()

    def actor(number: int, of: int) -> Any:
        threads = {"others": 8, **dict.fromkeys(MAY_WAIT.values(), CALLS_AT_ONCE)}
        made = ray.remote(concurrency_groups=threads)(ReplayActor).options(
            name=f"{name}/{number}" if number else name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1 if options.get("folder") else 0,
            num_cpus=0,
        )
        return made.remote(make, list(tables), (number, of), least_row_bytes, options)

    handles = [actor(0, num_shards)]
    try:
        there, comes_back = Actor(handles[0], name, False).ask("met")
        handles += [actor(number, there) for number in range(1, there)]
        actors = [Actor(handle, name, comes_back) for handle in handles]
        for one in actors[1:]:
            one.ask("met")
    except (ValueError, OSError) as fault:
        if not isinstance(fault, WrongVersion):
            for handle in handles:
                ray.kill(handle)
        raise
    return RayReplay(actors)


class RayReplay:
    """A replay in actors: the calls of `Replay`, from any process that it is sent to, and from any thread.

    A call that was under way when its actor died raises `Unavailable`: whether it was done is not known. What had
    returned is there again, if the replay has a folder.
    """

    def __init__(self, actors: Sequence[Actor]) -> None:
        """Begin as a client.

        Args:
            actors: One a shard.
        """
        self._actors = list(actors)
        self._groups = [Groups() for _ in actors]
        self._lenders = [Lender() for _ in actors]
        self._generator = np.random.default_rng()
        self._turn = counted(int(self._generator.integers(len(actors))))
        self._standings: dict[str, tuple[float, list[Standing]]] = {}

    def __reduce__(self) -> Any:
        return RayReplay, (self._actors,)

    def insert(
        self, data: Any, priorities: Mapping[str, float], timeout: float | None = None, fields: Fields | None = None
    ) -> dict[str, int]:
        """See `Replay.insert`; into the shard of its group, or each in its turn."""
        shard = shards.shard_of(fields, len(self._actors), self._next_shard())
        keys: dict[str, int] = self._insert(shard, "insert", data, dict(priorities), timeout, fields)
        return keys

    def insert_many(
        self,
        data: Any,
        priorities: Mapping[str, Any],
        timeout: float | None = None,
        fields: Sequence[Fields] | None = None,
    ) -> dict[str, Any]:
        """See `Replay.insert_many`; into the shards of their groups, or all into one, each in its turn."""
        turn, deadline = self._next_shard(), Deadline(timeout)
        own = [shards.shard_of(one, len(self._actors), turn) for one in fields] if isinstance(fields, Sequence) else []
        if len(set(own)) < 2:
            return self._insert(own[0] if own else turn, "insert_many", data, dict(priorities), timeout, fields)
        return self._insert_apart(np.array(own), data, priorities, deadline, fields)

    def sample(self, table: str, num_samples: int = 1, timeout: float | None = None) -> Batch:
        """See `Replay.sample`.

        Raises:
            Unavailable: The actor is dead, or died meanwhile.
            Expired: What was sampled lay with an actor that has died since.
        """
        if len(self._actors) == 1:
            (batch,) = self._end_sample(0, self._begin_sample(0, table, num_samples, timeout))
            return batch
        deadline, drawn = Deadline(timeout), list[Batch]()
        missing = num_samples
        while missing > 0 and (some := self._sample_some(table, missing, deadline)):
            drawn.append(some[0])
            missing -= some[1]
        if not drawn:
            why = self.info()[table].why_no_sample or "a shard could be sampled from just now"
            waited_s = time.monotonic() - deadline.begin
            raise RateLimited(f"table {table!r}: sample was blocked for {waited_s:.3g} s; {why}")
        return shards.in_order(drawn)

    def batches(
        self, table: str, num_samples: int, timeout: float | None = None, *, in_flight: int = 8
    ) -> Iterator[Batch]:
        """See `Replay.batches`; some are asked for before they are needed, with several shards none.

        Args:
            table: Its name.
            num_samples: Of a batch.
            timeout: Seconds to wait for the limiter; None: without end.
            in_flight: How many are asked for ahead, in two calls if they are small. Their items count as sampled, also
                if nobody takes them.
        """
        begun, ready, ended = deque[tuple[int, Any]](), deque[Batch](), False
        together = max(1, in_flight // 2) if len(self._actors) == 1 else 0
        while begun or ready or not ended:
            while together and not ended and sum(many for many, _ in begun) + len(ready) + together <= in_flight:
                begun.append((together, self._begin_sample(0, table, num_samples, timeout, together - 1)))
            try:
                if not ready and begun:
                    ready += (came := self._end_sample(0, begun.popleft()[1]))
                    together = max(1, min(in_flight // 2, 2 * len(came)))
                elif not ready:
                    ready.append(self.sample(table, num_samples, timeout))
            except RateLimited:
                ended = True  # those asked for before may have come through
                continue
            yield ready.popleft()

    def update_priorities(self, table: str, keys: Any, priorities: Any) -> int:
        """See `Replay.update_priorities`."""
        keys, priorities = np.asarray(keys, np.int64), np.asarray(priorities, np.float64)
        if keys.shape != priorities.shape:
            raise ValueError(f"table {table!r}: expected as many priorities as keys, finite and from 0")
        own = shards.by_shard(keys, len(self._actors))
        return sum(self._all("update_priorities", [(table, mine, priorities[which]) for which, mine in own]))

    def set_policy_version(self, table: str, policy_version: int) -> int:
        """See `Replay.set_policy_version`; of all shards, each of which knows the newest version of its own items."""
        return sum(self._all("set_policy_version", [(table, policy_version)] * len(self._actors)))

    def delete(self, table: str, keys: Any) -> int:
        """See `Replay.delete`."""
        own = shards.by_shard(np.asarray(keys, np.int64), len(self._actors))
        return sum(self._all("delete", [(table, mine) for _, mine in own]))

    def reset(self, table: str) -> None:
        """See `Replay.reset`."""
        self._all("reset", [(table,)] * len(self._actors))

    def can_sample(self, table: str, num_samples: int = 1) -> bool:
        """See `Replay.can_sample`: whether one of the shards would let them through."""
        return any(self._all("can_sample", [(table, num_samples)] * len(self._actors)))

    def can_insert(self, table: str, num_inserts: int = 1) -> bool:
        """See `Replay.can_insert`: whether all of the shards would let them through."""
        return all(self._all("can_insert", [(table, num_inserts)] * len(self._actors)))

    def info(self) -> dict[str, TableInfo]:
        """See `Replay.info`; of all shards together."""
        return shards.merged_info(self._all("info"))

    @property
    def num_bytes(self) -> int:
        """See `Replay.num_bytes`; the object store holds twice as much at most."""
        return sum(actor.ask("num_bytes") for actor in self._actors)

    def checkpoint(self) -> Path:
        """See `Replay.checkpoint`; the path is of the first actor's machine."""
        path: Path = self._all("checkpoint")[0]
        return path

    def sync(self) -> None:
        """See `Replay.sync`."""
        self._all("sync")

    def trajectory_writer(self, num_keep_alive_refs: int) -> RayWriter:
        """See `Replay.trajectory_writer`; it writes to one of the shards, each in its turn."""
        return RayWriter(self._next(), "trajectory_writer", num_keep_alive_refs)

    def structured_writer(self, patterns: Sequence[Pattern]) -> RayWriter:
        """See `Replay.structured_writer`; it writes to one of the shards, each in its turn."""
        return RayWriter(self._next(), "structured_writer", list(patterns))

    def close(self) -> None:
        """End the actors, if they are alive; what their folder knows stays."""
        for actor in self._actors:
            with suppress(Unavailable):
                actor.ask("call", "close", ())
            ray.kill(actor.handle)

    def _next(self) -> Actor:
        return self._actors[self._next_shard()]

    def _next_shard(self) -> int:
        return next(self._turn) % len(self._actors)

    def _insert_apart(
        self, own: Any, data: Any, priorities: Mapping[str, Any], deadline: Deadline, fields: Any
    ) -> dict[str, Any]:
        """Insert steps, each into its shard, one shard after another; `own`: shard of each, (n,) int64."""
        structure, leaves = flatten(data)
        given = {name: np.asarray(one) for name, one in priorities.items()}
        if any(np.shape(one)[:1] != own.shape for one in (*leaves, *given.values())):
            raise ValueError(f"got {len(own)} fields; expected as many steps, stacked, and as many priorities")
        keys = {name: np.zeros(len(own), np.int64) for name in given}
        for shard in np.unique(own).tolist():
            mine = np.nonzero(own == shard)[0]
            some = unflatten(structure, [leaf[mine] for leaf in leaves])
            weights, known = {name: one[mine] for name, one in given.items()}, [fields[one] for one in mine.tolist()]
            for name, its in self._insert(shard, "insert_many", some, weights, deadline.left_s(), known).items():
                keys[name][mine] = its
        return keys

    def _insert(self, shard: int, name: str, data: Any, *others: Any) -> dict[str, Any]:
        actor, lender = self._actors[shard], self._lenders[shard]
        keys = None
        if filled := lender.filled(data):
            slab, lent = filled
            try:
                keys = actor.ask("insert", name, lent, others)
                lender.free(slab)  # not after a fault, when the call may go on
            except NotHere:
                lender.stop()
        if keys is None:
            keys = actor.ask("insert", name, data, others)
        return {table: shards.global_keys(mine, shard, len(self._actors)) for table, mine in keys.items()}

    def _all(self, name: str, arguments: Sequence[tuple[Any, ...]] = ()) -> list[Any]:
        """Call all actors at once; return what each gives."""
        each = arguments or [()] * len(self._actors)
        begun = [actor.begin("call", name, mine) for actor, mine in zip(self._actors, each, strict=True)]
        return [actor.end(reference) for actor, reference in zip(self._actors, begun, strict=True)]

    def _begin_sample(
        self, shard: int, table: str, count: int, timeout: float | None, ahead: int = 0
    ) -> tuple[Any, Any]:
        known = self._groups[shard].known()
        numbers = np.fromiter(known, np.int64, len(known))
        return known, self._actors[shard].begin("sample", numbers, table, count, timeout, ahead)

    def _end_sample(self, shard: int, begun: tuple[Any, Any]) -> list[Batch]:
        """Return what `_begin_sample` asked for, and what came along, in batches as large as the first."""
        known, reference = begun
        first, *more = [self._groups[shard].batch(one, known) for one in self._actors[shard].end(reference)]
        return [first, *(part for batch in more for part in shards.parts(batch, len(first)))]

    def _sample_some(self, table: str, count: int, deadline: Deadline) -> tuple[Batch, int] | None:
        """Draw shards, and items or groups from them, as many as the limiters let through, and say how many that are.

        None: the time is up.
        """
        while True:
            standings = self._standing(table)
            probabilities = shards.shares(standings)
            if probabilities.any():
                draws = self._generator.choice(len(self._actors), count, p=probabilities)
                wanted = [(shard, many) for shard, many in enumerate(np.bincount(draws).tolist()) if many]
                begun = [(shard, self._begin_sample(shard, table, many, 0.0)) for shard, many in wanted]
                batches = []
                for shard, one in begun:
                    with suppress(RateLimited):
                        batches += [(shard, batch) for batch in self._end_sample(shard, one)]
                found = sum(len(batch) for _, batch in batches) // standings[0].items_of_a_draw
                if found < count:
                    del self._standings[table]
                if batches:
                    return shards.joined(batches, draws, probabilities, standings), found
            elif not self._wait(table, deadline):
                return None

    def _standing(self, table: str) -> list[Standing]:
        """What each shard weighs, not older than LOOK_S."""
        seen_s, standings = self._standings.get(table, (0.0, []))
        if not standings or time.monotonic() - seen_s > LOOK_S:
            begun = [actor.begin("standing", table) for actor in self._actors]
            standings = [actor.end(one) for actor, one in zip(self._actors, begun, strict=True)]
            self._standings[table] = time.monotonic(), standings
        return standings

    def _wait(self, table: str, deadline: Deadline) -> bool:
        """Wait a little until a shard can be sampled from; False: the time is up."""
        left_s = deadline.left_s()
        if left_s is not None and left_s <= 0:
            return False
        wait_s = LOOK_S if left_s is None else min(left_s, LOOK_S)
        begun = [actor.begin("wait", table, wait_s) for actor in self._actors]
        (first, *_), _ = ray.wait(begun)
        self._actors[begun.index(first)].end(first)
        self._standings.pop(table, None)
        return True
