"""answers: any table to a tuned MedGemma that answers freely, by letter, with yes or no, a number or boxes.

Rows are asked as `medgemma-eval run --table` asks them, and the answer alone is learned. OUT/adapter loads in PEFT and
in `--adapter`; OUT/model is a whole checkpoint; OUT/scores holds the base's answers to the held-out rows, those of the
tuned model, and the commonest answer's, compared over groups.
"""

from pathlib import Path
from typing import Any, Literal

from data_cards.table import Table
from evals.tasks.tables import completion, table_kinds, task_of
from finetune.tables.before_after import Load
from finetune.tables.examples import identity_line, table_items, usable
from finetune.tables.learning import AnswersConfig, Lessons, learn
from finetune.tables.scoring import CommonestAnswer, score_models

QUICK_ROWS = 200


class Config(AnswersConfig):
    """What is tuned, and how; the values are in answers.yaml."""

    faulty_rows: Literal["refused", "left-out"]


def run_table(config: Config, table: Table, out: Path, quiet: bool) -> None:
    """Tune on the side train, keep the best by the side validation, score on the side test.

    Raises:
        ValueError: the table has rows or pictures that cannot be used, or holds nothing to learn.
        FloatingPointError: the loss is not finite; the rows are named, the last checkpoint is kept.
    """
    table = usable(table, config.faulty_rows)
    lessons = lessons_of(table)

    def score(device: str, base: Load, tuned: Load) -> None:
        score_models(
            table,
            {"commonest answer": lambda: CommonestAnswer.of(lessons.train), "base": base, "tuned": tuned},
            out / "scores",
            limit=QUICK_ROWS if config.quick else None,
            command="medgemma-finetune run answers",
            quiet=quiet,
        )

    learn(config, lessons, out, quiet, score)


def lessons_of(table: Table) -> Lessons:
    """The rows of a table that was understood; its first kind of question chooses the weights."""
    kinds = table_kinds(table)
    validation = table_items(table, "validation")
    return Lessons(
        source=str(table.source),
        identity=identity_line(table),
        train=table_items(table, "train"),
        validation=[item for item in validation if item.meta["table_kind"] == kinds[0]] if kinds else [],
        task=task_of(table, kinds[0] if kinds else "answers"),
        completion=completion,
        prompt_form=_prompt_form(table),
    )


def _prompt_form(table: Table) -> dict[str, Any]:
    """How the rows were put; the questions themselves only where they are the task's own words."""
    own = not table.columns.question and not table.columns.messages
    return {
        "table_tasks": {kind: task_of(table, kind).version for kind in table_kinds(table)},
        "prompts": sorted({item.prompt for item in table_items(table, "train")}) if own else [],
    }
