"""DeLong's interval of an AUROC and his paired test, in the form that also holds for several items a patient.

Every positive x has a component V10(x), the share of negatives it scores above, and every negative a component V01:
their means are the AUROC, their (co)variances its variance. Obuchowski sums the components within each patient; with
one item a patient her variance is DeLong's.

Sources: DeLong, DeLong and Clarke-Pearson, Biometrics 44, 837 (1988); Sun and Xu, IEEE Signal Process. Lett. 21, 1389
    (2014) (components by midranks); Obuchowski, Biometrics 53, 567 (1997) (clustered data).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medsiglip.metrics.bootstrap import Interval
from medsiglip.metrics.ranking import scores_and_truth
from medsiglip.metrics.statistics import NO_INTERVAL, group_codes

Z_95 = 1.959963984540054


class DeLongEstimate(NamedTuple):
    """An AUROC, or a difference of two, with its normal-theory interval."""

    value: float
    standard_error: float
    ci95: Interval
    """value +- 1.96 standard errors; an AUROC's is cut at 0 and 1."""
    p: float
    """Two-sided, of a difference of 0; nan for a single AUROC."""
    n_positive: int
    n_negative: int
    n_groups: int
    note: str = ""
    """What is odd; empty if nothing is."""


def delong_auroc(scores: ArrayLike, is_positive: ArrayLike, groups: Sequence[str] | None = None) -> DeLongEstimate:
    """Return the AUROC with DeLong's 95 % interval.

    Args:
        scores: (n,) higher means more likely positive.
        is_positive: (n,) booleans.
        groups: (n,) the group of each item; every item is its own if None.

    Returns:
        Without a positive or a negative: nan and a note. Perfect separation: an interval without width, and a note.

    Raises:
        ValueError: There are no items, the lengths differ, or a score is not finite.
    """
    numbers, positive = scores_and_truth(scores, is_positive)
    theta, variance, n_groups = _moments(numbers[None], positive, groups)
    error = _root(float(variance[0, 0]))
    interval = _interval(float(theta[0]), error)
    within = Interval(max(interval.low, 0.0), min(interval.high, 1.0))  # in this order nan stays nan
    counts = int(positive.sum()), int((~positive).sum()), n_groups
    return DeLongEstimate(float(theta[0]), error, within, math.nan, *counts, _note(float(theta[0]), error))


def delong_paired(
    scores_a: ArrayLike, scores_b: ArrayLike, is_positive: ArrayLike, groups: Sequence[str] | None = None
) -> DeLongEstimate:
    """Return AUROC a minus AUROC b of two models on the same items, with DeLong's paired interval and test.

    Args:
        scores_a: (n,) higher means more likely positive.
        scores_b: (n,) of the other model, the same items in the same order; its scale may differ.
        is_positive: (n,) booleans.
        groups: (n,) the group of each item; every item is its own if None.

    Returns:
        p = 1 if both rank all pairs alike. Without a positive or a negative: nan and a note.

    Raises:
        ValueError: There are no items, the lengths differ, or a score is not finite.
    """
    first, positive = scores_and_truth(scores_a, is_positive)
    second, _ = scores_and_truth(scores_b, is_positive)
    theta, variance, n_groups = _moments(np.stack([first, second]), positive, groups)
    difference = float(theta[0] - theta[1])
    error = _root(float(variance[0, 0] + variance[1, 1] - 2 * variance[0, 1]))
    counts = int(positive.sum()), int((~positive).sum()), n_groups
    p = _two_sided(difference, error)
    return DeLongEstimate(difference, error, _interval(difference, error), p, *counts, _note(difference, error))


def _moments(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], groups: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return (M,) AUROCs of (M, n) scores, their (M, M) covariance, and the number of groups."""
    codes = np.arange(scores.shape[1]) if groups is None else group_codes(scores[0], groups)
    n_groups = int(codes.max()) + 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    models = len(scores)
    if not n_positive or not n_negative:
        return np.full(models, math.nan), np.full((models, models), math.nan), n_groups
    v10, v01 = _components(scores, positive)  # (M, positives), (M, negatives)
    theta = v10.mean(axis=1)
    by_positives = _sums(v10 - theta[:, None], codes[positive], n_groups)  # (M, G)
    by_negatives = _sums(v01 - theta[:, None], codes[~positive], n_groups)
    s10 = _scaled(by_positives @ by_positives.T, len(np.unique(codes[positive]))) / n_positive**2
    s01 = _scaled(by_negatives @ by_negatives.T, len(np.unique(codes[~positive]))) / n_negative**2
    crossed = _scaled(by_positives @ by_negatives.T, n_groups) / (n_positive * n_negative)
    return theta, s10 + s01 + crossed + crossed.T, n_groups


def _components(
    scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return V10 (M, positives) and V01 (M, negatives)."""
    from scipy.stats import rankdata

    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores, axis=1)
    within_positives = rankdata(scores[:, positive], axis=1)
    within_negatives = rankdata(scores[:, ~positive], axis=1)
    v10 = (ranks[:, positive] - within_positives) / n_negative
    v01 = 1 - (ranks[:, ~positive] - within_negatives) / n_positive
    return v10, v01


def _sums(centred: NDArray[np.float64], codes: NDArray[np.intp], n_groups: int) -> NDArray[np.float64]:
    """Return (M, G) sums within groups."""
    return np.stack([np.bincount(codes, weights=row, minlength=n_groups) for row in centred])


def _scaled(products: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """Apply the factor of an unbiased variance; one group alone has none."""
    return products * (groups / (groups - 1)) if groups > 1 else np.full_like(products, math.nan)


def _root(variance: float) -> float:
    """Return the standard error; rounding may leave a variance of 0 a little above or below it."""
    return 0.0 if abs(variance) < 1e-15 else math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else math.nan


def _interval(value: float, error: float) -> Interval:
    if not math.isfinite(error):
        return NO_INTERVAL
    return Interval(float(value - Z_95 * error), float(value + Z_95 * error))


def _two_sided(difference: float, error: float) -> float:
    from scipy.special import ndtr

    if not math.isfinite(difference) or not math.isfinite(error):
        return math.nan
    if error == 0:
        return 1.0 if abs(difference) < 1e-12 else 0.0
    return float(2 * ndtr(-abs(difference) / error))


def _note(value: float, error: float) -> str:
    if not math.isfinite(value):
        return "there is no positive or no negative item: no value and no interval"
    if not math.isfinite(error):
        return "the positives or the negatives are all of one group: no interval"
    return "the components do not vary: the interval has no width" if error == 0 else ""
