"""How much of a report another text supports: shares of its sentences, and of the findings that it should state.

By the rules of `medgemma.entailment.rules` unless another scorer is given; what no rule reads counts as not supported.
"""

from collections.abc import Sequence
from typing import NamedTuple

from medgemma.entailment.chest.comparing import wider
from medgemma.entailment.chest.findings import findings_of
from medgemma.entailment.rules import rule_nli
from medgemma.entailment.scores import Scorer, sentence_entailments


class Support(NamedTuple):
    """Of one text's sentences; both are 0 for a text without any."""

    entailment: float
    """Share that the source entails, 0 to 1."""
    contradiction: float
    """Share that the source contradicts, 0 to 1."""


def supports(texts: Sequence[str], sources: Sequence[str], scorer: Scorer = rule_nli) -> list[Support]:
    """Return what sources say of the sentences of texts, one Support a text.

    Args:
        texts: Whose sentences are the hypotheses.
        sources: (as many) the premises, each whole.
        scorer: The likeliest label of its answer counts.

    Raises:
        ScorerFailed: The scorer does.
    """
    found = sentence_entailments(scorer, list(zip(sources, texts, strict=True)))
    return [_shares([answer.label for _, answer in parts]) for parts in found]


def entailment_share(text: str, source: str) -> float:
    """Share of a text's sentences that a source entails by the rules, 0 to 1; 0 for a text without any."""
    return supports([text], [source])[0].entailment


def uncontradicted_share(text: str, source: str) -> float:
    """Share of a text's sentences that a source does not contradict by the rules, 0 to 1; 1 for a text without any."""
    return 1 - supports([text], [source])[0].contradiction


def stated_findings(text: str) -> frozenset[str]:
    """Return the names of the findings that a report says are there, or may be there."""
    return frozenset(finding.name for finding in findings_of(text) if finding.status != "absent")


def recalled_findings(text: str, reference: str) -> tuple[int, int]:
    """Return how many of a reference's findings a text states too, itself or a kind of it, and how many there are."""
    asked = stated_findings(reference)
    said = frozenset(name for finding in stated_findings(text) for name in wider(finding))
    return len(asked & said), len(asked)


def finding_recall(text: str, reference: str) -> float:
    """Share of a reference's findings that a text states too, 0 to 1; 1 where the reference states none."""
    recalled, asked = recalled_findings(text, reference)
    return recalled / asked if asked else 1.0


def _shares(labels: Sequence[str]) -> Support:
    if not labels:
        return Support(0.0, 0.0)
    return Support(labels.count("entailment") / len(labels), labels.count("contradiction") / len(labels))
