"""Metrics of predicted labels against reference labels: accuracies, precision, recall, specificity, the F1s, kappa.

Every metric comes twice: on two lists of labels, and, ending in `_of_counts`, on confusion counts, (R, C, C) with
the reference along the rows and the prediction along the columns, so that 2,000 resamples cost one call (see
`statistics.grouped_totals_ci` and `confusion_columns`). An answer that could not be parsed is the label UNPARSED: it
is never right, and it stays in n.

Rates with nothing to divide by are nan (no item of the class), except as a docstring says; `statistics.estimate`
turns nan into a value that is null, with a note.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medsiglip.metrics.bootstrap import ratio

UNPARSED = ""
"""The predicted label of an answer that says none of the classes."""

Counts = NDArray[np.float64]
"""(R, C, C) how many items of the reference class (rows) were given the predicted class (columns)."""


def classes_of(predicted: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return all labels that occur in either, sorted."""
    return sorted({*predicted, *labels})


def confusion_columns(predicted: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.float64]:
    """Return (n, C * C) zeros with a one where each item falls in its confusion matrix.

    Raises:
        ValueError: There are no items, the lengths differ, or a label is none of the classes.
    """
    demand_same_length(len(predicted), len(labels))
    place = {name: number for number, name in enumerate(classes)}
    unknown = {*predicted, *labels} - set(place)
    if unknown:
        raise ValueError(f"got the labels {sorted(unknown)}; expected only {', '.join(classes)}")
    cells = [place[label] * len(place) + place[guess] for guess, label in zip(predicted, labels, strict=True)]
    return np.eye(len(place) ** 2)[cells]


def confusion_counts(predicted: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> Counts:
    """Return (1, C, C) counts over all items."""
    return as_counts(confusion_columns(predicted, labels, classes).sum(axis=0, keepdims=True))


def as_counts(totals: NDArray[np.float64]) -> Counts:
    """Reshape (R, C * C) sums of `confusion_columns` to (R, C, C)."""
    side = round(totals.shape[1] ** 0.5)
    return totals.reshape(-1, side, side)


def accuracy(predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Return the share of items whose predicted label is the label, 0 to 1; an unparsed answer is wrong.

    Raises:
        ValueError: There are no items, or the lengths differ.
    """
    demand_same_length(len(predicted), len(labels))
    return sum(p == label for p, label in zip(predicted, labels, strict=True)) / len(labels)


def accuracy_of_counts(counts: Counts) -> NDArray[np.float64]:
    """Return (R,) accuracies."""
    return ratio(np.trace(counts, axis1=1, axis2=2), counts.sum(axis=(1, 2)))


def balanced_accuracy(predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Return the mean over the classes of the labels of each one's recall, 0 to 1; 1 / C for a constant answer.

    "Macro accuracy" in the MedGemma 1.5 report's tables is read as this.

    Raises:
        ValueError: There are no items, or the lengths differ.

    Source: Brodersen et al., ICPR 2010; scikit-learn's `balanced_accuracy_score`.
    """
    classes = classes_of(predicted, labels)
    return float(balanced_accuracy_of_counts(confusion_counts(predicted, labels, classes))[0])


def balanced_accuracy_of_counts(counts: Counts) -> NDArray[np.float64]:
    """Return (R,) means of recall over the classes with an item."""
    return _mean_of_defined(_recalls(counts))


def precision(predicted: Sequence[str], labels: Sequence[str], positive: str) -> float:
    """Return the share of the items predicted `positive` that are: TP / (TP + FP), 0 to 1; nan if none is predicted.

    Raises:
        ValueError: There are no items, or the lengths differ.
    """
    return float(precision_of_counts(_binary_counts(predicted, labels, positive))[0])


def recall(predicted: Sequence[str], labels: Sequence[str], positive: str) -> float:
    """Return the share of the `positive` items that are predicted so: TP / (TP + FN), 0 to 1; nan if there is none.

    The same as sensitivity. An unparsed answer to a positive item is a miss.

    Raises:
        ValueError: There are no items, or the lengths differ.
    """
    return float(recall_of_counts(_binary_counts(predicted, labels, positive))[0])


sensitivity = recall


def specificity(predicted: Sequence[str], labels: Sequence[str], positive: str) -> float:
    """Return the share of the other items that are not predicted `positive`: TN / (TN + FP); nan if there is none.

    An answer that could not be parsed is no claim that the item is positive, so on a negative item it counts as right
    here; accuracy counts it as wrong. Report the number of unparsed answers beside it.

    Raises:
        ValueError: There are no items, or the lengths differ.
    """
    return float(specificity_of_counts(_binary_counts(predicted, labels, positive))[0])


def f1(predicted: Sequence[str], labels: Sequence[str], positive: str) -> float:
    """Return 2 TP / (2 TP + FP + FN), 0 to 1; nan if the class neither occurs nor is predicted.

    Raises:
        ValueError: There are no items, or the lengths differ.

    Source: van Rijsbergen, Information Retrieval (1979).
    """
    return float(f1_of_counts(_binary_counts(predicted, labels, positive))[0])


def f1_lm_eval(predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Return what lm-evaluation-harness calls `f1`: the F1 of the class "1" among the labels "0" and "1".

    It is no overlap of tokens. 0 if the class "1" neither occurs nor is predicted.

    Raises:
        ValueError: There are no items, the lengths differ, or a label is neither.

    Source: `f1_score` of lm_eval/api/metrics.py (scikit-learn's binary F1).
    """
    return float(np.nan_to_num(f1_of_counts(confusion_counts(predicted, labels, ("0", "1")))[0]))


def precision_of_counts(counts: Counts) -> NDArray[np.float64]:
    """Return (R,) precisions of the second of two classes."""
    return ratio(counts[:, 1, 1], counts[:, :, 1].sum(axis=1))


def recall_of_counts(counts: Counts) -> NDArray[np.float64]:
    """Return (R,) recalls (sensitivities) of the second of two classes."""
    return ratio(counts[:, 1, 1], counts[:, 1, :].sum(axis=1))


def specificity_of_counts(counts: Counts) -> NDArray[np.float64]:
    """Return (R,) specificities of the second of two classes."""
    return ratio(counts[:, 0, 0], counts[:, 0, :].sum(axis=1))


def f1_of_counts(counts: Counts) -> NDArray[np.float64]:
    """Return (R,) F1s of the second of two classes."""
    return _f1s(counts)[:, 1]


def macro_f1(predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Return the unweighted mean of the classes' F1, over the classes that occur in the labels; 0 to 1.

    A class that is only ever predicted costs precision of none but itself, so it is left out of the mean, and
    its predictions count as misses of the right classes. A class never hit has F1 0.

    Raises:
        ValueError: There are no items, or the lengths differ.
    """
    return float(macro_f1_of_counts(confusion_counts(predicted, labels, classes_of(predicted, labels)))[0])


def macro_f1_of_counts(counts: Counts) -> NDArray[np.float64]:
    """Return (R,) macro F1s over the classes with an item."""
    return _mean_of_defined(np.where(counts.sum(axis=2) > 0, _f1s(counts), np.nan))


def weighted_f1(predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Return the mean of the classes' F1, each weighted by its number of items; 0 to 1.

    Raises:
        ValueError: There are no items, or the lengths differ.

    Source: scikit-learn's `f1_score(average="weighted")`.
    """
    return float(weighted_f1_of_counts(confusion_counts(predicted, labels, classes_of(predicted, labels)))[0])


def weighted_f1_of_counts(counts: Counts) -> NDArray[np.float64]:
    """Return (R,) weighted F1s."""
    items = counts.sum(axis=2)
    return ratio((np.nan_to_num(_f1s(counts)) * items).sum(axis=1), items.sum(axis=1))


def micro_f1(predicted: Sequence[str], labels: Sequence[str], classes: Sequence[str] | None = None) -> float:
    """Return the F1 of TP, FP and FN summed over classes, 0 to 1.

    Over all classes of a single-label task this is the accuracy; leave a class out (such as "no finding") and it is
    not. nan if none of the classes occurs or is predicted.

    Raises:
        ValueError: There are no items, or the lengths differ.

    Source: scikit-learn's `f1_score(average="micro", labels=classes)`.
    """
    everything = classes_of(predicted, labels)
    counts = confusion_counts(predicted, labels, everything)
    kept = [number for number, name in enumerate(everything) if classes is None or name in classes]
    hits = counts[:, kept, kept].sum(axis=1)
    mentioned = counts.sum(axis=2)[:, kept].sum(axis=1) + counts.sum(axis=1)[:, kept].sum(axis=1)
    return float(ratio(2 * hits, mentioned)[0])


def weighted_kappa(
    predicted: Sequence[str],
    labels: Sequence[str],
    grades: Sequence[str],
    weights: Literal["linear", "quadratic"],
) -> float:
    """Return Cohen's kappa between two gradings of an ordered scale, disagreement weighted by distance.

    Args:
        predicted: The model's grades; UNPARSED is not allowed, since it has no place on the scale.
        labels: The reference grades.
        grades: The scale in order, as (diabetic retinopathy) "none", "mild", ..., all of it.
        weights: `linear`: |i - j|; `quadratic`: (i - j) squared.

    Returns:
        1 for perfect agreement, 0 for what chance gives, down to -1; nan if both always give the same one grade.

    Raises:
        ValueError: There are no items, the lengths differ, or a grade is not on the scale.

    Source: Cohen, Psychol. Bull. 70, 213 (1968); scikit-learn's `cohen_kappa_score`.
    """
    return float(weighted_kappa_of_counts(confusion_counts(predicted, labels, grades), weights)[0])


def weighted_kappa_of_counts(counts: Counts, weights: Literal["linear", "quadratic"]) -> NDArray[np.float64]:
    """Return (R,) weighted kappas."""
    grade = np.arange(counts.shape[1])
    distance = np.abs(grade[:, None] - grade[None, :]).astype(np.float64) ** (1 if weights == "linear" else 2)
    by_chance = counts.sum(axis=2)[:, :, None] * counts.sum(axis=1)[:, None, :]  # (R, C, C)
    seen = (counts * distance).sum(axis=(1, 2)) * counts.sum(axis=(1, 2))
    return 1 - ratio(seen, (by_chance * distance).sum(axis=(1, 2)))


def demand_same_length(n: int, m: int) -> None:
    """Refuse no items, and lists of different lengths."""
    if n != m or not n:
        raise ValueError(f"got {n} predictions and {m} labels; expected as many of each, at least one")


def _binary_counts(predicted: Sequence[str], labels: Sequence[str], positive: str) -> Counts:
    """Return (1, 2, 2) counts, everything but `positive` being the first class."""
    guesses, truths = (["yes" if name == positive else "no" for name in names] for names in (predicted, labels))
    return confusion_counts(guesses, truths, ("no", "yes"))


def _recalls(counts: Counts) -> NDArray[np.float64]:
    """Return (R, C)."""
    return ratio(np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2))


def _f1s(counts: Counts) -> NDArray[np.float64]:
    """Return (R, C) F1s; nan where a class neither occurs nor is predicted."""
    return ratio(2 * np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2) + counts.sum(axis=1))


def _mean_of_defined(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (R,) means over the columns that are not nan; nan if all are."""
    defined = np.isfinite(rates)
    return ratio(np.where(defined, rates, 0.0).sum(axis=1), defined.sum(axis=1).astype(np.float64))
