"""VQA-RAD: short answers to questions about radiology pictures.

Closed questions: accuracy. Open questions: token F1, exact match and token recall, each under its own name.
Default items: the held-out share of the development cases (see data_cards/split.py); the published test split
shares pictures with its train split, so a model trained on `train` here has seen pictures of `official-test`.

Source: Lau et al., Sci Data 5, 180251 (2018). The form of the prompt follows the MedGemma report's use of the
set (a question and a request for a very short answer); its exact split and tokenisation are not published.
"""

import random
import re
from pathlib import Path
from typing import Literal, get_args

from data_cards.readers.tables import find_set
from data_cards.readers.vqa_rad import VisualQuestion, read_vqa_rad
from data_cards.split import side as side_of
from evals.items import Item, Kind
from evals.metrics.answers import closed_match, exact_match_norm, token_f1_squad, token_recall
from evals.outputs import Output
from evals.tasks.task import ItemOptions, Task, checked_side

CARD = "vqa-rad"

INSTRUCTION = "Answer with one word or a short phrase."
"""Follows every question; the recipes that train on short answers use it too."""

ItemSide = Literal["held-out", "final", "train", "official-test", "all"]
SIDES: tuple[ItemSide, ...] = get_args(ItemSide)


def prompt(question: VisualQuestion | str) -> str:
    """Return the text put to a model: the question as the data gives it, and INSTRUCTION on its own line."""
    text = question if isinstance(question, str) else question.question
    return f"{text.strip()}\n{INSTRUCTION}"


def parse_answer(text: str) -> str:
    """Return the short answer in a model's text.

    What follows the last "Final answer:" if the text has one, else the whole; of that the first line that is
    not empty, without Markdown asterisks, quotation marks and a full stop at the end.
    """
    final = re.split(r"final answer\s*:", text.replace("*", ""), flags=re.IGNORECASE)[-1]
    lines = [line.strip() for line in final.splitlines() if line.strip()]
    return lines[0].strip("\"'` ").rstrip(".").strip() if lines else ""


def grade(kind: Kind, text: str, reference: str) -> dict[str, float]:
    """Grade one output: metric name to 0..1.

    closed: `closed_accuracy`; open: `open_token_f1_squad`, `open_exact_match_norm`, `open_token_recall`.
    """
    answer = parse_answer(text)
    if kind == "closed":
        return {"closed_accuracy": closed_match(answer, reference)}
    return {
        "open_token_f1_squad": token_f1_squad(answer, reference),
        "open_exact_match_norm": exact_match_norm(answer, reference),
        "open_token_recall": token_recall(answer, reference),
    }


def items(data_dir: str | Path, side: ItemSide = "held-out", seed: int = 0) -> list[Item]:
    """Read the questions of one side, in a seeded order, so that any prefix is a fair sample.

    Args:
        data_dir: A folder with the folder `vqa-rad`, or that folder.
        side: `held-out`, `final` or `train` of the development cases, the published `official-test` questions, or
            `all`.
        seed: Of the order.

    Raises:
        ValueError: The set is missing or broken, or the side is unknown.
    """
    checked_side(side, SIDES)
    questions = [q for q in read_vqa_rad(find_set(data_dir, CARD)) if is_on(q, side)]
    random.Random(seed).shuffle(questions)
    return [_item(question) for question in questions]


def is_on(question: VisualQuestion, side: ItemSide) -> bool:
    """Say whether a question is of a side."""
    if side == "official-test":
        return question.official_split == "test"
    return side == "all" or side_of(question.group) == side


def _item(question: VisualQuestion) -> Item:
    return Item(
        item_id=question.item_id,
        files=(str(question.path),),
        prompt=prompt(question),
        reference=question.answer,
        kind="closed" if question.answer_type == "CLOSED" else "open",
        group=question.group,
        meta={
            "card": CARD,
            "question_type": question.question_type,
            "organ": question.organ,
            "official_split": question.official_split,
        },
    )


def _task_items(data_dir: str | Path, options: ItemOptions) -> list[Item]:
    return items(data_dir, checked_side(options.side, SIDES), options.seed)


def grade_output(item: Item, output: Output) -> dict[str, float]:
    """Grade one output as `grade` does."""
    return grade(item.kind, output.text, item.reference)


ROWS = (
    Task(
        "vqa-rad",
        (CARD,),
        "short answers to questions about radiology pictures",
        "text",
        "short",
        items=_task_items,
        grade=grade_output,
        wording=lambda: prompt("QUESTION"),
        sides=SIDES,
        main_metric="closed_accuracy",
        parse=lambda item, text: parse_answer(text),
        breakdown="organ",
        version=2,
    ),
)
