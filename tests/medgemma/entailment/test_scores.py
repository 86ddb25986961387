import math
from collections.abc import Sequence

import pytest

from medgemma.entailment.scores import (
    LEAST,
    NOTHING_SAID,
    Entailment,
    Pair,
    ScorerFailed,
    entailments,
    log_entailments,
    over_windows,
    sentence_entailments,
)
from medgemma.entailment.sentences import sentences


def by_length(pairs: Sequence[Pair]) -> list[Entailment]:
    """P(entailment) is 1 over the number of the hypothesis' words."""
    shares = [1 / len(hypothesis.split()) for _, hypothesis in pairs]
    return [Entailment(share, 1 - share, 0.0) for share in shares]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("No effusion. No pneumothorax.", ["No effusion.", "No pneumothorax."]),
        (
            "A 3.5 cm mass in the lung apex.There is scarring.",
            ["A 3.5 cm mass in the lung apex.", "There is scarring."],
        ),
        ("Impression: 1. Cardiomegaly. 2. No edema", ["Cardiomegaly.", "No edema"]),
        ("Seen by Dr. Smith vs. the prior film; stable", ["Seen by Dr. Smith vs. the prior film;", "stable"]),
        ("Findings:\n- no effusion\n- clear lungs", ["no effusion", "clear lungs"]),
        ("No. Image No. 3 is blurred.", ["No.", "Image No. 3 is blurred."]),
        (" \n. ", []),
    ],
)
def test_a_text_is_divided_into_sentences(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_log_entailment_of_the_whole_and_of_sentences() -> None:
    pairs = [("source", "One two. Three four five six.")]  # 6 words; 2 and 4
    assert log_entailments(by_length, pairs) == pytest.approx([math.log(1 / 6)])
    assert log_entailments(by_length, pairs, "mean") == pytest.approx([(math.log(1 / 2) + math.log(1 / 4)) / 2])
    assert log_entailments(by_length, pairs, "min") == pytest.approx([math.log(1 / 4)])


def test_every_sentence_is_scored_against_the_whole_premise() -> None:
    asked: list[Pair] = []

    def remembers(pairs: Sequence[Pair]) -> list[Entailment]:
        asked.extend(pairs)
        return by_length(pairs)

    [parts, none] = sentence_entailments(remembers, [("A. B.", "One. Two three."), ("A.", "")])
    assert asked == [("A. B.", "One."), ("A. B.", "Two three.")]
    assert [(text, answer.entailment) for text, answer in parts] == [("One.", 1.0), ("Two three.", 0.5)]
    assert none == []


@pytest.mark.parametrize("by", ["whole", "mean", "min"])
def test_nothing_said_is_not_supported_and_not_put_to_the_scorer(by: str) -> None:
    found = log_entailments(by_length, [("a", " "), ("a", "one")], by)  # type: ignore[arg-type]
    assert found == pytest.approx([math.log(LEAST), 0.0])
    assert entailments(by_length, [("a", "...")]) == [NOTHING_SAID]


def test_the_label_is_the_likeliest_and_of_equal_ones_the_cautious() -> None:
    assert Entailment(0.5, 0.3, 0.2).label == "entailment"
    assert Entailment(0.4, 0.4, 0.2).label == "neutral"
    assert Entailment(0.4, 0.2, 0.4).label == "contradiction"


def test_windows_become_one_answer() -> None:
    supports, silent, denies = Entailment(0.7, 0.2, 0.1), Entailment(0.1, 0.9, 0.0), Entailment(0.05, 0.05, 0.9)
    assert over_windows([silent, denies]) == Entailment(0.1, 0.0, 0.9)
    one = over_windows([silent, supports, denies])
    assert (one.entailment, one.neutral, one.contradiction) == pytest.approx((0.7, 0.0, 0.3))
    assert over_windows([silent]) == silent


@pytest.mark.parametrize(
    "answer", [Entailment(math.nan, 0.5, 0.5), Entailment(0.9, 0.9, 0.0), Entailment(1.2, -0.2, 0.0)]
)
def test_what_is_no_probability_is_refused(answer: Entailment) -> None:
    with pytest.raises(ScorerFailed, match=r"for pair 1; expected three probabilities"):
        entailments(lambda pairs: [NOTHING_SAID, answer], [("a", "b"), ("a", "c")])


def test_a_missing_answer_is_refused() -> None:
    with pytest.raises(ScorerFailed, match="gave 1 answers for 2 pairs"):
        entailments(lambda pairs: [NOTHING_SAID], [("a", "b"), ("a", "c")])
