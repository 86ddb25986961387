"""How far a metric of summaries agrees with people: rank correlation with their scores of how factual each is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_cards.readers.text import ScoredSummary
from evals.stress.preferences import StressMetric
from medsiglip.metrics.bootstrap import ratio
from medsiglip.metrics.statistics import Estimate, grouped_weighted_ci

Against = Literal["reference", "dialogue"]
"""What a summary is measured against: the summary by a person, or the dialogue that it is of."""
Human = Literal["precision", "recall", "hallucination"]
HUMAN: tuple[Human, ...] = ("precision", "recall", "hallucination")
"""The people's scores; a good metric falls as hallucination rises."""


@dataclass(frozen=True)
class Agreement:
    """A metric beside people's scores."""

    metric: str
    against: Against
    spearman: Mapping[Human, Estimate]
    """-1 to 1; intervals resample dialogues. Not a number for a metric that gives all summaries the same."""


def agreement(
    metric: StressMetric, summaries: Sequence[ScoredSummary], against: Against = "reference", seed: int = 0
) -> Agreement:
    """Correlate a metric's values with people's scores of the same summaries.

    Args:
        metric: Of (summaries, texts they are measured against).
        summaries: At least two.
        against: Which text.
        seed: Of the resampling.

    Raises:
        ScorerFailed: A metric of entailment whose scorer fails.
    """
    texts = [one.reference if against == "reference" else one.dialogue for one in summaries]
    values = np.asarray(metric.score([one.summary for one in summaries], texts), dtype=np.float64)
    groups = [one.group for one in summaries]
    return Agreement(
        metric.name, against, {name: _spearman(values, _scores(summaries, name), groups, seed) for name in HUMAN}
    )


def _scores(summaries: Sequence[ScoredSummary], name: Human) -> NDArray[np.float64]:
    by_name = {
        "precision": [one.precision for one in summaries],
        "recall": [one.recall for one in summaries],
        "hallucination": [one.hallucination for one in summaries],
    }
    return np.asarray(by_name[name], dtype=np.float64)


def _spearman(values: NDArray[np.float64], scores: NDArray[np.float64], groups: Sequence[str], seed: int) -> Estimate:
    """Pearson's correlation of mid-ranks; an item that a resample draws twice counts as two equal ones."""
    below, below_score = _is_below(values), _is_below(scores)

    def of_weights(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        rank, rank_of_score = weights @ below, weights @ below_score
        total = weights.sum(axis=1, keepdims=True)
        rank = rank - (weights * rank).sum(axis=1, keepdims=True) / total
        rank_of_score = rank_of_score - (weights * rank_of_score).sum(axis=1, keepdims=True) / total
        spread = np.sqrt((weights * rank**2).sum(axis=1) * (weights * rank_of_score**2).sum(axis=1))
        return ratio((weights * rank * rank_of_score).sum(axis=1), np.where(spread < 1e-9, 0.0, spread))

    return grouped_weighted_ci(of_weights, groups, seed)


def _is_below(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, n): 1 where the row's value is below the column's, one half where they are equal."""
    is_below: NDArray[np.float64] = (values[:, None] < values[None]) + 0.5 * (values[:, None] == values[None])
    return is_below
