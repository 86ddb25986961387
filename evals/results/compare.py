"""Comparing two runs item by item: DIR/<task>/{items,outputs}.jsonl, run.json and DIR/scores.json of each.

Two models are compared only on the same questions: what differs between the runs (items, wording, references, task
version, split, data) is named and refused. Differences are the second run minus the first.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evals.measures import Answered, Measure
from evals.metrics.paired import (
    PairedDifference,
    holm,
    mcnemar,
    paired_mean_difference,
    paired_statistic_difference,
)
from evals.results.pairing import LeftOut, Pair, pair_runs, read_run, task_folders
from evals.results.scores import as_json, estimate_of, finite, interval_as_json, measures
from evals.results.tables import aligned
from evals.running.checks import repeated
from evals.tasks.catalogue import TASKS
from medsiglip.metrics.bootstrap import N_RESAMPLES
from medsiglip.metrics.delong import DeLongEstimate, delong_paired

SETTINGS = ("model", "generation", "num_fewshot", "seed", "limit", "computed_on", "versions", "commit")
"""What may differ between two runs; shown where it does."""


@dataclass(frozen=True)
class MetricComparison:
    """One metric of one task, on the items that both runs answered."""

    task: str
    metric: str
    first: dict[str, Any]
    """value, n, n_groups, ci95, ... of the first run."""
    second: dict[str, Any]
    difference: dict[str, Any]
    """Second minus first: value, ci95 (paired, groups resampled), ..."""
    p_bootstrap: float | None
    """Two-sided, from the paired bootstrap over groups; None where there is no interval."""
    p_holm: float | None = None
    """The same corrected for the number of tasks; only of each task's main metric."""
    mcnemar: dict[str, Any] | None = None
    """Of metrics right or wrong per item: only_first, only_second, p_exact, p_mid; items taken as independent."""
    delong: dict[str, Any] | None = None
    """Of a two-class AUROC: difference, ci95, p, with the groups taken into account."""


@dataclass(frozen=True)
class TaskComparison:
    """One task of two runs."""

    task: str
    task_version: int
    side: str
    n_items: int
    """Answered by both."""
    n_repeated: int
    """Copies of other items among them."""
    left_out: LeftOut
    settings_that_differ: dict[str, list[Any]]
    same_weights: bool
    """Both runs say the same model fingerprint."""
    metrics: list[MetricComparison]


@dataclass(frozen=True)
class Comparison:
    """Two folders of runs."""

    first: str
    second: str
    tasks: list[TaskComparison]
    only_first: list[str]
    """Tasks that only the first folder has."""
    only_second: list[str]
    holm_family: list[str]
    """`task: metric` of the tests that p_holm corrects together."""
    seed: int
    n_resamples: int


def compare_dirs(
    first: Path, second: Path, common: bool = False, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Comparison:
    """Compare every task that both folders have.

    Args:
        first: The --out of the one run.
        second: The --out of the other.
        common: Compare the items that both answered, and count the others, instead of refusing.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Raises:
        ValueError: A file is missing, broken or cut off; the runs differ in what was asked; or an item is answered by
            one side only and `common` is false.
    """
    folders = [task_folders(first), task_folders(second)]
    shared = [name for name in folders[0] if name in folders[1]]
    if not shared:
        raise ValueError(
            f"{first} holds {', '.join(folders[0])}; {second} holds {', '.join(folders[1])}; expected a task in common"
        )
    tasks = [_compare_task(name, folders[0][name], folders[1][name], common, seed, n_resamples) for name in shared]
    tasks = _with_holm(tasks)
    family = [f"{metric.task}: {metric.metric}" for task in tasks for metric in _main_metric(task)]
    only = [[name for name in mine if name not in other] for mine, other in (folders, folders[::-1])]
    return Comparison(str(first), str(second), tasks, only[0], only[1], family, seed, n_resamples)


def as_table(comparison: Comparison) -> str:
    """Return a plain table, one line a metric."""
    head = ("task", "metric", "first", "second", "second - first", "p", "p Holm", "p McNemar", "n", "groups")
    rows = [head, *(_row(metric) for task in comparison.tasks for metric in task.metrics)]
    return "\n".join(aligned(rows))


def remarks(comparison: Comparison) -> Iterator[str]:
    """Yield what a reader of the table has to know, one line each."""
    yield f"first: {comparison.first}; second: {comparison.second}; intervals: 95 %, groups resampled"
    yield "p: paired, groups resampled; p Holm: over the tasks' main metrics; p McNemar: items as if independent"
    for name, where in ((comparison.only_first, "first"), (comparison.only_second, "second")):
        if name:
            yield f"only in the {where}, not compared: {', '.join(name)}"
    for task in comparison.tasks:
        yield from (f"{task.task}: {line}" for line in task.left_out.lines())
        if task.n_repeated:
            yield f"{task.task}: {task.n_repeated} item(s) repeat another one: same pictures, prompt and reference"
        for setting, (one, other) in task.settings_that_differ.items():
            yield f"{task.task}: {setting} differs: {one} and {other}"
        if task.same_weights:
            yield f"{task.task}: both runs are of the same weights"
        for note in dict.fromkeys(metric.difference["note"] for metric in task.metrics):
            odd = [metric.metric for metric in task.metrics if metric.difference["note"] == note]
            if note:
                yield f"{task.task}: difference in {', '.join(odd[:3])}{' and others' * (len(odd) > 3)}: {note}"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON values."""
    return {**asdict(comparison), "difference_is": "second - first"}


def _compare_task(name: str, first: Path, second: Path, common: bool, seed: int, n_resamples: int) -> TaskComparison:
    pair = pair_runs(read_run(first), read_run(second), common)
    record = pair.first.record
    one, other = _settings(record), _settings(pair.second.record)
    differing = {key: [one.get(key), other.get(key)] for key in {**one, **other}}
    return TaskComparison(
        name,
        int(record.get("task_version", 1)),
        str(record.get("side", "")),
        len(pair.answered_first),
        len(repeated([answered.item for answered in pair.answered_first])),
        pair.left_out,
        {key: values for key, values in differing.items() if values[0] != values[1]},
        _same_weights(record, pair.second.record),
        list(_compare_metrics(name, pair, seed, n_resamples)),
    )


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return SETTINGS, each field of those that have several by itself: `generation.max_new_tokens`."""
    found = {key: record.get(key) for key in SETTINGS}
    parts = {
        f"{key}.{name}": value for key, held in found.items() if isinstance(held, dict) for name, value in held.items()
    }
    return {**{key: held for key, held in found.items() if not isinstance(held, dict)}, **parts}


def _same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one.get("model_fingerprint")) and one.get("model_fingerprint") == other.get("model_fingerprint")


def _compare_metrics(task: str, pair: Pair, seed: int, n_resamples: int) -> Iterator[MetricComparison]:
    one, other = (_measures(task, answered) for answered in (pair.answered_first, pair.answered_second))
    for metric in one:
        assert one[metric].item_ids == other[metric].item_ids, f"{task} {metric} grades other items"
        yield _compare_metric(task, metric, one[metric], other[metric], seed, n_resamples)


def _measures(task: str, answered: Sequence[Answered]) -> dict[str, Measure]:
    return measures(TASKS[task.removesuffix(":shuffled")], answered)


def _compare_metric(
    task: str, metric: str, one: Measure, other: Measure, seed: int, n_resamples: int
) -> MetricComparison:
    found = _difference(one, other, seed, n_resamples)
    binary = one.right_or_wrong and other.right_or_wrong
    ranked = _delong(one, other)
    return MetricComparison(
        task,
        metric,
        as_json(estimate_of(one)),
        as_json(estimate_of(other)),
        as_json(found.estimate),
        finite(found.p_bootstrap),
        mcnemar=mcnemar(one.values, other.values)._asdict() if binary else None,
        delong=_delong_json(ranked) if ranked else None,
    )


def _difference(one: Measure, other: Measure, seed: int, n_resamples: int) -> PairedDifference:
    if one.statistic is None or other.statistic is None:
        return paired_mean_difference(one.values, other.values, one.groups, seed, n_resamples)
    return paired_statistic_difference(one.statistic, other.statistic, one.groups, seed, n_resamples)


def _delong(one: Measure, other: Measure) -> DeLongEstimate | None:
    if one.two_classes is None or other.two_classes is None:
        return None
    return delong_paired(other.two_classes[0], one.two_classes[0], one.two_classes[1], one.groups)


def _delong_json(test: DeLongEstimate) -> dict[str, Any]:
    return {
        "difference": finite(test.value),
        "ci95": interval_as_json(test.ci95),
        "p": finite(test.p),
        "note": test.note,
    }


def _with_holm(tasks: Sequence[TaskComparison]) -> list[TaskComparison]:
    """Correct the p values of the tasks' main metrics together."""
    family = [metric for task in tasks for metric in _main_metric(task)]
    adjusted = holm([math.nan if metric.p_bootstrap is None else metric.p_bootstrap for metric in family])
    corrected = {(metric.task, metric.metric): finite(p) for metric, p in zip(family, adjusted, strict=True)}
    return [
        replace(task, metrics=[replace(m, p_holm=corrected.get((m.task, m.metric))) for m in task.metrics])
        for task in tasks
    ]


def _main_metric(task: TaskComparison) -> list[MetricComparison]:
    """Return the main metric of a task, the first if it lacks that one; none if it has none."""
    main = TASKS[task.task.removesuffix(":shuffled")].main_metric
    return ([metric for metric in task.metrics if metric.metric == main] or task.metrics)[:1]


def _row(metric: MetricComparison) -> tuple[str, ...]:
    return (
        metric.task,
        metric.metric,
        _cell(metric.first),
        _cell(metric.second),
        _cell(metric.difference, sign="+"),
        _p(metric.p_bootstrap),
        _p(metric.p_holm),
        _p(metric.mcnemar["p_exact"] if metric.mcnemar else None),
        str(metric.first["n"]),
        str(metric.first["n_groups"]),
    )


def _cell(figure: dict[str, Any], sign: str = "") -> str:
    if figure["value"] is None:
        return "undefined"
    low, high = figure["ci95"]
    interval = "" if low is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"
    return f"{figure['value']:{sign}.3f}{interval}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.0005 else f"{value:.1e}"
