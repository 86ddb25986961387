"""What stands between an answer and a figure: an item with its output, and what a metric is computed from."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.items import Item
from evals.outputs import Output
from medsiglip.metrics.bootstrap import ratio
from medsiglip.metrics.classification import Counts, as_counts, classes_of, confusion_columns
from medsiglip.metrics.statistics import ItemStatistic


class Answered(NamedTuple):
    """An item and what came back."""

    item: Item
    output: Output


class Measure(NamedTuple):
    """One metric of one run, as far as resampling and pairing need it."""

    item_ids: list[str]
    groups: list[str]
    values: list[float]
    """One an item, if the metric is their mean; else empty."""
    right_or_wrong: bool = False
    """Every item's value is 0 or 1, over the whole task: the metric is a proportion."""
    statistic: ItemStatistic | None = None
    """Weights of the items to the metric, if it is no mean."""
    two_classes: tuple[NDArray[np.float64], NDArray[np.bool_]] | None = None
    """Scores and truth of the second of two classes, for DeLong's interval and test of an AUROC."""


def of_statistic(
    answered: Sequence[Answered],
    statistic: ItemStatistic,
    two_classes: tuple[NDArray[np.float64], NDArray[np.bool_]] | None = None,
) -> Measure:
    """Return the measure of a metric that is no mean of its items."""
    ids, groups = [pair.item.item_id for pair in answered], [pair.item.group for pair in answered]
    return Measure(ids, groups, [], statistic=statistic, two_classes=two_classes)


def of_confusion(
    answered: Sequence[Answered], predicted: Sequence[str], rate: Callable[[Counts], NDArray[np.float64]]
) -> Measure:
    """Return the measure of a rate of confusion counts, one of `..._of_counts` in metrics/classification.py.

    Args:
        answered: Items and outputs; the labels are the items' references.
        predicted: (n,) labels, UNPARSED for an answer that says none.
        rate: (R, C, C) counts to (R,) values; the classes are in the order of their names.
    """
    labels = [pair.item.reference for pair in answered]
    columns = confusion_columns(predicted, labels, classes_of(predicted, labels))  # (n, C * C)
    return of_statistic(answered, lambda weights: rate(as_counts(weights @ columns)))


def mean_over_parts(answered: Sequence[Answered], values: Sequence[float], parts: Sequence[str]) -> Measure:
    """Return the measure of the unweighted mean over parts (subjects, categories) of the mean of their items.

    A part that a resample does not have is left out of its mean.
    """
    names = sorted(set(parts))
    member = np.array([[part == name for name in names] for part in parts], dtype=np.float64)  # (n, parts)
    numbers = np.asarray(values, dtype=np.float64)

    def mean(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        counts = weights @ member
        means = np.nan_to_num(ratio((weights * numbers) @ member, counts))
        return ratio(means.sum(axis=1), (counts > 0).sum(axis=1).astype(np.float64))

    return of_statistic(answered, mean)
