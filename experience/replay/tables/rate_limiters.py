"""Rate limiters: how many samples an insert is worth, and who waits for whom.

Source: Cassirer et al., Reverb, arXiv:2102.04736 (2021); reverb/rate_limiters.py and reverb/cc/rate_limiter.cc. The
names are Reverb's.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from experience.replay.tables.fields import is_whole

Unit = Literal["items", "episodes", "tokens"]
"""What a limiter counts."""


@dataclass(frozen=True)
class RateLimiter:
    """Samples wait for inserts and inserts for samples, so that inserts * samples_per_insert - samples stays bounded.

    A sample needs `min_size_to_sample` items in the table and a difference of `min_diff` at least after it. An insert
    needs a difference of `max_diff` at most after it, or a table that is still below `min_size_to_sample`.

    Where it counts episodes or tokens, an item goes through as soon as one episode or token more would, and counts with
    all that its fields say: bounds are passed by one item at most, and no item is too large to ever go through.
    """

    samples_per_insert: float
    min_size_to_sample: int
    min_diff: float
    max_diff: float
    counts: Unit = "items"

    def __post_init__(self) -> None:
        if not self.samples_per_insert > 0:
            raise ValueError(f"got samples_per_insert={self.samples_per_insert}; expected a number above 0")
        if not is_whole(self.min_size_to_sample, 1):
            raise ValueError(f"got min_size_to_sample={self.min_size_to_sample!r}; expected a whole number from 1")
        if self.counts not in ("items", "episodes", "tokens"):
            raise ValueError(f"got counts={self.counts!r}; expected items, episodes or tokens")
        if math.isnan(self.min_diff) or math.isnan(self.max_diff):
            raise ValueError("got NaN as min_diff or max_diff; expected numbers")


def MinSize(min_size_to_sample: int, counts: Unit = "items") -> RateLimiter:
    """Let samples wait until the table holds so many items, episodes or tokens, and inserts never."""
    return RateLimiter(1.0, min_size_to_sample, -math.inf, math.inf, counts)


def SampleToInsertRatio(
    samples_per_insert: float,
    min_size_to_sample: int,
    error_buffer: float | tuple[float, float],
    counts: Unit = "items",
) -> RateLimiter:
    """Keep the ratio of samples to inserts.

    Args:
        samples_per_insert: The ratio.
        min_size_to_sample: Samples wait until the table holds so many.
        error_buffer: How far inserts * samples_per_insert - samples may be from samples_per_insert *
            min_size_to_sample; or min_diff and max_diff themselves.
        counts: What inserts, samples and the size are counted in.

    Raises:
        ValueError: The buffer is too small for one insert or sample, or samples would wait for ever.
    """
    start = samples_per_insert * min_size_to_sample
    if isinstance(error_buffer, tuple):
        min_diff, max_diff = error_buffer
    else:
        min_diff, max_diff = start - error_buffer, start + error_buffer
    needed = 2 * max(1.0, samples_per_insert)
    if max_diff - min_diff < needed:
        raise ValueError(
            f"got an error_buffer from {min_diff:g} to {max_diff:g}; expected a width of {needed:g} at least: "
            f"error_buffer={needed / 2:g} or more"
        )
    if min_diff > start:
        raise ValueError(
            f"got min_diff={min_diff:g}; expected at most {start:g} (samples_per_insert * min_size_to_sample), else "
            "samples wait for ever"
        )
    if max_diff < start:
        warnings.warn(
            f"max_diff={max_diff:g} is below {start:g} (samples_per_insert * min_size_to_sample): inserts are blocked "
            "until the table is sampled from as soon as it holds min_size_to_sample items",
            stacklevel=2,
        )
    return RateLimiter(samples_per_insert, min_size_to_sample, min_diff, max_diff, counts)


def Queue(size: int, counts: Unit = "items") -> RateLimiter:
    """Let inserts wait while so many are unread: of a table from which each item is sampled once."""
    if not is_whole(size, 1):
        raise ValueError(f"got a queue of size {size!r}; expected a whole number from 1, else inserts wait for ever")
    return RateLimiter(1.0, 1, 0.0, float(size), counts)


def Stack(size: int, counts: Unit = "items") -> RateLimiter:
    """Let inserts wait while so many are unread, as `Queue` does."""
    return Queue(size, counts)


class LimiterState:
    """What a limiter has seen, in what it counts; one lock guards it, its table's."""

    def __init__(self, limiter: RateLimiter) -> None:
        self.limiter = limiter
        self.inserts = 0
        self.samples = 0
        self.deletes = 0
        self.forgone = 0
        """Samples that items could have given and cannot, since they went for their age."""

    @property
    def size(self) -> int:
        """What the table holds."""
        return self.inserts - self.deletes

    @property
    def difference(self) -> float:
        """Samples that the inserts are worth and that were not taken."""
        return self.inserts * self.limiter.samples_per_insert - self.samples - self.forgone

    def can_insert(self, count: int = 1) -> bool:
        """Whether so many inserts may follow at once."""
        limiter = self.limiter
        if limiter.max_diff == math.inf or self.inserts - self.deletes + count <= limiter.min_size_to_sample:
            return True
        return (self.inserts + count) * limiter.samples_per_insert - self.samples - self.forgone <= limiter.max_diff

    def can_sample(self, count: int = 1) -> bool:
        """Whether so many samples may follow at once."""
        limiter = self.limiter
        if self.inserts - self.deletes < limiter.min_size_to_sample:
            return False
        return limiter.min_diff == -math.inf or self.difference - count >= limiter.min_diff

    def most_inserts(self, count: int) -> int:
        """Return how many inserts may follow at once, `count` at most."""
        return _most(self.can_insert, count)

    def most_samples(self, count: int) -> int:
        """Return how many samples may follow at once, `count` at most."""
        return _most(self.can_sample, count)

    def why_no_insert(self) -> str:
        """Say why an insert waits, and what would free it."""
        limiter = self.limiter
        after = self.difference + limiter.samples_per_insert
        freed = f"{math.ceil(after - limiter.max_diff)} more {self._named('samples')}"
        below = self.size + 1 - limiter.min_size_to_sample
        return (
            f"{self._counts('insert', after)}, above max_diff {limiter.max_diff:g}; {freed} free it, or {below} "
            f"{self._named('deletions')} (inserts below min_size_to_sample are free)"
        )

    def why_no_sample(self) -> str:
        """Say why a sample waits, and what would free it."""
        limiter = self.limiter
        after = self.difference - 1
        by_size = max(0, limiter.min_size_to_sample - self.size)
        short = limiter.min_diff - after
        by_difference = math.ceil(short / limiter.samples_per_insert) if short > 0 else 0
        reasons = []
        if by_size:
            reasons.append(
                f"the table holds {self.size} {limiter.counts}, min_size_to_sample is {limiter.min_size_to_sample}"
            )
        if by_difference:
            reasons.append(f"{self._counts('sample', after)}, below min_diff {limiter.min_diff:g}")
        return f"{'; '.join(reasons)}; {max(by_size, by_difference)} more {self._named('inserts')} free it"

    def _counts(self, call: str, after: float) -> str:
        forgone = f" - {self.forgone} forgone for age" if self.forgone else ""
        return (
            f"{self.inserts} {self._named('inserts')} and {self.samples} {self._named('samples')} so far: with one "
            f"{call} more, inserts * {self.limiter.samples_per_insert:g} - samples{forgone} is {after:g}"
        )

    def _named(self, calls: str) -> str:
        return calls if self.limiter.counts == "items" else f"{calls} of {self.limiter.counts}"


def _most(allowed: Callable[[int], bool], count: int) -> int:
    """The largest number up to `count` that is allowed; what is allowed for a number is so for any below it."""
    if allowed(count):
        return count
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low
