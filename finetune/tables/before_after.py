"""Before and after tuning, in one table: what was to be learned, what must not be lost, and whether it still looks.

Every task is asked by `evals` of the model before, of the one after, and what was to be learned also of baselines that
look at nothing. Differences are paired, and whole groups are resampled.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from evals.reliability.comparing import compare_results
from evals.reliability.running import probing_task, read_results, summarise
from evals.results.compare import Comparison, as_table, compare_dirs, to_json
from evals.results.scores import as_json, score_dir
from evals.running.options import RunOptions
from evals.running.runner import run_task
from evals.tasks.catalogue import task_named
from evals.tasks.picture_questions import CARDS
from evals.tasks.task import Task
from medsiglip.command import progress, say, whole_file

Load = Callable[[], Any]
"""Loads a model that is asked; one is in memory at a time."""

FORGETTING = ("picture-questions-new-wordings", "outside-questions")
"""What nano can do before any tuning, in wordings that no recipe trains on: what a recipe may not cost."""
FORGETTING_ITEMS = 200
PROBED = FORGETTING[:1]
LOOKS = "looks"
"""OUT's folder of the probes' answers; `medgemma-eval compare` reads its two folders too."""


@dataclass(frozen=True)
class Asked:
    """A task, the data it is asked over, and which items."""

    task: Task
    data: Path
    options: RunOptions


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    part: Literal["learned", "kept", "looks"]
    """What was to be learned; what must not be lost; shares of the quadrants of reliability."""
    task: str
    metric: str
    """Of `looks`: the quadrant whose share it is."""
    before: float | None
    after: float | None
    difference: Mapping[str, Any]
    """After minus before: value, ci95, n, n_groups."""
    left_out: int
    """Items that the model before or the one after has no answer to, such as those longer than its context."""
    baselines: Mapping[str, Mapping[str, Any]]
    """Name of a baseline to after minus it; of `learned` alone."""


def before_and_after(
    learned: Sequence[Asked],
    before: Load,
    after: Load,
    out: Path,
    *,
    baselines: Mapping[str, Load] | None = None,
    kept: Sequence[Asked] = (),
    probed: Sequence[Asked] = (),
    command: str,
    quiet: bool,
) -> list[Line]:
    """Ask all, compare, and write OUT/before_after.md and .json beside the folders of answers.

    Args:
        learned: What the recipe teaches; also asked of the baselines.
        before: The model that was tuned.
        after: The tuned one.
        out: Gets base, tuned and a folder a baseline, as `medgemma-eval run` writes them; a stopped one goes on.
        baselines: Name to what answers without looking, such as the commonest answer.
        kept: What must not be lost; see `forgetting`.
        probed: Tasks whose items are asked otherwise and without their picture; see `evals.reliability`.
        command: For the record.
        quiet: No progress bar.

    Raises:
        ValueError: The data of a task is missing or broken.
    """
    baselines = baselines or {}
    for name, load in {**baselines, "base": before, "tuned": after}.items():
        model, folder = load(), out / folder_name(name)
        ask(learned if name in baselines else [*learned, *kept], model, name, folder, command, quiet)
        if name not in baselines:
            _probe(probed, model, name, out / LOOKS / name, command, quiet)
        del model
    names = ("base", *baselines)
    against = {name: compare_dirs(out / folder_name(name), out / "tuned", common=True) for name in names}
    lines = list(_lines(against, {asked.task.name for asked in learned}, baselines))
    if probed:
        lines += _looking(out)
    with whole_file(out / "before_after.json") as file:
        rows = [asdict(line) for line in lines]
        file.write(json.dumps({"command": command, "rows": rows}, indent=1, allow_nan=False) + "\n")
    with whole_file(out / "before_after.md") as file:
        file.write(markdown(lines))
    say(markdown(lines).rstrip())
    return lines


def ask(asked: Sequence[Asked], model: Any, name: str, folder: Path, command: str, quiet: bool) -> None:
    """Put the tasks to one model, as `medgemma-eval run` does, and score what came back."""
    for one in asked:
        with progress(None, f"items of {one.task.name} by {name}", quiet) as advance:
            run_task(one.task, one.options, one.data, folder, model, name, command, advance)
    score_dir(folder)


def compare_all(models: Sequence[str], out: Path, side: str) -> dict[str, Comparison]:
    """Compare the last model with each of the others, say how, and write OUT/gain.json."""
    *others, last = models
    compared = {name: compare_dirs(out / folder_name(name), out / folder_name(last), common=True) for name in others}
    for name, comparison in compared.items():
        say(f"{last} against {name}, on the side {side}:\n{as_table(comparison)}")
        for line in (line for task in comparison.tasks for line in task.left_out.lines()):
            say(line)
    with whole_file(out / "gain.json") as file:
        file.write(json.dumps({name: to_json(c) for name, c in compared.items()}, indent=1, allow_nan=False) + "\n")
    return compared


def forgetting(data: Path, items: int = FORGETTING_ITEMS) -> tuple[list[Asked], list[Asked]]:
    """Return what must not be lost and what is probed, as far as the kit's pictures lie in or beside `data`.

    Where they do not, both are empty, which is said.

    Args:
        data: The recipe's --data.
        items: Of each task; a third as many are probed, each asked some seven times.
    """
    root = next((folder for folder in (data, data.parent) if all((folder / card).is_dir() for card in CARDS)), None)
    if root is None:
        say(f"{data}: {', '.join(CARDS)} are not here, so what tuning costs elsewhere is not measured")
        return [], []
    kept = [Asked(task_named(name), root, RunOptions(limit=items)) for name in FORGETTING]
    return kept, [Asked(task_named(name), root, RunOptions(limit=max(2, items // 3))) for name in PROBED]


def folder_name(model: str) -> str:
    """A model's folder in OUT."""
    return model.replace(" ", "-")


def markdown(lines: Sequence[Line]) -> str:
    """The lines as a Markdown table; 95 % intervals, whole groups resampled."""
    names = list(dict.fromkeys(name for line in lines for name in line.baselines))
    head = ["", "task", "metric", "before", "after", "after − before", *(f"after − {name}" for name in names)]
    rows = [
        [
            *(line.part, line.task, line.metric, _number(line.before), _number(line.after), _signed(line.difference)),
            *(_signed(line.baselines[name]) if name in line.baselines else "" for name in names),
            _counts(line),
        ]
        for line in lines
    ]
    head.append("items, groups")
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def _probe(probed: Sequence[Asked], model: Any, name: str, folder: Path, command: str, quiet: bool) -> None:
    for one in probed:
        task = probing_task(one.task, one.options, folder)
        with progress(None, f"probes of {one.task.name} by {name}", quiet) as advance:
            run_task(task, RunOptions(side=one.options.side), one.data, folder, model, name, command, advance)
        summarise(one.task, folder)


def _lines(against: Mapping[str, Comparison], learned: set[str], baselines: Mapping[str, Load]) -> Iterator[Line]:
    others = {
        (name, metric.task, metric.metric): metric.difference
        for name in baselines
        for task in against[name].tasks
        for metric in task.metrics
    }
    for task in sorted(against["base"].tasks, key=lambda task: task.task not in learned):
        for metric in task.metrics:
            keys = {name: (name, metric.task, metric.metric) for name in baselines}
            yield Line(
                "learned" if task.task in learned else "kept",
                task.task,
                metric.metric,
                metric.first["value"],
                metric.second["value"],
                metric.difference,
                sum(map(len, (task.left_out.only_first, task.left_out.only_second, task.left_out.neither))),
                {name: others[key] for name, key in keys.items() if key in others},
            )


def _looking(out: Path) -> Iterator[Line]:
    """Shares of the quadrants before and after, and what moved."""
    base, tuned = (out / LOOKS / name for name in ("base", "tuned"))
    shares = [read_results(base), read_results(tuned)]
    for task, moves in compare_results(base, tuned).items():
        for quadrant, difference in moves.differences.items():
            one, other = (found[task]["quadrants"][quadrant]["share"]["value"] for found in shares)
            yield Line("looks", task, quadrant, one, other, as_json(difference.estimate), 0, {})


def _counts(line: Line) -> str:
    missing = f"; {line.left_out} left out" if line.left_out else ""
    return f"{line.difference['n']}, {line.difference['n_groups']}{missing}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _signed(difference: Mapping[str, Any]) -> str:
    if difference["value"] is None:
        return "undefined"
    low, high = difference["ci95"]
    return f"{difference['value']:+.3f}" + ("" if low is None else f" ({low:+.3f} to {high:+.3f})")
