"""Judged scores with what a judge left open, and a judge's agreement with people."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Acceptance:
    """Whether a judge may grade: its agreement with people's labels."""

    agreement: Estimate
    """An unparsed verdict agrees with nothing."""
    required: float
    is_accepted: bool
    """The lower end of the 95 % interval reaches what is required."""


def accept(verdicts: Sequence[Verdict], labels: Sequence[bool], groups: Sequence[str], required: float) -> Acceptance:
    """Compare a judge with people on labelled texts.

    Args:
        verdicts: The judge's.
        labels: The people's, of the same texts.
        groups: The group of each.
        required: Agreement that the interval must lie above, 0 to 1.

    Raises:
        ValueError: The lengths differ.
    """
    agrees = [float(verdict.met == label) for verdict, label in zip(verdicts, labels, strict=True)]
    found = grouped_bootstrap_ci(agrees, groups)
    interval = found.ci95_wilson if found.ci95_wilson and found.n_groups == found.n else found.ci95
    return Acceptance(found, required, interval.low >= required)


@dataclass(frozen=True)
class LabelledText:
    """A text with what people decided of it."""

    text: str
    question: str
    label: bool
    group: str


def labelled_texts(path: Path) -> list[LabelledText]:
    """Read a JSONL of {"text", "question", "label", "group"}.

    Raises:
        ValueError: A line is none; the message names file, line and fault.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            if not isinstance(row["label"], bool):
                raise ValueError("label is neither true nor false")
            rows.append(LabelledText(str(row["text"]), str(row["question"]), row["label"], str(row["group"])))
        except (KeyError, TypeError, ValueError) as fault:
            raise ValueError(f"{path}: line {number}: {fault}; a line has text, question, label and group") from None
    return rows
