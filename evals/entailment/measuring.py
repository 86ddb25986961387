"""How often a scorer of entailment is right on labelled pairs: over all, by label, by what makes a pair hard."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evals.entailment.pairs import PHENOMENA, LabelledPair
from medgemma.entailment.scores import Label, Scorer, entailments
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci

LABELS: tuple[Label, ...] = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class ScorerAccuracy:
    """What a scorer said of labelled pairs; intervals resample premises."""

    accuracy: Estimate
    by_label: dict[Label, Estimate]
    """Of the pairs with this label, the share that it was said of."""
    by_phenomenon: dict[str, Estimate]
    confused: dict[tuple[Label, Label], int]
    """(label, said) to pairs."""


def measure(scorer: Scorer, pairs: Sequence[LabelledPair], seed: int = 0) -> ScorerAccuracy:
    """Put pairs to a scorer; its likeliest label counts.

    Args:
        scorer: What is measured.
        pairs: Of one half; at least one.
        seed: Of the resampling.

    Raises:
        ScorerFailed: The scorer does.
    """
    answers = entailments(scorer, [(pair.premise, pair.hypothesis) for pair in pairs])
    said = [answer.label for answer in answers]
    right = [float(pair.label == label) for pair, label in zip(pairs, said, strict=True)]

    def share(kept: Sequence[bool]) -> Estimate:
        values = [value for value, is_kept in zip(right, kept, strict=True) if is_kept]
        groups = [pair.group for pair, is_kept in zip(pairs, kept, strict=True) if is_kept]
        return grouped_bootstrap_ci(values, groups, seed)

    return ScorerAccuracy(
        share([True] * len(pairs)),
        {label: share([pair.label == label for pair in pairs]) for label in LABELS},
        {name: share([pair.phenomenon == name for pair in pairs]) for name in PHENOMENA
         if any(pair.phenomenon == name for pair in pairs)},
        dict(Counter((pair.label, label) for pair, label in zip(pairs, said, strict=True))),
    )  # fmt: skip
