"""Whether a probability means what it says: expected calibration error and Brier score. Lower is better in all."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medsiglip.metrics.bootstrap import ratio
from medsiglip.metrics.statistics import TotalsStatistic


class Binned(NamedTuple):
    """Items sorted into bins: what a reliability diagram draws, and what the calibration error sums over."""

    columns: NDArray[np.float64]
    """(n, 3 * bins): for each item one in its bin, its probability there and its outcome there."""
    edges: NDArray[np.float64]
    """(bins + 1,) probabilities."""


def expected_calibration_error_equal_width(probability: ArrayLike, outcome: ArrayLike, n_bins: int = 10) -> float:
    """Return the mean distance of the mean probability and the share of events in bins of equal width, 0 to 1.

    Bins are (0, 1/B], (1/B, 2/B], ..., the first with 0; each counts by its items, an empty one not at all.

    Args:
        probability: (n,) of the event (or of the predicted class, `outcome` then being whether it was right), 0 to 1.
        outcome: (n,) whether the event is there.
        n_bins: Bins; the value depends on it, so report it.

    Raises:
        ValueError: There are no items, the lengths differ, or a probability is outside 0 to 1.

    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017.
    """
    return _error(bins_of_equal_width(probability, outcome, n_bins))


def expected_calibration_error_equal_mass(probability: ArrayLike, outcome: ArrayLike, n_bins: int = 10) -> float:
    """Return the same over bins holding equally many items (quantiles; equal probabilities share a bin), 0 to 1.

    Source: Nixon et al., Measuring Calibration in Deep Learning, CVPR workshops 2019 (adaptive binning).
    """
    return _error(bins_of_equal_mass(probability, outcome, n_bins))


def brier_score(probability: ArrayLike, outcome: ArrayLike) -> float:
    """Return the mean of (probability - outcome) squared, 0 to 1; 0.25 for always saying one half.

    Raises:
        ValueError: There are no items, the lengths differ, or a probability is outside 0 to 1.

    Source: Brier, Mon. Weather Rev. 78, 1 (1950), in its two-class form; scikit-learn's `brier_score_loss`.
    """
    return float(brier_per_item(probability, outcome).mean())


def brier_per_item(probability: ArrayLike, outcome: ArrayLike) -> NDArray[np.float64]:
    """Return the (n,) squares whose mean is the Brier score."""
    p, y = _checked(probability, outcome)
    squares: NDArray[np.float64] = (p - y) ** 2
    return squares


def brier_score_multiclass(probabilities: ArrayLike, labels: Sequence[str], classes: Sequence[str]) -> float:
    """Return the mean over items of the sum over classes of (probability - outcome) squared, 0 to 2.

    With two classes it is twice `brier_score`.

    Raises:
        ValueError: There are no items, the shapes differ, a probability is outside 0 to 1, or a label is unknown.

    Source: Brier, Mon. Weather Rev. 78, 1 (1950), as he wrote it.
    """
    table = np.asarray(probabilities, dtype=np.float64)
    if table.shape != (len(labels), len(classes)) or not len(labels) or set(labels) - set(classes):
        raise ValueError(
            f"got {table.shape} probabilities, {len(labels)} labels and {len(classes)} classes; expected one row a "
            "label, one column a class, and no other label"
        )
    truth = np.array([[name == label for name in classes] for label in labels], dtype=np.float64)
    p, y = _checked(table.ravel(), truth.ravel())
    return float(((p - y) ** 2).sum() / len(labels))


def bins_of_equal_width(probability: ArrayLike, outcome: ArrayLike, n_bins: int = 10) -> Binned:
    """Sort items into bins of equal width."""
    p, y = _checked(probability, outcome)
    return _binned(p, y, np.linspace(0, 1, _checked_bins(n_bins) + 1))


def bins_of_equal_mass(probability: ArrayLike, outcome: ArrayLike, n_bins: int = 10) -> Binned:
    """Sort items into bins of about equally many items; fewer bins where probabilities are equal."""
    p, y = _checked(probability, outcome)
    inner = np.quantile(p, np.linspace(0, 1, _checked_bins(n_bins) + 1)[1:-1], method="inverted_cdf")
    return _binned(p, y, np.unique(np.concatenate([[0.0], inner, [1.0]])))


def error_of_totals() -> TotalsStatistic:
    """Return the function from (R, 3 * bins) sums to (R,) calibration errors."""

    def of(totals: NDArray[np.float64]) -> NDArray[np.float64]:
        counts, probabilities, events = np.split(totals, 3, axis=1)
        return ratio(np.abs(probabilities - events).sum(axis=1), counts.sum(axis=1))

    return of


def _error(binned: Binned) -> float:
    return float(error_of_totals()(binned.columns.sum(axis=0, keepdims=True))[0])


def _binned(p: NDArray[np.float64], y: NDArray[np.float64], edges: NDArray[np.float64]) -> Binned:
    bins = np.clip(np.searchsorted(edges, p, side="left") - 1, 0, len(edges) - 2)
    member = np.eye(len(edges) - 1)[bins]  # (n, bins)
    return Binned(np.concatenate([member, member * p[:, None], member * y[:, None]], axis=1), edges)


def _checked(probability: ArrayLike, outcome: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    if p.shape != y.shape or p.ndim != 1 or not len(p):
        raise ValueError(f"got {p.shape} probabilities and {y.shape} outcomes; expected as many of each, at least one")
    if not ((p >= 0) & (p <= 1)).all() or not np.isin(y, (0, 1)).all():
        raise ValueError("got values outside their range; expected probabilities from 0 to 1 and outcomes of 0 or 1")
    return p, y


def _checked_bins(n_bins: int) -> int:
    if n_bins < 1:
        raise ValueError(f"got {n_bins} bins; expected at least 1")
    return n_bins
