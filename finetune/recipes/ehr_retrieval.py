"""ehr_retrieval: a MedGemma that answers questions about a patient's FHIR record from the facts that fit its tokens.

Every question's record is condensed to the facts that matter to it (`medgemma.records`), asked in the words of the task
kit-ehrqa-facts, and the answer alone is learned. OUT/scores/before_after.md has the gain on that task and on
kit-ehrqa-section beside the commonest answer's, and what it costs on pictures. `questions` and `reward` are for
on-policy training.

Source: MedGemma technical report (arXiv:2507.05201), sections 3 and 5: EHRQA, where the 27B text model is tuned by
    reinforcement learning. Records and questions here are Synthea's and a rule program's.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from data_cards.readers.tables import find_set
from data_cards.table import Row, Table
from evals.items import Item
from evals.outputs import Output
from evals.running.options import RunOptions
from evals.tasks.catalogue import task_named
from evals.tasks.record_questions import CARD, condensed, facts_task, grade, prompt
from evals.tasks.table_grading import TableKind
from evals.tasks.tables import table_kinds, task_of
from evals.tasks.task import ItemOptions, Task
from finetune.tables import of_sets
from finetune.tables.before_after import Asked, Load, before_and_after
from finetune.tables.examples import identity_line, usable
from finetune.tables.learning import AnswersConfig, Lessons, learn
from finetune.tables.scoring import CommonestAnswer, scored_side
from medgemma.records import Fact, facts_of, read_records
from medsiglip.command import say

COMMAND = "medgemma-finetune run ehr_retrieval"
SECTION_ITEMS = 200
QUESTIONS: tuple[TableKind, ...] = ("answers", "texts")


class Config(AnswersConfig):
    """What is tuned, and how; the values are in ehr_retrieval.yaml."""

    record_tokens: int = Field(ge=100)


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Tune on Synthea's records of the training side, keep the best by a tenth of its patients, score the held-out.

    Raises:
        ValueError: The set is missing or broken.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    section = Asked(task_named("kit-ehrqa-section"), data, RunOptions(side="held-out", limit=SECTION_ITEMS))
    taught = [of_sets.Teaching(facts_task(config.record_tokens), right_answer, kind)]
    of_sets.run_sets(config, taught, data, out, quiet, COMMAND, [section])


def run_table(config: Config, table: Table, out: Path, quiet: bool) -> None:
    """The same over a table of yours: --files names each row's FHIR bundle, --question and --answer the rest.

    Raises:
        ValueError: A row's file is no record of one patient, or the table holds nothing to learn.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    table = usable(table, config.faulty_rows)
    own = next((task_of(table, name) for name in QUESTIONS if name in table_kinds(table)), None)
    if own is None:
        raise ValueError(f"{table.source}: has no questions with answers; name the columns: --question Q --answer A")
    rows, facts = {row.place: row for row in table.rows}, lru_cache(maxsize=64)(_facts_in)

    def items(source: str | Path, options: ItemOptions) -> list[Item]:
        found = own.items(source, options)
        return [_over_record(item, rows[item.item_id], facts, config.record_tokens) for item in found]

    task = replace(own, items=items)
    train, validation = (items(table.source, ItemOptions(side)) for side in ("train", "validation"))

    def score(device: str, base: Load, tuned: Load) -> None:
        side = scored_side(table)
        if side is None:
            say(f"{table.source}: every row is on the side train, so nothing is scored; name a --split column")
            return
        options = RunOptions(side=side, limit=of_sets.QUICK_ITEMS if config.quick else None)
        before_and_after(
            [Asked(task, table.source, options)],
            base,
            tuned,
            out / "scores",
            baselines={"commonest answer": lambda: CommonestAnswer.of(train, right_answer, lambda item: "")},
            command=COMMAND,
            quiet=quiet,
        )

    lessons = Lessons(str(table.source), identity_line(table), train, validation, task, right_answer, _form(task))
    learn(config, lessons, out, quiet, score)


def questions(data: Path, side: str = "train", record_tokens: int = 250) -> list[Item]:
    """Return the prompts to sample answers to, with what `reward` needs of each.

    Raises:
        ValueError: The set is missing or broken, or the side is unknown.
    """
    task = facts_task(record_tokens)
    return task.items(find_set(data, CARD), ItemOptions(task.checked_side(side)))


def reward(item: Item, text: str) -> float:
    """Return 1 for an answer that is right by its kind (a date, a list, a quantity, ...), else 0."""
    return grade(item, Output(item.item_id, "", "", text=text))["accuracy"]


def right_answer(item: Item) -> str:
    """What is learned."""
    return "none" if item.reference == "none documented" else item.reference


def kind(item: Item) -> str:
    """The kind of question, which has a commonest answer."""
    return item.meta["category"]


def _over_record(item: Item, row: Row, facts_in: Callable[[Path], tuple[Fact, ...]], record_tokens: int) -> Item:
    """A row's question with its patient's facts in the prompt instead of its file."""
    if len(row.files) != 1:
        raise ValueError(f"{row.place}: has {len(row.files)} files; expected one FHIR bundle; name it with --files")
    text = condensed(facts_in(row.files[0]), row.question, (), record_tokens)
    return replace(item, files=(), prompt=prompt(text, row.question))


def _facts_in(file: Path) -> tuple[Fact, ...]:
    records = list(read_records(file))
    if len(records) != 1:
        raise ValueError(f"{file}: holds {len(records)} patients; expected one a file")
    return facts_of(records[0].resources).facts


def _form(task: Task) -> dict[str, object]:
    return {"tasks": {task.name: task.version}, "prompts": [prompt("RECORD", "QUESTION")]}
