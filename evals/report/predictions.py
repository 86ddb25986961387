"""What a model picked for each item, and its probabilities where it has any: what curves and confusion need."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evals.measures import Answered
from evals.tasks.task import Task
from medsiglip.metrics.classification import UNPARSED

COMMON_SHARE = 0.05
"""Of short answers, references rarer than this are no classes; the items that have one are left out."""
MAX_CLASSES = 12
"""With more, a confusion matrix and curves show nothing."""


@dataclass(frozen=True)
class Predictions:
    """Items whose answer is one of a few: n items, C classes."""

    classes: list[str]
    """Sorted, those of the references and, where there are probabilities, of the model."""
    labels: list[str]
    """(n,) references."""
    predicted: list[str]
    """(n,) one of the classes; UNPARSED for an answer that is none of them or failed."""
    groups: list[str]
    probabilities: NDArray[np.float64] | None
    """(n, C) each row sums to 1; None where the model gives none. An item that failed is then left out."""


def predictions_of(task: Task, answered: Sequence[Answered]) -> Predictions | None:
    """Return the predictions of a task; None if its answers are not of a few classes."""
    if task.answers == "label":
        return _of_probabilities([pair for pair in answered if pair.output.probabilities])
    if task.answers == "choices":
        return _of_likelihoods([pair for pair in answered if pair.output.log_likelihoods])
    return _of_text(task, [pair for pair in answered if pair.item.kind == "closed"])


def commonest_share(task: Task, answered: Sequence[Answered]) -> float | None:
    """Return what always giving the commonest reference scores; None where the answers are not of a few classes."""
    found = predictions_of(task, answered)
    return max(Counter(found.labels).values()) / len(found.labels) if found else None


def _of_probabilities(answered: Sequence[Answered]) -> Predictions | None:
    classes = sorted({name for pair in answered for name in pair.output.probabilities})
    if not 2 <= len(classes) <= MAX_CLASSES:
        return None
    table = [[pair.output.probabilities.get(name, 0.0) for name in classes] for pair in answered]
    labels, groups = [pair.item.reference for pair in answered], [pair.item.group for pair in answered]
    if not set(labels) <= set(classes):
        return None
    return Predictions(classes, labels, [pair.output.text for pair in answered], groups, np.array(table))


def _of_likelihoods(answered: Sequence[Answered]) -> Predictions | None:
    """The probabilities are the softmax over the item's choices, named A, B, ... as the references are."""
    width = max((len(pair.item.choices) for pair in answered), default=0)
    classes = [chr(ord("A") + place) for place in range(width)]
    labels = [pair.item.reference for pair in answered]
    if not 2 <= width <= MAX_CLASSES or not set(labels) <= set(classes):
        return None
    scores = np.full((len(answered), width), -np.inf)
    for row, pair in enumerate(answered):
        scores[row, : len(pair.output.log_likelihoods)] = pair.output.log_likelihoods
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    predicted = [classes[place] for place in scores.argmax(axis=1)]
    table = weights / weights.sum(axis=1, keepdims=True)
    return Predictions(classes, labels, predicted, [pair.item.group for pair in answered], table)


def _of_text(task: Task, answered: Sequence[Answered]) -> Predictions | None:
    if task.parse is None or not answered:
        return None
    labels = [pair.item.reference.strip().casefold() for pair in answered]
    common = {name for name, count in Counter(labels).items() if count >= COMMON_SHARE * len(labels)}
    kept = [(pair, label) for pair, label in zip(answered, labels, strict=True) if label in common]
    classes = sorted(common)
    if not 2 <= len(classes) <= MAX_CLASSES:
        return None
    said = ["" if pair.output.error else task.parse(pair.item, pair.output.text).strip().casefold() for pair, _ in kept]
    predicted = [text if text in common else UNPARSED for text in said]
    return Predictions(classes, [label for _, label in kept], predicted, [pair.item.group for pair, _ in kept], None)
