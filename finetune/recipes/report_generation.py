"""report_generation: findings and impression of a chest film, over MIMIC-CXR, IU X-ray, or NIH's labels.

The report is learned in the words of the sets' tasks, the indication before it where there is one. NIH ChestX-ray14 has
no reports: there a report says what is labelled, and is scored by its findings. A sentence is learned once a report, so
that repeats are not taught; OUT/scores/before_after.md has the share of repeated sentences before and after.

Source: MedGemma technical report (arXiv:2507.05201), section 5: image and indication in, findings and impression out.
"""

from pathlib import Path

from data_cards.table import Table
from evals.items import Item
from evals.tasks.label_reports import without_repeats
from finetune.tables import of_sets
from finetune.tables.learning import AnswersConfig

COMMAND = "medgemma-finetune run report_generation"


class Config(AnswersConfig):
    """What is tuned, and how; the values are in report_generation.yaml."""

    tasks: tuple[str, ...]


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Tune on the training sides of those sets that are there, score on their test sides.

    Raises:
        ValueError: No set is there, or one is broken.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    taught = [of_sets.Teaching(task, report, kind) for task in of_sets.tasks_here(config.tasks, data)]
    of_sets.run_sets(config, taught, data, out, quiet, COMMAND)


def run_table(config: Config, table: Table, out: Path, quiet: bool) -> None:
    """The same over a table of yours with films and reports.

    Raises:
        ValueError: The table holds no report.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    of_sets.run_table(config, table, out, quiet, COMMAND, "texts")


def report(item: Item) -> str:
    """What is learned: the reference, no sentence twice."""
    return without_repeats(item.reference)


def kind(item: Item) -> str:
    """Every set has its commonest report."""
    return item.meta["card"]
