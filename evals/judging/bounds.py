"""Judged scores with what a judge left open."""

from collections.abc import Sequence
from dataclasses import dataclass

from evals.judging.judge import VERSION, Verdict
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci


@dataclass(frozen=True)
class JudgedScore:
    """A share of texts that meet a criterion, as one judge sees it."""

    judge: str
    """Its identity: model and fingerprint."""
    version: int
    """Of the frame (`judge.VERSION`)."""
    n: int
    unparsed: float
    """Share of the verdicts that could not be read."""
    lowest: Estimate
    """With all unparsed verdicts wrong."""
    highest: Estimate
    """With all unparsed verdicts right."""


def judged_score(judge: str, verdicts: Sequence[Verdict], groups: Sequence[str], seed: int = 0) -> JudgedScore:
    """Return the share of met criteria; unparsed verdicts stay in n, as the interval from all wrong to all right.

    Args:
        judge: Its identity.
        verdicts: One a text.
        groups: The group of each; whole groups are resampled.
        seed: Of the resampling.

    Raises:
        ValueError: There is no verdict.
    """
    low = [float(verdict.met is True) for verdict in verdicts]
    high = [float(verdict.met is not False) for verdict in verdicts]
    unparsed = sum(verdict.met is None for verdict in verdicts) / max(len(verdicts), 1)
    lowest, highest = grouped_bootstrap_ci(low, groups, seed), grouped_bootstrap_ci(high, groups, seed)
    return JudgedScore(judge, VERSION, len(verdicts), unparsed, lowest, highest)
