"""Rubric grading, as HealthBench does it, and MedCalc-Bench's tolerance.

Source: Arora et al., HealthBench, arXiv:2505.08775, section 3: the score of a conversation is the points of the met
    criteria over the sum of the positive points; negative points are for what must not be said. The set's score is the
    mean of the conversations', then clipped to 0..1. Khandekar et al., MedCalc-Bench, arXiv:2406.12036.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from data_cards.readers.rubrics import Criterion
from evals.judging.judge import Backend, Verdict, judge_text

SYSTEM = (
    "You decide whether the last reply of a conversation meets one criterion. You do not grade the reply as a whole."
)
QUESTION = "Does the judged text meet this criterion?\n{criterion}"


@dataclass(frozen=True)
class RubricScore:
    """A reply's score; an interval where verdicts are unparsed."""

    lowest: float
    """Every unparsed verdict against the reply."""
    highest: float
    """Every unparsed verdict for it."""
    num_unparsed: int


def grade_reply(judge: Backend, criteria: Sequence[Criterion], conversation: str, reply: str) -> list[Verdict]:
    """Ask the judge about each criterion, one by one."""
    return [
        judge_text(
            judge,
            system=SYSTEM,
            question=QUESTION.format(criterion=criterion.text),
            text=reply,
            reference=conversation,
        )
        for criterion in criteria
    ]


def rubric_score(criteria: Sequence[Criterion], met: Sequence[bool | None]) -> RubricScore:
    """Return the points of the met criteria over the sum of the positive points, not clipped.

    Args:
        criteria: At least one has positive points.
        met: A verdict a criterion; None where it is unparsed.

    Raises:
        ValueError: The lengths differ.
    """
    possible = sum(c.points for c in criteria if c.points > 0)
    low = high = 0.0
    for criterion, is_met in zip(criteria, met, strict=True):
        low += criterion.points if is_met or (is_met is None and criterion.points < 0) else 0.0
        high += criterion.points if is_met or (is_met is None and criterion.points > 0) else 0.0
    return RubricScore(low / possible, high / possible, sum(is_met is None for is_met in met))


def within_limits(said: float | None, lower: float, upper: float) -> float:
    """Grade a calculated number as MedCalc-Bench does: 1 from its lower to its upper limit, both included, else 0."""
    return float(said is not None and math.isfinite(said) and lower <= said <= upper)
