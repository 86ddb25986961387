"""Metrics of scores that rank items: AUROC, average precision, and their confidence intervals.

Ties count half in the AUROC. `..._of_weights` functions take (R, n) weights, how often each item counts, so that all
resamples cost one call (see `statistics.grouped_weighted_ci`).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medsiglip.metrics.bootstrap import ratio
from medsiglip.metrics.classification import demand_same_length


def auroc(scores: ArrayLike, is_positive: ArrayLike) -> float:
    """Return the probability that a positive scores above a negative, ties counting half.

    Args:
        scores: (n,) higher means more likely positive.
        is_positive: (n,) booleans.

    Returns:
        0 to 1; nan if there is no positive or no negative.

    Raises:
        ValueError: There are no items, the lengths differ, or a score is not finite.

    Source: Hanley and McNeil, Radiology 143, 29 (1982): the Mann-Whitney statistic.
    """
    return float(auroc_of_weights(scores, is_positive)(np.ones((1, np.size(scores))))[0])


def auroc_of_weights(scores: ArrayLike, is_positive: ArrayLike) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the function from (R, n) weights to (R,) AUROCs."""
    numbers, positive = scores_and_truth(scores, is_positive)
    order, starts = _by_score(numbers)
    truth = positive[order]

    def of(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        ordered = weights[:, order]
        positives = np.add.reduceat(ordered * truth, starts, axis=1)  # (R, distinct scores)
        negatives = np.add.reduceat(ordered * ~truth, starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        return ratio((positives * below).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1))

    return of


def macro_auroc_one_vs_rest(scores: ArrayLike, labels: Sequence[str], classes: Sequence[str]) -> float:
    """Return the unweighted mean over classes of the AUROC of the class's score against all other items.

    Args:
        scores: (n, classes) one column a class.
        labels: (n,) the class of each item.
        classes: Names of the columns.

    Returns:
        0 to 1, over the classes that occur in the labels but are not all of them; nan if there is none.
    """
    return float(macro_auroc_of_weights(scores, labels, classes)(np.ones((1, len(labels))))[0])


def macro_auroc_of_weights(
    scores: ArrayLike, labels: Sequence[str], classes: Sequence[str]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the function from (R, n) weights to (R,) macro AUROCs, one class against the rest."""
    table, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    parts = [auroc_of_weights(table[:, column], truth == name) for column, name in enumerate(classes)]

    def of(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        per_class = np.stack([part(weights) for part in parts], axis=1)  # (R, classes)
        defined = np.isfinite(per_class)
        return ratio(np.where(defined, per_class, 0.0).sum(axis=1), defined.sum(axis=1).astype(np.float64))

    return of


def average_precision(scores: ArrayLike, is_positive: ArrayLike) -> float:
    """Return the sum over score thresholds of precision times the gain in recall, 0 to 1.

    No interpolation; items with equal scores pass the threshold together. A random ranking gets about the prevalence,
    so never compare it between sets of different prevalence.

    Args:
        scores: (n,) higher means more likely positive.
        is_positive: (n,) booleans.

    Returns:
        nan if there is no positive.

    Raises:
        ValueError: There are no items, the lengths differ, or a score is not finite.

    Source: scikit-learn's `average_precision_score`.
    """
    return float(average_precision_of_weights(scores, is_positive)(np.ones((1, np.size(scores))))[0])


def average_precision_of_weights(
    scores: ArrayLike, is_positive: ArrayLike
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the function from (R, n) weights to (R,) average precisions."""
    numbers, positive = scores_and_truth(scores, is_positive)
    order, starts = _by_score(-numbers)
    truth = positive[order]

    def of(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        ordered = weights[:, order]
        positives = np.add.reduceat(ordered * truth, starts, axis=1)  # (R, distinct scores), highest first
        taken = np.cumsum(np.add.reduceat(ordered, starts, axis=1), axis=1)
        precision = np.nan_to_num(ratio(np.cumsum(positives, axis=1), taken))
        return ratio((precision * positives).sum(axis=1), positives.sum(axis=1))

    return of


def scores_and_truth(scores: ArrayLike, is_positive: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return both as arrays.

    Raises:
        ValueError: There are no items, the lengths differ, or a score is not finite.
    """
    numbers, positive = np.asarray(scores, dtype=np.float64), np.asarray(is_positive, dtype=bool)
    demand_same_length(len(numbers), len(positive))
    if not np.isfinite(numbers).all():
        raise ValueError("got scores that are not finite; expected a number for every item; leave out failed ones")
    return numbers, positive


def _by_score(numbers: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the ascending order and where in it each distinct score begins."""
    order = np.argsort(numbers, kind="stable")
    new = np.diff(numbers[order], prepend=-np.inf) != 0
    return order, np.flatnonzero(new)
