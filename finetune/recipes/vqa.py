"""vqa: a MedGemma that answers questions about radiology pictures in a few words: VQA-RAD and SLAKE.

Questions are put in the words of the sets' tasks, and the answer is learned as the words ask for it.
OUT/scores/before_after.md has every set before and after, beside the commonest answer, and what tuning costs elsewhere.
On the kit no gain can be shown: nano has learned from that very training side (docs/visual-questions.md).
"""

from dataclasses import replace
from pathlib import Path

from data_cards.table import Table
from evals.items import Item
from evals.tasks.task import ItemOptions, Task
from finetune.tables import of_sets
from finetune.tables.learning import AnswersConfig

COMMAND = "medgemma-finetune run vqa"
RELEASE = "vqa-rad-release"


class Config(AnswersConfig):
    """What is tuned, and how; the values are in vqa.yaml."""

    tasks: tuple[str, ...]
    vqa_rad_split: str
    """Of the whole VQA-RAD: balanced (Google's table, pictures on one side only) or official (the owners')."""


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Tune on the training sides of those sets that are there, score on their test sides.

    Raises:
        ValueError: No set is there, or one is broken.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    tasks = [_sided(task, config.vqa_rad_split) for task in of_sets.tasks_here(config.tasks, data)]
    taught = [of_sets.Teaching(task, short_answer, kind) for task in tasks]
    of_sets.run_sets(config, taught, data, out, quiet, COMMAND)


def run_table(config: Config, table: Table, out: Path, quiet: bool) -> None:
    """The same over a table of yours with pictures, questions and answers.

    Raises:
        ValueError: The table holds no such question.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    of_sets.run_table(config, table, out, quiet, COMMAND, "answers")


def short_answer(item: Item) -> str:
    """What is learned: the answer, behind the words that SLAKE's question asks to put before it."""
    asks_for_line = "Final Answer:" in item.prompt
    return f"Final Answer: {item.reference}" if asks_for_line else item.reference


def kind(item: Item) -> str:
    """Yes-or-no questions have a commonest answer, and open ones another."""
    return item.kind


def _sided(task: Task, split: str) -> Task:
    """The whole VQA-RAD in one reading of its split."""
    if task.name != RELEASE:
        return task
    sides = {"test": f"{split}-test", "train": f"{split}-train"}
    if split == "balanced":
        sides["validation"] = "balanced-validation"
    for side in sides.values():
        task.checked_side(side)

    def items(data: str | Path, options: ItemOptions) -> list[Item]:
        return task.items(data, replace(options, side=sides[options.side]))

    return replace(task, sides=tuple(sides), items=items)
