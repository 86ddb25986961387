import numpy as np
import pytest

from medsiglip.prompts import PRESENT_ABSENT_TASKS, TASKS
from medsiglip.zero_shot import ZeroShotClassifier, mean_prompt_vectors


class PlaneEncoder:
    """Text vectors in a plane, written by hand."""

    logit_scale = 10.0
    logit_bias = -6.0
    vectors = {"east": (1, 0), "north": (0, 1), "north-east": (0.6, 0.8), "west": (-1, 0)}

    def encode_texts(self, texts):
        return np.array([self.vectors[text] for text in texts], np.float32)


IMAGE = np.array([[0.6, 0.8]], np.float32)


# Known values: cosines 0.6 and 0.8, so logits 6 and 8 at scale 10; 1 / (1 + e²) = 0.119203


def test_exclusive_labels_are_a_softmax_by_hand():
    result = ZeroShotClassifier(PlaneEncoder(), ["east", "north"]).classify_vectors(IMAGE)
    assert result.labels == ("east", "north")
    np.testing.assert_allclose(result.scores, [[0.6, 0.8]], atol=1e-6)
    np.testing.assert_allclose(result.probabilities, [[0.119203, 0.880797]], atol=1e-6)


def test_independent_labels_are_a_sigmoid_by_hand():
    result = ZeroShotClassifier(PlaneEncoder(), ["east", "north"], independent=True).classify_vectors(IMAGE)
    np.testing.assert_allclose(result.probabilities, [[0.5, 0.880797]], atol=1e-6)


def test_present_against_absent_is_a_softmax_over_the_two_by_hand():
    present, absent = {"fracture": ["east"], "nodule": ["north"]}, {"fracture": ["north"], "nodule": ["west"]}
    result = ZeroShotClassifier(PlaneEncoder(), present, absent=absent).classify_vectors(IMAGE)
    logits = np.array([[6, 8], [8, -6]])
    expected = np.exp(logits[0]) / np.exp(logits).sum(axis=0)
    np.testing.assert_allclose(result.probabilities, [expected], atol=1e-6)
    np.testing.assert_allclose(result.scores, [[0.6, 0.8]], atol=1e-6)


def test_absent_prompts_go_to_their_label_in_any_order():
    present, absent = {"fracture": ["east"], "nodule": ["north"]}, {"nodule": ["west"], "fracture": ["north"]}
    result = ZeroShotClassifier(PlaneEncoder(), present, absent=absent).classify_vectors(IMAGE)
    np.testing.assert_allclose(result.probabilities, [[0.119203, 1.0]], atol=1e-6)


def test_prompts_are_averaged_as_unit_vectors_and_normalised_again():
    vectors = mean_prompt_vectors(PlaneEncoder(), {"a": ["east", "north"], "b": ["north-east"]})
    np.testing.assert_allclose(vectors, [[0.5**0.5, 0.5**0.5], [0.6, 0.8]], atol=1e-6)


# The same on a network


def test_mean_prompt_vectors_of_the_encoder(encoder):
    prompts = {"edema": ["mild edema", "edema in the lung", "no effusion"], "CT": ["ct slice"]}
    texts = {text: encoder.encode_texts([text])[0] for group in prompts.values() for text in group}
    mean = sum(texts[text] for text in prompts["edema"]) / 3
    assert np.linalg.norm(mean) < 0.999  # so that normalising again matters
    vectors = mean_prompt_vectors(encoder, prompts)
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(vectors[1], texts["ct slice"], atol=1e-6)


def test_softmax_sums_to_one_and_keeps_the_order_of_the_cosines(encoder, arrays):
    result = ZeroShotClassifier(encoder, ["nodule", "fracture", "mild edema"]).classify(arrays)
    assert result.probabilities.dtype == result.scores.dtype == np.float32
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(result.probabilities.argsort(axis=1), result.scores.argsort(axis=1))


def test_sigmoid_follows_the_formula_and_does_not_sum_to_one(encoder, arrays):
    labels = ["nodule", "fracture", "mild edema"]
    result = ZeroShotClassifier(encoder, labels, independent=True).classify(arrays)
    cosines = encoder.encode_images(arrays) @ encoder.encode_texts(labels).T
    expected = 1 / (1 + np.exp(-(np.exp(1.7) * cosines - 2.5)))
    np.testing.assert_allclose(result.scores, cosines, atol=1e-6)
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)
    assert abs(result.probabilities.sum(axis=1) - 1).max() > 0.1


def test_independent_labels_do_not_move_each_other(encoder, arrays):
    def of_nodule(labels, independent):
        classifier = ZeroShotClassifier(encoder, labels, independent=independent)
        return classifier.classify(arrays).probabilities[:, 0]

    np.testing.assert_allclose(of_nodule(["nodule"], True), of_nodule(["nodule", "fracture"], True), atol=1e-6)
    assert abs(of_nodule(["nodule"], False) - of_nodule(["nodule", "fracture"], False)).max() > 0.1


def test_extreme_logits_stay_finite():
    steep = PlaneEncoder()
    steep.logit_scale = 1e4
    for independent in (False, True):
        result = ZeroShotClassifier(steep, ["east", "west"], independent=independent).classify_vectors(IMAGE)
        np.testing.assert_allclose(result.probabilities, [[1, 0]], atol=1e-6)


# Tasks


@pytest.mark.parametrize("task", [*TASKS, *PRESENT_ABSENT_TASKS])
def test_every_task_classifies(encoder, arrays, task):
    result = ZeroShotClassifier.for_task(encoder, task).classify(arrays[:2])
    assert list(result.labels) == list(TASKS.get(task) or PRESENT_ABSENT_TASKS[task])
    assert ((result.probabilities >= 0) & (result.probabilities <= 1)).all()
    if task in TASKS:
        np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, atol=1e-6)


def test_the_report_has_13_findings_and_no_finding_is_ruled_out_by_its_own_prompt():
    findings = PRESENT_ABSENT_TASKS["chest-xray-findings"]
    assert len(findings) == 13
    assert not [name for name, pair in findings.items() if set(pair.present) & set(pair.absent)]


# Refusals


@pytest.mark.parametrize("labels", [[], [""], ["  ", ""], {}, {"CT": []}])
def test_no_labels_are_refused(labels):
    with pytest.raises(ValueError, match="give at least one non-empty label"):
        ZeroShotClassifier(PlaneEncoder(), labels)


def test_a_repeated_label_is_refused():
    with pytest.raises(ValueError, match=r"given twice in \['east', 'north', 'east'\]"):
        ZeroShotClassifier(PlaneEncoder(), ["east", "north", " east "])


def test_absent_prompts_for_other_labels_are_refused():
    with pytest.raises(ValueError, match=r"absent prompts are for \['nodule'\], labels \['fracture'\]"):
        ZeroShotClassifier(PlaneEncoder(), {"fracture": ["east"]}, absent={"nodule": ["west"]})


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match="'chest' is unknown; choose one of .*modality.*chest-xray-findings"):
        ZeroShotClassifier.for_task(PlaneEncoder(), "chest")


def test_one_string_is_one_label_or_one_prompt_not_its_characters():
    assert ZeroShotClassifier(PlaneEncoder(), "east").labels == ("east",)
    np.testing.assert_array_equal(mean_prompt_vectors(PlaneEncoder(), {"a": "north"}), [[0, 1]])
