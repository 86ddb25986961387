"""Support by a source as a reward: log P(entailment) of a completion, given the column `premise`.

It is graded, from log LEAST (medgemma.entailment.scores) to 0, and needs no right answer. It sees nothing of what a
completion leaves out: put `finetune.rewards.guards` beside it, and look at recall.

Source: Roit et al., arXiv:2306.00186 (2023), section 3.
"""

from collections.abc import Sequence
from typing import Any

from finetune.on_policy.rewards import RewardFunction
from finetune.rewards.texts import text_of
from medgemma.entailment.scores import By, Scorer, ScorerFailed, log_entailments


def entailment_reward(scorer: Scorer, by: By = "whole", name: str = "entailment") -> RewardFunction:
    """The reward of a scorer; a completion that says nothing earns log LEAST, the least there is.

    Args:
        scorer: of premises and hypotheses.
        by: the completion whole, or the mean or the least over its sentences.
        name: of the scorer, in errors.

    Raises:
        ScorerFailed: then, if the scorer does, or answers what is no probability; nothing is graded.
        ValueError: then, if a row has no premise.
    """

    def entailment(completions: Sequence[Any], premise: Sequence[str] | None = None, **_: Any) -> list[float]:
        if premise is None or any(not source for source in premise):
            raise ValueError(f"reward {name}: needs the column `premise`, the text that must support each completion")
        pairs = [(source, text_of(said)) for source, said in zip(premise, completions, strict=True)]
        try:
            return log_entailments(scorer, pairs, by)
        except ScorerFailed as fault:
            raise ScorerFailed(f"reward {name}: {fault}") from fault
        except Exception as fault:  # a scorer of yours may raise anything
            raise ScorerFailed(f"reward {name}: its scorer failed on {len(pairs)} pairs: {fault!r}") from fault

    return entailment
