"""text: medical questions in words, by letter: MedQA, MedMCQA and PubMedQA as their owners distribute them.

The line with the letter is learned, in the words of the sets' tasks. OUT/scores/before_after.md has every set before
and after, beside its commonest letter, and what tuning costs on pictures. Facts that a model does not know are not
learned from some thousand questions: see docs/medical-text.md for what a run can show.
"""

from pathlib import Path

from data_cards.table import Table
from evals.items import Item
from evals.tasks.multiple_choice import CHOSEN
from finetune.tables import of_sets
from finetune.tables.learning import AnswersConfig

COMMAND = "medgemma-finetune run text"
QUICK_STEPS = 60
"""Questions with an abstract or a case are long."""


class Config(AnswersConfig):
    """What is tuned, and how; the values are in text.yaml."""

    tasks: tuple[str, ...]

    def steps(self, num_examples: int) -> int:
        """Updates of the run."""
        steps = super().steps(num_examples)
        return min(steps, QUICK_STEPS) if self.quick else steps


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Tune on the training sides of those sets that are there, score on their test sides.

    Raises:
        ValueError: No set is there, or one is broken.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    taught = [of_sets.Teaching(task, letter_line, kind) for task in of_sets.tasks_here(config.tasks, data)]
    of_sets.run_sets(config, taught, data, out, quiet, COMMAND)


def run_table(config: Config, table: Table, out: Path, quiet: bool) -> None:
    """The same over a table of yours with questions and choices, or short answers.

    Raises:
        ValueError: The table holds no such question.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    of_sets.run_table(config, table, out, quiet, COMMAND, "choices", "answers")


def letter_line(item: Item) -> str:
    """What is learned: the last line that the task asks for."""
    return CHOSEN.format(letter=item.reference)


def kind(item: Item) -> str:
    """Every set has its commonest letter."""
    return item.meta["card"]
