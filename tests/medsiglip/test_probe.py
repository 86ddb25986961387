import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from medsiglip import probe as probe_module
from medsiglip.probe import STRENGTHS, LinearProbe


def blobs(num_classes, num_each=30, distance=6.0, seed=0):
    """(N, D) float32 vectors around one corner a class, their labels, and groups of three."""
    random = np.random.default_rng(seed)
    labels = np.repeat([f"class {i}" for i in range(num_classes)], num_each)
    vectors = random.normal(size=(len(labels), 8)) + distance * np.eye(8)[np.repeat(np.arange(num_classes), num_each)]
    return vectors.astype(np.float32), labels.tolist(), [f"patient {i // 3}" for i in range(len(labels))]


def oracle(probe, vectors, labels):
    regression = LogisticRegression(C=probe.strength, max_iter=2000, random_state=0)
    return regression.fit(vectors, np.asarray(labels))


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
