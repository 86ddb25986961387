"""What stands between an answer and a figure: an item with its output, and what a metric is computed from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.items import Item
from evals.metrics.statistics import ItemStatistic
from evals.outputs import Output


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
