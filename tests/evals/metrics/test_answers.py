import pytest

from evals.metrics.answers import (
    closed_match,
    exact_match_norm,
    normalise,
    token_f1_squad,
    token_recall,
    yes_or_no,
)


def test_normalise_as_squad() -> None:
    assert normalise("  The LEFT lung's, an apex. ") == "left lungs apex"
    assert normalise("x-ray") == "xray"


@pytest.mark.parametrize(
    ("prediction", "reference", "f1", "recall"),
    [
        ("the left lung", "left lung", 1.0, 1.0),
        ("pleural effusion in the left lung", "effusion", 2 / 6, 1.0),
        ("left lung", "left lower lung lobe", 4 / 6, 0.5),
        ("lobe lobe", "lobe", 2 / 3, 1.0),
        ("lobe", "lobe lobe", 2 / 3, 0.5),
        ("liver.", "spleen", 0.0, 0.0),
        ("", "spleen", 0.0, 0.0),
        ("the", "a", 1.0, 1.0),
    ],
)
def test_token_overlap_by_hand(prediction: str, reference: str, f1: float, recall: float) -> None:
    assert token_f1_squad(prediction, reference) == pytest.approx(f1)
    assert token_recall(prediction, reference) == pytest.approx(recall)


def test_f1_is_symmetric_and_recall_is_not() -> None:
    """The swap of precision and recall that made MedEvalKit's F1 a recall would be seen here."""
    assert token_f1_squad("a b c d", "b") == token_f1_squad("b", "a b c d")
    assert token_recall("b c d", "b") == 1.0 and token_recall("b", "b c d") == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes.", "yes"),
        ("No, the lungs are clear; yes, really", "no"),
        ("There is no effusion", "no"),
        ("yes and no", "yes"),
        ("maybe yes, maybe no", None),
        ("normal", None),
        ("", None),
        ("none", None),
    ],
)
def test_yes_or_no(text: str, said: str | None) -> None:
    assert yes_or_no(text) == said


def test_closed_match() -> None:
    assert closed_match("No evidence of it.", "no") == 1.0
    assert closed_match("yes", "No") == 0.0
    assert closed_match("The right side", "right side") == 1.0
    assert closed_match("yes", "right") == 0.0
    assert exact_match_norm("PA.", "pa") == 1.0
