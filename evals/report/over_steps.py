"""A task's held-out figures over the steps of training stages, of one run or the mean of several seeds, and their plot.

A run's folder holds evals/STAGE/step-N, each as `finetune.live.task_metric` writes it, and evals/teacher/step-0 where
there is a teacher.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evals.metrics.paired import paired_mean_difference
from evals.results.scores import as_json, interval_as_json, read_answered
from evals.running.runner import condition_folder
from evals.tasks.task import Task
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci

AGREEMENT = "same_as_teacher"
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#9a6700", "#0e7490", "#bf3989", "#57606a")


class ItemValues(NamedTuple):
    """A metric's value of every item, the mean over runs."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    values: tuple[float, ...]

    def estimate(self) -> Estimate:
        """Their mean, with its interval over groups; what other seeds would give is not in it."""
        return grouped_bootstrap_ci(self.values, self.groups)


def held_out(task: Task, runs: Sequence[Path], stage: str, step: int) -> dict[str, ItemValues]:
    """Metric to items; `same_as_teacher`: the short answer reads as the teacher's.

    Raises:
        ValueError: the runs were asked different items.
    """
    found = [_of_run(task, run / "evals", stage, step) for run in runs]
    return {metric: _mean([each[metric] for each in found]) for metric in found[0]}


def steps_of(run: Path, stage: str) -> list[int]:
    """After how many steps a stage was measured."""
    return sorted(int(folder.name.removeprefix("step-")) for folder in (run / "evals" / stage).glob("step-*"))


def curve(task: Task, runs: Sequence[Path], stage: str) -> dict[str, list[dict[str, Any]]]:
    """Metric to the figures of every measurement: step, value, n, n_groups, ci95."""
    points: dict[str, list[dict[str, Any]]] = {}
    for step in steps_of(runs[0], stage):
        for metric, items in held_out(task, runs, stage, step).items():
            said = as_json(items.estimate())
            points.setdefault(metric, []).append({"step": step, **{k: said[k] for k in SHOWN}})
    return points


SHOWN = ("value", "n", "n_groups", "ci95")


def differences(task: Task, runs: Sequence[Path], stage: str, other: str) -> dict[str, dict[str, Any]]:
    """Metric to the last figures of a stage minus another's, paired by item, with the interval over groups."""
    ours, theirs = (held_out(task, runs, name, steps_of(runs[0], name)[-1]) for name in (stage, other))
    found = {}
    for metric, items in ours.items():
        paired = paired_mean_difference(theirs[metric].values, items.values, items.groups)
        found[metric] = {
            "value": paired.estimate.value,
            "ci95": interval_as_json(paired.estimate.ci95),
            "p": paired.p_bootstrap,
        }
    return found


def plot(curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> str:
    """An SVG: a line a name over steps with a dot a point, its 95 % interval as a band where there is one."""
    points = [point for line in curves.values() for point in line]
    last = max(point["step"] for point in points) or 1
    bounds = [bound for point in points for bound in (*point["ci95"], point["value"]) if bound is not None]
    low, high = min(bounds), max(max(bounds), min(bounds) + 1e-3)
    decimals = max(2, 1 - math.floor(math.log10((high - low) / 4)))  # so that neighbouring lines of the grid differ
    has_intervals = any(point["ci95"][0] is not None for point in points)

    def at(step: float, value: float) -> str:
        return f"{50 + 400 * step / last:.1f},{230 - 200 * (value - low) / (high - low):.1f}"

    drawn = [f'<text x="50" y="18">{title}{", 95 % intervals over groups" if has_intervals else ""}</text>']
    drawn += [f'<path d="M{at(0, v)} L{at(last, v)}" stroke="#ddd"/>' for v in np.linspace(low, high, 5)]
    drawn += [f'<text x="4" y="{at(0, v).split(",")[1]}">{v:.{decimals}f}</text>' for v in np.linspace(low, high, 5)]
    drawn += [f'<text x="50" y="250">0</text><text x="400" y="250">{last} steps</text>']
    for place, (name, line) in enumerate(curves.items()):
        drawn += _line(line, COLOURS[place % len(COLOURS)], at)
        said = f"{name} {line[-1]['value']:.{decimals + 1}f}"
        drawn.append(f'<text x="470" y="{40 + 18 * place}" fill="{COLOURS[place % len(COLOURS)]}">{said}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 260" font-family="sans-serif" font-size="12">'
        f"{''.join(drawn)}</svg>\n"
    )


def _line(line: Sequence[Mapping[str, Any]], colour: str, at: Any) -> Iterator[str]:
    with_interval = [point for point in line if point["ci95"][0] is not None]
    if with_interval:
        upper = [at(point["step"], point["ci95"][1]) for point in with_interval]
        lower = [at(point["step"], point["ci95"][0]) for point in reversed(with_interval)]
        yield f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" opacity="0.12"/>'
    places = [at(point["step"], point["value"]) for point in line]
    yield f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for x, y in (place.split(",") for place in places):
        yield f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>'


def _of_run(task: Task, evals: Path, stage: str, step: int) -> dict[str, ItemValues]:
    def answered(name: str, number: int) -> Any:
        return read_answered(task, condition_folder(evals / name / f"step-{number}", task.name, "real"))

    parse = task.parse
    assert parse is not None
    taught = {}
    if (evals / "teacher").is_dir():
        taught = {item.item_id: parse(item, output.text).casefold() for item, output in answered("teacher", 0)}
    rows: dict[str, list[tuple[str, str, float]]] = {}
    for item, output in answered(stage, step):
        values = dict(task.grade(item, output))
        if taught:
            values[AGREEMENT] = float(parse(item, output.text).casefold() == taught[item.item_id])
        for metric, value in values.items():
            rows.setdefault(metric, []).append((item.item_id, item.group, value))
    return {metric: ItemValues(*zip(*sorted(found), strict=True)) for metric, found in rows.items()}


def _mean(runs: Sequence[ItemValues]) -> ItemValues:
    if any(run.ids != runs[0].ids for run in runs):
        raise ValueError("the runs were asked different questions; measure them on one side of one set")
    values = np.mean([run.values for run in runs], axis=0)
    return ItemValues(runs[0].ids, runs[0].groups, tuple(map(float, values)))
