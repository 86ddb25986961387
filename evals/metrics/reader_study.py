"""A model against human readers of the same cases: sensitivity at the readers' specificity, paired.

The readers are fixed; cases are resampled by patient, and with them the readers' specificity and the model's threshold.

Source: the design of reader studies such as McKinney et al., Nature 577, 89 (2020). That the threshold is set on the
    same cases, where the readers' mean specificity lies on the model's ROC curve, is ours, and favours the model a
    little: a threshold for use has to be fixed on other cases.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evals.metrics.paired import NonInferiority, PairedDifference, bootstrap_p, non_inferiority
from medsiglip.metrics.bootstrap import N_RESAMPLES, ratio
from medsiglip.metrics.ranking import scores_and_truth
from medsiglip.metrics.statistics import Estimate, ItemStatistic, estimate, resample_weighted


class ReaderComparison(NamedTuple):
    """Model minus readers, at the readers' specificity."""

    readers_sensitivity: Estimate
    """Mean over readers."""
    readers_specificity: Estimate
    """Mean over readers."""
    model_sensitivity: Estimate
    """At the readers' mean specificity, on the model's ROC curve."""
    difference: PairedDifference
    """Model minus readers, in sensitivity."""
    non_inferiority: NonInferiority | None
    """Against the margin, if one was given."""


def compare_with_readers(
    scores: ArrayLike,
    readings: ArrayLike,
    is_positive: ArrayLike,
    groups: Sequence[str],
    margin: float | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> ReaderComparison:
    """Compare a model's sensitivity with the readers' mean, at the readers' mean specificity.

    Args:
        scores: (n,) the model's; higher means more likely positive.
        readings: (n, readers) 1 positive, 0 negative, nan not read; a reader's rates are over what he or she read.
        is_positive: (n,) the reference standard.
        groups: (n,) the patient of each case.
        margin: Of non-inferiority in sensitivity, above 0, fixed beforehand; no test if None.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Returns:
        Between the operating points of the model's ROC curve the sensitivity is interpolated along the straight line
        (the best chance mixture of the two thresholds), so that ties and small sets do not favour either side.

    Raises:
        ValueError: There are no cases, the shapes differ, a reading is not 0, 1 or nan, a score is not finite, a reader
            read no positive or no negative case, or the margin is not above 0.
    """
    numbers, positive = scores_and_truth(scores, is_positive)
    table = _checked_readings(readings, positive)
    model = _model_sensitivity(numbers, positive, table)
    sensitivity, specificity = _readers_rate(table, positive), _readers_rate(1 - table, ~positive)
    drawn = resample_weighted(lambda w: model(w) - sensitivity(w), groups, seed, n_resamples)
    found = estimate(drawn)
    defined = drawn.resamples[np.isfinite(drawn.resamples)]
    p = bootstrap_p(defined) if np.isfinite(found.ci95.low) else float("nan")
    tested = None if margin is None else non_inferiority(drawn, margin)

    def figure(of: ItemStatistic) -> Estimate:
        return estimate(resample_weighted(of, groups, seed, n_resamples))

    return ReaderComparison(figure(sensitivity), figure(specificity), figure(model), PairedDifference(found, p), tested)


def sensitivity_at_specificity(scores: ArrayLike, is_positive: ArrayLike, specificity: float) -> float:
    """Return the sensitivity of the ROC curve at a specificity, interpolated along the straight line; 0 to 1.

    nan if there is no positive or no negative.

    Raises:
        ValueError: There are no items, the lengths differ, a score is not finite, or the specificity is not 0 to 1.
    """
    numbers, positive = scores_and_truth(scores, is_positive)
    if not 0 <= specificity <= 1:
        raise ValueError(f"got specificity {specificity}; expected 0 to 1")
    return float(_roc_at(numbers, positive, np.ones((1, len(numbers))), np.array([specificity]))[0])


def _model_sensitivity(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], readings: NDArray[np.float64]
) -> ItemStatistic:
    specificity = _readers_rate(1 - readings, ~positive)
    return lambda weights: _roc_at(scores, positive, weights, specificity(weights))


def _readers_rate(said: NDArray[np.float64], among: NDArray[np.bool_]) -> ItemStatistic:
    """Return the function from (R, n) weights to (R,) means over readers of the share said, among some cases."""
    read = np.isfinite(said) & among[:, None]  # (n, readers)
    hits = np.where(read, said, 0.0)

    def of(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        rates = ratio(weights @ hits, weights @ read.astype(np.float64))  # (R, readers); one nan makes the row nan
        return np.asarray(rates.mean(axis=1))

    return of


def _roc_at(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    weights: NDArray[np.float64],
    specificity: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return (R,) sensitivities of the weighted ROC curves at (R,) specificities."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf) != 0)
    ordered = weights[:, order]
    zero = np.zeros((len(weights), 1))
    hits = np.cumsum(np.add.reduceat(ordered * positive[order], starts, axis=1), axis=1)
    alarms = np.cumsum(np.add.reduceat(ordered * ~positive[order], starts, axis=1), axis=1)
    sensitivities = np.concatenate([zero, ratio(hits, hits[:, -1:])], axis=1)
    alarm_rates = np.concatenate([zero, ratio(alarms, alarms[:, -1:])], axis=1)
    rows = zip(1 - specificity, alarm_rates, sensitivities, strict=True)
    return np.array([_highest_at(rate, alarms_row, hits_row) for rate, alarms_row, hits_row in rows])


def _highest_at(rate: float, alarm_rates: NDArray[np.float64], sensitivities: NDArray[np.float64]) -> float:
    """Return the sensitivity at a false alarm rate: the top of a vertical step, or a point between two."""
    if not np.isfinite(rate) or not np.isfinite(sensitivities[-1]) or not np.isfinite(alarm_rates[-1]):
        return float("nan")
    after = int(np.searchsorted(alarm_rates, rate + 1e-12, side="right"))
    if after == len(alarm_rates):
        return 1.0
    left, right = alarm_rates[after - 1], alarm_rates[after]
    share = max(0.0, (rate - left) / (right - left))
    return float(sensitivities[after - 1] + share * (sensitivities[after] - sensitivities[after - 1]))


def _checked_readings(readings: ArrayLike, positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    table = np.asarray(readings, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(positive) or not table.shape[1]:
        raise ValueError(f"got {table.shape} readings of {len(positive)} cases; expected one row a case, a column each")
    if not (np.isin(table, (0, 1)) | np.isnan(table)).all():
        raise ValueError("got readings other than 0, 1 and nan; expected 1 positive, 0 negative, nan not read")
    for kind, among in (("positive", positive), ("negative", ~positive)):
        unread = np.flatnonzero(~np.isfinite(table[among]).any(axis=0))
        if len(unread):
            raise ValueError(f"reader {unread[0] + 1} read no {kind} case; leave that column out")
    return table
