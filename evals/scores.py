"""Scoring what a run wrote: DIR/<task>/{items,outputs}.jsonl and run.json to DIR/scores.json.

scores.json: task (`<task>:shuffled` for shuffled pictures) to metric to value, n, n_groups, ci95 (percentile, groups
resampled), ci95_bca, for plain proportions ci95_wilson_if_independent, for a two-class AUROC ci95_delong, a note on
what is odd, and with each metric how it came about, so that a figure copied out of it still says so.
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

from evals.checks import check_items, repeated
from evals.items import read_items
from evals.measures import Answered, Measure
from evals.metrics.bootstrap import Interval
from evals.metrics.classification import as_counts, classes_of, confusion_columns, macro_f1_of_counts
from evals.metrics.delong import delong_auroc
from evals.metrics.ranking import macro_auroc_of_weights
from evals.metrics.statistics import (
    Estimate,
    clustered_bootstrap_ci,
    clustered_weighted_ci,
    paired_difference,
)
from evals.outputs import latest, read_outputs
from evals.runner import Condition, condition_folder
from evals.tasks.catalogue import TASKS
from evals.tasks.task import Task

Scores = dict[str, dict[str, dict[str, Any]]]

DIFFERENCE = "_real_minus_shuffled"


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
    """Return value, n, n_groups, the intervals and the note; what is not finite becomes null."""
    return {
        "value": finite(estimate.value),
        "n": estimate.n,
        "n_groups": estimate.n_clusters,
        "ci95": interval_as_json(estimate.ci95),
        "ci95_bca": interval_as_json(estimate.ci95_bca),
        **({"ci95_wilson_if_independent": interval_as_json(estimate.ci95_wilson)} if estimate.ci95_wilson else {}),
        "note": estimate.note,
    }


def interval_as_json(interval: Interval) -> list[float | None]:
    """Return [low, high]; what is not finite becomes null."""
    return [finite(interval.low), finite(interval.high)]


def finite(value: float) -> float | None:
    """Return the value, None if it is not finite."""
    return value if math.isfinite(value) else None


def _score_folder(task: Task, folder: Path) -> dict[str, dict[str, Any]]:
    provenance = _provenance(folder)
    check_items(read_items(folder / "items.jsonl"), provenance, folder)
    found = measures(task, read_answered(folder))
    return {name: {**figure(measure), **provenance} for name, measure in found.items()}


def figure(measure: Measure) -> dict[str, Any]:
    """Return the figure of a metric as scores.json has it, without how it came about."""
    values = as_json(estimate_of(measure))
    if measure.two_classes is None:
        return values
    scores, is_positive = measure.two_classes
    return {**values, "ci95_delong": interval_as_json(delong_auroc(scores, is_positive, measure.groups).ci95)}


def estimate_of(measure: Measure) -> Estimate:
    """Return the value of a metric with its intervals."""
    if measure.statistic is None:
        mean = clustered_bootstrap_ci(measure.values, measure.groups)
        return mean if measure.right_or_wrong else mean._replace(ci95_wilson=None)
    return clustered_weighted_ci(measure.statistic, measure.groups)


def value_of(measure: Measure) -> float:
    """Return the value of a metric without intervals."""
    if measure.statistic is None:
        return float(np.mean(measure.values))
    return float(measure.statistic(np.ones((1, len(measure.item_ids))))[0])


def measures(task: Task, answered: Sequence[Answered]) -> dict[str, Measure]:
    """Return what the metrics of a task are computed from, metric name to measure."""
    if task.answers == "label" and task.pooled is None:
        return _label_measures(task, answered)
    return {**_means(task, answered), **(task.pooled(answered) if task.pooled and answered else {})}


def read_answered(folder: Path) -> list[Answered]:
    """Read the items of a run that have an answer, in the order of the items."""
    items = read_items(folder / "items.jsonl")
    outputs = latest(read_outputs(folder / "outputs.jsonl"), items)
    got = [Answered(item, outputs[item.item_id]) for item in items if item.item_id in outputs]
    return [pair for pair in got if not pair.output.error]


def grades(task: Task, answered: Sequence[Answered]) -> dict[str, list[Graded]]:
    """Grade each item: metric to the items it applies to."""
    by_metric: dict[str, list[Graded]] = defaultdict(list)
    for item, output in answered:
        for metric, value in task.grade(item, output).items():
            by_metric[metric].append(Graded(item.item_id, item.group, value))
    return dict(by_metric)


def _means(task: Task, answered: Sequence[Answered]) -> dict[str, Measure]:
    """Grade all items together, then by the task's breakdown, as `metric/part`."""
    found = {name: _mean_of(graded) for name, graded in grades(task, answered).items()}
    whole = dict(found)
    parts = {pair.item.meta.get(task.breakdown, "") for pair in answered} - {""}
    for part in sorted(parts):
        of_part = [pair for pair in answered if pair.item.meta.get(task.breakdown, "") == part]
        for name, graded in grades(task, of_part).items():
            found[f"{name}/{part}"] = _mean_of(graded)._replace(right_or_wrong=whole[name].right_or_wrong)
    return found


def _label_measures(task: Task, answered: Sequence[Answered]) -> dict[str, Measure]:
    if not answered:
        return {}
    classes = list(answered[0].output.probabilities)
    table = np.array([[pair.output.probabilities[name] for name in classes] for pair in answered])
    labels, predicted = ([pair.item.reference for pair in answered], [pair.output.text for pair in answered])
    exact = _mean_of(grades(task, answered)["accuracy"])
    confusion = confusion_columns(predicted, labels, classes_of(predicted, labels))  # (n, C * C)

    def f1_of(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return macro_f1_of_counts(as_counts(weights @ confusion))

    second = (table[:, 1], np.array(labels) == classes[1]) if len(classes) == 2 else None
    auroc_of = macro_auroc_of_weights(table, labels, classes)
    return {
        "accuracy": exact,
        "macro_f1": exact._replace(values=[], right_or_wrong=False, statistic=f1_of),
        "macro_auroc_one_vs_rest": exact._replace(
            values=[], right_or_wrong=False, statistic=auroc_of, two_classes=second
        ),
    }


def _mean_of(graded: Sequence[Graded]) -> Measure:
    values = [g.value for g in graded]
    return Measure([g.item_id for g in graded], [g.group for g in graded], values, set(values) <= {0.0, 1.0})


def _add_difference(task: Task, out_dir: Path, scores: Scores) -> None:
    """Add the paired difference of real and shuffled pictures over the items that both have."""
    real, shuffled = score_name(task.name, "real"), score_name(task.name, "shuffled")
    if real not in scores or shuffled not in scores:
        return
    metric = task.main_metric
    a = grades(task, read_answered(condition_folder(out_dir, task.name, "real"))).get(metric, [])
    b = grades(task, read_answered(condition_folder(out_dir, task.name, "shuffled"))).get(metric, [])
    other = {graded.item_id: graded.value for graded in b}
    both = [graded for graded in a if graded.item_id in other]
    if not both:
        return
    difference = paired_difference([g.value for g in both], [other[g.item_id] for g in both], [g.group for g in both])
    provenance = _provenance(condition_folder(out_dir, task.name, "shuffled"))
    scores[real][metric + DIFFERENCE] = {**as_json(difference), **provenance, "condition": "real - shuffled"}


def _provenance(folder: Path) -> dict[str, Any]:
    """Return what run.json says, the hash of the items, the time taken, and how many items failed or are copies."""
    path = folder / "run.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the run stopped before it began; run the task again")
    items, outputs = read_items(folder / "items.jsonl"), read_outputs(folder / "outputs.jsonl")
    last = latest(outputs, items)
    return {
        **json.loads(path.read_text(encoding="utf-8")),
        "items_sha256": sha256((folder / "items.jsonl").read_bytes()).hexdigest(),
        "seconds": round(sum(output.seconds for output in outputs), 2),
        "n_failed": sum(bool(output.error) for output in last.values()),
        "n_repeated": len(repeated(items)),
    }
