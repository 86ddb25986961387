"""histopathology: a MedGemma that names the tissue of a patch by letter: NCT-CRC-HE, LC25000, or classes of your own.

The question is that of the task, nine tissues or three on lines of their own, and the line with the letter is learned.
OUT/scores/before_after.md has accuracy and weighted F1 before and after, beside the commonest letter, and what tuning
costs elsewhere. The same file teaches any lettered picture task, such as kit-skin.

Source: MedGemma technical report (arXiv:2507.05201), section 5: CRC100k as a multiple choice; Google's notebook
    fine_tune_with_hugging_face.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from data_cards.split import is_kept_from_training
from data_cards.table import Table
from evals.items import Item
from evals.tasks.picture_classes import DIAGNOSIS, SETS, PictureSet, lettered
from evals.tasks.task import ItemOptions, Task
from finetune.tables import of_sets
from finetune.tables.learning import AnswersConfig

COMMAND = "medgemma-finetune run histopathology"
NCT_CRC = "nct-crc"
OF_100 = 5
"""Percent of NCT-CRC-HE-100K's patches that choose the weights."""


class Config(AnswersConfig):
    """What is tuned, and how; the values are in histopathology.yaml."""

    tasks: tuple[str, ...]


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Tune on the training side of the first set that is there, score on patches of other patients or tiles.

    Raises:
        ValueError: No set is there, one is broken, or a task asks no letter about a picture.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    for name in config.tasks:
        if name not in SETS:
            raise ValueError(f"task {name}: asks for no class of a picture by letter; choose of {', '.join(SETS)}")
    task = of_sets.tasks_here(config.tasks, data)[0]
    of_sets.run_sets(config, [of_sets.Teaching(_sided(task), letter_line, kind)], data, out, quiet, COMMAND)


def run_table(config: Config, table: Table, out: Path, quiet: bool) -> None:
    """The same over a table of yours, or a folder with a folder a class; name the slide or patient with --group.

    Raises:
        ValueError: The table holds no classes.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    of_sets.run_table(config, table, out, quiet, COMMAND, "classes")


def letter_line(item: Item) -> str:
    """What is learned: the last line that the task asks for."""
    pictures = _set_of(item)
    letter = lettered(pictures.options)[item.reference]
    return f"The most likely diagnosis is: {letter}" if pictures.instruction == DIAGNOSIS else f"Final Answer: {letter}"


def kind(item: Item) -> str:
    """Every set has its commonest letter."""
    return item.meta["card"]


def _set_of(item: Item) -> PictureSet:
    return next(pictures for pictures in SETS.values() if pictures.card == item.meta["card"])


def _sided(task: Task) -> Task:
    """NCT-CRC-HE's two releases as sides: it is learned from the 100,000, scored on the 7,180 of other patients.

    Which slide a patch is from is not said, so those that choose the weights may be neighbours of those that teach:
    their figure is too good, and is not reported.
    """
    if task.name != NCT_CRC:
        return task

    def items(data: str | Path, options: ItemOptions) -> list[Item]:
        if options.side == task.sides[0]:
            return task.items(data, options)
        found = task.items(data, replace(options, side="NCT-CRC-HE-100K"))
        chooses = _chosen(options.side == "validation")
        return [item for item in found if chooses(item)]

    return replace(task, sides=(task.sides[0], "train", "validation"), items=items)


def _chosen(is_validation: bool) -> Callable[[Item], bool]:
    return lambda item: is_kept_from_training(f"validation:{item.group}", OF_100) == is_validation
