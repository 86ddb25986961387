"""A user's table as a task: what its rows are asked, and how the answers are scored, by kind."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image
import pytest
from click.testing import Result
from typer.testing import CliRunner

import evals.cli
from data_cards.table import Columns, Table, read_card
from evals.items import Item, read_items
from evals.measures import Answered
from evals.metrics.boxes import Box, matches
from evals.outputs import Output
from evals.results.scores import measures, value_of
from evals.tasks.catalogue import TASKS
from evals.tasks.table_grading import METRICS, TableKind, grade, parse
from evals.tasks.tables import completion, items_of, table_kinds, task_of
from tests.data_cards.table.made import read, table_file
from tests.evals.running.test_runner import FakeAnswer


def pictures(folder: Path, *names: str) -> None:
    """Pictures of 40 by 80 pixels, each of its own grey."""
    for place, name in enumerate(names):
        PIL.Image.fromarray(np.full((40, 80), 9 * place, np.uint8)).save(folder / name)


def said(item: Item, text: str) -> Answered:
    return Answered(item, Output(item.item_id, "s", "m", text=text))


def figures(table: Table, kind: TableKind, answer: Callable[[Item], str]) -> dict[str, float]:
    answered = [said(item, answer(item)) for item in items_of(table, kind)]
    return {name: value_of(measure) for name, measure in measures(task_of(table, kind), answered).items()}


@pytest.fixture
def tables(tmp_path: Path) -> dict[TableKind, Table]:
    """A small table of every kind."""
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    long = "The heart is enlarged and there is a small pleural effusion on the left side."
    boxes = "file,x,y,width,height,class_name\na.png,8,4,16,8,nodule\na.png,40,20,40,20,mass\nb.png,,,,,\n"
    return {
        "classes": read(tmp_path, "file,label\na.png,x\nb.png,y\nc.png,y\nd.png,z_1\n"),
        "findings": read(tmp_path, "file,Edema,Mass,No Finding\na.png,1,0,0\nb.png,0,-1,0\nc.png,0,,1\n"),
        "numbers": read(tmp_path, "file,ml\na.png,10\nb.png,100\nc.png,0\n", Columns(label=("ml",), kind="number")),
        "boxes": read(tmp_path, boxes),
        "choices": read(tmp_path, "question,A,B,answer\nWhich?,one,two,B\nWhat?,p,q,A\n"),
        "answers": read(tmp_path, "file,question,answer\na.png,Is it?,yes\nb.png,Which organ?,left lung\n"),
        "texts": read(
            tmp_path, f"file,report\na.png,{long}\nb.png,No. {long}\n", Columns(label=("report",), kind="text")
        ),
    }


@pytest.mark.parametrize("kind", METRICS)
def test_every_table_is_asked_by_its_kind_and_its_completion_is_right_in_full(
    tables: dict[TableKind, Table], kind: TableKind
) -> None:
    table = tables[kind]
    assert table_kinds(table) == [kind]
    best = figures(table, kind, completion)
    for name in METRICS[kind]:
        assert best[name] == (0.0 if name == "unparsed" else 1.0)
    worst = figures(table, kind, lambda item: "I cannot tell.")
    assert all(worst[name] == float(name == "unparsed") for name in METRICS[kind] if name != "token_f1_squad")


def test_a_class_is_asked_by_letter_and_told_by_letter_or_name(tables: dict[TableKind, Table]) -> None:
    first, *_, last = items_of(tables["classes"], "classes")
    assert first.prompt.splitlines()[:4] == ["Which of these does the image show?", "A: x", "B: y", "C: z 1"]
    assert (first.item_id, first.reference, last.reference) == ("T.csv row 2: label", "x", "z_1")
    for text, expected in (("Final Answer: B", "y"), ("C", "z_1"), ("(A)", "x"), ("A or B", ""), ("", "")):
        assert parse(first, text) == expected


def test_class_figures_by_hand(tables: dict[TableKind, Table]) -> None:
    """References x y y z; always y: accuracy 2/4; F1 of y 2*2/(4+2)=2/3, macro 2/9; recall mean 1/3."""
    found = figures(tables["classes"], "classes", lambda item: "Final Answer: B")
    assert found["accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx(2 / 9)
    assert found["weighted_f1"] == pytest.approx(1 / 3)
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)


def test_findings_are_asked_one_by_one_and_those_left_out_are_not(tables: dict[TableKind, Table]) -> None:
    items = list(items_of(tables["findings"], "findings"))
    assert [(item.meta["condition"], item.reference) for item in items] == [
        *(("Edema", "yes"), ("Mass", "no"), ("No Finding", "no")),
        *(("Edema", "no"), ("No Finding", "no")),
        *(("Edema", "no"), ("No Finding", "yes")),
    ]
    assert items[0].prompt.startswith("Is there Edema in this image?")
    assert items[2].prompt.startswith("Is the image free of findings?")


def test_finding_figures_by_hand(tables: dict[TableKind, Table]) -> None:
    """Always yes. Edema: 1 hit of 3 said; No Finding: 1 of 3; F1 2/(3+1)=1/2 each; Mass has no positive: left out."""
    found = figures(tables["findings"], "findings", lambda item: "Final Answer: yes")
    assert found["accuracy"] == pytest.approx(2 / 7)
    assert found["macro_f1"] == pytest.approx(1 / 2)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (7 + 2))


def test_numbers_by_hand(tables: dict[TableKind, Table]) -> None:
    """10, 100, 0 answered by 11, nothing, 3: within a tenth 1/3; errors 1 and 3; unparsed stays wrong."""
    told = {"10": "about 11 ml", "100": "between 90 and 100", "0": "Final Answer: 3"}
    found = figures(tables["numbers"], "numbers", lambda item: told[item.reference])
    assert found["within_10_percent"] == pytest.approx(1 / 3)
    assert (found["exact"], found["unparsed"]) == (0.0, pytest.approx(1 / 3))
    assert found["mean_absolute_error"] == found["mean_error"] == 2.0
    assert found["root_mean_square_error"] == pytest.approx(5**0.5)


def test_boxes_in_pixels_are_compared_as_fractions_of_their_picture(tables: dict[TableKind, Table]) -> None:
    first, second = items_of(tables["boxes"], "boxes")
    assert json.loads(first.reference) == [["nodule", 0.1, 0.1, 0.3, 0.3], ["mass", 0.5, 0.5, 1.0, 1.0]]
    assert json.loads(second.reference) == []
    assert first.prompt.startswith("Where is every mass and nodule in the image?")
    one = '[{"box_2d": [100, 100, 300, 300], "label": "Nodule"}, {"box_2d": [100, 100, 300, 300], "label": "mass"}]'
    assert grade("boxes", first, said(first, one).output) == {"detection_f1": 0.5, "unparsed": 0.0}
    assert grade("boxes", second, said(second, one).output)["detection_f1"] == 0.0
    assert grade("boxes", second, said(second, "```json\n[]\n```").output) == {"detection_f1": 1.0, "unparsed": 0.0}
    both = [said(first, one), said(second, one)]
    assert value_of(measures(TASKS["table-boxes"], both)["detection_f1_micro"]) == pytest.approx(2 * 1 / (4 + 2))


def test_boxes_are_paired_once_and_as_many_as_can_be() -> None:
    """The first truth fits both guesses, the second only the first guess: greedy in order would find one pair."""
    left, wide, right = Box(0, 0, 1, 0.5), Box(0, 0.1, 1, 0.9), Box(0, 0.5, 1, 1)
    assert matches([wide, left], [left, wide], 0.3) == 2
    assert matches([wide, wide], [wide], 0.5) == 1
    assert matches([left], [right], 0.5) == matches([], [right], 0.5) == matches([left], [], 0.5) == 0


def test_conversations_are_asked_once_with_the_system_s_words_first(tmp_path: Path) -> None:
    turns: list[dict[str, Any]] = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]
    turns.append({"role": "assistant", "content": "So."})
    more = [*turns, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No."}]
    text = "\n".join(json.dumps({"messages": talk}) for talk in (turns, more))
    one, two = items_of(read(tmp_path, text, name="T.jsonl"), "answers")
    assert (one.prompt, one.reference, one.fault) == ("Be short.\n\nWhy?", "So.", "")
    assert two.fault == "T.jsonl line 2: has 5 messages; one question and one answer can be asked and scored"


def test_a_card_s_questions_are_asked_alike(kit: Path) -> None:
    table = read_card("vqa-rad", kit)
    ours = {(item.files, item.prompt, item.reference) for item in items_of(table, "answers")}
    theirs = {(i.files, i.prompt, i.reference) for i in TASKS["vqa-rad"].items(kit, mock.Mock(side="all", seed=0))}
    assert ours == theirs


class Naming:
    """Says the letter after the picture's name: a.png is A."""

    fingerprint = identity = "naming"

    def ask_each(
        self, requests: Iterable[tuple[Sequence[str | Path], str]], *, max_new_tokens: int
    ) -> Iterator[FakeAnswer]:
        for files, _ in requests:
            yield FakeAnswer(f"Final Answer: {Path(files[0]).stem.upper()}")


def run(*words: str) -> Result:
    with mock.patch("evals.asking.load_model", lambda *_: Naming()):
        return CliRunner().invoke(evals.cli.app, ["run", *words, "--quiet"])


def test_the_command_says_what_it_understood_and_writes_what_any_task_does(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    path = table_file(tmp_path, "file,label,patient\na.png,x,1\nb.png,y,2\nc.png,x,3\ngone.png,y,4\n")
    out = tmp_path / "out"
    result = run("--table", str(path), "--out", str(out))
    assert result.exit_code == 1, "one picture is missing"
    assert "label: label (guessed)" in result.stderr
    assert "asked: table-classes; rows: all (--side names another)" in result.stderr
    assert "error: table-classes: T.csv row 5: T.csv row 5: 'gone.png': no such file" in result.stderr
    scores = json.loads((out / "scores.json").read_text())["table-classes"]
    assert (scores["accuracy"]["value"], scores["accuracy"]["n"]) == (0.5, 4), (
        "a, b right, c wrong, the missing one wrong"
    )
    assert scores["accuracy"]["data_sha256"].keys() == {"T.csv"}
    assert {item.group for item in read_items(out / "table-classes" / "items.jsonl")} == {"1", "2", "3", "4"}
    assert len((out / "table-classes" / "outputs.jsonl").read_text().splitlines()) == 4


def test_the_test_side_is_asked_where_the_table_names_one(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    path = table_file(tmp_path, "file,label,split\na.png,x,train\nb.png,y,test\n")
    result = run("--table", str(path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "rows: test" in result.stderr
    (item,) = read_items(tmp_path / "out" / "table-classes" / "items.jsonl")
    assert item.reference == "y"


def test_a_second_table_is_kept_out_of_a_folder_and_a_mended_one_goes_on(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    out = str(tmp_path / "out")
    text = "file,label,patient\na.png,x,1\nb.png,y,2\ngone.png,y,3\nd.png,x,4\n"
    path = table_file(tmp_path, text)
    assert run("--table", str(path), "--out", out).exit_code == 1
    path.write_text(text.replace("gone", "c").replace("a.png,x", "a.png,y"), encoding="utf-8")  # a file and a label
    assert run("--table", str(path), "--out", out).exit_code == 0
    written = (tmp_path / "out" / "table-classes" / "outputs.jsonl").read_bytes()
    path.write_text(text.replace("gone", "c").replace("a.png", "e.png"), encoding="utf-8")
    other = path.with_name("U.csv")
    other.write_text(text.replace("gone", "c"), encoding="utf-8")
    for second in (path, other):
        ran = run("--table", str(second), "--out", out)
        assert ran.exit_code == 1 and "answers about another table" in ran.stderr and "its own --out" in ran.stderr
    assert (tmp_path / "out" / "table-classes" / "outputs.jsonl").read_bytes() == written


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    path = str(table_file(tmp_path, "file,label\na.png,x\nb.png,y\n"))
    out = str(tmp_path / "out")
    for words, message in (
        (("--out", out), "give tasks and the folder of their data"),
        (("--table", path, "--data", path, "--out", out), "give one of them"),
        (("table-boxes", "--table", path, "--out", out), "got task 'table-boxes'; its rows are asked by table-classes"),
        (("vqa-rad", "--out", out), "give tasks and the folder of their data"),
    ):
        result = run(*words)
        assert message in str(result.exception), result.output
    many = "file,label\n" + "".join(f"{'ab'[n % 2]}.png,c{n}\n" for n in range(27))
    with pytest.raises(ValueError, match="label has 27 classes, more than the 26 letters"):
        next(items_of(read(tmp_path, many, Columns(kind="class")), "classes"))
