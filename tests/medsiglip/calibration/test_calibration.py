"""The file: what it belongs to, what it says, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from medsiglip.calibration.calibration import (
    calibrate,
    few_positives,
    held_out_probabilities,
    read_calibration,
    write_calibration,
)
from medsiglip.prompts import LabelSet
from medsiglip.zero_shot import ZeroShotClassifier

EXCLUSIVE = LabelSet.of_labels(["nodule", "fracture"])
INDEPENDENT = LabelSet.of_labels(["nodule", "fracture"], independent=True)


def fitted(label_set, method="temperature", encoder="e", pixels="voi+huggingface"):
    random = np.random.default_rng(0)
    truth = np.eye(2)[random.integers(0, 2, 60)]
    if not label_set.exclusive:
        truth[:, 1] = random.integers(0, 2, 60)
        truth[5:, 1][truth[5:, 1] == 1] = np.nan  # few positives of the second label
    logits = (2 * np.nan_to_num(truth) + random.normal(size=(60, 2))).astype(np.float32)
    groups = [f"patient {i // 2}" for i in range(60)]
    return calibrate(
        label_set, label_set.labels, logits, truth, groups, method=method, encoder=encoder, pixels=pixels, site="here"
    )


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
@pytest.mark.parametrize("label_set", [EXCLUSIVE, INDEPENDENT], ids=["exclusive", "independent"])
def test_written_and_read_are_equal(tmp_path, label_set, method):
    calibration = fitted(label_set, method)
    write_calibration(calibration, tmp_path / "new" / "c.yaml")
    assert read_calibration(tmp_path / "new" / "c.yaml") == calibration
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.yaml"]


def test_probabilities_and_decisions_follow_the_fit(encoder, arrays):
    classifier = ZeroShotClassifier(encoder, EXCLUSIVE)
    result = classifier.classify(arrays)
    calibration = replace(fitted(EXCLUSIVE, encoder=encoder.identity), set_threshold=0.4)
    np.testing.assert_allclose(
        calibration.probabilities(result), calibration.map.probabilities(result.logits), atol=1e-6
    )
    inside = [[word == "in set" for word in row] for row in calibration.decisions(result)]
    np.testing.assert_array_equal(inside, result.probabilities >= 0.4)


def test_labels_that_were_not_calibrated_stay_as_they_are(encoder, arrays):
    result = ZeroShotClassifier(encoder, INDEPENDENT).classify(arrays)
    calibration = fitted(INDEPENDENT)
    one = replace(
        calibration, labels=("fracture",), map=replace(calibration.map, temperature=9.0), thresholds={"fracture": 0.0}
    )
    found = one.probabilities(result)
    np.testing.assert_array_equal(found[:, 0], result.probabilities[:, 0])
    np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-result.logits[:, 1] / 9)), atol=1e-6)
    expected = [["", "present" if logit >= 0 else "absent"] for logit in result.logits[:, 1]]
    assert one.decisions(result) == expected


def test_too_few_positives_have_no_threshold_and_that_is_said():
    calibration = fitted(INDEPENDENT)
    assert calibration.thresholds["nodule"] is not None and calibration.thresholds["fracture"] is None
    assert few_positives(calibration) == ["fracture: no threshold at sensitivity 0.95; that takes 19 positives"]


def test_held_out_probabilities_come_from_maps_that_had_not_seen_the_group():
    """Each patient's two pictures have a logit of their own: only a map that has seen it tells them."""
    random = np.random.default_rng(0)
    logits = np.repeat(random.normal(size=(30, 1)), 2, axis=0)
    truth = np.repeat(random.permutation([0.0, 1.0] * 15)[:, None], 2, axis=0)
    by_patient = [str(i // 2) for i in range(60)]
    leaking = [str(i) for i in range(60)]

    def right(groups):
        found = held_out_probabilities("isotonic", logits, truth, groups, exclusive=False)
        return float(((found > 0.5) == truth).mean())

    assert right(leaking) > right(by_patient) + 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_set_sha256": "0" * 16}, "labels or prompts differ; calibrate again"),
        ({"encoder": "another"}, "is of the encoder another, not of "),
        ({"pixels": "percentile+huggingface"}, "is of the pixels percentile.huggingface, not of voi.huggingface"),
    ],
)
def test_other_labels_another_encoder_and_other_pixels_are_refused(encoder, change, message):
    classifier = ZeroShotClassifier(encoder, EXCLUSIVE)
    calibration = fitted(EXCLUSIVE, encoder=encoder.identity)
    calibration.check(classifier, "voi+huggingface")
    with pytest.raises(ValueError, match=message):
        replace(calibration, **change).check(classifier, "voi+huggingface")


@pytest.mark.parametrize("text", ["", "- 1", "form: 2", "form: 1\nconvention: softmax", "form: ["])
def test_what_is_no_calibration_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"c.yaml: no calibration \(.*; write it again with medsiglip calibrate"):
        read_calibration(tmp_path / "c.yaml")


@pytest.mark.parametrize("share", [0, 1, 1.5])
def test_shares_outside_0_to_1_are_refused(share):
    with pytest.raises(ValueError, match="is not between 0 and 1; give a share such as 0.95"):
        calibrate(
            EXCLUSIVE, EXCLUSIVE.labels, np.zeros((2, 2)), np.eye(2), ["a", "b"], encoder="", pixels="", level=share
        )
