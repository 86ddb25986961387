"""The table of every labelled set: its parts on made sets, and one row on the kit."""

from pathlib import Path

import numpy as np
import pytest

from data_cards.readers.pictures import PICTURE_READERS, LabelledPicture
from evals.controls.label_tables import LEAST_GROUPS, _scorable, labelled_sets, markdown, measure
from tests.nano import needs_nano


def test_every_picture_set_that_has_a_reader_has_a_row() -> None:
    assert {which.card for which in labelled_sets()} == set(PICTURE_READERS)


def test_a_label_is_scored_only_with_groups_with_and_without_it_on_both_sides() -> None:
    from data_cards.split import side

    (findings,) = (which for which in labelled_sets() if which.name == "cxr-nih14: findings")
    groups = [f"patient {number}" for number in range(400)]
    known = []
    for number, group in enumerate(groups):
        truth = dict.fromkeys(findings.labels.labels, 0.0)
        truth["edema"] = float(number % 3 == 0)
        truth["atelectasis"] = float(side(group) == "train" and number % 3 == 0)
        known.append((LabelledPicture("cxr-nih14", Path("x"), {}, group, ""), truth))
    assert _scorable(known, findings, "held-out") == ("edema",)
    few = [pair for pair in known if side(pair[0].group) == "train"][: LEAST_GROUPS - 1]
    assert _scorable(few, findings, "held-out") == ()


@needs_nano
@pytest.mark.kit
@pytest.mark.slow
def test_a_row_is_what_its_parts_say(kit: Path) -> None:
    from evals.tasks.zero_shot import class_prompts
    from medsiglip import MedSigLIP, ZeroShotClassifier

    encoder = MedSigLIP.from_pretrained("nano", device="cpu", dtype="float32")
    (which,) = (one for one in labelled_sets() if one.card == "vqa-rad")
    row = measure(encoder, kit, which)
    assert (row.n, row.labels) == (28, ("abdominal CT", "chest X-ray", "head CT", "head MRI"))
    assert row.zero_shot_accuracy is not None and row.zero_shot_accuracy.value == pytest.approx(0.821, abs=1e-3)
    assert row.probe is not None and row.raw_pixels is not None and row.probe_minus_raw_pixels is not None
    assert row.probe_minus_raw_pixels.value == pytest.approx(row.probe.value - row.raw_pixels.value)
    text = markdown([row], "nano", "held-out")
    assert "| vqa-rad: four kinds | 28, 28 | 0.9" in text and "[" in text
    classifier = ZeroShotClassifier(encoder, class_prompts("zero-shot-vqa-rad"))
    np.testing.assert_allclose(
        ZeroShotClassifier(encoder, which.labels).class_vectors, classifier.class_vectors, atol=1e-6
    )
