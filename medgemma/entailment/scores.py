"""What a scorer of entailment answers, and how its answers on sentences and on windows become one.

    from medgemma.entailment.named import scorer_named
    log_entailments(scorer_named("rules"), [(findings, impression)], by="mean")

Source: Roit et al., 2306.00186: the reward is log P(entailment | premise = source, hypothesis = whole summary).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from medgemma.entailment.sentences import sentences

Label = Literal["entailment", "neutral", "contradiction"]

By = Literal["whole", "mean", "min"]
"""whole: the hypothesis as one text (the paper's); mean and min: of log P(entailment) of its sentences, each scored
against the whole premise."""

LEAST = 1e-6
"""The smallest P(entailment) whose logarithm is taken: log P is never below -13.8."""


@dataclass(frozen=True)
class Entailment:
    """What a premise says of a hypothesis: three probabilities, 0 to 1, whose sum is 1."""

    entailment: float
    neutral: float
    contradiction: float

    @property
    def label(self) -> Label:
        """The likeliest; of equal ones the more cautious: contradiction, then neutral."""
        shares: dict[Label, float] = {
            "contradiction": self.contradiction, "neutral": self.neutral, "entailment": self.entailment
        }  # fmt: skip
        return max(shares, key=lambda label: shares[label])

    @property
    def log_entailment(self) -> float:
        """Natural logarithm of P(entailment), of LEAST where it is smaller."""
        return math.log(max(self.entailment, LEAST))


Pair = tuple[str, str]
"""Premise and hypothesis."""
Scorer = Callable[[Sequence[Pair]], list[Entailment]]
"""Pairs to one answer each, in their order. A scorer that cannot answer raises ScorerFailed; it never answers zero."""


class ScorerFailed(ValueError):
    """A scorer that is down, slow, or answers what is no probability; the message says which scorer and why."""


NOTHING_SAID = Entailment(0.0, 1.0, 0.0)
"""Of a hypothesis without a sentence: nothing is said, so nothing is supported."""


def entailments(scorer: Scorer, pairs: Sequence[Pair]) -> list[Entailment]:
    """Return what a scorer says of each pair; hypotheses that say nothing are NOTHING_SAID and not put to it.

    Raises:
        ScorerFailed: The number of answers is another one than of pairs, or an answer is no probability.
    """
    said = [pair for pair in pairs if sentences(pair[1])]
    answers = demand_probabilities(scorer(said), len(said)) if said else []
    found = iter(answers)
    return [next(found) if sentences(pair[1]) else NOTHING_SAID for pair in pairs]


def sentence_entailments(scorer: Scorer, pairs: Sequence[Pair]) -> list[list[tuple[str, Entailment]]]:
    """Return each hypothesis' sentences with what the whole premise says of each; an empty list for one without any.

    Raises:
        ScorerFailed: As `entailments`.
    """
    divided = [sentences(hypothesis) for _, hypothesis in pairs]
    asked = [(premise, part) for (premise, _), parts in zip(pairs, divided, strict=True) for part in parts]
    found = iter(entailments(scorer, asked))
    return [[(part, next(found)) for part in parts] for parts in divided]


def log_entailments(scorer: Scorer, pairs: Sequence[Pair], by: By = "whole") -> list[float]:
    """Return log P(entailment) of each pair, from log LEAST to 0; log LEAST for a hypothesis that says nothing.

    Raises:
        ScorerFailed: As `entailments`.
    """
    if by == "whole":
        return [answer.log_entailment for answer in entailments(scorer, pairs)]
    return [
        _together([answer.log_entailment for _, answer in parts] or [NOTHING_SAID.log_entailment], by)
        for parts in sentence_entailments(scorer, pairs)
    ]


def _together(values: Sequence[float], by: By) -> float:
    return fmean(values) if by == "mean" else min(values)


def over_windows(windows: Sequence[Entailment]) -> Entailment:
    """Return one answer for a source that was read in windows.

    A source supports a hypothesis if one part of it does, so P(entailment) is the greatest of the windows'. Of what is
    left, P(contradiction) is the greatest of theirs, as far as there is room for it.
    """
    entailment = max(window.entailment for window in windows)
    contradiction = min(max(window.contradiction for window in windows), 1 - entailment)
    return Entailment(entailment, max(0.0, 1 - entailment - contradiction), contradiction)


def demand_probabilities(answers: Sequence[Entailment], num_pairs: int, scorer: str = "the scorer") -> list[Entailment]:
    """Return answers as they are, if they are one for each pair and each is three probabilities.

    Raises:
        ScorerFailed: They are not.
    """
    if len(answers) != num_pairs:
        raise ScorerFailed(f"{scorer} gave {len(answers)} answers for {num_pairs} pairs; nothing of them is used")
    for place, answer in enumerate(answers):
        values = (answer.entailment, answer.neutral, answer.contradiction)
        if not all(0 <= value <= 1 for value in values) or not math.isclose(sum(values), 1, abs_tol=1e-3):
            raise ScorerFailed(
                f"{scorer} gave {values} for pair {place}; expected three probabilities whose sum is 1; "
                "nothing of its answers is used"
            )
    return list(answers)
