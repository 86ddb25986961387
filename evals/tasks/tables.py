"""The rows of a user's own table as questions: what is asked follows from what the table says is right.

A class is asked for by letter, findings one by one with yes or no, a number, boxes, and an answer of the table's own by
its question. Recipes that learn from a table ask the same way, and learn `completion`.

A row that cannot be used (its picture is missing) is an item with a fault: it fails by name, stays in n, and is wrong.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_cards.table import Box, Row, Split, Table, Target, read_table
from data_cards.table.conversations import words_of
from data_cards.table.rows import SPLITS
from evals.items import Item
from evals.tasks import chest_films, multiple_choice, picture_classes, vqa_rad
from evals.tasks.table_grading import METRICS, TableKind, grade, number_text, parse, pooled
from evals.tasks.task import Form, ItemOptions, Task
from medsiglip.imaging import read_pictures

ALL = "all"
SIDES = (ALL, *SPLITS)

CLASS_QUESTION = "Which of these does the image show?"
NUMBER_QUESTION = "What is the {name}?"
NUMBER_ANSWER = 'Answer with a number alone. End with a line of the form "Final Answer: 12.5".'
BOX_QUESTION = "Where is every {name} in the image?"
BOX_ANSWER = (
    "Boxes are [y0, x0, y1, x1], each number from 0 to 1000 of the picture's height or width. Answer with a JSON list "
    "of objects with the keys box_2d and label, an empty list if there is none."
)
TEXT_QUESTION = "Write the {name} of the image."
NO_FINDING = "Is the image free of findings?"

MOST_CHOICES = 26
LONG_ANSWER_WORDS = 10
"""Answers of more words are long: they are asked for without the request for a short phrase."""

_FORMS: dict[TableKind, tuple[str, Form, int]] = {
    "classes": ("one of the table's classes, by letter", "letter", 256),
    "findings": ("present-or-absent labels, one question a finding", "yes-no", 64),
    "numbers": ("counts and measures", "short", 64),
    "boxes": ("boxes, by detection F1 at an IoU of 0.5", "box", 1000),
    "choices": ("the table's own multiple-choice questions, by letter", "letter", 256),
    "answers": ("the table's own questions with short answers", "short", 32),
    "texts": ("reports and other long texts", "long", 512),
}


def table_kinds(table: Table) -> list[TableKind]:
    """Return the kinds of question that a table holds, each of which is a task."""
    return [kind for kind in METRICS if next(items_of(table, kind), None)]


def default_side(table: Table) -> str:
    """Return the side to ask about if the user names none: the test side that the table names, else all rows."""
    return next((side for side in ("test", "validation") if side in table.given_splits), ALL)


def task_of(table: Table, kind: TableKind) -> Task:
    """Return the task of one kind over a table that has been read."""
    return replace(_TASKS[kind], items=partial(_task_items, lambda _: table, kind))


def task_name(kind: TableKind) -> str:
    """Return the task's name in the catalogue."""
    return f"table-{kind}"


def items_of(table: Table, kind: TableKind, splits: Sequence[Split] = SPLITS) -> Iterator[Item]:
    """Yield the items of one kind in the order of the table."""
    is_long = _answers_are_long(table)
    for row in table.on(*splits):
        yield from _items_of_row(table, row, kind, is_long)


def completion(item: Item) -> str:
    """Return the reply to an item that is graded as right in full: what a recipe learns."""
    if item.meta["table_kind"] in ("classes", "choices"):
        return f"Final Answer: {_letter_of(item)}"
    if item.meta["table_kind"] in ("findings", "numbers"):
        return f"Final Answer: {item.reference}"
    if item.meta["table_kind"] == "boxes":
        rows = [{"box_2d": [round(1000 * n) for n in box[1:5]], "label": box[0]} for box in json.loads(item.reference)]
        return json.dumps(rows)
    return item.reference


def _letter_of(item: Item) -> str:
    options = multiple_choice.options_of(item)
    return next(letter for letter, text in options.items() if text == item.reference)


def _task_items(read: Any, kind: TableKind, source: str | Path, options: ItemOptions) -> list[Item]:
    table: Table = read(source)
    splits = SPLITS if options.side == ALL else tuple(split for split in SPLITS if split == options.side)
    made = list(items_of(table, kind, splits))
    if made and table_kinds(table)[0] == kind:
        made += [_faulty(row, kind) for row in table.faulty if row.split in splits]
    random.Random(options.seed).shuffle(made)
    return made


def _items_of_row(table: Table, row: Row, kind: TableKind, is_long: bool) -> Iterator[Item]:
    if row.messages or row.answer:
        if kind == ("choices" if row.choices else "texts" if is_long else "answers"):
            yield _answer_item(row, kind)
        return
    for name, label in row.labels.items():
        target = table.targets[name]
        if kind == "classes" and target.kind == "class":
            yield _class_item(row, target, str(label))
        elif kind == "findings" and isinstance(label, Mapping):
            yield from (_finding_item(row, finding, present) for finding, present in label.items())
        elif kind == "numbers" and target.kind == "number":
            asked = row.question or NUMBER_QUESTION.format(name=_said(name))
            yield _item(row, kind, f"{asked}\n{NUMBER_ANSWER}", number_text(float(str(label))), name)
        elif kind == "boxes" and isinstance(label, tuple):
            yield _box_item(row, target, label)
        elif kind == "texts" and target.kind == "text":
            yield _item(row, kind, row.question or TEXT_QUESTION.format(name=_said(name)), str(label), name)


def _class_item(row: Row, target: Target, label: str) -> Item:
    if len(target.classes) > MOST_CHOICES:
        raise ValueError(
            f"{row.place}: {target.name} has {len(target.classes)} classes, more than the {MOST_CHOICES} letters; ask "
            "for the name instead: --label none --question TEXT --answer COLUMN"
        )
    letters = {chr(ord("A") + place): name for place, name in enumerate(target.classes)}
    lines = [f"{letter}: {_said(name)}" for letter, name in letters.items()]
    prompt = "\n".join((row.question or CLASS_QUESTION, *lines, picture_classes.FINAL_ANSWER))
    return _item(row, "classes", prompt, label, target.name, {f"option_{k}": name for k, name in letters.items()})


def _finding_item(row: Row, finding: str, present: bool) -> Item:
    normal = _said(finding).lower() in ("no finding", "no findings", "normal")
    asked = NO_FINDING if normal else chest_films.question(_said(finding))
    meta = {"condition": finding}
    reference = "yes" if present else "no"
    return _item(row, "findings", f"{asked}\n{chest_films.INSTRUCTION}", reference, finding, meta)


def _box_item(row: Row, target: Target, boxes: tuple[Box, ...]) -> Item:
    named = " and ".join(_said(name) for name in target.classes if name) or "abnormality"
    asked = row.question or BOX_QUESTION.format(name=named)
    if any(box.unit == "px" for box in boxes):
        try:
            height_px, width_px = read_pictures(row.files[0])[0].pixels.shape[:2]
        except ValueError as fault:
            return _faulty(replace(row, fault=f"{row.place}: {fault}"), "boxes")
    else:
        height_px, width_px = 0, 0
    reference = json.dumps([_in_fractions(box, height_px, width_px) for box in boxes])
    return _item(row, "boxes", f"{asked}\n{BOX_ANSWER}", reference, target.name)


def _in_fractions(box: Box, height_px: int, width_px: int) -> list[str | float]:
    """[label, y0, x0, y1, x1], the numbers from 0 to 1."""
    across, down = {"px": (width_px, height_px), "per_mille": (1000, 1000), "fraction": (1, 1)}[box.unit]
    return [box.label, box.y0 / down, box.x0 / across, box.y1 / down, box.x1 / across]


def _answer_item(row: Row, kind: TableKind) -> Item:
    if row.messages:
        return _conversation_item(row, kind)
    if kind == "choices":
        letters = {chr(ord("A") + place): text for place, text in enumerate(row.choices)}
        prompt = multiple_choice.prompt(row.question, letters, instruction=picture_classes.FINAL_ANSWER)
        return _item(row, kind, prompt, row.answer, "", {f"option_{letter}": text for letter, text in letters.items()})
    prompt = row.question if kind == "texts" else vqa_rad.prompt(row.question)
    return _item(row, kind, prompt, row.answer, "")


def _conversation_item(row: Row, kind: TableKind) -> Item:
    """One turn of each; the system's words come before the user's, as Gemma's own template puts them."""
    roles = [message["role"] for message in row.messages]
    if [role for role in roles if role != "system"] != ["user", "assistant"]:
        fault = f"{row.place}: has {len(roles)} messages; one question and one answer can be asked and scored"
        return _faulty(replace(row, fault=fault), kind)
    words = [words_of(row.messages, role).strip() for role in ("system", "user")]
    return _item(
        row, kind, "\n\n".join(part for part in words if part), words_of(row.messages, "assistant").strip(), ""
    )


def _item(
    row: Row, kind: TableKind, prompt: str, reference: str, label: str, meta: Mapping[str, str] | None = None
) -> Item:
    return Item(
        item_id=f"{row.place}: {label}" if label else row.place,
        files=tuple(str(path) for path in row.files),
        prompt=prompt,
        reference=reference,
        kind="closed" if kind in ("classes", "findings", "choices") else "open",
        group=row.group,
        meta={"table_kind": kind, **({"label": label} if label else {}), **(meta or {})},
    )


def _faulty(row: Row, kind: TableKind) -> Item:
    return Item(row.place, (), "", "", "open", row.group, {"table_kind": kind}, fault=row.fault)


def _said(name: str) -> str:
    """A column's or class's name as a sentence has it."""
    return " ".join(name.replace("_", " ").split())


def _answers_are_long(table: Table) -> bool:
    answers = [row.answer or words_of(row.messages, "assistant") for row in table.rows]
    num_long = sum(len(answer.split()) > LONG_ANSWER_WORDS for answer in answers)
    return 2 * num_long > len(answers)


def _wording() -> object:
    options = {"A": "FIRST", "B": "SECOND"}
    return [
        [CLASS_QUESTION, picture_classes.FINAL_ANSWER, NO_FINDING, chest_films.prompt("FINDING")],
        [NUMBER_QUESTION, NUMBER_ANSWER, BOX_QUESTION, BOX_ANSWER, TEXT_QUESTION, vqa_rad.prompt("QUESTION")],
        multiple_choice.prompt("QUESTION", options, instruction=picture_classes.FINAL_ANSWER),
    ]


def _task(kind: TableKind) -> Task:
    summary, form, max_new_tokens = _FORMS[kind]
    return Task(
        task_name(kind),
        (),
        f"--table: {summary}",
        "text",
        form,
        items=partial(_task_items, read_table, kind),
        grade=partial(grade, kind),
        wording=_wording,
        sides=SIDES,
        main_metric=METRICS[kind][0],
        parse=parse if kind not in ("boxes", "texts") else None,
        pooled=partial(pooled, kind),
        breakdown="label",
        is_table=True,
        version=2,
        max_new_tokens=max_new_tokens,
    )


_TASKS: dict[TableKind, Task] = {kind: _task(kind) for kind in METRICS}
ROWS = tuple(_TASKS.values())
