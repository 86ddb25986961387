"""Comparing two models on the same items: paired group bootstrap, McNemar's test, Holm's correction, margins.

Differences are always the second model minus the first, so that an improvement is positive.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medsiglip.metrics.bootstrap import N_RESAMPLES
from medsiglip.metrics.statistics import (
    Estimate,
    ItemStatistic,
    Resampled,
    estimate,
    resample_mean,
    resample_weighted,
)


class PairedDifference(NamedTuple):
    """Second minus first, over the same items in the same resamples."""

    estimate: Estimate
    p_bootstrap: float
    """Two-sided p of no difference; nan where there is no interval (read `estimate.note`)."""


class McNemar(NamedTuple):
    """A test on the items that one model has right and the other wrong."""

    only_first: int
    """Items only the first model has right."""
    only_second: int
    p_exact: float
    """Two-sided, from the binomial distribution; conservative. 1 if the models never disagree."""
    p_mid: float
    """Two-sided mid-p: less conservative; half the weight of the observed split. 1 if they never disagree."""


class NonInferiority(NamedTuple):
    """Whether a difference is above minus the margin."""

    estimate: Estimate
    margin: float
    p_one_sided: float
    """Of a difference of minus the margin or worse; nan where there is no interval."""
    is_non_inferior: bool
    """The lower 95 % bound (one-sided 97.5 %) is above minus the margin."""


def paired_mean_difference(
    first: ArrayLike, second: ArrayLike, groups: Sequence[str], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> PairedDifference:
    """Compare the means of two models' values of the same items, whole groups drawn with replacement.

    Args:
        first: (n,) one finite number an item.
        second: (n,) of the other model, the same items in the same order.
        groups: (n,) the group of each item.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Raises:
        ValueError: There are no items, the lengths differ, or a value is not finite.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"got {a.shape} and {b.shape} values; expected the same items in both")
    return _with_p(resample_mean(b - a, groups, seed, n_resamples))


def paired_statistic_difference(
    first: ItemStatistic,
    second: ItemStatistic,
    groups: Sequence[str],
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> PairedDifference:
    """Compare a statistic of two models (AUROC, macro F1, ...), both computed on the same resamples.

    Args:
        first: (R, n) weights of the items to (R,) values of the first model.
        second: The same of the second model.
        groups: (n,) the group of each item.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Raises:
        ValueError: There are no items.
    """
    return _with_p(resample_weighted(lambda w: second(w) - first(w), groups, seed, n_resamples))


def bootstrap_p(resamples: NDArray[np.float64], null: float = 0.0) -> float:
    """Return the two-sided p of `null`: twice the smaller share of resamples on one side of it, at most 1.

    It is below 0.05 where the percentile interval leaves `null` out. Both shares have one added above and below, so
    that 2,000 resamples never claim a p under 0.001.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), ch. 4.
    """
    n = len(resamples)
    below, above = int((resamples <= null).sum()), int((resamples >= null).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (n + 1))


def mcnemar(first_right: ArrayLike, second_right: ArrayLike) -> McNemar:
    """Test whether two models are right equally often, on paired outcomes.

    The items are taken for independent; where they share patients, rely on the bootstrap.

    Args:
        first_right: (n,) booleans, or 0 and 1.
        second_right: (n,) of the other model, the same items in the same order.

    Raises:
        ValueError: The lengths differ, or a value is neither 0 nor 1.

    Sources: McNemar, Psychometrika 12, 153 (1947); Fagerland, Lydersen and Laake, BMC Med Res Methodol 13, 91 (2013).
    """
    a, b = np.asarray(first_right, dtype=np.float64), np.asarray(second_right, dtype=np.float64)
    if a.shape != b.shape or not np.isin([a, b], (0, 1)).all():
        raise ValueError(f"got {a.shape} and {b.shape} outcomes; expected 0 or 1 for the same items in both")
    only_first, only_second = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    return McNemar(only_first, only_second, *_mcnemar_p(only_first, only_second))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for the number of tests, in the order given; nan (not tested) stays nan.

    Source: Holm, Scand. J. Stat. 6, 65 (1979).
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        adjusted[place] = highest
    return adjusted


def non_inferiority(drawn: Resampled, margin: float) -> NonInferiority:
    """Say whether a difference (higher is better) is no worse than minus `margin`.

    Args:
        drawn: The difference and its resamples.
        margin: Above 0, in the unit of the difference; to be fixed before looking at the data.

    Raises:
        ValueError: The margin is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"got margin {margin}; expected a number above 0, fixed before looking at the data")
    found = estimate(drawn)
    if not math.isfinite(found.ci95.low):
        return NonInferiority(found, margin, math.nan, False)
    defined = drawn.resamples[np.isfinite(drawn.resamples)]
    p = (int((defined <= -margin).sum()) + 1) / (len(defined) + 1)
    return NonInferiority(found, margin, p, found.ci95.low > -margin)


def _with_p(drawn: Resampled) -> PairedDifference:
    found = estimate(drawn)
    if not math.isfinite(found.ci95.low):
        return PairedDifference(found, math.nan)
    return PairedDifference(found, bootstrap_p(drawn.resamples[np.isfinite(drawn.resamples)]))


def _mcnemar_p(only_first: int, only_second: int) -> tuple[float, float]:
    """Return the exact and the mid-p value."""
    from scipy.stats import binom

    n, fewer = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0, 1.0
    exact = 2 * float(binom.cdf(fewer, n, 0.5))
    return min(1.0, exact), min(1.0, exact - float(binom.pmf(fewer, n, 0.5)))
