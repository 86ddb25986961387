"""Scoring what a run wrote: DIR/<task>/{items,outputs}.jsonl and run.json to DIR/scores.json.

scores.json: task (`<task>:shuffled` for shuffled pictures) to metric to value, n, n_groups, ci95 (percentile, groups
resampled), ci95_bca, for plain proportions ci95_wilson_if_independent, for a two-class AUROC ci95_delong, a note on
what is odd, and with each metric how it came about, so that a figure copied out of it still says so.

An item that failed stays in n and counts as wrong; `value_of_answered` leaves it out. Where a metric needs a
probability and there is none, `n_left_out` says how many items are missing. `n_unanswered` items have no output yet.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.items import Item, read_items
from evals.measures import Answered, Measure, of_statistic
from evals.outputs import Output, latest, read_outputs
from evals.running.checks import check_items, repeated
from evals.running.options import Condition
from evals.running.record import read_record
from evals.running.runner import condition_folder
from evals.running.voting import vote
from evals.tasks.catalogue import TASKS
from evals.tasks.task import Task
from medsiglip.metrics.bootstrap import Interval
from medsiglip.metrics.classification import as_counts, classes_of, confusion_columns, macro_f1_of_counts
from medsiglip.metrics.delong import delong_auroc
from medsiglip.metrics.ranking import macro_auroc_of_weights
from medsiglip.metrics.statistics import (
    Estimate,
    grouped_bootstrap_ci,
    grouped_weighted_ci,
    paired_difference,
)

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


def shortfalls(out_dir: Path, scores: Scores) -> Iterator[str]:
    """Yield one line a task whose figures do not rest on an answer to every item."""
    for name, metrics in scores.items():
        task, _, condition = name.partition(":")
        found = _provenance(condition_folder(out_dir, task, "shuffled" if condition else "real"))
        n = found["n_items"]
        if found["n_failed"]:
            yield f"{name}: {found['n_failed']} of {n} items failed; they stay in n and count as wrong"
        if found["n_unanswered"]:
            left = "the figures are of the others" if metrics else "no figure"
            yield f"{name}: {found['n_unanswered']} of {n} items have no output yet, {left}; run the task again"


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
        "n_groups": estimate.n_groups,
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
    answered = read_answered(task, folder)
    failed = {pair.item.item_id for pair in answered if pair.output.error}
    found, of_rest = measures(task, answered), {}
    if failed:
        of_rest = measures(task, [pair for pair in answered if not pair.output.error])
    return {
        name: {**figure(measure), **_with_failed(name, measure, failed, of_rest), **provenance}
        for name, measure in found.items()
    }


def figure(measure: Measure) -> dict[str, Any]:
    """Return the figure of a metric as scores.json has it, without how it came about."""
    values = as_json(estimate_of(measure))
    if measure.two_classes is None:
        return values
    scores, is_positive = measure.two_classes
    return {**values, "ci95_delong": interval_as_json(delong_auroc(scores, is_positive, measure.groups).ci95)}


def _with_failed(name: str, measure: Measure, failed: set[str], of_rest: dict[str, Measure]) -> dict[str, Any]:
    """Say what the items that failed do to a figure."""
    n_wrong = len(failed & set(measure.item_ids))
    if n_wrong:
        return {
            "n_failed_counted_wrong": n_wrong,
            "value_of_answered": finite(value_of(of_rest[name])) if name in of_rest else None,
        }
    return {"n_left_out": len(failed)} if failed and measure.statistic is not None else {}


def estimate_of(measure: Measure) -> Estimate:
    """Return the value of a metric with its intervals."""
    if measure.statistic is None:
        mean = grouped_bootstrap_ci(measure.values, measure.groups)
        return mean if measure.right_or_wrong else mean._replace(ci95_wilson=None)
    return grouped_weighted_ci(measure.statistic, measure.groups)


def value_of(measure: Measure) -> float:
    """Return the value of a metric without intervals."""
    if measure.statistic is None:
        return float(np.mean(measure.values))
    return float(measure.statistic(np.ones((1, len(measure.item_ids))))[0])


def measures(task: Task, answered: Sequence[Answered]) -> dict[str, Measure]:
    """Return what the metrics of a task are computed from, metric name to measure."""
    if not answered:
        return {}
    if task.answers == "label" and task.pooled is None:
        return _label_measures(task, answered)
    usable = answered if task.answers in ("text", "label") else [pair for pair in answered if not pair.output.error]
    return {**_means(task, answered), **(task.pooled(usable) if task.pooled and usable else {})}


def read_answered(task: Task, folder: Path) -> list[Answered]:
    """Read the items of a run that have an output, failed ones among them, in the order of the items."""
    items = read_items(folder / "items.jsonl")
    return answered_of(task, items, latest(read_outputs(folder / "outputs.jsonl"), items))


def answered_of(task: Task, items: Iterable[Item], outputs: Mapping[str, Output]) -> list[Answered]:
    """Put items and outputs together; of several draws the one that the majority gives stands for all."""
    got = [(item, outputs[item.item_id]) for item in items if item.item_id in outputs]
    return [Answered(item, voted(task, item, output)) for item, output in got]


def voted(task: Task, item: Item, output: Output) -> Output:
    """Return the output with the first draw whose parsed answer is the most frequent; ties go to the earliest.

    Capitals make no difference. A draw without an answer has no vote, unless none has one.
    """
    if output.orders and output.samples and not output.error:
        return vote(item, output)
    if len(output.samples) < 2 or task.parse is None:
        return output
    parsed = [task.parse(item, text).strip().casefold() for text in output.samples]
    counts = Counter(answer for answer in parsed if answer) or Counter(parsed)
    winner = max(counts, key=lambda answer: (counts[answer], -parsed.index(answer)))
    return replace(output, text=output.samples[parsed.index(winner)])


def grades(task: Task, answered: Sequence[Answered]) -> dict[str, list[Graded]]:
    """Grade each item: metric to the items it applies to."""
    by_metric: dict[str, list[Graded]] = defaultdict(list)
    for item, output in answered:
        for metric, value in grade_of(task, item, output).items():
            by_metric[metric].append(Graded(item.item_id, item.group, value))
    return dict(by_metric)


def grade_of(task: Task, item: Item, output: Output) -> dict[str, float]:
    """Grade an item; one that failed as an empty answer, and a broken dialogue as a wrong one."""
    if not output.error:
        return task.grade(item, output)
    if task.answers == "dialogue":
        return {task.main_metric: 0.0}
    if task.answers == "choices":
        return dict.fromkeys(task.grade(item, replace(output, log_likelihoods=(0.0,) * len(item.choices))), 0.0)
    return task.grade(item, replace(output, text=""))


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
    exact = _mean_of(grades(task, answered)["accuracy"])
    labels, predicted = ([pair.item.reference for pair in answered], [pair.output.text for pair in answered])
    confusion = confusion_columns(predicted, labels, classes_of(predicted, labels))  # (n, C * C)

    def f1_of(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return macro_f1_of_counts(as_counts(weights @ confusion))

    found = {"accuracy": exact, "macro_f1": of_statistic(answered, f1_of)}
    ranked = [pair for pair in answered if pair.output.probabilities]
    return {**found, "macro_auroc_one_vs_rest": _auroc(ranked)} if ranked else found


def _auroc(answered: Sequence[Answered]) -> Measure:
    classes = list(answered[0].output.probabilities)
    table = np.array([[pair.output.probabilities[name] for name in classes] for pair in answered])
    labels = [pair.item.reference for pair in answered]
    second = (table[:, 1], np.array(labels) == classes[1]) if len(classes) == 2 else None
    return of_statistic(answered, macro_auroc_of_weights(table, labels, classes), second)


def _mean_of(graded: Sequence[Graded]) -> Measure:
    values = [g.value for g in graded]
    return Measure([g.item_id for g in graded], [g.group for g in graded], values, set(values) <= {0.0, 1.0})


def _add_difference(task: Task, out_dir: Path, scores: Scores) -> None:
    """Add the paired difference of real and shuffled pictures over the items that both have."""
    real, shuffled = score_name(task.name, "real"), score_name(task.name, "shuffled")
    if real not in scores or shuffled not in scores:
        return
    metric = task.main_metric
    a = grades(task, read_answered(task, condition_folder(out_dir, task.name, "real"))).get(metric, [])
    b = grades(task, read_answered(task, condition_folder(out_dir, task.name, "shuffled"))).get(metric, [])
    other = {graded.item_id: graded.value for graded in b}
    both = [graded for graded in a if graded.item_id in other]
    if not both:
        return
    difference = paired_difference([g.value for g in both], [other[g.item_id] for g in both], [g.group for g in both])
    provenance = _provenance(condition_folder(out_dir, task.name, "shuffled"))
    scores[real][metric + DIFFERENCE] = {**as_json(difference), **provenance, "condition": "real - shuffled"}


def _provenance(folder: Path) -> dict[str, Any]:
    """Return what run.json says, the hash of the items, and what the outputs took."""
    record = read_record(folder)
    items, outputs = read_items(folder / "items.jsonl"), read_outputs(folder / "outputs.jsonl")
    last = latest(outputs, items)
    return {
        **record,
        "items_sha256": sha256((folder / "items.jsonl").read_bytes()).hexdigest(),
        "seconds": round(sum(output.seconds for output in outputs), 2),
        "tokens": sum(output.tokens for output in last.values()),
        "n_items": len(items),
        "n_unanswered": len(items) - len(last),
        "n_failed": sum(bool(output.error) for output in last.values()),
        "n_cut": sum(output.n_cut > 0 for output in last.values()),
        "n_cached": sum(output.cached for output in last.values()),
        "n_repeated": len(repeated(items)),
    }
