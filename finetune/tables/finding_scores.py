"""Figures of one finding that is present or absent: F1, ranking, calibration, and a threshold at a wanted sensitivity.

Letters: N rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evals.results.scores import as_json
from medsiglip.calibration.decisions import threshold_at
from medsiglip.metrics.bootstrap import ratio
from medsiglip.metrics.calibration import expected_calibration_error_equal_mass
from medsiglip.metrics.ranking import auroc_of_weights
from medsiglip.metrics.statistics import grouped_bootstrap_ci, grouped_totals_ci, grouped_weighted_ci


def finding_figures(
    present: NDArray[np.bool_], probability: NDArray[np.float64], groups: Sequence[str], thresholds: NDArray[np.float64]
) -> dict[str, Any]:
    """Each figure with its 95 % interval, whole groups resampled.

    Args:
        present: (N,) what is right.
        probability: (N,) of the finding, 0..1.
        groups: (N,) rows of one group (patient) depend on each other.
        thresholds: (N,) of each row, from rows that are not scored with it; NaN where there is none.

    Returns:
        accuracy and f1 of probabilities of 0.5 and more; auroc; brier; the calibration error over ten bins of equally
        many rows, without an interval; sensitivity, specificity and f1 at the thresholds.
    """
    said, decided = probability >= 0.5, probability >= thresholds
    found: dict[str, Any] = {
        "accuracy": as_json(grouped_bootstrap_ci(said == present, groups)),
        "f1": as_json(grouped_totals_ci(_f1, _counts(present, said), groups)),
        "auroc": as_json(grouped_weighted_ci(auroc_of_weights(probability, present), groups)),
        "brier": as_json(grouped_bootstrap_ci((probability - present) ** 2, groups)),
        "calibration error": {"value": expected_calibration_error_equal_mass(probability, present), "n": len(present)},
    }
    if not np.isnan(thresholds).any():
        counts = _counts(present, decided)
        found["sensitivity at the threshold"] = as_json(grouped_totals_ci(_sensitivity, counts, groups))
        found["specificity at the threshold"] = as_json(grouped_totals_ci(_specificity, counts, groups))
        found["f1 at the threshold"] = as_json(grouped_totals_ci(_f1, counts, groups))
    return found


def threshold_of_others(
    sensitivity: float, present: NDArray[np.bool_], probability: NDArray[np.float64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(N,) a threshold for each row from the rows of the other folds; NaN where these have too few positives."""
    found = np.full(len(present), np.nan)
    for fold in np.unique(folds):
        others = folds != fold
        threshold = threshold_at(sensitivity, probability[others], present[others].astype(np.float64))
        found[folds == fold] = np.nan if threshold is None else threshold
    return found


def _counts(present: NDArray[np.bool_], said: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, 4): what each row adds to true and false positives, false and true negatives."""
    return np.stack([present & said, ~present & said, present & ~said, ~present & ~said], 1).astype(np.float64)


def _f1(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    right, false_alarms, misses, _ = totals.T
    return ratio(2 * right, 2 * right + false_alarms + misses)


def _sensitivity(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    right, _, misses, _ = totals.T
    return ratio(right, right + misses)


def _specificity(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    _, false_alarms, _, rejected = totals.T
    return ratio(rejected, rejected + false_alarms)
