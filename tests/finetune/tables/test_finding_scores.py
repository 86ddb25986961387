"""Figures of a finding on tables made by hand."""

import numpy as np
import pytest

from finetune.tables.finding_scores import finding_figures, threshold_of_others

PRESENT = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
PROBABILITY = np.array([0.9, 0.8, 0.6, 0.2, 0.7, 0.4, 0.3, 0.1, 0.1, 0.05])
GROUPS = [f"patient {n // 2}" for n in range(10)]
NONE = np.full(10, np.nan)


def test_figures_by_hand() -> None:
    """At 0.5: 3 right alarms, 1 false, 1 miss. Of 24 pairs, 0.9 and 0.8 win 6 each, 0.6 wins 5, 0.2 wins 3."""
    found = finding_figures(PRESENT, PROBABILITY, GROUPS, NONE)
    assert found["accuracy"]["value"] == pytest.approx(8 / 10)
    assert found["f1"]["value"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert found["auroc"]["value"] == pytest.approx((6 + 6 + 5 + 3) / 24)
    squares = [0.01, 0.04, 0.16, 0.64, 0.49, 0.16, 0.09, 0.01, 0.01, 0.0025]
    assert found["brier"]["value"] == pytest.approx(np.mean(squares))
    assert found["auroc"]["n_groups"] == 5 and "sensitivity at the threshold" not in found


def test_at_a_threshold_by_hand() -> None:
    """At 0.15 all four are found, with false alarms at 0.7, 0.4 and 0.3."""
    found = finding_figures(PRESENT, PROBABILITY, GROUPS, np.full(10, 0.15))
    assert found["sensitivity at the threshold"]["value"] == 1
    assert found["specificity at the threshold"]["value"] == pytest.approx(3 / 6)
    assert found["f1 at the threshold"]["value"] == pytest.approx(8 / (8 + 3))


def test_calibration_by_hand() -> None:
    """One bin a row: the error is the mean of what is said and what is."""
    found = finding_figures(PRESENT, PRESENT * 0.8 + ~PRESENT * 0.2, GROUPS, NONE)
    assert found["calibration error"]["value"] == pytest.approx(0.2)


def test_a_threshold_comes_from_the_other_folds() -> None:
    """Of fold 0's rows it is the lowest positive of fold 1, and the other way round: 4 positives reach 0.8."""
    folds = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    present = np.array([1, 1, 1, 1, 0, 1, 1, 1, 1, 0], dtype=bool)
    probability = np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.95, 0.85, 0.6, 0.5, 0.1])
    found = threshold_of_others(0.8, present, probability, folds)
    assert found.tolist() == [0.5] * 5 + [0.3] * 5
    assert np.isnan(threshold_of_others(0.99, present, probability, folds)).all()  # needs 99 positives
