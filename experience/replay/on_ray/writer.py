"""A writer whose steps lie with the actor."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from experience.replay.data.structure import flatten
from experience.replay.history import History
from experience.replay.on_ray.actor import ToldWriter
from experience.replay.on_ray.calls import Actor
from experience.replay.tables.fields import Fields

CALLS_TOGETHER = 100
"""Steps and items that are sent as one."""

BYTES_TOGETHER = 4 << 20
"""Of steps: more are not kept back."""


class RayWriter:
    """A trajectory or structured writer in the actor; told in groups, so that a fault shows with a later call."""

    def __init__(self, actor: Actor, kind: str, argument: Any) -> None:
        """Make the writer there.

        Args:
            actor: Where.
            kind: Method of `Replay` that makes it.
            argument: Of that method.
        """
        self._actor = actor
        self._name = uuid4().hex
        self._history = History()
        self._told: list[ToldWriter] = []
        self._told_bytes = 0
        self._actor.ask("write", self._name, (kind, argument), [])

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
        self._told_bytes += sum(getattr(leaf, "nbytes", 8) for leaf in flatten(data).leaves)
        self._later("append", data, **options)

    def create_item(self, table: str, priority: float, trajectory: Any, fields: Fields | None = None) -> None:
        """See `TrajectoryWriter.create_item`."""
        self._later("create_item", table, priority, trajectory, fields)

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
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    def _later(self, name: str, *arguments: Any, **options: Any) -> None:
        self._told.append((name, arguments, options))
        if len(self._told) >= CALLS_TOGETHER or self._told_bytes >= BYTES_TOGETHER:
            self._tell()

    def _now(self, name: str, *arguments: Any, **options: Any) -> Any:
        self._told.append((name, arguments, options))
        return self._tell()

    def _tell(self) -> Any:
        told: Sequence[ToldWriter] = self._told
        self._told, self._told_bytes = [], 0
        return self._actor.ask("write", self._name, None, told)
