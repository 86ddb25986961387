"""Support by a source as a reward: log P(entailment) of a completion, given the column `premise`.

It is graded, from log LEAST (medgemma.entailment.scores) to 0, and needs no right answer. It sees nothing of what a
completion leaves out: put `finetune.rewards.guards` beside it, and look at recall.

Source: Roit et al., arXiv:2306.00186 (2023), section 3.
"""

from collections.abc import Sequence
from typing import Any

from finetune.on_policy.rewards import RewardFunction
from finetune.rewards.texts import text_of
from medgemma.entailment.languages import other_language
from medgemma.entailment.scores import By, Pair, Scorer, ScorerFailed, log_entailments
from medsiglip.command import say


def entailment_reward(scorer: Scorer, by: By = "whole", name: str = "entailment") -> RewardFunction:
    """The reward of a scorer; a completion that says nothing earns log LEAST, the least there is.

    Args:
        scorer: of premises and hypotheses.
        by: the completion whole, or the mean or the least over its sentences.
        name: of the scorer, in errors.

    A completion that leaves its source's English is not put to the scorer: it earns the least, and the first is said.

    Raises:
        ScorerFailed: then, if the scorer does, or answers what is no probability; nothing is graded.
        ValueError: then, if a row has no premise.
    """
    told: list[str] = []

    def entailment(completions: Sequence[Any], premise: Sequence[str] | None = None, **_: Any) -> list[float]:
        if premise is None or any(not source for source in premise):
            raise ValueError(
                f"reward {name}: needs the column `premise`, the text that must support each completion "
                "(of best-of: --column premise=TEXT)"
            )
        pairs = [(source, text_of(said)) for source, said in zip(premise, completions, strict=True)]
        if (language := _foreign(pairs)) and not told:
            told.append(language)
            say(
                f"reward {name}: a completion is in {language} and its source is not; such ones earn the least there is"
            )
        try:
            return log_entailments(scorer, [(source, readable(source, text)) for source, text in pairs], by)
        except ScorerFailed as fault:
            raise ScorerFailed(f"reward {name}: {fault}") from fault
        except Exception as fault:  # a scorer of yours may raise anything
            raise ScorerFailed(f"reward {name}: its scorer failed on {len(pairs)} pairs: {fault!r}") from fault

    return entailment


def readable(source: str, text: str) -> str:
    """The text, or nothing if it has left the source's English: nothing that a scorer reads is then said."""
    return "" if other_language(text) and not other_language(source) else text


def _foreign(pairs: Sequence[Pair]) -> str | None:
    """The language of the first text that has."""
    return next((other_language(text) for source, text in pairs if text and not readable(source, text)), None)
