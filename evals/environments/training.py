"""What may be trained on, and the reward of one reply: the task's own grade of it.

A task is verifiable if its answer is a text that a rule grades. Its train side alone is handed out; an item whose group
(patient, case, question) any other side has too is left out and counted. A report's reward would be overlap of words,
which prefers a flipped negation to a paraphrase: such tasks are refused (evals/stress).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from evals.items import Item, item_sha256
from evals.outputs import Output
from evals.results.scores import grade_of
from evals.stress.metrics import OF_A_PAIR
from evals.stress.verdict import stress_verdict
from evals.tasks.catalogue import TASKS, task_named
from evals.tasks.task import ItemOptions, Task

TRAIN = "train"
WHOLE = "all"
"""The side that holds every other."""


class TrainingItems(NamedTuple):
    """The items of a task's train side."""

    task: Task
    items: list[Item]
    num_left_out: int
    """Items whose group another side has too."""
    sides_not_there: list[str]
    """Sides whose files this copy lacks, so that nothing could be compared with them."""


def verifiable_tasks() -> list[str]:
    """Return the names of the tasks that can be trained in."""
    return [name for name, task in TASKS.items() if not _why_not(task)]


def demand_verifiable(task: Task) -> None:
    """Refuse a task whose answers no rule grades, whose metric is fooled, or that has no side to train on.

    Raises:
        ValueError: It is one; the message says why.
    """
    why = _why_not(task)
    if why:
        raise ValueError(f"task {task.name}: {why}")


def training_items(
    name: str, data_dir: str | Path, side: str = TRAIN, seed: int = 0, limit: int | None = None
) -> TrainingItems:
    """Make the items that may be trained on.

    Args:
        name: Of the task.
        data_dir: Holds one folder a card name, or is that folder; of a table, its file.
        side: `train`; every other side is held out.
        seed: Of the order.
        limit: At most so many.

    Raises:
        ValueError: The task is not verifiable, the side is held out, the data is missing, or an item cannot be asked.
    """
    task = task_named(name)
    demand_verifiable(task)
    if side != TRAIN:
        task.checked_side(side)
        raise ValueError(f"task {name}: side {side!r} is held out for evaluation; train on {TRAIN!r}")
    items = task.items(data_dir, ItemOptions(TRAIN, seed))
    faults = [item.fault for item in items if item.fault]
    if faults:
        raise ValueError(f"task {name}: {len(faults)} item(s) cannot be asked, the first: {faults[0]}; mend them")
    groups, absent = _held_out_groups(task, data_dir, seed)
    kept = [item for item in items if item.group not in groups]
    if not kept:
        raise ValueError(f"{data_dir}: task {name} has no item on side {TRAIN!r} that no other side has")
    return TrainingItems(task, kept[:limit], len(items) - len(kept), absent)


def reward_metric(task: Task, item: Item) -> str:
    """Return the metric that rewards replies to an item: the task's main one, or the first that its kind has."""
    names = list(grade_of(task, item, _output(item, "")))
    return task.main_metric if task.main_metric in names else names[0]


def reward(task: Task, item: Item, reply: str) -> float:
    """Return the grade of a reply, 0 to 1: what `medgemma-eval score` gives the same text under the same metric."""
    return grade_of(task, item, _output(item, reply))[reward_metric(task, item)]


def rewards(task: Task, items: Sequence[Item], replies: Sequence[str]) -> list[float]:
    """Return the grade of each reply.

    Raises:
        ValueError: The lengths differ.
    """
    return [reward(task, item, reply) for item, reply in zip(items, replies, strict=True)]


def _output(item: Item, text: str) -> Output:
    return Output(item.item_id, item_sha256(item), "policy", text=text)


def _why_not(task: Task) -> str:
    if task.answers != "text":
        return "its answers are no text that a rule grades; take one of evals.environments.training.verifiable_tasks()"
    if TRAIN not in task.sides:
        return f"has no side to train on; its sides {', '.join(task.sides)} are for evaluation"
    if task.form == "long" and task.main_metric in OF_A_PAIR:
        verdict = stress_verdict(task.main_metric)
        return "" if verdict.is_accepted else verdict.refusal
    return ""


def _held_out_groups(task: Task, data_dir: str | Path, seed: int) -> tuple[set[str], list[str]]:
    """The groups of all sides but the train one; and the sides that this copy lacks."""
    groups: set[str] = set()
    absent = []
    for side in task.sides:
        if side == WHOLE or side.endswith(TRAIN):
            continue
        try:
            groups |= {item.group for item in task.items(data_dir, ItemOptions(side, seed))}
        except ValueError:
            absent.append(side)
    return groups, absent
