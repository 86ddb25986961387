"""The metrics that are no means of items, with their intervals: one call each for tasks and reports.

A metric that is a mean over items (accuracy, token F1, IoU, ROUGE-L) goes to `statistics.grouped_bootstrap_ci`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medsiglip.metrics.bootstrap import N_RESAMPLES
from medsiglip.metrics.calibration import Binned, brier_per_item, error_of_totals
from medsiglip.metrics.classification import Counts, as_counts, classes_of, confusion_columns
from medsiglip.metrics.delong import DeLongEstimate, delong_auroc
from medsiglip.metrics.ranking import auroc_of_weights, average_precision_of_weights
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci, grouped_totals_ci, grouped_weighted_ci


class AurocEstimate(NamedTuple):
    """An AUROC with both of its intervals."""

    bootstrap: Estimate
    delong: DeLongEstimate


def counts_estimate(
    rate: Callable[[Counts], NDArray[np.float64]],
    predicted: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str],
    classes: Sequence[str] | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Estimate a metric of confusion counts.

    Args:
        rate: One of the `..._of_counts` of classification.py, e.g. `macro_f1_of_counts`.
        predicted: (n,) labels; UNPARSED for an answer that says none.
        labels: (n,) the reference.
        groups: (n,) the patient of each item.
        classes: Order of the counts, all labels that occur if None. Binary rates need the positive class second;
            weighted kappa needs the scale in order.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Raises:
        ValueError: There are no items, the lengths differ, or a label is none of the classes.
    """
    columns = confusion_columns(predicted, labels, classes or classes_of(predicted, labels))
    return grouped_totals_ci(lambda totals: rate(as_counts(totals)), columns, groups, seed, n_resamples)


def auroc_estimate(
    scores: ArrayLike,
    is_positive: ArrayLike,
    groups: Sequence[str],
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> AurocEstimate:
    """Estimate an AUROC (see `ranking.auroc`): bootstrap and DeLong, both over patients."""
    boot = grouped_weighted_ci(auroc_of_weights(scores, is_positive), groups, seed, n_resamples)
    return AurocEstimate(boot, delong_auroc(scores, is_positive, groups))


def average_precision_estimate(
    scores: ArrayLike,
    is_positive: ArrayLike,
    groups: Sequence[str],
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Estimate an average precision (see `ranking.average_precision`) over patients."""
    return grouped_weighted_ci(average_precision_of_weights(scores, is_positive), groups, seed, n_resamples)


def brier_estimate(
    probability: ArrayLike, outcome: ArrayLike, groups: Sequence[str], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Estimate:
    """Estimate a Brier score (see `calibration.brier_score`) over patients."""
    return grouped_bootstrap_ci(brier_per_item(probability, outcome), groups, seed, n_resamples)


def calibration_error_estimate(
    binned: Binned, groups: Sequence[str], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Estimate:
    """Estimate the calibration error over the bins of `calibration.bins_of_equal_width` or `..._equal_mass`.

    The bins stay in all resamples. The error is biased upwards in small samples, and more so in resamples of them: the
    percentile interval can lie above the value.
    """
    return grouped_totals_ci(error_of_totals(), binned.columns, groups, seed, n_resamples)
