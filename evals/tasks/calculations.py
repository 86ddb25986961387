"""MedCalc-Bench: a quantity computed from a patient note, right within the owners' limits.

Source: Khandekar et al., arXiv:2406.12036: a decimal within 5 % of the truth; an integer, a date, a span of weeks and
    days exactly. The sentences are ours. Their scorer evaluates the answer as Python; here it is read as a person does.
"""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from data_cards.readers.calculations import Calculation, Kind, date_of, read_medcalc_bench, weeks_and_days_of
from data_cards.readers.tables import find_set
from evals.items import Item
from evals.judging.rubrics import within_limits
from evals.outputs import Output
from evals.tasks.final_answer import parse_number, parse_short, spoken
from evals.tasks.task import ItemOptions, Task

CARD = "medcalc-bench"

ASKED: Mapping[Kind, str] = {
    "decimal": 'Solve it step by step. Then write the number alone, without its unit, like this: "Final Answer: 17.4".',
    "integer": 'Solve it step by step. Then write the number alone, like this: "Final Answer: 4".',
    "date": 'Solve it step by step. Then write the date as MM/DD/YYYY, like this: "Final Answer: 02/28/2021".',
    "weeks-days": 'Solve it step by step. Then write weeks and days, like this: "Final Answer: 17 weeks, 4 days".',
}


def prompt(note: str, question: str, kind: Kind) -> str:
    """Return the text put to a model."""
    return f"Patient note:\n{note.strip()}\n\n{question.strip()}\n\n{ASKED[kind]}"


def items(data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make one item a question, in a seeded order.

    Raises:
        ValueError: The set is missing or broken.
    """
    found = read_medcalc_bench(find_set(data_dir, CARD), "train" if options.side == "train" else "test")
    made = [_item(calculation) for calculation in found]
    random.Random(options.seed).shuffle(made)
    return made


def parse(item: Item, text: str) -> str:
    """Return the answer in a reply: a number, YYYY-MM-DD, W+D; empty if it gives none or several."""
    kind = cast(Kind, item.meta["answer_type"])
    if kind in ("date", "weeks-days"):
        read = date_of if kind == "date" else weeks_and_days_of
        return read(parse_short(text)) or read(spoken(text)) or ""
    number = parse_number(text, question=item.meta["question"])
    return "" if number is None else repr(number)


def grade(item: Item, output: Output) -> dict[str, float]:
    """Grade one reply by the kind of its answer."""
    said = parse(item, output.text)
    return {"accuracy": _is_right(item, said), "unparsed": float(not said)}


def _is_right(item: Item, said: str) -> float:
    kind = item.meta["answer_type"]
    if not said or kind in ("date", "weeks-days"):
        return float(said == item.reference)
    if kind == "integer":
        return float(round(float(said)) == float(item.reference))
    return within_limits(float(said), float(item.meta["lower"]), float(item.meta["upper"]))


def _item(calculation: Calculation) -> Item:
    return Item(
        item_id=calculation.item_id,
        files=(),
        prompt=prompt(calculation.note, calculation.question, calculation.kind),
        reference=calculation.truth,
        kind="open",
        group=calculation.group,
        meta={
            "card": CARD,
            "category": calculation.category,
            "calculator": calculation.calculator,
            "question": calculation.question,
            "answer_type": calculation.kind,
            "lower": repr(calculation.lower),
            "upper": repr(calculation.upper),
        },
    )


ROWS = (
    Task(
        "medcalc-bench",
        (CARD,),
        "a medical quantity computed from a patient note; decimals within 5 %, the rest exactly",
        "text",
        "short",
        items=items,
        grade=grade,
        wording=lambda: [prompt("NOTE", "QUESTION", kind) for kind in ASKED],
        sides=("test", "train"),
        parse=parse,
        breakdown="category",
        max_new_tokens=1024,
    ),
)
