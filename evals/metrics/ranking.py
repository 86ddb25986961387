"""Metrics of classification: accuracy, macro F1, AUROC."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def accuracy(predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Return the share of items whose predicted label is the label.

    Raises:
        ValueError: There are no items, or the lengths differ.
    """
    _demand_same_length(len(predicted), len(labels))
    return sum(p == label for p, label in zip(predicted, labels, strict=True)) / len(labels)


def macro_f1(predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Return the unweighted mean of the classes' F1, over the classes that occur in the labels.

    A class that is only ever predicted costs precision of none but itself, so it is left out of the mean, and
    its predictions count as misses of the right classes. A class never hit has F1 0.

    Raises:
        ValueError: There are no items, or the lengths differ.
    """
    _demand_same_length(len(predicted), len(labels))
    guess, truth = np.asarray(predicted), np.asarray(labels)
    return float(np.mean([_f1(guess == label, truth == label) for label in np.unique(truth)]))


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
    from scipy.stats import rankdata

    numbers, positive = np.asarray(scores, dtype=np.float64), np.asarray(is_positive, dtype=bool)
    _demand_same_length(len(numbers), len(positive))
    if not np.isfinite(numbers).all():
        raise ValueError("got scores that are not finite; expected a number for every item; leave out failed ones")
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    rank_sum = float(rankdata(numbers)[positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def macro_auroc_one_vs_rest(scores: ArrayLike, labels: Sequence[str], classes: Sequence[str]) -> float:
    """Return the unweighted mean over classes of the AUROC of the class's score against all other items.

    Args:
        scores: (n, classes) one column a class.
        labels: (n,) the class of each item.
        classes: Names of the columns.

    Returns:
        0 to 1, over the classes that occur in the labels but are not all of them; nan if there is none.
    """
    table, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    per_class = np.array([auroc(table[:, column], truth == name) for column, name in enumerate(classes)])
    defined = per_class[np.isfinite(per_class)]
    return float(defined.mean()) if len(defined) else float("nan")


def _f1(guess: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return 2 * int((guess & truth).sum()) / (int(guess.sum()) + int(truth.sum()))


def _demand_same_length(n: int, m: int) -> None:
    if n != m or not n:
        raise ValueError(f"got {n} predictions and {m} labels; expected as many of each, at least one")
