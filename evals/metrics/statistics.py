"""Confidence intervals that resample groups, so that items of one patient do not count as independent."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_RESAMPLES = 2000


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A figure, what it rests on, and its 95 % percentile bootstrap interval over clusters."""

    value: float
    n: int
    """Items."""
    n_clusters: int
    """Independent groups; with one alone the interval says nothing and is (nan, nan)."""
    ci95: Interval


def clustered_bootstrap_ci(
    values: ArrayLike,
    clusters: Sequence[str],
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Estimate the mean of per-item values.

    Whole clusters are drawn with replacement; a resample's mean is over the items it holds.

    Args:
        values: (n,) one finite number an item.
        clusters: (n,) the group of each item.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Raises:
        ValueError: There are no items, the lengths differ, or a value is not finite.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13 (percentile interval); Field
        and Welsh, J. R. Statist. Soc. B 69, 369 (2007) (cluster bootstrap).
    """
    numbers = np.asarray(values, dtype=np.float64)
    codes = _cluster_codes(numbers, clusters)
    if not np.isfinite(numbers).all():
        raise ValueError("got values that are not finite; expected a number for every item; leave out failed ones")
    sums, sizes = np.bincount(codes, weights=numbers), np.bincount(codes)
    weights = _cluster_weights(len(sizes), seed, n_resamples)  # (resamples, clusters)
    means = (weights @ sums) / (weights @ sizes)
    return Estimate(float(numbers.mean()), len(numbers), len(sizes), _interval(means, len(sizes)))


def paired_difference(
    values_a: ArrayLike,
    values_b: ArrayLike,
    clusters: Sequence[str],
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
    return clustered_bootstrap_ci(a - b, clusters, seed, n_resamples)


def clustered_statistic_ci(
    statistic: Callable[[NDArray[np.intp]], float],
    clusters: Sequence[str],
    seed: int = 0,
    n_resamples: int = 500,
) -> Estimate:
    """Estimate a statistic that is no mean of items, such as an AUROC or a macro F1.

    Args:
        statistic: Takes (m,) indices of items, repeats among them, and returns the figure, or nan where a
            resample leaves it undefined (no positive drawn); such resamples are left out of the interval.
        clusters: (n,) the group of each item.
        seed: Of the resampling.
        n_resamples: Number of resamples; one call of `statistic` each.

    Raises:
        ValueError: There are no items.
    """
    everything = np.arange(len(clusters))
    codes = _cluster_codes(everything, clusters)
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, len(members), len(members)) for _ in range(n_resamples))
    figures = np.array([statistic(np.concatenate([members[code] for code in draw])) for draw in drawn])
    defined = figures[np.isfinite(figures)]
    return Estimate(statistic(everything), len(clusters), len(members), _interval(defined, len(members)))


def _cluster_codes(values: NDArray[np.generic], clusters: Sequence[str]) -> NDArray[np.intp]:
    """Return (n,) numbers 0.. of the clusters."""
    if values.ndim != 1 or not len(values) or len(values) != len(clusters):
        raise ValueError(f"got {values.shape} values and {len(clusters)} clusters; expected n of each, n at least 1")
    codes: NDArray[np.intp] = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)[1]
    return codes


def _cluster_weights(n_clusters: int, seed: int, n_resamples: int) -> NDArray[np.int64]:
    """Return (resamples, clusters): how often each cluster is drawn."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples)


def _interval(figures: NDArray[np.float64], n_clusters: int) -> Interval:
    if n_clusters < 2 or not len(figures):
        return Interval(float("nan"), float("nan"))
    low, high = np.percentile(figures, (2.5, 97.5))
    return Interval(float(low), float(high))
