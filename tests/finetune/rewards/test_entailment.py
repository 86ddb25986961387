"""Support as a reward: its logarithm and its floor by hand, sentences, and a scorer that fails by name."""

import math
from collections.abc import Sequence

import pytest

from finetune.on_policy import PromptRow, Reward, Rollout
from finetune.on_policy.rewards import graded
from finetune.rewards import guards
from finetune.rewards.entailment import entailment_reward
from finetune.rewards.faithfulness import Case, measured
from medgemma.entailment.guarding import in_english
from medgemma.entailment.scores import LEAST, Entailment, Pair
from medgemma.prompts.chat import Prompt

FINDINGS = "The heart is enlarged. There is a small left effusion."


def knows(pairs: Sequence[Pair]) -> list[Entailment]:
    """A text whose every word is in the premise is supported to 0.8, a denial not at all, any other to 0.1."""
    found = []
    for premise, said in pairs:
        is_there = all(word in premise.lower() for word in said.lower().rstrip(".").split())
        supported = 0.8 if is_there else 0.0 if "no" in said else 0.1
        found.append(Entailment(supported, 1 - supported, 0.0))
    return found


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_it_is_the_logarithm_with_a_floor() -> None:
    said = [message("Left effusion."), message("Pneumonia."), message("There is no effusion."), message(" . ")]
    earned = entailment_reward(knows)(completions=said, premise=[FINDINGS] * 4)
    assert earned == pytest.approx([math.log(0.8), math.log(0.1), math.log(LEAST), math.log(LEAST)])


def test_by_sentence_the_mean_or_the_least() -> None:
    said = ["Left effusion. Pneumonia."]
    whole, mean, least = (
        entailment_reward(knows, by)(completions=said, premise=[FINDINGS]) for by in ("whole", "mean", "min")
    )
    assert whole == [math.log(0.1)]
    assert mean == [pytest.approx((math.log(0.8) + math.log(0.1)) / 2)] and least == [math.log(0.1)]


@pytest.mark.parametrize(
    ("scorer", "said"),
    [
        (lambda pairs: [Entailment(math.nan, 0.5, 0.5)] * len(pairs), "reward judge: .* gave .*nan"),
        (lambda pairs: [], "reward judge: .* 0 answers for 1 pairs"),
        (lambda pairs: 1 / 0, "reward judge: its scorer failed on 1 pairs: ZeroDivisionError"),
    ],
)
def test_a_scorer_that_fails_is_named_and_nothing_is_graded(scorer: object, said: str) -> None:
    row = PromptRow(Prompt((2,), (0,), 0), "Impression?", columns={"premise": FINDINGS}, place="r.csv:1")
    rollout = Rollout((2,), (5,), (), row.place, 0, True, (0.0,), (0.0,), "v0", "Left effusion.")
    with pytest.raises(ValueError, match=said):
        graded([Reward(entailment_reward(scorer, name="judge"))], [row], [rollout])  # type: ignore[arg-type]


def test_a_completion_in_another_language_earns_the_least_and_is_told_of_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reward = entailment_reward(in_english(knows, "the scorer"), name="entailment:judge")
    for _ in range(2):
        earned = reward(["Das Herz ist nicht vergroessert.", "Left effusion."], [FINDINGS] * 2)
        assert earned == [math.log(LEAST), math.log(0.8)]
    assert (
        capsys.readouterr().err.count("reward entailment:judge: a completion is in German and its source is not") == 1
    )


def test_the_table_counts_such_a_completion_as_neither_supported_nor_contradicted() -> None:
    cases = [Case(FINDINGS, "Left effusion.", "g")] * 2
    found = measured(cases, ["Das Herz ist nicht vergroessert.", "Left effusion."], in_english(knows, "the scorer"))
    assert found["entailed"] == [0.0, 1.0] and found["contradicted"] == [0.0, 0.0] and found["words"] == [5.0, 2.0]


def test_a_row_without_a_premise_is_refused() -> None:
    for columns in ({}, {"premise": [""]}):
        with pytest.raises(ValueError, match="needs the column `premise`"):
            entailment_reward(knows)(completions=["Left effusion."], **columns)


def test_components_are_logged_before_their_weight() -> None:
    row = PromptRow(Prompt((2,), (0,), 0), "Impression?", columns={"premise": FINDINGS})
    rollout = Rollout((2,), (5,), (), "", 0, True, (0.0,), (0.0,), "v0", "Left effusion. Left effusion.")
    rewards = [Reward(entailment_reward(knows, "mean")), Reward(guards.repetition, -2.0), Reward(guards.words, 0.0)]
    found = graded(rewards, [row], [rollout])
    assert found.by_name == {"entailment": (pytest.approx(math.log(0.8)),), "repetition": (0.0,), "words": (4.0,)}
    assert found.total == (pytest.approx(math.log(0.8)),)
