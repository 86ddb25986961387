"""Voting over orders: a model of the first option becomes a coin, an oracle stays one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from evals.items import Item
from evals.outputs import Output, read_outputs
from evals.results.scores import answered_of, grades
from evals.running.options import RunOptions
from evals.running.runner import run_task
from evals.running.voting import ask_in_orders, vote
from evals.tasks import multiple_choice, picture_classes
from evals.tasks.catalogue import TASKS
from evals.tasks.option_orders import drawn_orders, letter_before, moved_orders, places_of, reordered, texts_of
from evals.tasks.task import Task

OPTIONS = {"A": "aorta", "B": "E. coli", "C": "A and B", "D": "lung"}


def questions(n: int, right: str = "A") -> list[Item]:
    meta = {f"option_{letter}": text for letter, text in OPTIONS.items()}
    text = multiple_choice.prompt("What is shown? (A) or so.", OPTIONS)
    return [Item(f"q{number}", (), text, right, "closed", f"p{number}", meta) for number in range(n)]


@dataclass(frozen=True)
class Said:
    text: str
    thinking: str | None = None
    tokens: int = 1
    finish_reason: str = "stop"


class Scripted:
    """Says the first option, or the one whose words it knows; stops after `lasts` answers."""

    fingerprint = identity = "scripted"

    def __init__(self, knows: str = "", lasts: int = 10**9) -> None:
        self.knows, self.lasts = knows, lasts

    def ask_each(self, requests: Sequence[tuple[object, str]], *, max_new_tokens: int) -> Iterator[Said]:
        for _, prompt in requests:
            if self.lasts == 0:
                raise KeyboardInterrupt
            self.lasts -= 1
            letters = [letter for letter in OPTIONS if f"({letter}) {self.knows}" in prompt] if self.knows else ["A"]
            yield Said(f"Final Answer: ({letters[-1]})")


def accuracy(task: Task, items: list[Item], folder: Path) -> float:
    outputs = {output.item_id: output for output in read_outputs(folder / task.name / "outputs.jsonl")}
    found = grades(task, answered_of(task, items, outputs))["accuracy"]
    return sum(graded.value for graded in found) / len(found)


def run(items: list[Item], out: Path, model: Scripted, orders: int) -> tuple[Task, int]:
    task = replace(TASKS["kit-medqa"], items=lambda data, options: items)
    done = run_task(task, RunOptions(side="all", vote_orders=orders), out, out, model, "scripted", "a test")
    return task, done.n_items


def test_a_model_of_the_first_option_becomes_a_coin_and_an_oracle_stays(tmp_path: Path) -> None:
    items = questions(400)
    for name, model, orders in (("alone", Scripted(), 0), ("voted", Scripted(), 4), ("oracle", Scripted("aorta"), 4)):
        run(items, tmp_path / name, model, orders)
    task = TASKS["kit-medqa"]
    assert accuracy(task, items, tmp_path / "alone") == 1
    assert accuracy(task, items, tmp_path / "oracle") == 1
    # 0.25 of 400: the binomial 99.9 % limits are 0.18 and 0.32
    assert 0.18 < accuracy(task, items, tmp_path / "voted") < 0.32


def test_orders_are_recorded_and_a_stopped_run_goes_on(tmp_path: Path) -> None:
    items = questions(6)
    with pytest.raises(KeyboardInterrupt):
        run(items, tmp_path, Scripted("lung", lasts=10), 4)
    path = tmp_path / "kit-medqa" / "outputs.jsonl"
    assert [len(output.samples) for output in read_outputs(path)] == [4, 4]
    model = Scripted("lung")
    assert run(items, tmp_path, model, 4)[1] == 6
    assert 10**9 - model.lasts == 16, "what was answered is asked again"
    outputs = read_outputs(path)
    assert [output.item_id for output in outputs] == [item.item_id for item in items]
    assert all(sorted(order) == list("ABCD") for output in outputs for order in output.orders)
    record = json.loads((path.parent / "run.json").read_text(encoding="utf-8"))
    assert record["generation"]["vote_orders"] == 4
    with pytest.raises(ValueError, match="vote_orders 4, now None|other settings"):
        run(items, tmp_path, model, 0)


def test_a_vote_by_hand() -> None:
    [item] = questions(1)
    orders = ("BACD", "CDAB", "ABDC")
    replies = ("(A)", "(D)", "I do not know.")  # B, B and nothing
    output = Output(item.item_id, "", "", samples=replies, orders=orders)
    assert vote(item, output).text == "B"
    assert vote(item, replace(output, samples=("(A)", "(A)", "(A)"))).text == "B"  # B, C, A: the earliest
    assert vote(item, replace(output, samples=("?", "?", "?"))).text == ""


def test_likelihoods_are_averaged_over_orders_and_ties_go_to_the_first() -> None:
    items = [replace(item, choices=(" A", " B", " C", " D")) for item in questions(200)]

    def first(asked: Sequence[Item]) -> Iterator[Output]:
        return (Output(item.item_id, "", "m", log_likelihoods=(-1.0, -2.0, -2.0, -2.0)) for item in asked)

    def knows(asked: Sequence[Item]) -> Iterator[Output]:
        for item in asked:
            right = texts_of(item).index("lung")
            yield Output(item.item_id, "", "m", log_likelihoods=tuple(-1.0 if p == right else -2.0 for p in range(4)))

    best = [max(range(4), key=output.log_likelihoods.__getitem__) for output in ask_in_orders(first, 4, 0, items)]
    assert all(30 < best.count(place) < 70 for place in range(4)), "ties favour a letter"
    assert {max(range(4), key=o.log_likelihoods.__getitem__) for o in ask_in_orders(knows, 3, 0, items)} == {3}


@pytest.mark.parametrize("form", ["({letter}) {text}", "{letter}. {text}", "{letter}: {text}", "{letter}) {text}"])
def test_options_are_found_however_they_are_written(form: str) -> None:
    between = " " if form.startswith("(") else "\n"
    lines = between.join(form.format(letter=letter, text=text) for letter, text in OPTIONS.items())
    [known] = [replace(item, prompt=f"Which?\n{lines}\nAnswer:") for item in questions(1, "D")]
    moved = reordered(known, (3, 0, 1, 2))
    assert texts_of(known) == list(OPTIONS.values()) and texts_of(moved) == ["lung", "aorta", "E. coli", "A and B"]
    assert moved.reference == "A" and multiple_choice.options_of(moved)["B"] == "aorta"
    assert moved.prompt.startswith("Which?\n") and moved.prompt.endswith("\nAnswer:")


def test_options_of_a_picture_task_are_read_from_the_prompt() -> None:
    pictures = picture_classes.SETS["kit-skin"]
    item = Item("s", (), picture_classes.prompt(pictures), next(iter(pictures.options)), "closed", "p")
    assert texts_of(item) == list(pictures.options.values())
    assert places_of(replace(item, prompt="Is there a nodule?")) == []


def test_orders_are_balanced_and_letters_go_back() -> None:
    [item] = questions(1)
    orders = drawn_orders(item, 8, 0)
    for four in (orders[:4], orders[4:]):
        assert all({order[place] for order in four} == {0, 1, 2, 3} for place in range(4))
    assert letter_before((2, 0, 3, 1), "A") == "C" and letter_before((2, 0), "Z") == "" == letter_before((2, 0), "")
    nine = replace(item, prompt="\n".join(f"{chr(65 + n)}: option {n}" for n in range(9)), meta={})
    moved = moved_orders(nine, 3, 0)
    assert len(set(moved)) == 3 and all(source != place for order in moved for place, source in enumerate(order))


def test_what_has_no_orders_is_refused(tmp_path: Path) -> None:
    items = [replace(item, prompt="Is it so?", meta={}) for item in questions(2)]
    with pytest.raises(ValueError, match="no lettered options; run it without --vote-orders"):
        run(items, tmp_path, Scripted(), 4)
    with pytest.raises(ValueError, match="give one of them"):
        RunOptions(n_samples=3, temperature=1.0, vote_orders=2).generation(TASKS["kit-medqa"])
