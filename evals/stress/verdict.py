"""Whether a metric may become a reward: it must not prefer a flipped negation to a paraphrase.

A model that is rewarded by a metric learns what the metric prefers. One that gives "There is a pneumothorax." more than
"Pneumothorax is absent." for a reference of "There is no pneumothorax." teaches to copy words.

    from evals.stress.verdict import demand_not_fooled
    demand_not_fooled("rouge_l_f1")    # ValueError: ... prefers a flipped negation ...

The verdict rests on reports.jsonl: 32 chest reports with paraphrases, both written for this file (Apache-2.0, as the
project), so that no data set is needed and a verdict costs 64 values of the metric.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evals.stress.edits import EDIT_KINDS, VERSION, EditKind
from evals.stress.metrics import stress_metric
from evals.stress.preferences import Preference, StressCase, StressMetric, preferences, stress_case

REQUIRED = 0.5
"""What the interval of the preference must lie above: a metric that cannot tell the two apart is at one half."""

_DECIDES: EditKind = "negation"
_VERDICTS: dict[tuple[str, str, int], "StressVerdict"] = {}


@dataclass(frozen=True)
class StressVerdict:
    """What a metric prefers, and whether it may be a reward."""

    metric: str
    version: str
    preferences: Mapping[EditKind, Preference]
    is_accepted: bool
    """The 95 % interval of preferring a paraphrase to a flipped negation lies above REQUIRED."""

    @property
    def reason(self) -> str:
        """One line: the decisive figure."""
        found = self.preferences[_DECIDES].right
        return (
            f"{self.metric} prefers the paraphrase to a flipped negation in {found.value:.0%} of {found.n} reports "
            f"(95 % interval {found.ci95.low:.0%} to {found.ci95.high:.0%}; a tie is half)"
        )

    @property
    def refusal(self) -> str:
        """What is said of a metric that is refused."""
        return (
            f"{self.reason}; a reward made from it teaches to copy words, whatever they mean; take a metric that "
            "`medgemma-eval metrics` accepts"
        )


@cache
def own_cases() -> tuple[StressCase, ...]:
    """Return the cases of reports.jsonl."""
    lines = (Path(__file__).parent / "reports.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    made = [stress_case(row["id"], row["id"], row["report"], row["paraphrase"]) for row in rows]
    return tuple(case for case in made if case is not None)


def verdict_of(metric: StressMetric, found: Mapping[EditKind, Preference]) -> StressVerdict:
    """Decide by preferences that were measured.

    Raises:
        ValueError: No report took a flipped negation.
    """
    if _DECIDES not in found:
        raise ValueError(f"metric {metric.name}: no report could be given a flipped negation; give more reports")
    ordered = {kind: found[kind] for kind in EDIT_KINDS if kind in found}
    accepted = found[_DECIDES].right.ci95.low > REQUIRED
    return StressVerdict(metric.name, metric.version, ordered, accepted)


def stress_verdict(metric: StressMetric | str) -> StressVerdict:
    """Put a metric under stress on the reports of this package; asked again, the same version is not computed again.

    Args:
        metric: A name (metrics.stress_metric), or a metric of yours: name, version and a function of texts and
            references.

    Raises:
        ValueError: The name is unknown, its package is missing, or its values are no numbers.
    """
    tested = stress_metric(metric) if isinstance(metric, str) else metric
    key = (tested.name, tested.version, VERSION)
    if key not in _VERDICTS:
        _VERDICTS[key] = verdict_of(tested, preferences(tested, own_cases()))
    return _VERDICTS[key]


def demand_not_fooled(metric: StressMetric | str) -> None:
    """Refuse a metric as a reward if it prefers a flipped negation to a paraphrase, or cannot tell them apart.

    Raises:
        ValueError: It does; the message says how often.
    """
    verdict = stress_verdict(metric)
    if not verdict.is_accepted:
        raise ValueError(verdict.refusal)
