"""Sets with a card and tables of a user's own, learned and scored: what the domain recipes share.

A set's task in `evals.tasks` has the words, the right answers and the grading; a table is asked as `medgemma-eval run
--table` asks it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_cards.readers.tables import find_set
from data_cards.table import Table
from evals.items import Item
from evals.running.options import RunOptions
from evals.tasks.catalogue import task_named
from evals.tasks.table_grading import TableKind
from evals.tasks.tables import completion, table_kinds, task_of
from evals.tasks.task import ItemOptions, Task
from finetune.tables.before_after import FORGETTING_ITEMS, Asked, Load, before_and_after, forgetting
from finetune.tables.examples import identity_line, table_items, usable
from finetune.tables.learning import AnswersConfig, Lessons, divided, learn, set_line
from finetune.tables.scoring import CommonestAnswer, score_models
from medsiglip.command import say

QUICK_ITEMS = 100
QUICK_ROWS = 200
TRAINING_SIDES = ("train", "other")
"""What sets call the side that may be learned from; PubMedQA's owners have no name for theirs."""
VALIDATION_SIDES = ("validation", "validate", "val", "dev")


@dataclass(frozen=True)
class Teaching:
    """How a task is taught."""

    task: Task
    learned: Callable[[Item], str]
    """An item to the reply that is graded as right."""
    kind: Callable[[Item], str]
    """An item to the kind of question, which has a commonest answer."""


def run_sets(
    config: AnswersConfig,
    taught: Sequence[Teaching],
    data: Path,
    out: Path,
    quiet: bool,
    command: str,
    scored_too: Sequence[Asked] = (),
) -> None:
    """Learn the training sides of tasks, choose the weights by the first task, and write OUT/scores/before_after.md.

    Args:
        config: The recipe's.
        taught: Tasks over sets in `data`, which are scored on their first side.
        data: Holds one folder a card name, or is that folder.
        out: The run's folder.
        quiet: No progress bars.
        command: For the record.
        scored_too: Asked before and after, and not learned from.

    Raises:
        ValueError: A set is missing or broken.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    sides = [_sides(teaching.task, data) for teaching in taught]
    train = [item for learned, _ in sides for item in learned]
    right = {item.item_id: t.learned for t, (learned, chosen) in zip(taught, sides, strict=True)
             for item in (*learned, *chosen)}  # fmt: skip
    limit = QUICK_ITEMS if config.quick else None
    asked = [Asked(t.task, data, RunOptions(side=t.task.sides[0], limit=limit)) for t in taught] + [
        replace(one, options=replace(one.options, limit=limit or one.options.limit)) for one in scored_too
    ]

    def commonest() -> CommonestAnswer:
        questions = [item for one in asked for item in one.task.items(data, ItemOptions(one.options.side))]
        return CommonestAnswer.of(train, lambda item: right[item.item_id](item), taught[0].kind, questions)

    def score(device: str, base: Load, tuned: Load) -> None:
        kept, probed = forgetting(data, QUICK_ITEMS if config.quick else FORGETTING_ITEMS)
        before_and_after(
            asked,
            base,
            tuned,
            out / "scores",
            baselines={"commonest answer": commonest},
            kept=kept,
            probed=probed,
            command=command,
            quiet=quiet,
        )

    form = {"tasks": {t.task.name: t.task.version for t in taught}}  # a version has one wording
    lessons = Lessons(
        str(data), set_line(data, train), train, sides[0][1], taught[0].task, lambda i: right[i.item_id](i), form
    )
    learn(config, lessons, out, quiet, score)


def tasks_here(names: Sequence[str], data: Path) -> list[Task]:
    """Return those of the tasks whose sets are in `data`; the others are named.

    Raises:
        ValueError: None is.
    """
    tasks = [task_named(name) for name in names]
    here = [task for task in tasks if all(_is_here(card, data) for card in task.cards)]
    if not here:
        cards = dict.fromkeys(card for task in tasks for card in task.cards)
        raise ValueError(
            f"{data}: holds none of {', '.join(cards)}; `medgemma-data show NAME` says how to get a set, "
            "or give a table of yours with --table"
        )
    if missing := [task.name for task in tasks if task not in here]:
        say(f"{data}: learned is {', '.join(task.name for task in here)}; not here: {', '.join(missing)}")
    return here


def run_table(config: AnswersConfig, table: Table, out: Path, quiet: bool, command: str, *kinds: TableKind) -> None:
    """Tune on a table's side train, keep the best by the side validation, score on the side test.

    Args:
        config: The recipe's.
        table: As it was read.
        out: The run's folder.
        quiet: No progress bars.
        command: For the record.
        kinds: What the recipe is for; any if empty.

    Raises:
        ValueError: The table has rows or pictures that cannot be used, or holds nothing of these kinds to learn.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    table = usable(table, config.faulty_rows)
    found = table_kinds(table)
    if kinds and not set(kinds) & set(found):
        raise ValueError(
            f"{table.source}: holds {', '.join(found) or 'no question'}; expected {' or '.join(kinds)}; name the "
            "columns, or use the recipe answers"
        )
    train, validation = table_items(table, "train"), table_items(table, "validation")

    def score(device: str, base: Load, tuned: Load) -> None:
        score_models(
            table,
            {"commonest answer": lambda: CommonestAnswer.of(train), "base": base, "tuned": tuned},
            out / "scores",
            limit=QUICK_ROWS if config.quick else None,
            command=command,
            quiet=quiet,
        )

    own = not table.columns.question and not table.columns.messages
    form = {
        "table_tasks": {kind: task_of(table, kind).version for kind in found},
        "prompts": sorted({item.prompt for item in train}) if own else [],  # else they hold the user's own text
    }
    first = found[0] if found else "answers"
    choosing = [item for item in validation if item.meta["table_kind"] == first]
    lessons = Lessons(str(table.source), identity_line(table), train, choosing, task_of(table, first), completion, form)
    learn(config, lessons, out, quiet, score)


def _sides(task: Task, data: Path) -> tuple[list[Item], list[Item]]:
    """What is learned, and what chooses the weights: the owners' side for it, else a tenth of the groups."""
    side = next((name for name in TRAINING_SIDES if name in task.sides), "")
    if not side:
        raise ValueError(f"task {task.name}: has no side to learn from; its sides are {', '.join(task.sides)}")
    train = task.items(data, ItemOptions(side))
    chosen = next((name for name in VALIDATION_SIDES if name in task.sides[1:]), "")
    return (train, task.items(data, ItemOptions(chosen))) if chosen else divided(train)


def _is_here(card: str, data: Path) -> bool:
    try:
        return find_set(data, card).is_dir()
    except ValueError:
        return False
