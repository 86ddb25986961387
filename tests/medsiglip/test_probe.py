import json

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from medsiglip import probe as probe_module
from medsiglip.probe import STRENGTHS, LinearProbe, logistic_regression


def blobs(num_classes, num_each=30, distance=6.0, seed=0):
    """(N, D) float32 vectors around one corner a class, their labels, and groups of three."""
    random = np.random.default_rng(seed)
    labels = np.repeat([f"class {i}" for i in range(num_classes)], num_each)
    vectors = random.normal(size=(len(labels), 8)) + distance * np.eye(8)[np.repeat(np.arange(num_classes), num_each)]
    return vectors.astype(np.float32), labels.tolist(), [f"patient {i // 3}" for i in range(len(labels))]


def narrow_embeddings(num, seed=0):
    """(N, 32) float32 unit vectors as encoders make them (one cone, few wide directions), three classes, groups of two.

    Classes, wide and narrow directions are the same for all seeds.
    """
    random = np.random.default_rng(seed)
    places = random.integers(0, 3, num)
    centres = 0.5 * np.random.default_rng(7).normal(size=(3, 32))
    vectors = (centres[places] + random.normal(size=(num, 32))) * np.logspace(0, -3, 32)
    vectors[:, 0] += 3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), [f"class {i}" for i in places], [f"patient {i // 2}" for i in range(num)]


def oracle(probe, vectors, labels):
    """By scikit-learn's default solver, which needs more patience than it has by default."""
    regression = LogisticRegression(C=probe.strength, tol=1e-8, max_iter=10_000)
    return regression.fit(vectors.astype(np.float64), np.asarray(labels))


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_a_separable_set_is_recovered(num_classes):
    probe = LinearProbe.fit(*blobs(num_classes))
    vectors, labels, _ = blobs(num_classes, seed=1)
    assert probe.classes == tuple(f"class {i}" for i in range(num_classes))
    assert probe.predict(vectors) == labels


@pytest.mark.parametrize("num_classes", [2, 4])
def test_probabilities_are_those_of_scikit_learn(num_classes):
    vectors, labels, groups = blobs(num_classes, distance=1.0)
    probe = LinearProbe.fit(vectors, labels, groups)
    expected = oracle(probe, vectors, labels).predict_proba(vectors)
    probabilities = probe.predict_probabilities(vectors)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert expected[:, 0].std() > 0.05  # a flat prediction would match anything


def test_the_binary_check_sees_a_planted_fault():
    """Without the halving, two rows of scikit-learn's one-row weights are twice as sure."""
    vectors, labels, groups = blobs(2, distance=1.0)
    probe = LinearProbe.fit(vectors, labels, groups)
    doubled = LinearProbe(probe.classes, probe.weight * 2, probe.bias * 2, probe.strength)
    difference = doubled.predict_probabilities(vectors) - oracle(probe, vectors, labels).predict_proba(vectors)
    assert abs(difference).max() > 0.05


def test_a_group_never_lies_on_both_sides_of_a_fold():
    """Copies of one picture under random labels: only a leak between folds makes memorising them look good."""
    random = np.random.default_rng(0)
    vectors = np.repeat(random.normal(size=(40, 32)), 5, axis=0).astype(np.float32)
    labels = np.repeat(random.permutation(["a", "b"] * 20), 5).tolist()
    cases = np.repeat(np.arange(40), 5).astype(str).tolist()
    leaking = np.arange(200).astype(str).tolist()
    assert LinearProbe.fit(vectors, labels, cases).strength <= 0.01
    assert LinearProbe.fit(vectors, labels, leaking).strength >= 10


@pytest.mark.parametrize("num_groups", [2, 3, 20])
def test_a_rare_class_in_few_groups_still_lets_the_strength_be_chosen(num_groups):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(200, 4)).astype(np.float32)
    vectors[180:, 0] += 8
    labels = ["common"] * 180 + ["rare"] * 20
    groups = [f"patient {i}" for i in range(180)] + [f"rare patient {i % num_groups}" for i in range(20)]
    probe = LinearProbe.fit(vectors, labels, groups)
    assert probe.strength > min(STRENGTHS)  # what a search in which every fold fails falls back to
    assert probe.predict(vectors) == labels


def objective(flat, vectors, hot, strength):
    """Negative log likelihood of softmax regression and the penalty, bias free of it; its gradient, by hand."""
    table = flat.reshape(hot.shape[1], -1)
    weight, bias = table[:, :-1], table[:, -1]
    logs = log_softmax(vectors @ weight.T + bias, axis=1)
    beyond = np.exp(logs) - hot
    gradient = np.column_stack([beyond.T @ vectors + weight / strength, beyond.sum(axis=0)])
    return -(hot * logs).sum() + (weight**2).sum() / 2 / strength, gradient.ravel()


def one_hot(labels):
    return (np.asarray(labels)[:, None] == np.unique(labels)).astype(float)


@pytest.mark.parametrize("strength", [0.001, 1.0, 1000.0])
def test_a_fit_goes_on_to_the_minimum(strength):
    """There the gradient is nothing; of the weakest penalty scikit-learn's default leaves 1000 times more."""
    vectors, labels, _ = narrow_embeddings(300)
    vectors = vectors.astype(np.float64)

    def steepest(regression):
        fitted = regression.fit(vectors, labels)
        flat = np.column_stack([fitted.coef_, fitted.intercept_]).ravel()
        return abs(objective(flat, vectors, one_hot(labels), strength)[1]).max()

    assert steepest(logistic_regression(strength)) < 1e-5
    assert steepest(LogisticRegression(C=1000.0, max_iter=2000)) > 1e-2


def test_the_strength_has_the_least_log_loss_of_what_was_held_out():
    """Fitted by scipy from the formula, fold by fold."""
    vectors, labels, groups = blobs(3, num_each=8, distance=1.5)
    hot, losses = one_hot(labels), dict.fromkeys(STRENGTHS, 0.0)
    for fitted, held_out in StratifiedGroupKFold(3, shuffle=True, random_state=0).split(vectors, labels, groups):
        for strength in STRENGTHS:
            data = vectors[fitted].astype(float), hot[fitted], strength
            found = minimize(objective, np.zeros(27), data, jac=True, method="BFGS").x.reshape(3, 9)
            logs = log_softmax(vectors[held_out] @ found[:, :-1].T + found[:, -1], axis=1)
            losses[strength] -= (hot[held_out] * logs).sum()
    ordered = sorted(losses, key=losses.__getitem__)
    assert losses[ordered[1]] - losses[ordered[0]] > 0.01  # no near tie, or the answer would be luck
    assert LinearProbe.fit(vectors, labels, groups).strength == ordered[0] not in (min(STRENGTHS), max(STRENGTHS))


@pytest.mark.parametrize("noise, at_most", [(1e-7, 0), (1e-5, 0), (1e-3, 1)])
def test_last_digits_of_embeddings_move_neither_strength_nor_classes(noise, at_most):
    """1e-7 lies between kinds of CPU, 1e-3 between float32 and bfloat16, which may move one picture of 1,000."""
    vectors, labels, groups = narrow_embeddings(300)
    fresh, _, _ = narrow_embeddings(1000, seed=1)
    random = np.random.default_rng(2)

    def shaken(those):
        return (those * (1 + noise * random.normal(size=those.shape))).astype(np.float32)

    plain, other = LinearProbe.fit(vectors, labels, groups), LinearProbe.fit(shaken(vectors), labels, groups)
    assert other.strength == plain.strength
    assert sum(a != b for a, b in zip(other.predict(shaken(fresh)), plain.predict(fresh), strict=True)) <= at_most


def test_the_order_of_rows_and_a_second_run_change_nothing():
    vectors, labels, groups = blobs(3, distance=1.0)
    first, second = LinearProbe.fit(vectors, labels, groups), LinearProbe.fit(vectors, labels, groups)
    np.testing.assert_array_equal(first.weight, second.weight)
    assert first.strength == second.strength


# Files


def test_saved_and_loaded_are_equal_and_nothing_is_pickled(tmp_path):
    vectors, labels, groups = blobs(3)
    probe = LinearProbe.fit(vectors, labels, groups)
    probe.save(tmp_path / "new" / "probe")
    loaded = LinearProbe.load(tmp_path / "new" / "probe")
    assert (loaded.classes, loaded.strength) == (probe.classes, probe.strength)
    np.testing.assert_array_equal(loaded.predict_probabilities(vectors), probe.predict_probabilities(vectors))
    assert sorted(path.name for path in (tmp_path / "new" / "probe").iterdir()) == ["probe.json", "probe.safetensors"]
    facts = json.loads((tmp_path / "new" / "probe" / "probe.json").read_text())
    assert facts == {"classes": ["class 0", "class 1", "class 2"], "strength": probe.strength}
    assert not hasattr(probe_module, "pickle")


# Refusals


def test_lengths_that_differ_are_refused():
    vectors, labels, groups = blobs(2)
    with pytest.raises(ValueError, match="got 60 vectors, 59 labels, 60 groups; give one each"):
        LinearProbe.fit(vectors, labels[1:], groups)


def test_one_class_is_refused():
    vectors, labels, groups = blobs(1)
    with pytest.raises(ValueError, match="got 1 classes; a probe needs two"):
        LinearProbe.fit(vectors, labels, groups)


def test_a_class_in_one_group_is_refused_by_name():
    vectors, labels, _ = blobs(2)
    groups = [f"patient {i}" for i in range(30)] + ["one patient"] * 30
    with pytest.raises(ValueError, match="'class 1' lies in one group only; .* leave it out"):
        LinearProbe.fit(vectors, labels, groups)
