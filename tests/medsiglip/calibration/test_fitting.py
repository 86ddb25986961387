"""Temperature, Platt and isotonic: hand-computed values, and scikit-learn as the oracle."""

import math

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from medsiglip.calibration.fitting import fit_map, log_losses


class Given(ClassifierMixin, BaseEstimator):
    """A fitted binary scorer whose score is the only feature."""

    def fit(self, scores, truth):
        self.classes_ = np.unique(truth)
        return self

    def decision_function(self, scores):
        return scores[:, 0]

    def predict(self, scores):
        return (scores[:, 0] > 0).astype(float)


def scores_of(num=400, seed=0):
    random = np.random.default_rng(seed)
    logits = 3 * random.normal(size=num)
    truth = (random.random(num) < 1 / (1 + np.exp(-(0.5 * logits - 1)))).astype(float)
    return logits[:, None], truth[:, None]


def test_temperature_of_exclusive_labels_by_hand():
    """Three of four right by a margin of 2: the likeliest probability is 3/4, so 2 / T = log 3."""
    logits = np.array([[2.0, 0], [2, 0], [0, 2], [2, 0]])
    truth = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    found = fit_map("temperature", logits, truth, exclusive=True)
    assert found.temperature == pytest.approx(2 / math.log(3), rel=1e-4)
    np.testing.assert_allclose(found.probabilities(logits)[0], [0.75, 0.25], atol=1e-5)


def test_temperature_of_independent_labels_by_hand_leaves_out_what_is_missing():
    """Of five cells at logit ±2 one is missing and one of four wrong: again 2 / T = log 3."""
    logits = np.array([[2.0, -2], [2, -2], [2, 9]])
    truth = np.array([[1.0, 0], [1, 1], [np.nan, np.nan]])
    found = fit_map("temperature", logits, truth, exclusive=False)
    assert found.temperature == pytest.approx(2 / math.log(3), rel=1e-4)


def test_weights_count_as_repeats():
    logits, truth = scores_of(40)
    logits, truth = np.hstack([logits, np.zeros_like(logits)]), np.hstack([truth, 1 - truth])
    weights = np.where(np.arange(40) < 10, 3.0, 1.0)
    repeated = np.repeat(np.arange(40), weights.astype(int))
    for method in ("temperature", "platt", "isotonic"):
        weighed = fit_map(method, logits, truth, exclusive=True, weights=weights).probabilities(logits)
        again = fit_map(method, logits[repeated], truth[repeated], exclusive=True).probabilities(logits)
        np.testing.assert_allclose(weighed, again, atol=1e-4)


@pytest.mark.parametrize(("method", "theirs"), [("platt", "sigmoid"), ("isotonic", "isotonic")])
def test_platt_and_isotonic_are_scikit_learn_s(method, theirs):
    logits, truth = scores_of()
    peer = CalibratedClassifierCV(FrozenEstimator(Given().fit(logits, truth[:, 0])), method=theirs)
    expected = peer.fit(logits, truth[:, 0]).predict_proba(logits)[:, 1]
    ours = fit_map(method, logits, truth, exclusive=False).probabilities(logits)[:, 0]
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert np.ptp(expected) > 0.5


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_exclusive_probabilities_add_up_to_one(method):
    random = np.random.default_rng(0)
    truth = np.eye(3)[random.integers(0, 3, 60)]
    logits = 2 * truth + random.normal(size=(60, 3))
    found = fit_map(method, logits, truth, exclusive=True).probabilities(logits)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)


def test_the_scale_of_logits_does_not_matter_to_platt():
    logits, truth = scores_of()
    small, large = (fit_map("platt", logits * s, truth, exclusive=False).probabilities(logits * s) for s in (1e-3, 1e3))
    np.testing.assert_allclose(small, large, atol=1e-4)


def test_log_losses_by_hand():
    truth = np.array([[1.0, np.nan], [0, 1]])
    probabilities = np.array([[0.5, 0.1], [0.75, 0.25]])
    found = log_losses(probabilities, truth, exclusive=False)
    np.testing.assert_allclose(found, [math.log(2), math.log(4)])


def test_one_class_and_nan_are_refused():
    with pytest.raises(ValueError, match="a label has no 1 or no 0 among its rows"):
        fit_map("platt", np.zeros((3, 1)), np.ones((3, 1)), exclusive=False)
    with pytest.raises(ValueError, match="logits that are not finite"):
        fit_map("platt", np.array([[np.nan]]), np.ones((1, 1)), exclusive=False)
