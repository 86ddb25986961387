"""Figures of a classifier on held-out rows, beside the commonest answer's, with intervals over groups.

Letters: N rows, C classes or findings.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evals.metrics.paired import PairedDifference, paired_mean_difference
from evals.results.scores import as_json
from finetune.tables.classification import Answer, LabelledRows
from medsiglip.command import whole_file
from medsiglip.metrics.bootstrap import ratio
from medsiglip.metrics.ranking import auroc, auroc_of_weights, macro_auroc_of_weights
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci, grouped_totals_ci, grouped_weighted_ci


def metric_of(logits: torch.Tensor, values: torch.Tensor, answer: Answer) -> float:
    """What decides which weights are the best: accuracy of classes, the mean AUROC of findings that have both kinds."""
    scores, known = logits.float().cpu().numpy(), values.numpy()
    if answer == "class":
        return float((scores.argmax(1) == known.argmax(1)).mean())
    found = [auroc(scores[there, n], known[there, n] == 1) for n, there in enumerate(~np.isnan(known.T))]
    defined = [value for value in found if not np.isnan(value)]
    return float(np.mean(defined)) if defined else 0.5


def score(
    path: Path,
    values: torch.Tensor,
    trained: torch.Tensor,
    groups: Sequence[str],
    probabilities: torch.Tensor,
    classes: Sequence[str],
    answer: Answer,
) -> list[str]:
    """Write scores.json; return its main figures as lines.

    Args:
        path: of scores.json.
        values: (N, C) of the held-out rows, NaN where nothing is known.
        trained: the same of the training side, from which the commonest answer comes.
        groups: (N,) of the held-out rows.
        probabilities: (N, C).
        classes: C names.
        answer: class or multi-label.
    """
    truth, said = values.numpy(), probabilities.numpy()
    commonest = np.nanmean(trained.numpy(), axis=0)
    right, of_commonest = (_right(truth, scores, answer) for scores in (said, np.tile(commonest, (len(truth), 1))))
    gain = paired_mean_difference(of_commonest, right, groups)
    found: dict[str, Any] = {
        "accuracy": as_json(grouped_bootstrap_ci(right, groups)),
        "accuracy of the commonest answer": as_json(grouped_bootstrap_ci(of_commonest, groups)),
        "accuracy minus the commonest answer's": {**as_json(gain.estimate), "p_bootstrap": _finite(gain.p_bootstrap)},
        **{name: as_json(estimate) for name, estimate in _pooled(truth, said, groups, classes, answer).items()},
    }
    with whole_file(path) as file:
        file.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return [*(_line(name, figure) for name, figure in found.items()), _verdict(gain)]


def write_predictions(
    path: Path, rows: LabelledRows, groups: Sequence[str], probabilities: torch.Tensor, classes: Sequence[str]
) -> None:
    """A line a row: its place, group, what is right, and the probability of each class."""
    with whole_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", "group", "right", *classes])
        for place, group, value, row in zip(rows.places, groups, rows.values, probabilities.tolist(), strict=True):
            there = ";".join(name for name, is_there in zip(classes, value.tolist(), strict=True) if is_there == 1)
            writer.writerow([place, group, there, *(f"{p:.6f}" for p in row)])


def _right(truth: NDArray[np.float32], scores: NDArray[np.float32], answer: Answer) -> NDArray[np.float64]:
    """(N,) whether the likeliest class is right, or the share of known findings that are."""
    if answer == "class":
        return np.asarray(scores.argmax(1) == truth.argmax(1), np.float64)
    known = ~np.isnan(truth)
    right = (scores >= 0.5) == (truth == 1)
    shares: NDArray[np.float64] = np.divide((right & known).sum(1), known.sum(1).clip(1))
    return shares


def _pooled(
    truth: NDArray[np.float32],
    said: NDArray[np.float32],
    groups: Sequence[str],
    classes: Sequence[str],
    answer: Answer,
) -> dict[str, Estimate]:
    if answer == "class":
        labels = [classes[n] for n in truth.argmax(1)]
        chosen, there = np.eye(len(classes))[said.argmax(1)], truth == 1
        return {
            "macro_f1": grouped_totals_ci(_macro_f1, np.concatenate([chosen * there, chosen + there], 1), groups),
            "macro_auroc": grouped_weighted_ci(macro_auroc_of_weights(said, labels, classes), groups),
        }
    found = {}
    for number, name in enumerate(classes):
        known = ~np.isnan(truth[:, number])
        some = [group for group, there in zip(groups, known, strict=True) if there]
        if some:
            of = auroc_of_weights(said[known, number], truth[known, number] == 1)
            found[f"auroc/{name}"] = grouped_weighted_ci(of, some)
    return found


def _macro_f1(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R,) from (R, 2 C) sums: a class's right answers, then its answers and its rows together."""
    right, both = np.split(totals, 2, axis=1)
    f1s = ratio(2 * right, both)
    occurs = both > 0
    return ratio(np.where(occurs, f1s, 0.0).sum(1), occurs.sum(1).astype(np.float64))


def _verdict(gain: PairedDifference) -> str:
    low, high = gain.estimate.ci95
    if np.isnan(low):
        return "not compared with the commonest answer: rows of one group have no interval"
    if low > 0:
        return "better than the commonest answer: the interval of the difference is above 0"
    return f"not shown to be better than the commonest answer: the difference may be {low:+.3f} to {high:+.3f}"


def _line(name: str, figure: dict[str, Any]) -> str:
    value, (low, high) = figure["value"], figure["ci95"]
    shown = [("-" if number is None else f"{number:.3f}") for number in (value, low, high)]
    return f"{name}: {shown[0]} ({shown[1]} to {shown[2]}), n {figure['n']} of {figure['n_groups']} groups"


def _finite(number: float) -> float | None:
    return None if np.isnan(number) else number
