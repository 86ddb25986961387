"""What a writer was told of an episode, as columns that parts can be taken of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[Any, ...]


@dataclass(frozen=True)
class TrajectoryColumn:
    """Steps of a column, to become part of an item."""

    path: Path
    steps: tuple[int, ...]
    """Numbers of the steps in the episode."""
    episode: int
    squeeze: bool = False


@dataclass(frozen=True)
class HistoryColumn:
    """All steps of a column: `column[-1]`, `column[-3:]`, `column[[0, 2]]`."""

    path: Path
    num_steps: int
    episode: int

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, key: int | slice | Sequence[int]) -> TrajectoryColumn:
        steps = range(self.num_steps)
        if isinstance(key, int):
            return TrajectoryColumn(self.path, (steps[key],), self.episode, squeeze=True)
        chosen = steps[key] if isinstance(key, slice) else [steps[one] for one in key]
        return TrajectoryColumn(self.path, tuple(chosen), self.episode)


class History:
    """Counts the steps and episodes of a writer, and knows their columns."""

    def __init__(self) -> None:
        self.num_steps = 0
        """In this episode, one that is not complete included."""
        self.episode = 0
        """Number of episodes before this one."""
        self.is_partial = False
        """More of the last step follows."""
        self._structure: Any = None

    def add(self, data: Any, *, partial_step: bool) -> None:
        """Count a step, or a part of one."""
        self.num_steps += not self.is_partial
        self.is_partial = partial_step
        self._structure = _merged(self._structure, data)

    def end(self, *, clear: bool) -> None:
        """The last step is complete; `clear`: another episode begins."""
        self.is_partial = False
        if clear:
            self.num_steps = 0
            self.episode += 1

    def columns(self) -> Any:
        """Return the columns in the structure of the steps.

        Raises:
            ValueError: There was no step yet.
        """
        if self._structure is None:
            raise ValueError("got no step yet; expected append() first")
        return self._columns(self._structure, ())

    def _columns(self, structure: Any, path: Path) -> Any:
        if isinstance(structure, Mapping):
            return {name: self._columns(part, (*path, name)) for name, part in structure.items()}
        if isinstance(structure, list | tuple):
            return _like(structure, [self._columns(part, (*path, place)) for place, part in enumerate(structure)])
        return HistoryColumn(path, self.num_steps, self.episode)


def _merged(known: Any, data: Any) -> Any:
    """What columns there are, from the data of steps: dicts may grow."""
    if isinstance(data, Mapping):
        before = known if isinstance(known, Mapping) else {}
        return {**before, **{name: _merged(before.get(name), part) for name, part in data.items()}}
    if isinstance(data, list | tuple):
        return _like(data, [_merged(None, part) for part in data])
    return 0


def _like(kind: Any, parts: list[Any]) -> Any:
    return type(kind)(*parts) if hasattr(kind, "_fields") else type(kind)(parts)
