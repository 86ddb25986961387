"""What a table is, in Reverb's words.

Source: Cassirer et al., Reverb, arXiv:2102.04736 (2021); reverb/server.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from experience.replay.tables.fields import is_whole
from experience.replay.tables.rate_limiters import Queue, RateLimiter, Stack
from experience.replay.tables.selectors import Fifo, Lifo, Selector


@dataclass(frozen=True)
class Extension:
    """Functions that a table calls under its lock, with its `TableState` and the keys concerned, (n,) int64."""

    on_insert: Callable[[Any, Any], None] | None = None
    on_sample: Callable[[Any, Any], None] | None = None
    on_update: Callable[[Any, Any], None] | None = None
    on_delete: Callable[[Any, Any], None] | None = None
    """Before the items are gone."""
    on_reset: Callable[[Any], None] | None = None


@dataclass(frozen=True)
class Table:
    """What a table is, in Reverb's words."""

    name: str
    sampler: Selector
    """Which item is sampled."""
    remover: Selector
    """Which item goes when there are more than max_size."""
    max_size: int
    """Of items."""
    rate_limiter: RateLimiter
    max_times_sampled: int = 0
    """An item that was sampled so often goes; 0: never."""
    extensions: Sequence[Extension] = ()
    signature: Any = None
    """Data as it must be: nested `ArraySpec`, None for an axis of any length. None: anything."""
    group_size: int = 0
    """Items of one group are sampled together, and go together, once there are so many; 0: each item by itself.

    The sampler draws groups, of the mean priority of their items. An item whose group is not complete is not counted by
    the limiter, and takes room. The next items of a complete group's name are another group.
    """
    max_age: int | None = None
    """By how many policy versions an item may be older than the newest; what is older goes. None: it never does."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("got a table without a name; expected one, which samples and inserts name it by")
        for name, least in (("max_size", 1), ("max_times_sampled", 0), ("group_size", 0), ("max_age", 0)):
            value = getattr(self, name)
            if not (is_whole(value, least) or (name == "max_age" and value is None)):
                raise ValueError(f"table {self.name!r}: got {name}={value!r}; expected a whole number from {least}")
        if self.group_size > self.max_size:
            raise ValueError(
                f"table {self.name!r}: got group_size={self.group_size}; expected 0 to max_size={self.max_size}"
            )

    @property
    def needs_fields(self) -> bool:
        """Whether items cannot be without fields."""
        return bool(self.group_size) or self.max_age is not None or self.rate_limiter.counts == "tokens"

    @classmethod
    def queue(cls, name: str, max_size: int, **options: Any) -> Self:
        """Return a table whose items are sampled once, in the order of their insertion."""
        return cls(name, Fifo(), Fifo(), max_size, Queue(max_size), 1, **options)

    @classmethod
    def stack(cls, name: str, max_size: int, **options: Any) -> Self:
        """Return a table whose items are sampled once, the newest first."""
        return cls(name, Lifo(), Lifo(), max_size, Stack(max_size), 1, **options)
