"""What is wrong with the data or the files of a run: named in one line, counted, never dropped from n in silence."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import PIL.Image
import pytest
from click.testing import Result
from typer.testing import CliRunner

import evals.cli
from evals.items import Item
from evals.running.options import RunOptions
from evals.running.runner import run_task
from evals.tasks.catalogue import TASKS
from evals.tasks.task import ItemOptions
from tests.evals.running.test_runner import FakeAnswerer
from tests.evals.runs import HELD_OUT_GROUPS, questions

HEAD = (
    "file,qid,question,answer,answer_type,question_type,phrase_type,organ,official_split,patient_id,source_url,licence"
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A miniature of VQA-RAD in its own layout: six held-out questions."""
    folder = tmp_path / "data" / "vqa-rad"
    (folder / "images").mkdir(parents=True)
    rows = [HEAD]
    for i in range(6):
        PIL.Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / "images" / f"yes-{i}.png")
        rows.append(
            f"images/yes-{i}.png,{i},Is {i} there?,Yes,CLOSED,PRES,freeform,CHEST,train,{HELD_OUT_GROUPS[i]},x,CC0"
        )
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def rows_of(copy: Path) -> list[str]:
    return (copy / "labels.csv").read_text().splitlines()


def write_rows(copy: Path, rows: Sequence[str]) -> None:
    (copy / "labels.csv").write_text("\n".join(rows) + "\n")


def run(copy: Path, out: Path, *options: str, tasks: Sequence[str] = ("vqa-rad",)) -> Result:
    command = ["run", *tasks, "--data", str(copy.parent), "--out", str(out), "--quiet", *options]
    with mock.patch("evals.asking.load_model", lambda *_: FakeAnswerer()):
        return CliRunner().invoke(evals.cli.app, command)


def figure(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "scores.json").read_text())["vqa-rad"]["closed_accuracy"]
    return found


def test_a_whole_copy_that_is_not_the_cards_runs_with_a_warning(copy: Path, tmp_path: Path) -> None:
    result = run(copy, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "warning: vqa-rad/labels.csv is not the copy its card describes" in result.stderr
    found = figure(tmp_path / "out")
    assert (found["value"], found["n"], found["data_differs_from_card"]) == (1.0, 6, ["vqa-rad/labels.csv"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("images/yes-1.png,1,Is it", "row 3 has not as many cells as the header; mend or drop the row"),
        (",1,Is 1 there?,Yes,CLOSED,PRES,freeform,CHEST,train,p,x,CC0", "labels.csv: record 2 has an empty 'file'"),
        ("images/yes-1.png,1,Is 1 there?,Yes,MAYBE,PRES,freeform,CHEST,train,p,x,CC0", "MAYBE"),
    ],
)
def test_an_unreadable_row_is_named_and_nothing_is_scored_without_it(
    copy: Path, tmp_path: Path, row: str, message: str
) -> None:
    rows = rows_of(copy)
    write_rows(copy, [*rows[:2], row, *rows[3:]])
    result = run(copy, tmp_path / "out")
    assert result.exit_code == 1 and "error: vqa-rad: " in result.stderr and message in result.stderr
    assert result.stdout == "" and not (tmp_path / "out" / "scores.json").exists()


def test_a_wrong_split_file_is_refused_by_what_it_lacks(copy: Path, tmp_path: Path) -> None:
    """The table of another set under this name; a table in another encoding; none at all."""
    write_rows(copy, ["image,caption", "a.png,b"])
    assert "labels.csv: has no column file, " in run(copy, tmp_path / "out").stderr
    (copy / "labels.csv").write_bytes("é".encode("utf-16"))
    assert "is no UTF-8 CSV table" in run(copy, tmp_path / "out").stderr
    (copy / "labels.csv").unlink()
    assert "labels.csv" in run(copy, tmp_path / "out").stderr


def test_a_split_without_the_side_asked_for(copy: Path, tmp_path: Path) -> None:
    result = run(copy, tmp_path / "out", "--side", "train")
    assert result.exit_code == 1 and "has no item on side 'train'; take another side" in result.stderr
    result = run(copy, tmp_path / "out", "--side", "test")
    assert "got side 'test'; expected one of held-out, final, train, " in result.stderr


def test_a_duplicated_item_is_refused_before_anything_is_asked(copy: Path, tmp_path: Path) -> None:
    rows = rows_of(copy)
    write_rows(copy, [*rows, rows[-1]])
    result = run(copy, tmp_path / "out")
    assert result.exit_code == 1 and "more than once" in result.stderr
    assert not (tmp_path / "out" / "vqa-rad" / "outputs.jsonl").exists()


def test_a_picture_of_two_patients_is_refused(copy: Path, tmp_path: Path) -> None:
    rows = rows_of(copy)
    write_rows(copy, [*rows, rows[-1].replace("yes-5.png,5", "yes-0.png,9")])
    assert "the picture yes-0.png is of 2 groups" in run(copy, tmp_path / "out").stderr


def test_one_broken_task_leaves_the_others_whole(copy: Path, tmp_path: Path) -> None:
    result = run(copy, tmp_path / "out", tasks=("kit-medqa", "vqa-rad"))
    assert result.exit_code == 1 and "error: kit-medqa: " in result.stderr
    assert figure(tmp_path / "out")["n"] == 6


def test_all_kit_takes_what_is_there_and_names_the_rest(copy: Path, tmp_path: Path) -> None:
    result = run(copy, tmp_path / "out", tasks=("all-kit",))
    assert result.stderr.count("not run, their data is not in ") == 1 and "kit-medqa (medqa-usmle), " in result.stderr
    assert {"vqa-rad"} <= set(json.loads((tmp_path / "out" / "scores.json").read_text()))


def test_a_cut_outputs_file_is_counted_when_scored(copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(copy, out)
    path = out / "vqa-rad" / "outputs.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    result = CliRunner().invoke(evals.cli.app, ["score", str(out)])
    assert result.exit_code == 1 and "vqa-rad: 1 of 6 items have no output yet" in result.stderr
    assert (figure(out)["n"], figure(out)["n_unanswered"]) == (5, 1)
    assert run(copy, out).exit_code == 0 and figure(out)["n"] == 6


def test_a_patient_among_the_worked_examples_is_refused(tmp_path: Path) -> None:
    """The examples of a task and its questions share a patient."""
    shown = [replace(item, item_id=f"shown-{item.item_id}") for item in questions(4)]
    apart = [replace(item, group=HELD_OUT_GROUPS[50]) for item in shown]

    def task(examples: list[Item], sides: tuple[str, ...]) -> object:
        def items(data_dir: object, options: ItemOptions) -> list[Item]:
            return examples if options.side == "fewshot" else questions(12)

        return replace(TASKS["vqa-rad"], items=items, fewshot_from="fewshot", num_fewshot=2, sides=sides)

    def go(examples: list[Item], out: Path, fewshot: int | None, side: str = "held-out") -> list[str]:
        model, chosen = FakeAnswerer(), RunOptions(num_fewshot=fewshot)
        with mock.patch("evals.running.record.data_hashes", lambda cards, data_dir: ({}, [])):
            ran = run_task(task(examples, (side,)), chosen, "nowhere", out, model, "", "")  # type: ignore[arg-type]
        assert len(model.asked) == 12
        return ran.shown_as_examples

    with pytest.raises(ValueError, match="q0, q1, q2 and 1 other are of a patient .* shown as examples"):
        go(shown, tmp_path / "a", None)
    assert not (tmp_path / "a").exists()
    assert go(apart, tmp_path / "b", None) == go(shown, tmp_path / "c", 0) == []
    # an owners' split that has it so is run as it is, and says so
    assert go(shown, tmp_path / "d", None, side="test") == ["q0", "q1", "q2", "q3"]
    record = json.loads((tmp_path / "d" / "vqa-rad" / "run.json").read_text())
    assert record["shown_as_examples"] == ["q0", "q1", "q2", "q3"]


def test_settings_that_do_not_fit_a_task(copy: Path, tmp_path: Path) -> None:
    assert "has no worked examples" in run(copy, tmp_path / "out", "--fewshot", "3").stderr
    assert "3 samples at temperature 0" in run(copy, tmp_path / "out", "--samples", "3").stderr
    assert "answers greedily" in run(copy, tmp_path / "out", "--temperature", "1").stderr


@pytest.mark.kit
def test_the_kits_own_copy_is_the_cards(kit: Path, tmp_path: Path) -> None:
    """The control of the warning above."""
    own = tmp_path / "data" / "vqa-rad"
    own.mkdir(parents=True)
    shutil.copy(kit / "vqa-rad" / "labels.csv", own)
    assert "is not the copy its card describes" not in run(own, tmp_path / "out", "--limit", "3").stderr
