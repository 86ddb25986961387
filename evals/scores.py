"""Scoring what a run wrote: DIR/<task>/{items,outputs}.jsonl and run.json to DIR/scores.json.

scores.json: task (`<task>:shuffled` for shuffled pictures) to metric to value, n, n_groups, ci95, and
with each metric how it came about, so that a figure copied out of it still says so.
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.items import Item, read_items
from evals.metrics.ranking import accuracy, macro_auroc_one_vs_rest, macro_f1
from evals.metrics.statistics import (
    Estimate,
    clustered_bootstrap_ci,
    clustered_statistic_ci,
    paired_difference,
)
from evals.outputs import Output, latest, read_outputs
from evals.runner import TASKS, Condition, Task, condition_folder
from evals.tasks import vqa_rad

Scores = dict[str, dict[str, dict[str, Any]]]

MAIN_METRIC = {"text": "closed_accuracy", "label": "accuracy"}
"""The per-item metric whose real-minus-shuffled difference says what looking is worth."""

DIFFERENCE = "_real_minus_shuffled"


class Answered(NamedTuple):
    """An item and what came back."""

    item: Item
    output: Output


class Graded(NamedTuple):
    """One metric of one item."""

    item_id: str
    group: str
    value: float


def score_dir(out_dir: Path) -> Scores:
    """Score every task that was run into a folder and write scores.json there.

    Raises:
        ValueError: Nothing was run there, or a file is broken.
    """
    scores: Scores = {}
    for task in TASKS.values():
        for condition in ("real", "shuffled"):
            folder = condition_folder(out_dir, task.name, condition)
            if (folder / "items.jsonl").is_file():
                scores[score_name(task.name, condition)] = _score_folder(task, folder)
        _add_difference(task, out_dir, scores)
    if not scores:
        raise ValueError(f"{out_dir}: holds no task; run one first: medgemma-eval run TASK --out {out_dir}")
    write_scores(out_dir / "scores.json", scores)
    return scores


def score_name(task: str, condition: Condition) -> str:
    """Return the key in scores.json."""
    return f"{task}:shuffled" if condition == "shuffled" else task


def write_scores(path: Path, scores: Scores) -> None:
    """Write scores whole or not at all."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(scores, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(path)


def as_json(estimate: Estimate) -> dict[str, Any]:
    """Return value, n, n_groups, ci95; what is not finite becomes null."""
    return {
        "value": _finite(estimate.value),
        "n": estimate.n,
        "n_groups": estimate.n_clusters,
        "ci95": [_finite(estimate.ci95.low), _finite(estimate.ci95.high)],
    }


def _score_folder(task: Task, folder: Path) -> dict[str, dict[str, Any]]:
    answered = read_answered(folder)
    provenance = _provenance(folder)
    metrics = _text_metrics(task, answered) if task.answers == "text" else _label_metrics(answered)
    return {name: {**as_json(estimate), **provenance} for name, estimate in metrics.items()}


def read_answered(folder: Path) -> list[Answered]:
    """Read the items of a run that have an answer, in the order of the items."""
    items = read_items(folder / "items.jsonl")
    outputs = latest(read_outputs(folder / "outputs.jsonl"), items)
    got = [Answered(item, outputs[item.item_id]) for item in items if item.item_id in outputs]
    return [pair for pair in got if not pair.output.error]


def grades(answered: Sequence[Answered]) -> dict[str, list[Graded]]:
    """Grade each item: metric to the items it applies to."""
    by_metric: dict[str, list[Graded]] = defaultdict(list)
    for item, output in answered:
        for metric, value in _grade(item, output).items():
            by_metric[metric].append(Graded(item.item_id, item.group, value))
    return dict(by_metric)


def _grade(item: Item, output: Output) -> dict[str, float]:
    if item.kind == "class":
        return {"accuracy": float(output.text == item.reference)}
    return vqa_rad.grade(item.kind, output.text, item.reference)


def _text_metrics(task: Task, answered: Sequence[Answered]) -> dict[str, Estimate]:
    """Score all items together, then by the task's breakdown, as `metric/part`."""
    metrics = {name: _mean(graded) for name, graded in grades(answered).items()}
    for part in sorted({pair.item.meta[task.breakdown] for pair in answered}):
        of_part = [pair for pair in answered if pair.item.meta[task.breakdown] == part]
        metrics |= {f"{name}/{part}": _mean(graded) for name, graded in grades(of_part).items()}
    return metrics


def _label_metrics(answered: Sequence[Answered]) -> dict[str, Estimate]:
    if not answered:
        return {}
    classes = list(answered[0].output.probabilities)
    table = np.array([[pair.output.probabilities[name] for name in classes] for pair in answered])
    labels = np.array([pair.item.reference for pair in answered])
    predicted = np.array([pair.output.text for pair in answered])
    groups = [pair.item.group for pair in answered]

    def f1_of(chosen: NDArray[np.intp]) -> float:
        return macro_f1(predicted[chosen].tolist(), labels[chosen].tolist())

    def auroc_of(chosen: NDArray[np.intp]) -> float:
        return macro_auroc_one_vs_rest(table[chosen], labels[chosen].tolist(), classes)

    exact = clustered_bootstrap_ci(predicted == labels, groups)
    assert math.isclose(exact.value, accuracy(predicted.tolist(), labels.tolist()))
    return {
        "accuracy": exact,
        "macro_f1": clustered_statistic_ci(f1_of, groups),
        "macro_auroc_one_vs_rest": clustered_statistic_ci(auroc_of, groups),
    }


def _mean(graded: Sequence[Graded]) -> Estimate:
    return clustered_bootstrap_ci([g.value for g in graded], [g.group for g in graded])


def _add_difference(task: Task, out_dir: Path, scores: Scores) -> None:
    """Add the paired difference of real and shuffled pictures over the items that both have."""
    real, shuffled = score_name(task.name, "real"), score_name(task.name, "shuffled")
    if real not in scores or shuffled not in scores:
        return
    metric = MAIN_METRIC[task.answers]
    a = grades(read_answered(condition_folder(out_dir, task.name, "real"))).get(metric, [])
    b = grades(read_answered(condition_folder(out_dir, task.name, "shuffled"))).get(metric, [])
    other = {graded.item_id: graded.value for graded in b}
    both = [graded for graded in a if graded.item_id in other]
    if not both:
        return
    difference = paired_difference([g.value for g in both], [other[g.item_id] for g in both], [g.group for g in both])
    provenance = _provenance(condition_folder(out_dir, task.name, "shuffled"))
    scores[real][metric + DIFFERENCE] = {**as_json(difference), **provenance, "condition": "real - shuffled"}


def _provenance(folder: Path) -> dict[str, Any]:
    """Return what run.json says, the hash of the items, the time taken and the items that failed."""
    path = folder / "run.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the run stopped before it began; run the task again")
    outputs = read_outputs(folder / "outputs.jsonl")
    last = latest(outputs, read_items(folder / "items.jsonl"))
    return {
        **json.loads(path.read_text(encoding="utf-8")),
        "items_sha256": sha256((folder / "items.jsonl").read_bytes()).hexdigest(),
        "seconds": round(sum(output.seconds for output in outputs), 2),
        "n_failed": sum(bool(output.error) for output in last.values()),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
