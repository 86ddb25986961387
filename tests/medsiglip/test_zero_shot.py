import numpy as np
import pytest

from medsiglip.class_vectors import kept_prompt_vectors, mean_prompt_vectors
from medsiglip.prompts import label_set
from medsiglip.zero_shot import ZeroShotClassifier


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
    vectors = mean_prompt_vectors(PlaneEncoder().encode_texts, {"a": ["east", "north"], "b": ["north-east"]})
    np.testing.assert_allclose(vectors, [[0.5**0.5, 0.5**0.5], [0.6, 0.8]], atol=1e-6)


# The same on a network


def test_mean_prompt_vectors_of_the_encoder(encoder):
    prompts = {"edema": ["mild edema", "edema in the lung", "no effusion"], "CT": ["ct slice"]}
    texts = {text: encoder.encode_texts([text])[0] for group in prompts.values() for text in group}
    mean = sum(texts[text] for text in prompts["edema"]) / 3
    assert np.linalg.norm(mean) < 0.999  # so that normalising again matters
    vectors = mean_prompt_vectors(encoder.encode_texts, prompts)
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


@pytest.mark.parametrize("task", ["modality", "diabetic-retinopathy", "chest-xray-findings"])
def test_a_task_classifies_by_its_convention(encoder, arrays, task):
    result = ZeroShotClassifier.for_task(encoder, task).classify(arrays[:2])
    assert result.labels == label_set(task).labels and result.convention == label_set(task).convention
    total = result.probabilities.sum(axis=1)
    assert np.allclose(total, 1, atol=1e-6) == (result.convention == "softmax")


def test_the_result_names_its_convention():
    of = [
        ZeroShotClassifier(PlaneEncoder(), ["east", "north"]),
        ZeroShotClassifier(PlaneEncoder(), ["east", "north"], independent=True),
        ZeroShotClassifier(PlaneEncoder(), {"a": ["east"]}, absent={"a": ["north"]}),
    ]
    named = [classifier.classify_vectors(IMAGE).convention for classifier in of]
    assert named == ["softmax", "sigmoid", "present against absent"]


# Class vectors on disk


def counting(encode_texts, calls):
    def encode(texts):
        calls.append(list(texts))
        return encode_texts(texts)

    return encode


PROMPTS = {"a": ("east", "north"), "b": ("west",)}


def test_kept_class_vectors_are_the_fresh_ones_and_are_made_once(tmp_path):
    fresh, calls = mean_prompt_vectors(PlaneEncoder().encode_texts, PROMPTS), []
    encode = counting(PlaneEncoder().encode_texts, calls)
    for _ in range(2):
        kept = kept_prompt_vectors(encode, PROMPTS, "model float32", tmp_path / "new")
        np.testing.assert_array_equal(kept, fresh)
    assert calls == [["east", "north", "west"]]
    assert [path.suffix for path in (tmp_path / "new").iterdir()] == [".safetensors"]


@pytest.mark.parametrize(
    ("prompts", "made_by"),
    [
        (PROMPTS, "another model float32"),
        (PROMPTS, "model bfloat16"),
        ({"a": ("east",), "b": ("north", "west")}, "model float32"),  # the same texts, grouped otherwise
        ({"b": ("west",), "a": ("east", "north")}, "model float32"),
    ],
)
def test_other_encoders_and_other_prompts_are_never_served_what_is_kept(tmp_path, prompts, made_by):
    kept_prompt_vectors(PlaneEncoder().encode_texts, PROMPTS, "model float32", tmp_path)
    calls = []
    vectors = kept_prompt_vectors(counting(PlaneEncoder().encode_texts, calls), prompts, made_by, tmp_path)
    assert len(calls) == 1
    np.testing.assert_array_equal(vectors, mean_prompt_vectors(PlaneEncoder().encode_texts, prompts))


@pytest.mark.parametrize("damage", [b"", b"no safetensors", None])
def test_a_damaged_file_of_the_cache_is_made_anew(tmp_path, damage):
    from safetensors.numpy import save

    fresh = kept_prompt_vectors(PlaneEncoder().encode_texts, PROMPTS, "m", tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(save({"vectors": np.full((2, 2), np.nan, np.float32)}) if damage is None else damage)
    again = kept_prompt_vectors(PlaneEncoder().encode_texts, PROMPTS, "m", tmp_path)
    np.testing.assert_array_equal(again, fresh)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").write_text("in the way")
    vectors = kept_prompt_vectors(PlaneEncoder().encode_texts, PROMPTS, "m", tmp_path / "file")
    assert vectors.shape == (2, 2)


def test_a_classifier_with_a_cache_says_the_same(encoder, arrays, tmp_path):
    plain = ZeroShotClassifier.for_task(encoder, "chest-xray-findings").classify(arrays[:3])
    for _ in range(2):
        kept = ZeroShotClassifier.for_task(encoder, "chest-xray-findings", cache=tmp_path).classify(arrays[:3])
        np.testing.assert_array_equal(kept.probabilities, plain.probabilities)
    assert len(list(tmp_path.iterdir())) == 2  # present and absent


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
    with pytest.raises(ValueError, match="'chest' is unknown; choose one of .*chest-xray-findings.*modality"):
        ZeroShotClassifier.for_task(PlaneEncoder(), "chest")


def test_one_string_is_one_label_or_one_prompt_not_its_characters():
    assert ZeroShotClassifier(PlaneEncoder(), "east").labels == ("east",)
    np.testing.assert_array_equal(mean_prompt_vectors(PlaneEncoder().encode_texts, {"a": "north"}), [[0, 1]])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((2, 3), np.float32), r"shape \(2, 3\), expected \(N, 2\); embed with the same encoder"),
        (np.array([[1, 0], [np.nan, 0]], np.float32), "vector 1 of 2 holds NaN or infinity; embed its picture again"),
    ],
)
def test_other_vectors_and_nan_are_refused(vectors, message):
    with pytest.raises(ValueError, match=message):
        ZeroShotClassifier(PlaneEncoder(), ["east", "north"]).classify_vectors(vectors)
