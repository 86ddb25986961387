"""ROC, precision-recall and reliability curves as SVG, drawn from plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsiglip.metrics.calibration import bins_of_equal_mass

Points = Sequence[tuple[float, float]]
SIDE_PX, MARGIN_PX = 180, 26


@dataclass(frozen=True)
class Line:
    """One line of a chart, x and y from 0 to 1."""

    points: Points
    kind: str = "line"
    """CSS class."""


def roc_points(probabilities: np.ndarray, positive: np.ndarray) -> Points:
    """False positive rate and sensitivity at every threshold, from (0, 0) to (1, 1); equal values pass together."""
    hits, misses = _passed(probabilities, positive)
    return [(0.0, 0.0), *zip((misses / max(misses[-1], 1)).tolist(), (hits / max(hits[-1], 1)).tolist(), strict=True)]


def precision_recall_points(probabilities: np.ndarray, positive: np.ndarray) -> Points:
    """Recall and precision at every threshold."""
    hits, misses = _passed(probabilities, positive)
    return list(zip((hits / max(hits[-1], 1)).tolist(), (hits / (hits + misses)).tolist(), strict=True))


def reliability_points(probabilities: np.ndarray, positive: np.ndarray) -> Points:
    """Mean probability and share of positives of ten bins of about equally many pictures."""
    counts, said, events = np.split(bins_of_equal_mass(probabilities, positive).columns.sum(axis=0), 3)
    full = counts > 0
    return list(zip((said[full] / counts[full]).tolist(), (events[full] / counts[full]).tolist(), strict=True))


def chart(lines: Sequence[Line], x_name: str, y_name: str) -> str:
    """An SVG of lines over the unit square; the names are escaped by nobody, so they must be ours."""
    size = SIDE_PX + 2 * MARGIN_PX
    drawn = "".join(f'<polyline class="{line.kind}" points="{_path(line.points)}"/>' for line in lines)
    return (
        f'<svg viewBox="0 0 {size} {size}" width="{size}" height="{size}" role="img" aria-label="{y_name} by {x_name}">'
        f'<rect class="frame" x="{MARGIN_PX}" y="{MARGIN_PX}" width="{SIDE_PX}" height="{SIDE_PX}"/>{drawn}'
        f'<text x="{size / 2}" y="{size - 8}" text-anchor="middle">{x_name}</text>'
        f'<text transform="translate(14 {size / 2}) rotate(-90)" text-anchor="middle">{y_name}</text></svg>'
    )


def _passed(probabilities: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives at or above each distinct value, highest first."""
    order = np.argsort(-probabilities, kind="stable")
    last = np.flatnonzero(np.diff(probabilities[order], append=-np.inf))
    return np.cumsum(positive[order])[last], np.cumsum(~positive[order])[last]


def _path(points: Points) -> str:
    return " ".join(f"{MARGIN_PX + x * SIDE_PX:.1f},{MARGIN_PX + (1 - y) * SIDE_PX:.1f}" for x, y in points)
