"""Rewards by hand, and by name."""

import math

import pytest

from finetune.rewards.named import reward_named
from finetune.rewards.texts import agreement, word_overlap
from medgemma.entailment.scores import LEAST


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_word_overlap_has_levels() -> None:
    said = [message("left pleural effusion"), message("effusion"), message("no"), message("No.")]
    earned = word_overlap(completions=said, answer=["pleural effusion", "pleural effusion", "yes", "no"])
    assert earned == pytest.approx([0.8, 2 / 3, 0.0, 1.0])


def test_agreement_is_among_answers_to_one_prompt() -> None:
    prompts = ["a", "a", "a", "b"]
    assert agreement(prompts, ["yes", "yes", "no", "yes"]) == pytest.approx([0.5, 0.5, 0.0, 0.0])


def test_by_name() -> None:
    assert reward_named("word-overlap") is word_overlap
    assert reward_named("finetune.rewards.texts:agreement") is agreement
    for name, said in {
        "fidelity": "reward 'fidelity' is unknown; choose agreement or word-overlap, metric:NAME, entailment:NAME, or",
        "nowhere:f": "No module named 'nowhere'",
        "finetune.rewards.texts:none": "has no attribute 'none'",
        "finetune.rewards.named:OWN": "OWN cannot be called",
    }.items():
        with pytest.raises(ValueError, match=said):
            reward_named(name)


def test_a_scorer_by_name_reads_the_premise() -> None:
    reward = reward_named("entailment:rules")
    said = [message("Small left effusion."), message("Large right effusion."), message("")]
    earned = reward(completions=said, premise=["There is a small left pleural effusion. No right effusion."] * 3)
    assert earned == pytest.approx([math.log(0.9), math.log(0.02), math.log(LEAST)])
    with pytest.raises(ValueError, match="nowhere"):
        reward_named("entailment:nowhere")


def test_a_reward_of_no_scorer_is_told_what_is_one() -> None:
    with pytest.raises(ValueError, match="scorer '' cannot be loaded: .*give rules, a folder"):
        reward_named("entailment:")
