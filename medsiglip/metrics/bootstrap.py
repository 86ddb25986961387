"""Drawing groups with replacement, and the two intervals read off the draws."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 2000
MAX_BLOCKS = 500
"""Jackknife values at most: with more groups, random blocks of them are left out together."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def group_weights(
    n_groups: int, seed: int, n_resamples: int = N_RESAMPLES, rows_at_once: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield (rows, G) arrays, `n_resamples` rows in all: how often each group is drawn.

    The draws are the same whatever `rows_at_once` is.
    """
    rng = np.random.default_rng(seed)
    share = np.full(n_groups, 1 / n_groups)
    step = rows_at_once or n_resamples
    for start in range(0, n_resamples, step):
        yield rng.multinomial(n_groups, share, size=min(step, n_resamples - start))


def delete_group_weights(n_groups: int, seed: int) -> NDArray[np.float64]:
    """Return (B, G) weights of 0 and 1: each row leaves one group out, or one block if there are many.

    With B random blocks the third and second moments of the influences, and so the acceleration of BCa, keep their
    expectation; the error is about 0.65 / B.
    """
    n_blocks = min(n_groups, MAX_BLOCKS)
    block = np.arange(n_groups) % n_blocks
    if n_blocks < n_groups:
        np.random.default_rng([seed, 1]).shuffle(block)
    kept: NDArray[np.bool_] = block[None, :] != np.arange(n_blocks)[:, None]
    return kept.astype(np.float64)


def ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide elementwise; nan where the divisor is 0."""
    undefined = np.full(np.broadcast(above, below).shape, np.nan)
    divided: NDArray[np.float64] = np.divide(above, below, out=undefined, where=below != 0)
    return divided


def percentile_interval(resamples: NDArray[np.float64]) -> Interval:
    """Return the 2.5 and 97.5 % points of the resamples."""
    low, high = np.percentile(resamples, (2.5, 97.5))
    return Interval(float(low), float(high))


def bca_interval(value: float, resamples: NDArray[np.float64], jackknife: NDArray[np.float64]) -> Interval:
    """Return the bias-corrected and accelerated 95 % interval.

    Ties with the value count half in the bias correction, as in scipy.stats.bootstrap. Where the correction is
    undefined (all resamples on one side of the value, or all equal) the percentile interval is returned.

    Source: Efron, J. Am. Stat. Assoc. 82, 171 (1987).
    """
    from scipy.special import ndtr, ndtri

    below = float((np.sum(resamples < value) + np.sum(resamples <= value)) / (2 * len(resamples)))
    if not 0 < below < 1 or np.ptp(resamples) == 0:
        return percentile_interval(resamples)
    bias, acceleration = float(ndtri(below)), _acceleration(jackknife)
    shifted = bias + ndtri([0.025, 0.975])
    points = ndtr(bias + shifted / (1 - acceleration * shifted))
    low, high = np.percentile(resamples, 100 * points)
    return Interval(float(low), float(high))


def _acceleration(jackknife: NDArray[np.float64]) -> float:
    away = jackknife.mean() - jackknife if len(jackknife) else np.zeros(1)
    largest = float(np.abs(away).max())
    if largest == 0:
        return 0.0
    away = away / largest  # the ratio has no scale, and powers of tiny differences would be 0
    return float((away**3).sum() / (6 * (away**2).sum() ** 1.5))
