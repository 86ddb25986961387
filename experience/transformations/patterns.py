"""Patterns of Reverb over episodes: n-step transitions, trajectories, every slice that looks back from a step.

A pattern is a nested dict of slices of columns; it is applied after every step that has history enough.

Source: Cassirer et al., Reverb, arXiv:2102.04736 (2021); reverb/structured_writer.py; rlds/transformations/pattern.py.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from experience.transformations.steps import RldsEpisode, Step
from experience.transformations.trees import map_structure, stack


class Moment(NamedTuple):
    """When a pattern may be applied: what conditions look at."""

    step_index: int
    """Of the newest step in its episode, from 0."""
    steps_since_applied: int
    """Steps appended since this pattern gave something last, the newest one included."""
    buffer_length: int
    """Steps of history, the newest one included."""
    is_end_episode: bool
    step: Step
    """The newest."""


Condition = Callable[[Moment], Any]


@dataclass(frozen=True)
class Slice:
    """Part of a column's history."""

    path: tuple[Any, ...]
    start: int
    """Below 0: back from the newest."""
    stop: int | None
    """0 and None: to the newest."""
    step: int = 1
    squeeze: bool = False
    """One value without the axis of time."""


@dataclass(frozen=True)
class Column:
    """A column of the steps, to be sliced: `column[-1]`, `column[-3:]`, `column[-5:-1:2]`."""

    path: tuple[Any, ...]

    def __getitem__(self, key: int | slice) -> Slice:
        """Return a slice of the history.

        Raises:
            ValueError: It does not look back, or has no start.
        """
        if isinstance(key, int):
            key, squeeze = slice(key, key + 1 or None), True
        else:
            squeeze = False
        if key.start is None or key.start >= 0 or (key.stop or 0) > 0 or (key.step or 1) < 1:
            raise ValueError(f"got the slice {key}; expected start below 0, stop at most 0, step above 0")
        return Slice(self.path, key.start, key.stop or None, key.step or 1, squeeze)


@dataclass(frozen=True)
class Config:
    """A pattern and when it is applied."""

    pattern: Any
    """Nested dicts, lists and tuples of `Slice`."""
    conditions: Sequence[Condition] = ()

    @property
    def history(self) -> int:
        """Steps that it looks back over."""
        longest = [0]
        map_structure(lambda one: longest.append(-one.start), self.pattern)
        return max(longest)


def reference_step(step: Step) -> Any:
    """Return a step whose leaves are columns to be sliced."""
    return _columns(step, ())


def pattern_map(
    episodes: Iterable[RldsEpisode], configs: Sequence[Config], respect_episode_boundaries: bool = True
) -> Iterator[Any]:
    """Yield what patterns make of episodes.

    Args:
        episodes: In order.
        configs: Applied to every step, one after another.
        respect_episode_boundaries: No result has steps of two episodes.
    """
    history: deque[Step] = deque(maxlen=max((config.history for config in configs), default=1) or 1)
    since = [0] * len(configs)
    for episode in episodes:
        for index, step in enumerate(episode["steps"]):
            history.append(step)
            for place, config in enumerate(configs):
                since[place] += 1
                moment = Moment(index, since[place], len(history), bool(step["is_last"]), step)
                if len(history) >= config.history and all(condition(moment) for condition in config.conditions):
                    since[place] = 0
                    yield map_structure(lambda part: _cut(part, history), config.pattern)
        if respect_episode_boundaries:
            history.clear()


def pattern_map_from_transform(
    episodes: Iterable[RldsEpisode],
    transform_fn: Callable[[Any], Any],
    conditions: Sequence[Condition] = (),
    respect_episode_boundaries: bool = True,
) -> Iterator[Any]:
    """Yield what one pattern makes of episodes: `lambda step: {"last_three": step["observation"][-3:]}`.

    Args:
        episodes: In order.
        transform_fn: Gives the pattern of a step whose leaves are columns.
        conditions: All must hold where it is applied.
        respect_episode_boundaries: No result has steps of two episodes.
    """
    left = iter(episodes)
    first = next(left, None)
    if first is None or not first["steps"]:
        return
    config = Config(transform_fn(reference_step(first["steps"][0])), conditions)
    yield from pattern_map(chain([first], left), [config], respect_episode_boundaries)


def _columns(value: Any, path: tuple[Any, ...]) -> Any:
    if isinstance(value, Mapping):
        return {name: _columns(one, (*path, name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_columns(one, (*path, place)) for place, one in enumerate(value))
    return Column(path)


def _cut(part: Slice, history: deque[Step]) -> Any:
    rows = list(history)[part.start : part.stop : part.step]
    values = []
    for row in rows:
        value: Any = row
        for key in part.path:
            value = None if value is None else value[key]
        values.append(value)
    return values[0] if part.squeeze else stack(values)
