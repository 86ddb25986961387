import threading
from collections.abc import Sequence

import pytest

from medgemma.entailment.guarding import cached, guarded, in_english
from medgemma.entailment.languages import other_language
from medgemma.entailment.named import scorer_named
from medgemma.entailment.scores import Entailment, Pair, ScorerFailed

YES = Entailment(1.0, 0.0, 0.0)


def test_a_scorer_that_is_down_is_named() -> None:
    def down(pairs: Sequence[Pair]) -> list[Entailment]:
        raise ConnectionRefusedError("connection refused")

    with pytest.raises(ScorerFailed, match="the judge is not to be reached: connection refused"):
        guarded(down, "the judge")([("a", "b")])


def test_a_slow_scorer_is_named() -> None:
    done = threading.Event()

    def slow(pairs: Sequence[Pair]) -> list[Entailment]:
        done.wait(10)
        return [YES]

    with pytest.raises(ScorerFailed, match=r"the judge gave no answer on 1 pairs within 0.05 s"):
        guarded(slow, "the judge", limit_s=0.05)([("a", "b")])
    done.set()
    assert guarded(slow, "the judge", limit_s=5)([("a", "b")]) == [YES]


def test_answers_that_are_no_probabilities_are_named() -> None:
    with pytest.raises(ScorerFailed, match="the judge gave 0 answers for 1 pairs"):
        guarded(lambda pairs: [], "the judge")([("a", "b")])
    with pytest.raises(ScorerFailed, match=r"the judge gave \(nan, "):
        guarded(lambda pairs: [Entailment(float("nan"), 0, 0)], "the judge")([("a", "b")])


def test_a_pair_is_asked_once() -> None:
    asked: list[Pair] = []

    def counts(pairs: Sequence[Pair]) -> list[Entailment]:
        asked.extend(pairs)
        return [Entailment(1 / len(hypothesis), 1 - 1 / len(hypothesis), 0) for _, hypothesis in pairs]

    scorer = cached(counts, kept=2)
    found = scorer([("a", "b"), ("a", "bb"), ("a", "b")])
    assert [answer.entailment for answer in found] == [1, 0.5, 1]
    assert asked == [("a", "b"), ("a", "bb")]
    scorer([("a", "b")])
    assert len(asked) == 2
    scorer([("a", "bbb")])  # pushes out ("a", "bb"), asked for longest ago
    scorer([("a", "b")])
    scorer([("a", "bb")])
    assert asked[2:] == [("a", "bbb"), ("a", "bb")]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("No focal consolidation, pleural effusion or pneumothorax.", None),
        ("Bibasilar atelectasis.", None),
        ("Chronic changes as described, no acute findings", None),
        ("Kein Pleuraerguss. Die Lungen sind frei.", "German"),
        ("Pas d'épanchement. Les poumons sont clairs.", "French"),
        ("No hay derrame pleural. Los pulmones están limpios.", "Spanish"),
        ("胸水なし。", "another script than Latin"),
        ("", None),
    ],
)
def test_the_language_of_a_text(text: str, language: str | None) -> None:
    assert other_language(text) == language


def test_a_language_that_a_scorer_does_not_know_is_named() -> None:
    pairs = [("No effusion.", "No effusion."), ("No effusion.", "Kein Erguss. Die Lungen sind frei.")]
    with pytest.raises(ScorerFailed, match="the scorer rules reads English; the hypothesis of pair 1 is in German"):
        scorer_named("rules")(pairs)
    with pytest.raises(ScorerFailed, match="the judge reads English; the premise of pair 0 is in French"):
        in_english(lambda pairs: [YES], "the judge")([("Les poumons sont clairs.", "The lungs are clear.")])
    with pytest.raises(ValueError, match="reads English alone"):
        scorer_named("rules", any_language=True)
