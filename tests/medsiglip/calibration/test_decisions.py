"""Thresholds and sets: by hand, and their promise on average over drawn splits."""

import numpy as np
import pytest
from scipy.stats import binom

from medsiglip.calibration.decisions import positives_needed, set_threshold, threshold_at


def test_a_threshold_is_an_order_statistic_of_the_positives():
    """19 positives and 0.9: k = floor(20 · 0.1) = 2, the second smallest."""
    scores = np.array([*range(1, 20), 0.5, 30, 40])
    truth = np.array([1.0] * 19 + [0, 0, np.nan])
    assert threshold_at(0.9, scores, truth) == 2
    assert threshold_at(0.95, scores, truth) == 1
    assert threshold_at(0.96, scores, truth) is None
    assert [positives_needed(s) for s in (0.5, 0.9, 0.95, 0.99)] == [1, 9, 19, 99]


def test_a_set_threshold_by_hand():
    """Nine pictures and 0.8: k = floor(10 · 0.2) = 2."""
    of_truth = np.linspace(0.1, 0.9, 9)
    probabilities = np.stack([of_truth, 1 - of_truth], axis=1)
    truth = np.tile([1.0, 0.0], (9, 1))
    assert set_threshold(0.8, probabilities, truth) == pytest.approx(0.2)
    assert set_threshold(0.95, probabilities, truth) == 0  # too few: every label is in every set


@pytest.mark.parametrize("share", [0.8, 0.9, 0.95])
def test_both_keep_their_promise_on_fresh_draws(share):
    """1,000 splits of 60, one fresh picture each: within the binomial limits of the promise (99.9 %)."""
    random = np.random.default_rng(0)
    hits = {"threshold": 0, "set": 0}
    for _ in range(1000):
        scores = random.normal(size=61)
        hits["threshold"] += scores[60] >= threshold_at(share, scores[:60], np.ones(60))
        probabilities = random.dirichlet([1, 1, 1], size=61)
        truth = np.eye(3)[random.integers(0, 3, 61)]
        hits["set"] += probabilities[60][truth[60] == 1][0] >= set_threshold(share, probabilities[:60], truth[:60])
    low, high = binom.interval(0.999, 1000, share)
    assert low <= hits["threshold"] <= high + 1000 / 61 and low <= hits["set"] <= high + 1000 / 61
