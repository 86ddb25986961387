"""From scores to decisions with a guarantee: thresholds at a wanted sensitivity, conformal sets at a stated level.

Both are order statistics of labelled pictures' scores, so they hold whatever the scores are worth, on the average over
labelled sets, for new pictures that are drawn as those were (the same site, kinds and mixture). Scores must be fixed
before: they are the encoder's own, not the fitted probabilities.

Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005); Sadinle, Lei and Wasserman,
J. Am. Stat. Assoc. 114, 223 (2019) (the sets).
"""

import math

import numpy as np

TOLERANCE = 1e-9
"""Of counts that rounding makes a hair less than whole."""


def threshold_at(sensitivity: float, scores: np.ndarray, truth: np.ndarray) -> float | None:
    """The highest threshold that a new positive reaches with at least this chance; None with too few positives.

    Args:
        sensitivity: wanted, between 0 and 1.
        scores: (N,) higher means more likely present.
        truth: (N,) 1, 0 or NaN.

    Returns:
        The k-th smallest score of the n positives, k = floor((n + 1)(1 - sensitivity)); k = 0 has no threshold.
    """
    positives = np.sort(scores[truth == 1])
    place = math.floor((len(positives) + 1) * (1 - sensitivity) + TOLERANCE)
    return float(positives[place - 1]) if place else None


def positives_needed(sensitivity: float) -> int:
    """So many positives a threshold at this sensitivity takes at least."""
    return math.ceil(1 / (1 - sensitivity) - 1 - TOLERANCE)


def set_threshold(level: float, probabilities: np.ndarray, truth: np.ndarray) -> float:
    """What a label's softmax must reach to be in the set, so that sets hold the true label with at least this chance.

    Args:
        level: wanted, between 0 and 1.
        probabilities: (N, C) the encoder's own softmax.
        truth: (N, C) one 1 a row.

    Returns:
        The k-th smallest probability of a true label, k = floor((N + 1)(1 - level)); 0, so that every label is in every
        set, with fewer than 1 / (1 - level) - 1 pictures.
    """
    of_truth = np.sort(probabilities[truth == 1])
    place = math.floor((len(of_truth) + 1) * (1 - level) + TOLERANCE)
    return float(of_truth[place - 1]) if place else 0.0
