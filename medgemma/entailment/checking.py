"""A draft checked sentence by sentence against a source: supported, contradicted, or not mentioned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medgemma.entailment.scores import Entailment, Label, Scorer, sentence_entailments
from medgemma.entailment.sentences import sentences

Mark = Literal["supported", "contradicted", "not mentioned"]
MARKS: Mapping[Label, Mark] = {
    "entailment": "supported",
    "contradiction": "contradicted",
    "neutral": "not mentioned",
}

PRESENT, ABSENT = 0.7, 0.3
"""A finding of at least PRESENT is stated, one of at most ABSENT denied, and one between them possible."""


@dataclass(frozen=True)
class CheckedSentence:
    """One sentence of a draft and what the source says of it."""

    sentence: str
    mark: Mark
    answer: Entailment


def check_draft(draft: str, source: str, scorer: Scorer) -> list[CheckedSentence]:
    """Mark each sentence of a draft by the likeliest label of what the whole source says of it.

    Raises:
        ValueError: Draft or source holds no word.
        ScorerFailed: The scorer does.
    """
    for text, name in ((draft, "draft"), (source, "source")):
        if not sentences(text):
            raise ValueError(f"the {name} holds no text; give one with sentences")
    [parts] = sentence_entailments(scorer, [(source, draft)])
    return [CheckedSentence(sentence, MARKS[answer.label], answer) for sentence, answer in parts]


def findings_source(probabilities: Mapping[str, float]) -> str:
    """Return findings with their probabilities as the text that a draft is checked against.

    Args:
        probabilities: Finding, such as "pleural effusion", to its probability, 0 to 1.
    """
    return " ".join(_sentence(finding, share) for finding, share in probabilities.items())


def likeliest_of_pictures(labels: Sequence[str], probabilities: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return each label's greatest probability over the pictures of a study: a finding shows on one view at least.

    Args:
        labels: (C,) names.
        probabilities: (N, C), a row a picture.
    """
    return {label: max(row[place] for row in probabilities) for place, label in enumerate(labels)}


def _sentence(finding: str, probability: float) -> str:
    if probability >= PRESENT:
        return f"There is {finding}."
    return f"There is no {finding}." if probability <= ABSENT else f"There may be {finding}."
