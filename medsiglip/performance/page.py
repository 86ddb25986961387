"""One self-contained HTML page of a labelled split: figures, curves, subgroups."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medsiglip.metrics.statistics import Estimate
from medsiglip.performance.curves import (
    Line,
    chart,
    precision_recall_points,
    reliability_points,
    roc_points,
)
from medsiglip.performance.figures import METRICS, Performance

NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
DIAGONAL = Line([(0, 0), (1, 1)], "even")


def render(
    title: str,
    facts: Mapping[str, str],
    measured: Mapping[str, Performance],
    probabilities: Mapping[str, np.ndarray],
    truth: np.ndarray,
    labels: Sequence[str],
) -> str:
    """Render a page.

    Args:
        title: of the page.
        facts: what was measured on what, name to text.
        measured: what is compared, such as "as it is" and "calibrated", each measured; the last one is drawn bold.
        probabilities: the same names to (N, C).
        truth: (N, C) 1, 0 or NaN.
        labels: C names.
    """
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    )
    charts = {label: _charts(probabilities, truth, j) for j, label in enumerate(labels)}
    return template.render(
        title=title, facts=facts, measured=measured, charts=charts, metrics=METRICS, names=NAMES, text=estimate_text
    )


def estimate_text(estimate: Estimate) -> str:
    """Such as "0.871 (0.742 to 0.968)"; a dash where it is undefined."""
    if not np.isfinite(estimate.value):
        return "–"
    low, high = estimate.ci95
    interval = f" ({low:.3f} to {high:.3f})" if np.isfinite(low) else " (no interval)"
    return f"{estimate.value:.3f}{interval}"


def _charts(probabilities: Mapping[str, np.ndarray], truth: np.ndarray, j: int) -> list[str]:
    said = np.isfinite(truth[:, j])
    positive = truth[said, j] == 1
    if not 0 < positive.sum() < len(positive):
        return []
    of = [table[said, j] for table in probabilities.values()]
    kinds = ["before"] * (len(of) - 1) + ["line"]
    return [
        chart([DIAGONAL, Line(roc_points(of[-1], positive))], "1 − specificity", "sensitivity"),
        chart([Line(precision_recall_points(of[-1], positive))], "recall", "precision"),
        chart(
            [DIAGONAL, *(Line(reliability_points(p, positive), k) for p, k in zip(of, kinds, strict=True))],
            "probability",
            "share present",
        ),
    ]
