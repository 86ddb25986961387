"""Figures of labels' probabilities, each with a 95 % interval that draws whole groups (patients).

Letters: N pictures, C labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsiglip.metrics.calibration import bins_of_equal_mass
from medsiglip.metrics.estimates import (
    auroc_estimate,
    average_precision_estimate,
    brier_estimate,
    calibration_error_estimate,
)
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci

METRICS = ("auroc", "average_precision", "brier", "calibration_error")
LEAST_IN_SUBGROUP = 10
"""Pictures; smaller subgroups are named without figures."""


@dataclass(frozen=True)
class LabelFigures:
    """One label against all that lacks it, over the pictures of which it is said."""

    label: str
    n: int
    positives: int
    auroc: Estimate
    average_precision: Estimate
    """A random ranking gets about positives / n."""
    brier: Estimate
    calibration_error: Estimate
    """Over ten bins of about equally many pictures."""


@dataclass(frozen=True)
class Performance:
    """Figures of every label, and of exclusive labels together."""

    labels: tuple[LabelFigures, ...]
    accuracy: Estimate | None
    """Of the most probable label; None where labels are independent."""
    subgroups: Mapping[str, Mapping[str, tuple[LabelFigures, ...]]]
    """Column to value to figures."""
    too_small: tuple[str, ...] = ()
    """Subgroups without figures, such as "sex=O (3)"."""


def performance(
    labels: Sequence[str],
    probabilities: np.ndarray,
    truth: np.ndarray,
    groups: Sequence[str],
    *,
    exclusive: bool,
    subgroups: Mapping[str, Sequence[str]] | None = None,
) -> Performance:
    """Measure probabilities.

    Args:
        labels: C names.
        probabilities: (N, C).
        truth: (N, C) 1, 0, or NaN where nothing is said; such pictures are left out of that label.
        groups: N patients or cases.
        exclusive: whether a picture has exactly one label.
        subgroups: column name to N values; empty values belong to no subgroup.
    """
    whole = _figures(labels, probabilities, truth, groups)
    accuracy = None
    if exclusive:
        right = truth[np.arange(len(truth)), probabilities.argmax(axis=1)] == 1
        accuracy = grouped_bootstrap_ci(right.astype(float), groups)
    found: dict[str, dict[str, tuple[LabelFigures, ...]]] = {}
    too_small = []
    for name, values in (subgroups or {}).items():
        for value in sorted(set(values) - {""}):
            rows = np.flatnonzero(np.asarray(values) == value)
            if len(rows) < LEAST_IN_SUBGROUP:
                too_small.append(f"{name}={value} ({len(rows)})")
                continue
            of_value = _figures(labels, probabilities[rows], truth[rows], [groups[row] for row in rows.tolist()])
            found.setdefault(name, {})[value] = of_value
    return Performance(whole, accuracy, found, tuple(too_small))


def as_json(found: Performance) -> dict[str, Any]:
    """Plain numbers; what is undefined is null."""

    def label(figures: LabelFigures) -> dict[str, Any]:
        numbers = {name: estimate_json(getattr(figures, name)) for name in METRICS}
        return {"label": figures.label, "n": figures.n, "positives": figures.positives, **numbers}

    return {
        "accuracy": estimate_json(found.accuracy) if found.accuracy else None,
        "labels": [label(figures) for figures in found.labels],
        "subgroups": {
            name: {value: [label(figures) for figures in of] for value, of in values.items()}
            for name, values in found.subgroups.items()
        },
        "too_small": list(found.too_small),
    }


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """Value, its interval, and what they rest on."""

    def number(value: float) -> float | None:
        return round(float(value), 6) if np.isfinite(value) else None

    found = {"value": number(estimate.value), "ci95": [number(end) for end in estimate.ci95]}
    return {
        **found,
        "n": estimate.n,
        "n_groups": estimate.n_groups,
        **({"note": estimate.note} if estimate.note else {}),
    }


def _figures(
    labels: Sequence[str], probabilities: np.ndarray, truth: np.ndarray, groups: Sequence[str]
) -> tuple[LabelFigures, ...]:
    found = []
    for j, label in enumerate(labels):
        rows = np.flatnonzero(np.isfinite(truth[:, j]))
        if not len(rows):
            continue
        p, y, of = probabilities[rows, j], truth[rows, j] == 1, [groups[row] for row in rows.tolist()]
        found.append(
            LabelFigures(
                label,
                len(rows),
                int(y.sum()),
                auroc_estimate(p, y, of).bootstrap,
                average_precision_estimate(p, y, of),
                brier_estimate(p, y, of),
                calibration_error_estimate(bins_of_equal_mass(p, y), of),
            )
        )
    return tuple(found)
