"""Rate limiters: how many samples an insert is worth, and who waits for whom.

Source: Cassirer et al., Reverb, arXiv:2102.04736 (2021); reverb/rate_limiters.py and reverb/cc/rate_limiter.cc. The
names are Reverb's.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RateLimiter:
    """Samples wait for inserts and inserts for samples, so that inserts * samples_per_insert - samples stays bounded.

    A sample needs `min_size_to_sample` items in the table and a difference of `min_diff` at least after it. An insert
    needs a difference of `max_diff` at most after it, or a table that is still below `min_size_to_sample`.
    """

    samples_per_insert: float
    min_size_to_sample: int
    min_diff: float
    max_diff: float

    def __post_init__(self) -> None:
        if not self.samples_per_insert > 0:
            raise ValueError(f"got samples_per_insert={self.samples_per_insert}; expected a number above 0")
        if self.min_size_to_sample < 1:
            raise ValueError(f"got min_size_to_sample={self.min_size_to_sample}; expected at least 1")
        if math.isnan(self.min_diff) or math.isnan(self.max_diff):
            raise ValueError("got NaN as min_diff or max_diff; expected numbers")


def MinSize(min_size_to_sample: int) -> RateLimiter:
    """Let samples wait until the table holds so many items, and inserts never."""
    return RateLimiter(1.0, min_size_to_sample, -math.inf, math.inf)


def SampleToInsertRatio(
    samples_per_insert: float, min_size_to_sample: int, error_buffer: float | tuple[float, float]
) -> RateLimiter:
    """Keep the ratio of samples to inserts.

    Args:
        samples_per_insert: The ratio.
        min_size_to_sample: Samples wait until the table holds so many items.
        error_buffer: How far inserts * samples_per_insert - samples may be from samples_per_insert *
            min_size_to_sample; or min_diff and max_diff themselves.

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
    return RateLimiter(samples_per_insert, min_size_to_sample, min_diff, max_diff)


def Queue(size: int) -> RateLimiter:
    """Let inserts wait while so many items are unread: of a table from which each item is sampled once."""
    return RateLimiter(1.0, 1, 0.0, float(size))


def Stack(size: int) -> RateLimiter:
    """Let inserts wait while so many items are unread, as `Queue` does."""
    return Queue(size)


class LimiterState:
    """What a limiter has seen; one lock guards it, its table's."""

    def __init__(self, limiter: RateLimiter) -> None:
        self.limiter = limiter
        self.inserts = 0
        self.samples = 0
        self.deletes = 0

    @property
    def size(self) -> int:
        """Items in the table."""
        return self.inserts - self.deletes

    @property
    def difference(self) -> float:
        """Samples that the inserts are worth and that were not taken."""
        return self.inserts * self.limiter.samples_per_insert - self.samples

    def can_insert(self, count: int = 1) -> bool:
        """Whether so many inserts may follow at once."""
        limiter = self.limiter
        if self.inserts - self.deletes + count <= limiter.min_size_to_sample:
            return True
        return (self.inserts + count) * limiter.samples_per_insert - self.samples <= limiter.max_diff

    def can_sample(self, count: int = 1) -> bool:
        """Whether so many samples may follow at once."""
        limiter = self.limiter
        enough = self.inserts - self.deletes >= limiter.min_size_to_sample
        return enough and self.inserts * limiter.samples_per_insert - self.samples - count >= limiter.min_diff

    def most_inserts(self, count: int) -> int:
        """Return how many inserts may follow at once, `count` at most."""
        return _most(self.can_insert, count)

    def most_samples(self, count: int) -> int:
        """Return how many samples may follow at once, `count` at most."""
        return _most(self.can_sample, count)

    def why_no_insert(self) -> str:
        """Say why an insert waits, and what would free it."""
        limiter = self.limiter
        after = (self.inserts + 1) * limiter.samples_per_insert - self.samples
        freed = f"{math.ceil(after - limiter.max_diff)} more samples"
        below = self.size + 1 - limiter.min_size_to_sample
        return (
            f"{self._counts('insert', after)}, above max_diff {limiter.max_diff:g}; {freed} free it, or {below} "
            "deletions (inserts below min_size_to_sample are free)"
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
            reasons.append(f"the table holds {self.size} items, min_size_to_sample is {limiter.min_size_to_sample}")
        if by_difference:
            reasons.append(f"{self._counts('sample', after)}, below min_diff {limiter.min_diff:g}")
        return f"{'; '.join(reasons)}; {max(by_size, by_difference)} more inserts free it"

    def _counts(self, call: str, after: float) -> str:
        return (
            f"{self.inserts} inserts and {self.samples} samples so far: with one {call} more, inserts * "
            f"{self.limiter.samples_per_insert:g} - samples is {after:g}"
        )


def _most(allowed: Callable[[int], bool], count: int) -> int:
    """The largest number up to `count` that is allowed; what is allowed for a number is so for any below it."""
    if allowed(count):
        return count
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low
