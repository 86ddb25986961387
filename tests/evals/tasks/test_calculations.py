"""MedCalc-Bench's row: 5 % for decimals, exactly for the rest, by hand."""

from pathlib import Path

import pytest

from evals.items import Item
from evals.outputs import Output
from evals.tasks.catalogue import task_named
from evals.tasks.task import ItemOptions
from tests.data_cards.test_rubrics_and_calculations import medcalc

TASK = task_named("medcalc-bench")
WHOLE = {"Output Type": "integer", "Ground Truth Answer": "4", "Lower Limit": "4", "Upper Limit": "4"}


def made(folder: Path, **change: str) -> Item:
    (item,) = TASK.items(medcalc(folder, change), ItemOptions("test"))
    return item


def graded(item: Item, reply: str) -> tuple[float, float]:
    found = TASK.grade(item, Output(item.item_id, "", "m", text=reply))
    return found["accuracy"], found["unparsed"]


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Final Answer: 19.0", 1),
        ("Final Answer: 21.0", 1),
        ("Final Answer: 18.99", 0),
        ("Final Answer: 21.01", 0),
        ("10 + 10 = 20, so\nFinal Answer: 20", 1),
        ("<think>Final Answer: 20</think>Final Answer: 7", 0),
        ("**Final Answer:** 20.5", 1),
    ],
)
def test_a_decimal_is_right_within_five_percent(tmp_path: Path, reply: str, right: int) -> None:
    assert graded(made(tmp_path), reply) == (right, 0)


@pytest.mark.parametrize(("reply", "right"), [("4", 1), ("4.0", 1), ("4.4", 1), ("5", 0), ("4.6", 0)])
def test_an_integer_is_right_if_it_rounds_to_the_truth(tmp_path: Path, reply: str, right: int) -> None:
    assert graded(made(tmp_path, **WHOLE), f"Final Answer: {reply}") == (right, 0)


def test_a_date_and_a_span_are_right_exactly(tmp_path: Path) -> None:
    date = made(tmp_path, **{"Output Type": "date", "Ground Truth Answer": "02/08/2021"})
    assert graded(date, "From 01/01/2021 on.\nFinal Answer: 2/8/2021") == (1, 0)
    assert graded(date, "Final Answer: 02/09/2021") == (0, 0)
    assert graded(date, "02/08/2021 or 02/09/2021") == (0, 1)
    span = made(tmp_path, **{"Ground Truth Answer": "('17 weeks', '4 days')"})
    assert graded(span, "Final Answer: (17 weeks, 4 days)") == (1, 0)
    assert graded(span, "Final Answer: 17 weeks, 5 days") == (0, 0)


def test_no_number_and_two_numbers_are_unparsed(tmp_path: Path) -> None:
    for reply in ("I cannot say.", "Final Answer: 20 or 30", ""):
        assert graded(made(tmp_path), reply) == (0, 1)


def test_the_prompt_asks_for_the_kind_of_answer(tmp_path: Path) -> None:
    assert "without its unit" in made(tmp_path).prompt
    assert "17 weeks, 4 days" in made(tmp_path, **{"Ground Truth Answer": "('17 weeks', '4 days')"}).prompt
    assert made(tmp_path).prompt.startswith("Patient note:\nA note.\n\nWhat is it?")
