"""Extensions that tables may have: priorities that spread to neighbours, and statistics of what happens to items.

Source: Cassirer et al., Reverb, arXiv:2102.04736 (2021), on extensions; Gruslys et al., The Reactor,
arXiv:1704.04651 (2018), on priorities of neighbouring steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np

from experience.replay.tables.fields import is_whole
from experience.replay.tables.state import TableState
from experience.replay.tables.table import Extension


def diffusion(share: float, reach: int = 1) -> Extension:
    """Return an extension that spreads new priorities to the items inserted before and after.

    A neighbour d places away gets share**d of the new priority and keeps the rest of its own.

    Args:
        share: Above 0, at most 1.
        reach: Places to each side.
    """
    if not (0 < share <= 1 and is_whole(reach, 1)):
        raise ValueError(
            f"got share={share} and reach={reach}; expected a share above 0, at most 1, and a whole reach from 1"
        )
    spread = _Diffusion(share, reach)
    return Extension(
        on_insert=spread.insert,
        on_update=spread.update,
        on_delete=spread.delete,
        on_reset=spread.forget,
    )


class _Diffusion:
    """Spreads the priorities of tables, each to its own items."""

    def __init__(self, share: float, reach: int) -> None:
        self._share, self._reach = share, reach
        self._of: WeakKeyDictionary[TableState, _Neighbours] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Self], tuple[float, int]]:
        """To an actor it goes without the tables that it knows here."""
        return type(self), (self._share, self._reach)

    def forget(self, state: TableState) -> None:
        self._of.pop(state, None)

    def insert(self, state: TableState, keys: Any) -> None:
        self._neighbours(state).add(int(keys[0]))

    def delete(self, state: TableState, keys: Any) -> None:
        self._neighbours(state).remove(int(keys[0]))

    def update(self, state: TableState, keys: Any) -> None:
        known = self._neighbours(state)
        if known.spreading:
            return
        given = dict(zip(keys.tolist(), state.priorities[state.rows_of(keys)].tolist(), strict=True))
        mixed: dict[int, float] = {}
        for key, priority in given.items():
            for neighbours in (known.before, known.after):
                other = neighbours[key]
                for step in range(1, self._reach + 1):
                    if other is None:
                        break
                    if other not in given:
                        own = mixed.get(other, float(state.priorities[state.rows_of(np.array([other]))[0]]))
                        mixed[other] = own + self._share**step * (priority - own)
                    other = neighbours[other]
        if mixed:
            known.spreading = True
            try:
                state.update(np.array(list(mixed), np.int64), np.array(list(mixed.values())))
            finally:
                known.spreading = False

    def _neighbours(self, state: TableState) -> _Neighbours:
        """Those of a table; of items that were there before, as those of a checkpoint were, too."""
        if state not in self._of:
            self._of[state] = _Neighbours()
            for key in state.keys[state.order.oldest(len(state))].tolist():
                self._of[state].add(key)
        return self._of[state]


class _Neighbours:
    """Which item of a table stands before and after each, in the order of their insertion."""

    def __init__(self) -> None:
        self.before: dict[int, int | None] = {}
        self.after: dict[int, int | None] = {}
        self.spreading = False
        self._last: int | None = None

    def add(self, key: int) -> None:
        if key not in self.before:
            if self._last is not None:
                self.after[self._last] = key
            self.before[key], self.after[key], self._last = self._last, None, key

    def remove(self, key: int) -> None:
        before, after = self.before.pop(key), self.after.pop(key)
        if before is not None:
            self.after[before] = after
        if after is None:
            self._last = before
        else:
            self.before[after] = before


@dataclass
class Statistics:
    """What happened to the items of a table: `Table(..., extensions=[statistics.extension()])`."""

    inserts: int = 0
    samples: int = 0
    updates: int = 0
    deletes: int = 0
    never_sampled: int = 0
    """Items that went without ever being sampled."""
    priorities: float = 0.0
    """Of samples, their sum."""
    staleness: int = 0
    """Of samples, their sum."""
    times: dict[int, int] = field(default_factory=dict)
    """How often an item had been sampled when it went, to how many items."""

    def extension(self) -> Extension:
        """Return what keeps the counts."""
        return Extension(self._insert, self._sample, self._update, self._delete, self._reset)

    def means(self) -> dict[str, float]:
        """Return the mean priority and staleness of samples, and of items that are gone how often they were sampled."""
        samples, gone = max(self.samples, 1), max(self.deletes, 1)
        sampled = sum(times * count for times, count in self.times.items())
        return {
            "priority": self.priorities / samples,
            "staleness": self.staleness / samples,
            "times_sampled": sampled / gone,
            "never_sampled": self.never_sampled / gone,
        }

    def _insert(self, state: TableState, keys: Any) -> None:
        self.inserts += len(keys)

    def _sample(self, state: TableState, keys: Any) -> None:
        rows = state.rows_of(keys)
        self.samples += len(keys)
        self.priorities += float(state.priorities[rows].sum())
        self.staleness += int(state.fields.known(rows, state.newest).staleness.sum())

    def _update(self, state: TableState, keys: Any) -> None:
        self.updates += len(keys)

    def _delete(self, state: TableState, keys: Any) -> None:
        for times in state.times_sampled[state.rows_of(keys)].tolist():
            self.deletes += 1
            self.never_sampled += times == 0
            self.times[times] = self.times.get(times, 0) + 1

    def _reset(self, state: TableState) -> None:
        self.__init__()  # type: ignore[misc]
