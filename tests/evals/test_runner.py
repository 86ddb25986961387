import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import evals.cli
from evals.answering import answer_items, classify_items
from evals.items import Item, read_items, write_items
from evals.outputs import read_outputs
from evals.runner import RunOptions, make_items, prepare, run_text_task, shuffle_pictures
from evals.scores import grades, read_answered, score_dir
from evals.tasks.catalogue import TASKS


@dataclass(frozen=True)
class FakeAnswer:
    text: str


class FakeAnswerer:
    """Says what the name of the picture says; a batch with `bad` in it fails before any of its answers."""

    def __init__(self, fingerprint: str = "m1", batch: int = 4, stop_after: int | None = None) -> None:
        self.fingerprint = fingerprint
        self.batch = batch
        self.left = stop_after
        self.asked: list[str] = []

    def ask_each(
        self, requests: Iterable[tuple[Sequence[str | Path], str]], *, max_new_tokens: int
    ) -> Iterator[FakeAnswer]:
        requests = list(requests)
        for start in range(0, len(requests), self.batch):
            names = [Path(files[0]).name for files, _ in requests[start : start + self.batch]]
            if any("bad" in name for name in names):
                raise ValueError("bad.png: truncated;\n fetch it again")
            for name in names:
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left = None if self.left is None else self.left - 1
                self.asked.append(name)
                yield FakeAnswer(name.split("-")[0])


class FakeEmbedder:
    """Pictures and texts lie on the axis of the first letter of their name."""

    fingerprint = "e1"
    logit_scale = 10.0
    logit_bias = 0.0

    def encode_images(self, images: Any) -> NDArray[np.float32]:
        names = [Path(image).name for image in images]
        if any("bad" in name for name in names):
            raise ValueError("bad picture")
        return self.encode_texts(names)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.eye(26, dtype=np.float32)[[ord(text[0]) - ord("a") for text in texts]]


def questions(n: int = 12, bad: int | None = None) -> list[Item]:
    items = []
    for i in range(n):
        name = "bad.png" if i == bad else f"{('yes', 'no')[i % 2]}-{i}.png"
        meta = {"organ": "HEAD" if i < 4 else "ABD", "card": "vqa-rad"}
        items.append(Item(f"q{i}", (name,), "Is it?", ("Yes", "No")[i % 2], "closed", f"g{i // 2}", meta))
    return items


TASK = TASKS["vqa-rad"]


def run(items: list[Item], model: FakeAnswerer, folder: Path) -> list[str]:
    failed = run_text_task(TASK, items, model, folder, 8, advance=lambda n: None)
    (folder / "run.json").write_text("{}")
    return [output.item_id for output in failed]


def test_items_survive_the_file(tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl", questions())
    assert read_items(tmp_path / "items.jsonl") == questions()
    (tmp_path / "items.jsonl").write_text('{"item_id": 1}\n')
    with pytest.raises(ValueError, match="line 1 is no item"):
        read_items(tmp_path / "items.jsonl")


def test_run_and_score(tmp_path: Path) -> None:
    model = FakeAnswerer()
    assert run(questions(), model, tmp_path / "vqa-rad") == []
    figure = score_dir(tmp_path)["vqa-rad"]["closed_accuracy"]
    assert (figure["value"], figure["n"], figure["n_groups"], figure["ci95"]) == (1.0, 12, 6, [1.0, 1.0])
    assert len(figure["items_sha256"]) == 64 and figure["n_failed"] == 0
    assert json.loads((tmp_path / "scores.json").read_text())["vqa-rad"]["closed_accuracy/HEAD"]["n"] == 4


def test_killed_run_goes_on_and_redoes_a_torn_line(tmp_path: Path) -> None:
    folder = tmp_path / "vqa-rad"
    with pytest.raises(KeyboardInterrupt):
        run(questions(), FakeAnswerer(stop_after=7), folder)
    outputs = folder / "outputs.jsonl"
    whole = outputs.read_text()
    assert whole.count("\n") == 7
    outputs.write_text(whole[:-9])
    second = FakeAnswerer()
    run(questions(), second, folder)
    assert second.asked == [item.files[0] for item in questions()[6:]]
    run(questions(), once := FakeAnswerer(), tmp_path / "once")
    assert len(once.asked) == 12

    def texts(path: Path) -> list[tuple[str, str]]:
        return [(o.item_id, o.text) for o in read_outputs(path / "outputs.jsonl")]

    assert texts(folder) == texts(tmp_path / "once")
    run(questions(), third := FakeAnswerer(), folder)
    assert third.asked == []


def test_broken_line_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    run(questions(), FakeAnswerer(), tmp_path / "vqa-rad")
    path = tmp_path / "vqa-rad" / "outputs.jsonl"
    path.write_text("{]\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1 is no output"):
        run(questions(), FakeAnswerer(), tmp_path / "vqa-rad")


def test_a_changed_question_is_asked_again(tmp_path: Path) -> None:
    run(questions(), FakeAnswerer(), tmp_path)
    changed = [
        *questions()[:-1],
        Item("q11", ("no-11.png",), "Is it not?", "No", "closed", "g5", {"organ": "ABD"}),
    ]
    assert [item.item_id for item in prepare(changed, "m1", tmp_path)] == ["q11"]


def test_another_model_needs_another_folder(tmp_path: Path) -> None:
    run(questions(), FakeAnswerer(), tmp_path)
    with pytest.raises(ValueError, match="holds answers of the model m1; got m2"):
        run(questions(), FakeAnswerer("m2"), tmp_path)


@pytest.mark.parametrize("bad", [0, 5, 11])
def test_a_bad_picture_fails_alone_and_by_name(tmp_path: Path, bad: int) -> None:
    folder = tmp_path / "vqa-rad"
    assert run(questions(bad=bad), FakeAnswerer(), folder) == [f"q{bad}"]
    outputs = {o.item_id: o for o in read_outputs(folder / "outputs.jsonl")}
    assert outputs[f"q{bad}"].error == "bad.png: truncated; fetch it again"
    figure = score_dir(tmp_path)["vqa-rad"]["closed_accuracy"]
    assert (figure["value"], figure["n"], figure["n_failed"]) == (1.0, 11, 1)
    assert run(questions(bad=bad), again := FakeAnswerer(), folder) == [f"q{bad}"]
    assert again.asked == []


def test_shuffled_pictures_come_from_other_groups() -> None:
    items = questions(30)
    group_of = {item.files: item.group for item in items}
    shuffled = shuffle_pictures(items, seed=0)
    assert [item.item_id for item in shuffled] == [item.item_id for item in items]
    assert all(group_of[item.files] != item.group for item in shuffled)
    assert sorted(item.files for item in shuffled) == sorted(item.files for item in items)
    assert shuffled == shuffle_pictures(items, seed=0) != shuffle_pictures(items, seed=1)
    with pytest.raises(ValueError, match="at most half"):
        shuffle_pictures(questions(2), seed=0)


def test_real_minus_shuffled_is_stored(tmp_path: Path) -> None:
    items = questions(40)
    run(items, FakeAnswerer(), tmp_path / "vqa-rad")
    run(shuffle_pictures(items, 0), FakeAnswerer(), tmp_path / "vqa-rad" / "shuffled")
    scores = score_dir(tmp_path)
    real, other = (scores[name]["closed_accuracy"]["value"] for name in ("vqa-rad", "vqa-rad:shuffled"))
    difference = scores["vqa-rad"]["closed_accuracy_real_minus_shuffled"]
    assert difference["value"] == pytest.approx(real - other) and difference["n"] == 40


def test_answers_of_several_batches_keep_their_order() -> None:
    outputs = list(answer_items(questions(bad=6), FakeAnswerer(batch=5), 8))
    assert [output.item_id for output in outputs] == [f"q{i}" for i in range(12)]
    assert [bool(output.error) for output in outputs] == [i == 6 for i in range(12)]
    assert all(o.text == ("yes", "no")[i % 2] for i, o in enumerate(outputs) if i != 6)


def test_zero_shot_picks_the_nearest_class_and_scores(tmp_path: Path) -> None:
    names = ["a1", "b1", "bad", "a2", "b2"]
    items = [Item(n, (n,), "p", n[0], "class", n, {"card": "c"}) for n in names]
    outputs = list(classify_items(items, FakeEmbedder(), {"a": ["a x", "a y"], "b": ["b"]}))
    assert [o.text for o in outputs] == ["a", "b", "", "a", "b"] and outputs[2].error == "bad picture"
    assert outputs[0].probabilities["a"] == pytest.approx(1 / (1 + np.exp(-10)))
    folder = tmp_path / "zero-shot-mednist"
    assert prepare(items, "e1", folder) == items
    from evals.outputs import OutputFile

    with OutputFile(folder / "outputs.jsonl") as file:
        for output in outputs:
            file.write(output)
    (folder / "run.json").write_text("{}")
    figures = score_dir(tmp_path)["zero-shot-mednist"]
    assert {name: figure["value"] for name, figure in figures.items()} == {
        "accuracy": 1.0,
        "macro_f1": 1.0,
        "macro_auroc_one_vs_rest": 1.0,
    }
    assert len(grades(TASKS["zero-shot-mednist"], read_answered(folder))["accuracy"]) == 4


@pytest.mark.kit
def test_command_runs_resumes_and_scores(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"text": FakeAnswerer(), "label": FakeEmbedder()}
    monkeypatch.setattr(evals.cli, "_load", lambda answers, *rest: models[answers])
    monkeypatch.setattr(sys, "argv", ["medgemma-eval", "run"])
    command = ["run", "vqa-rad", "--data", str(kit), "--out", str(tmp_path), "--limit", "40", "--quiet"]
    first = CliRunner().invoke(evals.cli.app, command)
    assert first.exit_code == 0, first.output
    asked = len(models["text"].asked)  # type: ignore[attr-defined]
    shuffled = CliRunner().invoke(evals.cli.app, [*command, "--shuffle-pictures"])
    assert shuffled.exit_code == 0 and "closed_accuracy_real_minus_shuffled" in shuffled.output
    assert CliRunner().invoke(evals.cli.app, command).exit_code == 0
    assert len(models["text"].asked) == 2 * asked == 80  # type: ignore[attr-defined]
    again = CliRunner().invoke(evals.cli.app, ["score", str(tmp_path)])
    assert again.output == shuffled.output
    figure = json.loads((tmp_path / "scores.json").read_text())["vqa-rad"]["open_token_f1_squad"]
    for key in (
        "value",
        "n",
        "n_groups",
        "ci95",
        "seed",
        "command",
        "versions",
        "model_fingerprint",
        "seconds",
    ):
        assert key in figure
    assert figure["data_differs_from_card"] == [] and "vqa-rad/labels.csv" in figure["data_sha256"]


@pytest.mark.kit
def test_copy_that_differs_runs_with_a_warning_and_a_bad_picture_exits_1(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "data" / "vqa-rad"
    own.mkdir(parents=True)
    table = (kit / "vqa-rad" / "labels.csv").read_text().replace("images/synpic", "images/bad", 1)
    (own / "labels.csv").write_text(table)
    monkeypatch.setattr(evals.cli, "_load", lambda *rest: FakeAnswerer(batch=16))
    command = [
        "run",
        "vqa-rad",
        "--data",
        str(own),
        "--out",
        str(tmp_path / "out"),
        "--side",
        "all",
        "--quiet",
    ]
    result = CliRunner().invoke(evals.cli.app, command)
    assert result.exit_code == 1
    assert "warning: vqa-rad/labels.csv" in result.stderr and "vqa-rad-0: bad.png" in result.stderr
    assert "closed_accuracy" in result.stdout


def test_unknown_task_and_empty_folder(tmp_path: Path) -> None:
    options = ["--data", str(tmp_path), "--out", str(tmp_path)]
    result = CliRunner().invoke(evals.cli.app, ["run", "vqarad", *options])
    assert isinstance(result.exception, ValueError) and "expected one of vqa-rad" in str(result.exception)
    with pytest.raises(ValueError, match="holds no task"):
        score_dir(tmp_path)
    with pytest.raises(ValueError, match="no data set 'vqa-rad'"):
        make_items(TASK, tmp_path, RunOptions())


def test_list_names_every_task() -> None:
    output = CliRunner().invoke(evals.cli.app, ["list"]).output
    assert all(name in output for name in TASKS)


def test_an_item_that_cannot_be_asked_fails_by_its_reason_and_is_counted(tmp_path: Path) -> None:
    items = [*questions(4), replace(questions(5)[4], fault="line 5: has no question")]
    assert run(items, model := FakeAnswerer(), tmp_path / "vqa-rad") == ["q4"]
    assert len(model.asked) == 4
    figure = score_dir(tmp_path)["vqa-rad"]["closed_accuracy"]
    assert (figure["n"], figure["n_failed"]) == (4, 1)
