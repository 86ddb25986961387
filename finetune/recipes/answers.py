"""answers: any table to a tuned MedGemma that answers freely, by letter, with yes or no, a number or boxes.

Rows are asked as `medgemma-eval run --table` asks them, and the answer alone is learned. OUT/adapter loads in PEFT and
in `--adapter`; OUT/model is a whole checkpoint; OUT/scores holds the base's answers to the held-out rows, those of the
tuned model, and the commonest answer's, compared over groups.
"""

from pathlib import Path

from data_cards.table import Table
from finetune.tables import of_sets
from finetune.tables.learning import AnswersConfig as Config

__all__ = ["Config", "run_table"]


def run_table(config: Config, table: Table, out: Path, quiet: bool) -> None:
    """Tune on the side train, keep the best by the side validation, score on the side test.

    Raises:
        ValueError: the table has rows or pictures that cannot be used, or holds nothing to learn.
        FloatingPointError: the loss is not finite; the rows are named, the last checkpoint is kept.
    """
    of_sets.run_table(config, table, out, quiet, "medgemma-finetune run answers")
