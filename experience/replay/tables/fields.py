"""What is known of an item beside its data: which policy made it, in which group, of how many tokens and episodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

LARGEST = 2**63 - 1
"""Number that a column of int64 holds."""


def is_whole(value: Any, least: int) -> bool:
    """Whether a value is a whole number, of Python or of NumPy, from `least` to LARGEST."""
    is_number = type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))
    return is_number and least <= int(value) <= LARGEST


@dataclass(frozen=True)
class Fields:
    """What language models need to know of an item."""

    policy_version: int | None = None
    """Of the policy that made it: a number that grows, such as the learner's updates so far. None: not known."""
    group: str | None = None
    """Of items of one prompt, a name that no other prompt of the run has. None: in no group."""
    tokens: int = 0
    """That it holds."""
    episodes: int | None = None
    """That it holds. None: 1; of the items that a writer makes of one episode for a table 1 for the first, else 0."""

    def __post_init__(self) -> None:
        for name in ("policy_version", "tokens", "episodes"):
            value = getattr(self, name)
            if value is not None and not is_whole(value, 0):
                raise ValueError(f"got {name}={value!r}; expected a whole number from 0, below 2**63")
        if self.group is not None and not isinstance(self.group, str):
            raise ValueError(f"got group={self.group!r}; expected a name, such as {str(self.group)!r}")


def demand_fields(fields: Any) -> None:
    """Refuse what is neither `Fields` nor None, before anything of an item is stored.

    Raises:
        ValueError: It is something else; its type is named.
    """
    if fields is not None and not isinstance(fields, Fields):
        raise ValueError(f"got fields of type {type(fields).__name__}; expected Fields(policy_version=..., group=...)")


class Known(NamedTuple):
    """The fields of several items, (n,) each."""

    policy_version: Any
    """int64; -1 where it is not known."""
    staleness: Any
    """int64, by how many versions the newest policy is newer; 0 where that is not known."""
    tokens: Any
    """int64."""
    group: Any
    """Objects: str or None."""


class FieldColumns:
    """The fields of a table's items, by row; nothing is kept while no item has any."""

    def __init__(self) -> None:
        self.used = False
        self.num_tokens = 0
        """Of all items."""
        self.policy_version, self.tokens, self.episodes, self.group = _columns(0)

    def set(self, row: int, fields: Fields) -> None:
        """Keep the fields of a row."""
        self.used = True
        if row >= len(self.tokens):
            self._grow(2 * row + 64)
        self.num_tokens += fields.tokens - int(self.tokens[row])
        self.policy_version[row] = -1 if fields.policy_version is None else fields.policy_version
        self.group[row] = fields.group
        self.tokens[row] = fields.tokens
        self.episodes[row] = 1 if fields.episodes is None else fields.episodes

    def forget(self, row: int) -> None:
        """Forget the fields of a row."""
        if row < len(self.tokens):
            self.set(row, NOTHING)

    def known(self, rows: Any, newest: int) -> Known:
        """Return the fields of rows, (n,) int64; `newest`: the policy version that they are measured by."""
        if not self.used:
            count = len(rows)
            return Known(_NONE.repeat(count), np.zeros(count, int), np.zeros(count, int), np.empty(count, object))
        if len(rows) and (largest := int(max(rows))) >= len(self.tokens):
            self._grow(2 * largest + 64)
        versions = self.policy_version[rows]
        staleness = np.where(versions < 0, 0, newest - versions)
        return Known(versions, staleness, self.tokens[rows], self.group[rows])

    def known_of(self, row: int, newest: int) -> tuple[int, int, int, str | None]:
        """Return the fields of a row."""
        if not self.used or row >= len(self.tokens):
            return -1, 0, 0, None
        version = int(self.policy_version[row])
        return version, 0 if version < 0 else newest - version, int(self.tokens[row]), self.group[row]

    def arrays(self, rows: Any) -> dict[str, Any] | None:
        """Return what `restore` needs of rows, (n,) int64; None while no item has fields."""
        if not self.used:
            return None
        version, _, tokens, group = self.known(rows, 0)
        return {"policy_version": version, "tokens": tokens, "episodes": self.episodes[rows], "group": group.tolist()}

    def restore(self, rows: Any, arrays: dict[str, Any] | None) -> None:
        """Take over what `arrays` gave."""
        for row, fields in zip(rows.tolist(), fields_of(arrays) if arrays else (), strict=False):
            self.set(row, fields)

    def _grow(self, size: int) -> None:
        old, larger = len(self.tokens), _columns(size)
        for new, column in zip(larger, (self.policy_version, self.tokens, self.episodes, self.group), strict=True):
            new[:old] = column
        self.policy_version, self.tokens, self.episodes, self.group = larger


NOTHING = Fields()

_NONE = np.array([-1])


def as_written(fields: Sequence[Fields]) -> dict[str, Any]:
    """Return fields as arrays, as a log holds them."""
    columns = FieldColumns()
    for row, one in enumerate(fields):
        columns.set(row, one)
    return columns.arrays(np.arange(len(fields))) or {}


def fields_of(arrays: dict[str, Any]) -> list[Fields]:
    """Return the fields that `as_written` wrote."""
    columns = (arrays["policy_version"].tolist(), arrays["group"], arrays["tokens"].tolist())
    return [
        Fields(None if version < 0 else version, group, tokens, episodes)
        for version, group, tokens, episodes in zip(*columns, arrays["episodes"].tolist(), strict=True)
    ]


def _columns(size: int) -> tuple[Any, Any, Any, Any]:
    return np.full(size, -1), np.zeros(size, int), np.ones(size, int), np.empty(size, object)
