"""Writing by patterns: which part of the latest steps becomes an item, and when.

Source: Cassirer et al., Reverb, arXiv:2102.04736 (2021); reverb/structured_writer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from experience.replay.core import Core
from experience.replay.data.structure import flatten, paths, unflatten
from experience.replay.history import TrajectoryColumn
from experience.replay.tables.fields import Fields
from experience.replay.writers import TrajectoryWriter
from experience.transformations.patterns import Condition, Moment, Slice, reference_step
from experience.transformations.trees import ArraySpec


@dataclass(frozen=True)
class Pattern:
    """What items are made of, for which table, and when."""

    table: str
    transform: Callable[[Any], Any]
    """Gives the item's data from a step whose leaves can be sliced: `lambda step: {"last": step["reward"][-3:]}`."""
    priority: float | Callable[[Any], float] = 1.0
    """Of the items; or what gives it from an item's data: `td_error(0.9)`."""
    conditions: Sequence[Condition] = ()
    """Functions of a `Moment`, all of which must hold."""
    at_end: bool = False
    """Only at the end of an episode, instead of after every step."""
    fields: Fields | Callable[[Any], Fields] | None = None
    """Of the items; or what gives them from an item's data."""


def td_error(max_priority_weight: float, column: str = "td_error") -> Callable[[Any], float]:
    """Return the priority of R2D2: weight * max |td| + (1 - weight) * mean |td|, of a column of the item."""

    def priority(data: Any) -> float:
        errors = np.abs(np.asarray(data[column], np.float64))
        return float(max_priority_weight * errors.max() + (1 - max_priority_weight) * errors.mean())

    return priority


def infer_signature(pattern: Pattern, step: Any) -> Any:
    """Return the signature of a pattern's table: what its items are, from a step as it is appended."""
    structure, leaves = flatten(step)
    arrays = dict(zip(paths(structure), map(np.asarray, leaves), strict=True))

    def spec(part: Slice) -> ArraySpec:
        array, count = arrays[part.path], len(range(part.start, part.stop or 0, part.step))
        return ArraySpec(array.shape if part.squeeze else (count, *array.shape), array.dtype)

    wanted, slices = flatten(pattern.transform(reference_step(step)))
    return unflatten(wanted, [spec(part) for part in slices])


class StructuredWriter:
    """Steps of one agent, and the items that patterns make of them; not for use from several threads at once."""

    def __init__(self, core: Core, patterns: Sequence[Pattern]) -> None:
        """Begin an episode.

        Args:
            core: Where items go.
            patterns: What is made of the steps.
        """
        if not patterns:
            raise ValueError("got no pattern; expected at least one")
        for pattern in patterns:
            core.live(pattern.table)
        self._core = core
        self._patterns = patterns
        self._since = [0] * len(patterns)
        self._slices: list[Any] = []
        self._writer: TrajectoryWriter | None = None
        self._latest: Any = None

    def append(self, data: Any) -> None:
        """Append a step; the first one says what the columns are.

        Raises:
            ValueError: A pattern does not look back, or names what the step does not have.
        """
        if self._writer is None:
            self._slices = [pattern.transform(reference_step(data)) for pattern in self._patterns]
            longest = max((-one.start for slices in self._slices for one in flatten_slices(slices)), default=1)
            self._writer = TrajectoryWriter(self._core, longest)
        self._writer.append(data)
        self._latest = data
        for number in range(len(self._patterns)):
            self._since[number] += 1
        self._apply(at_end=False)

    def flush(self, block_until_num_items: int = 0, timeout: float | None = None) -> bool:
        """Wait until the tables have taken the items, all but so many; say whether they have in time."""
        return self._writer is None or self._writer.flush(block_until_num_items, timeout)

    def end_episode(self, *, clear_buffers: bool = True, timeout: float | None = None) -> bool:
        """Apply the patterns of an end, flush, and begin another episode; say whether all items were taken in time."""
        if self._writer is None:
            return True
        if self._writer.episode_steps:
            self._apply(at_end=True)
        self._since = [0] * len(self._patterns) if clear_buffers else self._since
        return self._writer.end_episode(clear_buffers=clear_buffers, timeout=timeout)

    def close(self) -> None:
        """Forget the steps, and the items that no table has taken."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush, unless an exception ended it."""
        if self._writer is not None:
            self._writer.__exit__(kind, fault, trace)

    def _apply(self, *, at_end: bool) -> None:
        assert self._writer is not None
        steps = self._writer.episode_steps
        for number, (pattern, slices) in enumerate(zip(self._patterns, self._slices, strict=True)):
            moment = Moment(steps - 1, self._since[number], steps, at_end, self._latest)
            history = max(-one.start for one in flatten_slices(slices))
            if pattern.at_end != at_end or steps < history:
                continue
            if all(condition(moment) for condition in pattern.conditions):
                self._since[number] = 0
                trajectory = _columns(slices, self._writer)
                priority = _of_item(pattern.priority, self._writer, trajectory)
                fields = _of_item(pattern.fields, self._writer, trajectory)
                self._writer.create_item(pattern.table, priority, trajectory, fields)


def flatten_slices(slices: Any) -> list[Slice]:
    """Return the slices of a pattern, from the left."""
    found: list[Slice] = flatten(slices).leaves
    return found


def _columns(slices: Any, writer: TrajectoryWriter) -> Any:
    structure, leaves = flatten(slices)
    steps = range(writer.episode_steps)
    columns = [
        TrajectoryColumn(one.path, tuple(steps[one.start : one.stop : one.step]), writer.episode, one.squeeze)
        for one in leaves
    ]
    return unflatten(structure, columns)


def _of_item(given: Any, writer: TrajectoryWriter, trajectory: Any) -> Any:
    """What is given for all items, or what a function gives for the data of this one."""
    return given(writer.values(trajectory)) if callable(given) else given
