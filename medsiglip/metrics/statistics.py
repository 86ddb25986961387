"""Confidence intervals that resample groups, so that items of one patient do not count as independent.

Letters: R resamples, G groups, n items, K columns. The percentile interval is the one quoted (`ci95`); the
bias-corrected and accelerated one (BCa) stands beside it, and for plain proportions Wilson's, which takes every
item for independent. Where an interval says nothing, it is (nan, nan) and `Estimate.note` says why.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13 (percentile) and 14 (BCa); Field and
    Welsh, J. R. Statist. Soc. B 69, 369 (2007) (whole groups drawn); Wilson, J. Am. Stat. Assoc. 22, 209 (1927).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medsiglip.metrics.bootstrap import (
    N_RESAMPLES,
    Interval,
    bca_interval,
    delete_group_weights,
    group_weights,
    percentile_interval,
    ratio,
)

NO_INTERVAL = Interval(float("nan"), float("nan"))

ITEMS_PER_CHUNK = 2_000_000
"""Item weights held at once: 16 MB."""

ItemStatistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""(R, n) weights, how often each item counts, to (R,) values; nan where a row leaves the value undefined."""

TotalsStatistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""(R, K) sums over items to (R,) values; nan where a row leaves the value undefined."""


class Estimate(NamedTuple):
    """A figure, what it rests on, and its 95 % bootstrap intervals over groups."""

    value: float
    n: int
    """Items."""
    n_groups: int
    """Independent groups; with one alone no interval says anything."""
    ci95: Interval
    """Percentile interval."""
    ci95_bca: Interval = NO_INTERVAL
    """Bias-corrected and accelerated interval."""
    ci95_wilson: Interval | None = None
    """Plain proportions only: right if no two items share a group, too narrow otherwise."""
    note: str = ""
    """What is odd about the value or the intervals; empty if nothing is."""


class Resampled(NamedTuple):
    """A statistic, its resamples, and the values with one block of groups left out each."""

    value: float
    n: int
    n_groups: int
    resamples: NDArray[np.float64]
    """(R,) nan where undefined."""
    jackknife: NDArray[np.float64]


def grouped_bootstrap_ci(
    values: ArrayLike,
    groups: Sequence[str],
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Estimate the mean of per-item values; whole groups are drawn with replacement.

    Args:
        values: (n,) one finite number an item.
        groups: (n,) the group of each item.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Returns:
        The mean. One group: no interval. All values equal: intervals without width. Values of 0 and 1 only: Wilson's
        interval too.

    Raises:
        ValueError: There are no items, the lengths differ, or a value is not finite.
    """
    return estimate(resample_mean(values, groups, seed, n_resamples), wilson_of=np.asarray(values, dtype=np.float64))


def resample_mean(values: ArrayLike, groups: Sequence[str], seed: int = 0, n_resamples: int = N_RESAMPLES) -> Resampled:
    """Resample the mean of per-item values; see `grouped_bootstrap_ci`."""
    numbers = np.asarray(values, dtype=np.float64)
    group_codes(numbers, groups)
    _demand_finite(numbers)
    columns = np.stack([numbers, np.ones_like(numbers)], axis=1)  # (n, 2)
    return resample_totals(lambda totals: ratio(totals[:, 0], totals[:, 1]), columns, groups, seed, n_resamples)


def paired_difference(
    values_a: ArrayLike,
    values_b: ArrayLike,
    groups: Sequence[str],
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Estimate the mean of a - b over items that both were measured on, in the same order.

    Raises:
        ValueError: There are no items, the lengths differ, or a value is not finite.
    """
    a, b = np.asarray(values_a, dtype=np.float64), np.asarray(values_b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"got {a.shape} and {b.shape} values; expected the same items in both")
    return estimate(resample_mean(a - b, groups, seed, n_resamples))


def grouped_totals_ci(
    statistic: TotalsStatistic,
    columns: ArrayLike,
    groups: Sequence[str],
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Estimate a statistic of sums over items: F1, kappa, calibration error, micro F1, ...

    Args:
        statistic: (R, K) sums to (R,) values.
        columns: (n, K) what each item adds to the sums.
        groups: (n,) the group of each item.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Raises:
        ValueError: There are no items, or the lengths differ.
    """
    return estimate(resample_totals(statistic, columns, groups, seed, n_resamples))


def resample_totals(
    statistic: TotalsStatistic,
    columns: ArrayLike,
    groups: Sequence[str],
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Resampled:
    """Resample a statistic of sums over items; see `grouped_totals_ci`."""
    table = np.asarray(columns, dtype=np.float64)  # (n, K)
    codes = group_codes(table[:, 0], groups)
    sums = np.zeros((int(codes.max()) + 1, table.shape[1]))  # (G, K)
    np.add.at(sums, codes, table)
    totals = np.concatenate([weights @ sums for weights in _chunks(len(sums), len(sums), seed, n_resamples)])
    left_out = delete_group_weights(len(sums), seed) @ sums
    value = float(statistic(sums.sum(axis=0, keepdims=True))[0])
    return Resampled(value, len(table), len(sums), statistic(totals), statistic(left_out))


def grouped_weighted_ci(
    statistic: ItemStatistic,
    groups: Sequence[str],
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Estimate a statistic of all items with weights, such as an AUROC.

    Args:
        statistic: (R, n) weights to (R,) values.
        groups: (n,) the group of each item.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Raises:
        ValueError: There are no items.
    """
    return estimate(resample_weighted(statistic, groups, seed, n_resamples))


def resample_weighted(
    statistic: ItemStatistic, groups: Sequence[str], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Resampled:
    """Resample a statistic of all items with weights; see `grouped_weighted_ci`."""
    n = len(groups)
    codes = group_codes(np.arange(n), groups)
    n_groups = int(codes.max()) + 1
    chunks = _chunks(n_groups, n, seed, n_resamples)
    resamples = np.concatenate([statistic(weights[:, codes].astype(np.float64)) for weights in chunks])
    jackknife = np.concatenate([statistic(rows) for rows in _left_out(codes, n_groups, seed)])
    value = float(statistic(np.ones((1, n)))[0])
    return Resampled(value, n, n_groups, resamples, jackknife)


def grouped_statistic_ci(
    statistic: Callable[[NDArray[np.intp]], float],
    groups: Sequence[str],
    seed: int = 0,
    n_resamples: int = 500,
) -> Estimate:
    """Estimate any statistic of items; slower than the others here, which call it once for all resamples.

    Args:
        statistic: Takes (m,) indices of items, repeats among them, and returns the figure, or nan where a
            resample leaves it undefined (no positive drawn).
        groups: (n,) the group of each item.
        seed: Of the resampling.
        n_resamples: Number of resamples; one call of `statistic` each.

    Raises:
        ValueError: There are no items.
    """

    def of_weights(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = [np.repeat(np.arange(weights.shape[1]), row.astype(np.intp)) for row in weights]
        return np.array([statistic(row) if len(row) else math.nan for row in rows])

    return grouped_weighted_ci(of_weights, groups, seed, n_resamples)


def estimate(drawn: Resampled, wilson_of: NDArray[np.float64] | None = None) -> Estimate:
    """Turn resamples into intervals and say what is odd about them.

    Fewer than half of the resamples defined: no interval. Some undefined: they are left out, and counted in the note.

    Args:
        drawn: A statistic and its resamples.
        wilson_of: (n,) the items' values if the statistic is their mean; used if all are 0 or 1.
    """
    defined = drawn.resamples[np.isfinite(drawn.resamples)]
    note = _note(drawn, len(defined))
    wilson = _wilson(wilson_of)
    if drawn.n_groups < 2 or 2 * len(defined) < len(drawn.resamples) or not math.isfinite(drawn.value):
        return Estimate(drawn.value, drawn.n, drawn.n_groups, NO_INTERVAL, NO_INTERVAL, wilson, note)
    percentile = percentile_interval(defined)
    bca = bca_interval(drawn.value, defined, drawn.jackknife[np.isfinite(drawn.jackknife)])
    return Estimate(drawn.value, drawn.n, drawn.n_groups, percentile, bca, wilson, note)


def wilson_interval(successes: int, n: int) -> Interval:
    """Return Wilson's 95 % interval of a proportion of independent items, without continuity correction.

    Raises:
        ValueError: n is below 1 or the successes are outside 0 to n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"got {successes} successes of {n}; expected n at least 1 and successes from 0 to n")
    z = 1.959963984540054  # the 97.5 % point of the normal distribution
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def group_codes(values: NDArray[np.generic], groups: Sequence[str]) -> NDArray[np.intp]:
    """Return (n,) numbers 0.. of the groups.

    Raises:
        ValueError: There are no items, or not as many groups as items.
    """
    if values.ndim != 1 or not len(values) or len(values) != len(groups):
        raise ValueError(f"got {values.shape} values and {len(groups)} groups; expected n of each, n at least 1")
    codes: NDArray[np.intp] = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    return codes


def _chunks(n_groups: int, width: int, seed: int, n_resamples: int) -> Iterator[NDArray[np.int64]]:
    """Yield (rows, G) draws, as many rows at once as fit ITEMS_PER_CHUNK weights of `width` items."""
    return group_weights(n_groups, seed, n_resamples, max(1, ITEMS_PER_CHUNK // width))


def _left_out(codes: NDArray[np.intp], n_groups: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield (rows, n) item weights, one block of groups left out a row."""
    weights = delete_group_weights(n_groups, seed)
    step = max(1, ITEMS_PER_CHUNK // len(codes))
    for start in range(0, len(weights), step):
        yield weights[start : start + step][:, codes]


def _wilson(values: NDArray[np.float64] | None) -> Interval | None:
    if values is None or not np.isin(values, (0.0, 1.0)).all():
        return None
    return wilson_interval(int(values.sum()), len(values))


def _note(drawn: Resampled, n_defined: int) -> str:
    if not math.isfinite(drawn.value):
        return "undefined on these items (a class or a whole label is missing): no value and no interval"
    if drawn.n_groups < 2:
        return "all items are of one group: no interval"
    undefined = len(drawn.resamples) - n_defined
    if undefined:
        kept = "no interval" if 2 * n_defined < len(drawn.resamples) else "they are left out of the interval"
        return f"undefined in {undefined} of {len(drawn.resamples)} resamples (a class was not drawn): {kept}"
    if np.ptp(drawn.resamples) == 0:
        return "the same in every resample: the bootstrap intervals have no width"
    return ""


def _demand_finite(numbers: NDArray[np.float64]) -> None:
    if not np.isfinite(numbers).all():
        raise ValueError("got values that are not finite; expected a number for every item; leave out failed ones")
