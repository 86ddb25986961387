"""Which of two texts a metric prefers: a paraphrase of a report, or the report with one meaning changed."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from evals.stress.edits import EDIT_KINDS, EDITORS, EditKind
from evals.stress.paraphrase import paraphrase
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci

Score = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""(texts, references) to one value a pair, the higher the better."""


@dataclass(frozen=True)
class StressMetric:
    """A metric that is put under stress."""

    name: str
    version: str
    """Changes with every change of its values: verdicts are kept under name and version."""
    score: Score


@dataclass(frozen=True)
class StressCase:
    """A report, the same in other words, and the same with one thing wrong."""

    case_id: str
    group: str
    """What dependent reports share; intervals resample groups."""
    report: str
    paraphrase: str
    wrong: Mapping[EditKind, str]
    """The edits that this report takes."""


@dataclass(frozen=True)
class Preference:
    """How often a metric gives the paraphrase more than the wrong text."""

    right: Estimate
    """The mean of 1 for the paraphrase, 0 for the wrong text, one half for a tie."""
    ties: float
    """Share of the pairs with equal values."""


def stress_case(case_id: str, group: str, report: str, other_words: str | None = None) -> StressCase | None:
    """Make the case of a report; None if it cannot be put in other words, or takes no edit.

    Args:
        case_id: Of the report.
        group: Of the report.
        report: Its text.
        other_words: A paraphrase by a person; by rule if None.
    """
    same = other_words or paraphrase(report)
    edited = {kind: EDITORS[kind](report) for kind in EDIT_KINDS}
    wrong = {kind: text for kind, text in edited.items() if text is not None}
    return StressCase(case_id, group, report, same, wrong) if same and wrong else None


def preferences(metric: StressMetric, cases: Iterable[StressCase], seed: int = 0) -> dict[EditKind, Preference]:
    """Return how often a metric prefers the paraphrase, by kind of edit; kinds that no case has are left out.

    Args:
        metric: What is tested.
        cases: Reports with their edits.
        seed: Of the resampling.

    Raises:
        ValueError: There is no case, or the metric gives another number of values or one that is not finite.
    """
    tested = list(cases)
    if not tested:
        raise ValueError("got no report that takes an edit; give reports of several sentences")
    rights = _values(metric, [case.paraphrase for case in tested], [case.report for case in tested])
    found: dict[EditKind, Preference] = {}
    for kind in EDIT_KINDS:
        places = [place for place, case in enumerate(tested) if kind in case.wrong]
        if not places:
            continue
        of_kind = [tested[place] for place in places]
        wrongs = _values(metric, [case.wrong[kind] for case in of_kind], [case.report for case in of_kind])
        won = [_won(rights[place], wrong) for place, wrong in zip(places, wrongs, strict=True)]
        right = grouped_bootstrap_ci(won, [case.group for case in of_kind], seed)
        found[kind] = Preference(right, sum(value == 0.5 for value in won) / len(won))
    return found


def _won(right: float, wrong: float) -> float:
    return 0.5 if math.isclose(right, wrong, rel_tol=1e-9, abs_tol=1e-12) else float(right > wrong)


def _values(metric: StressMetric, texts: Sequence[str], references: Sequence[str]) -> list[float]:
    values = [float(value) for value in metric.score(texts, references)]
    if len(values) != len(texts) or not all(map(math.isfinite, values)):
        raise ValueError(
            f"metric {metric.name}: got {len(values)} values for {len(texts)} pairs, or one that is not finite; "
            "a metric under stress gives one number a pair"
        )
    return values
