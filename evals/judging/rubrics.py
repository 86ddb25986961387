"""Rubric grading of HealthBench's and HealthBench Professional's JSONL, and MedCalc-Bench's tolerance.

Source: Arora et al., HealthBench, arXiv:2505.08775, section 3: the score of a conversation is the points of the met
    criteria over the sum of the positive points; negative points are for what must not be said. The set's score is the
    mean of the conversations', then clipped to 0..1. Khandekar et al., MedCalc-Bench, arXiv:2406.12036.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.judging.judge import Backend, Verdict, judge_text

SYSTEM = (
    "You decide whether the last reply of a conversation meets one criterion. You do not grade the reply as a whole."
)


@dataclass(frozen=True)
class Criterion:
    """One line of a rubric."""

    text: str
    points: float
    """Negative for what the reply must not do: meeting it costs points."""


@dataclass(frozen=True)
class RubricScore:
    """A reply's score; an interval where verdicts are unparsed."""

    lowest: float
    """Every unparsed verdict against the reply."""
    highest: float
    """Every unparsed verdict for it."""
    num_unparsed: int


def criteria_of(row: object) -> list[Criterion]:
    """Return the rubric of one line of HealthBench's JSONL.

    Raises:
        ValueError: The line has no rubric with points, or no positive points.
    """
    try:
        found = [Criterion(str(c["criterion"]), float(c["points"])) for c in row["rubrics"]]  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as fault:
        raise ValueError(f"got a line without rubrics of criterion and points: {fault}") from None
    if not any(criterion.points > 0 for criterion in found):
        raise ValueError("no criterion has positive points, so that there is nothing to score against")
    return found


def read_rubrics(path: Path) -> list[tuple[str, list[Criterion]]]:
    """Read a HealthBench JSONL: prompt_id and criteria of each line.

    Raises:
        ValueError: A line is broken; the message names file and line.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append((str(row["prompt_id"]), criteria_of(row)))
        except (KeyError, TypeError, ValueError) as fault:
            raise ValueError(f"{path}: line {number}: {fault}") from None
    return rows


def grade_reply(judge: Backend, criteria: Sequence[Criterion], conversation: str, reply: str) -> list[Verdict]:
    """Ask the judge about each criterion, one by one."""
    return [
        judge_text(
            judge,
            system=SYSTEM,
            question=f"Does the judged text meet this criterion?\n{criterion.text}",
            text=reply,
            reference=conversation,
        )
        for criterion in criteria
    ]


def rubric_score(criteria: Sequence[Criterion], verdicts: Sequence[Verdict]) -> RubricScore:
    """Return the points of the met criteria over the sum of the positive points, not clipped."""
    possible = sum(c.points for c in criteria if c.points > 0)
    low = high = 0.0
    for criterion, verdict in zip(criteria, verdicts, strict=True):
        low += criterion.points if verdict.met or (verdict.met is None and criterion.points < 0) else 0.0
        high += criterion.points if verdict.met or (verdict.met is None and criterion.points > 0) else 0.0
    return RubricScore(low / possible, high / possible, sum(verdict.met is None for verdict in verdicts))


def mean_of_rubrics(scores: Sequence[RubricScore]) -> RubricScore:
    """Return a set's score: the mean of its replies' scores, clipped to 0..1 after the mean."""
    if not scores:
        raise ValueError("got no scores")
    low, high = (sum(values) / len(scores) for values in ([s.lowest for s in scores], [s.highest for s in scores]))
    clipped = [min(max(value, 0.0), 1.0) for value in (low, high)]
    return RubricScore(clipped[0], clipped[1], sum(score.num_unparsed for score in scores))


def within_limits(said: float | None, lower: float, upper: float) -> float:
    """Grade a calculated number as MedCalc-Bench does: 1 from its lower to its upper limit, both included, else 0."""
    return float(said is not None and math.isfinite(said) and lower <= said <= upper)
