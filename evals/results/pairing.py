"""Putting two runs of one task side by side, and refusing what would not be the same question twice."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from evals.items import Item, read_items
from evals.measures import Answered
from evals.outputs import Output, latest, read_outputs
from evals.results.scores import answered_of, finite, measures, score_name, value_of
from evals.running.checks import check_items, named
from evals.running.options import PROBED, RELIABILITY, Condition
from evals.running.record import read_record
from evals.tasks.catalogue import task_named
from evals.tasks.task import Task

DATA_RECORD = ("side", "condition", "data_sha256")
"""What run.json says of the split; two runs must agree on it."""


class Run(NamedTuple):
    """One task's folder."""

    folder: Path
    record: Mapping[str, Any]
    items: dict[str, Item]
    outputs: dict[str, Output]
    """By item; those that failed are among them."""


@dataclass(frozen=True)
class LeftOut:
    """Items that are not compared, and why."""

    only_first: list[str]
    """Items that the second run does not have or did not answer."""
    only_second: list[str]
    neither: list[str]
    """Items that neither answered."""

    def lines(self) -> Iterator[str]:
        """Yield one line a reason."""
        for item_ids, what in ((self.only_first, "first"), (self.only_second, "second")):
            if item_ids:
                yield f"{named(item_ids)} answered by the {what} run only, and left out"
        if self.neither:
            yield f"{named(self.neither)} answered by neither, and left out"


class Pair(NamedTuple):
    """Two runs and the items that both answered, in the same order."""

    first: Run
    second: Run
    answered_first: list[Answered]
    answered_second: list[Answered]
    left_out: LeftOut


def task_folders(out_dir: Path) -> dict[str, Path]:
    """Return the runs in a folder: name as in scores.json to folder.

    Raises:
        ValueError: There is none.
    """
    found = {}
    for path in sorted([*out_dir.glob("*/items.jsonl"), *out_dir.glob("*/shuffled/items.jsonl")]):
        shuffled = path.parent.name == "shuffled"
        task = path.parents[1].name if shuffled else path.parent.name
        if task.endswith(PROBED):
            continue
        found[score_name(task_named(task).name, "shuffled" if shuffled else "real")] = path.parent
    if not found:
        raise ValueError(f"{out_dir}: holds no task; run one first: medgemma-eval run TASK --out {out_dir}")
    return found


class Alike(NamedTuple):
    """What two folders both hold."""

    runs: bool
    reliability: bool


def demand_alike(first: Path, second: Path) -> Alike:
    """Say what two folders both hold: runs of tasks, or their reliability.

    Raises:
        ValueError: The one holds the one and the other the other, or one holds nothing.
    """
    held = [_held(folder) for folder in (first, second)]
    both = Alike(held[0].runs and held[1].runs, held[0].reliability and held[1].reliability)
    if not any(both):
        said = [f"{folder} holds {_said(what)}" for folder, what in zip((first, second), held, strict=True)]
        raise ValueError(f"{'; '.join(said)}; compare two folders of `run`, or two of `reliability`")
    return both


def _held(folder: Path) -> Alike:
    names = {path.parent.name for path in folder.glob("*/items.jsonl")} | {
        path.parents[1].name for path in folder.glob("*/shuffled/items.jsonl")
    }
    return Alike(any(not name.endswith(PROBED) for name in names), (folder / RELIABILITY).is_file())


def _said(held: Alike) -> str:
    return "runs" if held.runs else "the reliability of tasks" if held.reliability else "no task that was run"


def read_run(folder: Path) -> Run:
    """Read one task's folder.

    Raises:
        ValueError: A file is missing, broken, cut off, or does not go with scores.json.
    """
    record, outputs_path = read_record(folder), folder / "outputs.jsonl"
    items = read_items(folder / "items.jsonl")
    check_items(items, record, folder)
    if not outputs_path.is_file():
        raise ValueError(f"{outputs_path}: no such file; the run stopped before it began; run the task again")
    if not outputs_path.read_bytes().endswith(b"\n"):
        raise ValueError(
            f"{outputs_path}: the last line is cut off; the run was stopped; run the task again to finish it"
        )
    run = Run(folder, record, {item.item_id: item for item in items}, latest(read_outputs(outputs_path), items))
    _demand_scores_agree(run)
    return run


def pair_runs(first: Run, second: Run, common: bool) -> Pair:
    """Put two runs side by side.

    Raises:
        ValueError: The runs differ in what was asked, or (unless `common`) an item is answered by one of them only.
    """
    _demand_same_task(first, second)
    _demand_same_questions(first, second)
    one, other = ([name for name, output in run.outputs.items() if not output.error] for run in (first, second))
    both = [name for name in first.items if name in set(one) & set(other)]
    left_out = _left_out(first, second, both)
    if (left_out.only_first or left_out.only_second) and not common:
        raise ValueError(f"{first.folder} and {second.folder}: {_one_sided(first, second, left_out)}")
    if not both:
        raise ValueError(
            f"{first.folder} and {second.folder}: no item is answered by both; there is nothing to compare"
        )
    answered = [
        answered_of(_task_of(run.folder), [run.items[name] for name in both], run.outputs) for run in (first, second)
    ]
    return Pair(first, second, answered[0], answered[1], left_out)


def _demand_same_task(first: Run, second: Run) -> None:
    versions = [run.record.get("task_version", 1) for run in (first, second)]
    where = f"{first.folder} and {second.folder}"
    if versions[0] != versions[1]:
        raise ValueError(
            f"{where}: the task's versions differ: {versions[0]} and {versions[1]}; figures of two versions do not "
            "compare; run the older one again"
        )
    for key in DATA_RECORD:
        one, other = (run.record.get(key) for run in (first, second))
        if one != other:
            raise ValueError(
                f"{where}: {key} differs: {_differing(one, other)}; expected the same split of the same data"
            )


def _demand_same_questions(first: Run, second: Run) -> None:
    """Compare the items that both have, field by field; of files the names, since folders differ between machines."""
    where = f"{first.folder} and {second.folder}"
    for field in ("prompt", "files", "reference", "kind", "group", "meta"):
        differing = [
            name
            for name, item in first.items.items()
            if name in second.items and _field(item, field) != _field(second.items[name], field)
        ]
        if not differing:
            continue
        because = (
            f"though both say version {first.record.get('task_version', 1)} of the task: its wording was changed "
            "without a new version; give the task a new version and run the older one again"
            if field == "prompt"
            else "expected the same items; run both on the same data with the same version of this package"
        )
        raise ValueError(
            f"{where}: the {field} of {len(differing)} item(s) differs ({', '.join(differing[:3])}), {because}"
        )


def _field(item: Item, field: str) -> Any:
    return [Path(file).name for file in item.files] if field == "files" else item.__dict__[field]


def _left_out(first: Run, second: Run, both: Sequence[str]) -> LeftOut:
    kept = set(both)

    def answered(run: Run, name: str) -> bool:
        return name in run.outputs and not run.outputs[name].error

    rest = [name for name in {**first.items, **second.items} if name not in kept]
    return LeftOut(
        [name for name in rest if answered(first, name)],
        [name for name in rest if answered(second, name)],
        [name for name in rest if not answered(first, name) and not answered(second, name)],
    )


def _one_sided(first: Run, second: Run, left_out: LeftOut) -> str:
    reasons = [
        f"{named(names)} answered by the {which} run only ({len(names)} in all; {_why(other, names)})"
        for names, which, other in (
            (left_out.only_first, "first", second),
            (left_out.only_second, "second", first),
        )
        if names
    ]
    return "; ".join(reasons) + "; finish the runs, or compare what both answered with --common"


def _why(run: Run, names: Sequence[str]) -> str:
    """Say why a run has no answer to some items."""
    absent = sum(name not in run.items for name in names)
    failed = sum(name in run.outputs and bool(run.outputs[name].error) for name in names)
    unanswered = len(names) - absent - failed
    counts = (
        (absent, "not among the other's items"),
        (failed, "failed there"),
        (unanswered, "without an output there"),
    )
    return ", ".join(f"{count} {what}" for count, what in counts if count)


def _differing(one: Any, other: Any) -> str:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return f"{one!r} and {other!r}"
    return ", ".join(sorted(key for key in {*one, *other} if one.get(key) != other.get(key)))


def _task_of(folder: Path) -> Task:
    return task_named(folder.parent.name if folder.name == "shuffled" else folder.name)


def _demand_scores_agree(run: Run) -> None:
    """Refuse outputs that scores.json was not made from: some were lost, changed or added since."""
    condition: Condition = "shuffled" if run.folder.name == "shuffled" else "real"
    task = _task_of(run.folder)
    out_dir = run.folder.parents[1] if condition == "shuffled" else run.folder.parent
    path = out_dir / "scores.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; make it: medgemma-eval score {out_dir}")
    scored: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")).get(score_name(task.name, condition), {})
    answered = answered_of(task, run.items.values(), run.outputs)
    for metric, measure in measures(task, answered).items():
        if metric not in scored:
            raise ValueError(f"{path}: lacks {task.name} {metric}; make it anew: medgemma-eval score {out_dir}")
        value, n = scored[metric]["value"], scored[metric]["n"]
        found = finite(value_of(measure))
        same = value == found if value is None or found is None else math.isclose(value, found, abs_tol=1e-9)
        if n != len(measure.item_ids) or not same:
            raise ValueError(
                f"{path}: says {task.name} {metric} {value} of {n} items, but the outputs give {found} of "
                f"{len(measure.item_ids)}; outputs were lost or changed since; run the task again, or "
                f"medgemma-eval score {out_dir}"
            )
