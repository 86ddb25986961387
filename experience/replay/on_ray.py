"""A replay for many machines: the tables in one Ray actor, the same calls from everywhere.

Data goes by value, the steps of a writer a group at a time. What a batch holds comes through Ray's object store where
it is large, and readers on the actor's machine map it without a copy. Blocked calls wait in the actor, where `info`
sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import ray
import ray.exceptions

from experience.replay.batch import Batch
from experience.replay.history import History
from experience.replay.structured import Pattern
from experience.replay.tables.live import TableInfo
from experience.replay.tables.table import Table

NAMESPACE = "open-medgemma"
"""Of the actors' names."""

CALLS_AT_ONCE = 1000
"""In the actor; what is more waits before it."""

CALLS_TOGETHER = 100
"""Of a writer: steps and items that it sends as one."""

ToldWriter = tuple[str, tuple[Any, ...], dict[str, Any]]
"""Name of a writer's method, and what it is called with."""


class _Tables:
    """The actor: a replay, and the writers of its clients."""

    def __init__(self, make: Callable[..., Any], tables: Sequence[Table], options: Mapping[str, Any]) -> None:
        self._replay = make(tables, **options)
        self._writers: dict[str, Any] = {}

    def call(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return getattr(self._replay, name)(*arguments, **options)

    def write(self, writer: str, kind: str, argument: Any, calls: Sequence[ToldWriter]) -> Any:
        """Do what a writer was told, and return what the last call gives."""
        if writer not in self._writers:
            self._writers[writer] = getattr(self._replay, kind)(argument)
        result = None
        for name, arguments, options in calls:
            result = getattr(self._writers[writer], name)(*arguments, **options)
        if calls and calls[-1][0] == "close":
            del self._writers[writer]
        return result


def on_ray(
    make: Callable[..., Any], address: str | None, tables: Sequence[Table], name: str, options: Mapping[str, Any]
) -> RayReplay:
    """Return the replay of a name; the first who asks makes it.

    Args:
        make: `Replay`.
        address: Of the Ray cluster; None: the one that this process is connected to, or a new one.
        tables: As of `Replay`; of no meaning if the replay is there.
        name: Of the actor. It lives until `close`, whoever made it.
        options: Further arguments of `Replay`. With a folder, on a disk that any machine of the actor reaches, it
            comes back after its death with all that was acknowledged.
    """
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    actor = ray.remote(_Tables).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_concurrency=CALLS_AT_ONCE,
        max_restarts=-1 if options.get("folder") else 0,
        num_cpus=0,
    )
    return RayReplay(actor.remote(make, list(tables), dict(options)))


class RayReplay:
    """A replay in an actor: the calls of `Replay`, from any process that it is sent to.

    A call that was under way when the actor died raises Ray's `RayError`: whether it was done is not known. What had
    returned is there.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def insert(self, data: Any, priorities: Mapping[str, float], timeout: float | None = None) -> dict[str, int]:
        """See `Replay.insert`."""
        keys: dict[str, int] = self._call("insert", data, dict(priorities), timeout)
        return keys

    def insert_many(self, data: Any, priorities: Mapping[str, Any], timeout: float | None = None) -> dict[str, Any]:
        """See `Replay.insert_many`."""
        keys: dict[str, Any] = self._call("insert_many", data, dict(priorities), timeout)
        return keys

    def sample(self, table: str, num_samples: int = 1, timeout: float | None = None) -> Batch:
        """See `Replay.sample`; large arrays are Ray's, and not writeable."""
        batch: Batch = self._call("sample", table, num_samples, timeout)
        return batch

    def update_priorities(self, table: str, keys: Any, priorities: Any) -> int:
        """See `Replay.update_priorities`."""
        return int(self._call("update_priorities", table, keys, priorities))

    def delete(self, table: str, keys: Any) -> int:
        """See `Replay.delete`."""
        return int(self._call("delete", table, keys))

    def reset(self, table: str) -> None:
        """See `Replay.reset`."""
        self._call("reset", table)

    def can_sample(self, table: str, num_samples: int = 1) -> bool:
        """See `Replay.can_sample`."""
        return bool(self._call("can_sample", table, num_samples))

    def can_insert(self, table: str, num_inserts: int = 1) -> bool:
        """See `Replay.can_insert`."""
        return bool(self._call("can_insert", table, num_inserts))

    def info(self) -> dict[str, TableInfo]:
        """See `Replay.info`."""
        infos: dict[str, TableInfo] = self._call("info")
        return infos

    def checkpoint(self) -> Path:
        """See `Replay.checkpoint`; the path is of the actor's machine."""
        path: Path = self._call("checkpoint")
        return path

    def sync(self) -> None:
        """See `Replay.sync`."""
        self._call("sync")

    def trajectory_writer(self, num_keep_alive_refs: int) -> RayWriter:
        """See `Replay.trajectory_writer`."""
        return RayWriter(self._actor, "trajectory_writer", num_keep_alive_refs)

    def structured_writer(self, patterns: Sequence[Pattern]) -> RayWriter:
        """See `Replay.structured_writer`."""
        return RayWriter(self._actor, "structured_writer", list(patterns))

    def close(self) -> None:
        """End the actor, if it is alive; what its folder knows stays."""
        with suppress(ray.exceptions.RayError):
            self._call("close")
        ray.kill(self._actor)

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return ray.get(self._actor.call.remote(name, arguments, options))


class RayWriter:
    """A trajectory or structured writer in the actor; told in groups, so that a fault shows with a later call."""

    def __init__(self, actor: Any, kind: str, argument: Any) -> None:
        self._actor = actor
        self._made_as = (uuid4().hex, kind, argument)
        self._history = History()
        self._told: list[ToldWriter] = []
        self._tell()

    @property
    def history(self) -> Any:
        """See `TrajectoryWriter.history`."""
        return self._history.columns()

    @property
    def episode_steps(self) -> int:
        """See `TrajectoryWriter.episode_steps`."""
        return self._history.num_steps

    def append(self, data: Any, **options: Any) -> None:
        """See `TrajectoryWriter.append`; the data must not be changed until it is flushed."""
        self._history.add(data, partial_step=options.get("partial_step", False))
        self._later("append", data, **options)

    def create_item(self, table: str, priority: float, trajectory: Any) -> None:
        """See `TrajectoryWriter.create_item`."""
        self._later("create_item", table, priority, trajectory)

    def flush(self, block_until_num_items: int = 0, timeout: float | None = None) -> bool:
        """See `TrajectoryWriter.flush`."""
        return bool(self._now("flush", block_until_num_items, timeout))

    def end_episode(self, *, clear_buffers: bool = True, timeout: float | None = None) -> bool:
        """See `TrajectoryWriter.end_episode`."""
        self._history.end(clear=clear_buffers)
        return bool(self._now("end_episode", clear_buffers=clear_buffers, timeout=timeout))

    def close(self) -> None:
        """See `TrajectoryWriter.close`."""
        self._now("close")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush, unless an exception ended it."""
        if kind is None:
            self.flush()
        self.close()

    def _later(self, name: str, *arguments: Any, **options: Any) -> None:
        self._told.append((name, arguments, options))
        if len(self._told) >= CALLS_TOGETHER:
            self._tell()

    def _now(self, name: str, *arguments: Any, **options: Any) -> Any:
        self._told.append((name, arguments, options))
        return self._tell()

    def _tell(self) -> Any:
        told, self._told = self._told, []
        return ray.get(self._actor.write.remote(*self._made_as, told))
