import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import evals.cli
from data_cards.split import side
from evals.generation import Generation
from evals.items import Item, read_items, write_items
from evals.outputs import Output, OutputFile, read_outputs
from evals.results.scores import score_dir, voted
from evals.running.answering import answer_items, classify_items, side_by_side
from evals.running.cache import AnswerCache
from evals.running.options import RunOptions
from evals.running.runner import make_items, run_task, shuffle_pictures
from evals.tasks import vqa_rad
from evals.tasks.catalogue import TASKS
from tests.evals.runs import HELD_OUT_GROUPS


@dataclass(frozen=True)
class FakeAnswer:
    text: str
    thinking: str | None = None
    tokens: int = 2
    finish_reason: str = "stop"


class FakeAnswerer:
    """Says what the name of the picture says; a batch with `bad` in it fails before any of its answers."""

    def __init__(self, identity: str = "m1", batch: int = 4, stop_after: int | None = None) -> None:
        self.fingerprint, self.identity = "weights", identity
        self.batch = batch
        self.left = stop_after
        self.asked: list[str] = []

    def ask_each(
        self, requests: Iterable[tuple[Sequence[str | Path], str]], *, max_new_tokens: int
    ) -> Iterator[FakeAnswer]:
        requests = list(requests)
        for start in range(0, len(requests), self.batch):
            names = [Path(files[0]).name if files else "none" for files, _ in requests[start : start + self.batch]]
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

    fingerprint = identity = "e1"
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
        items.append(Item(f"q{i}", (name,), "Is it?", ("Yes", "No")[i % 2], "closed", HELD_OUT_GROUPS[i // 2], meta))
    return items


TASK = TASKS["vqa-rad"]


PLAIN = RunOptions()


def run(items: list[Item], model: Any, out: Path, options: RunOptions = PLAIN, **more: Any) -> list[str]:
    """Run made-up items as the task vqa-rad, which has no table here to hash; return the ids of those that failed."""
    task = replace(TASK, items=lambda data_dir, options: items, **more.pop("task", {}))
    with mock.patch("evals.running.record.data_hashes", lambda cards, data_dir: ({}, [])):
        ran = run_task(task, options, "nowhere", out, model, "fake", "test", **more)
    return [output.item_id for output in ran.failed]


def texts(out: Path) -> list[tuple[str, str]]:
    return [(o.item_id, o.text) for o in read_outputs(out / "vqa-rad" / "outputs.jsonl")]


def test_items_survive_the_file(tmp_path: Path) -> None:
    odd = Item("odd", (), "one\u2028two\x85three\x0cfour", "\u2029", "open", "g", {})
    write_items(tmp_path / "items.jsonl", [*questions(), odd])
    assert read_items(tmp_path / "items.jsonl") == [*questions(), odd]
    (tmp_path / "items.jsonl").write_text('{"item_id": 1}\n')
    with pytest.raises(ValueError, match="line 1 is no item"):
        read_items(tmp_path / "items.jsonl")


def test_run_and_score(tmp_path: Path) -> None:
    assert run(questions(), FakeAnswerer(), tmp_path) == []
    figure = score_dir(tmp_path)["vqa-rad"]["closed_accuracy"]
    assert (figure["value"], figure["n"], figure["n_groups"], figure["ci95"]) == (1.0, 12, 6, [1.0, 1.0])
    assert len(figure["items_sha256"]) == 64 and (figure["n_failed"], figure["n_unanswered"]) == (0, 0)
    assert (figure["tokens"], figure["generation"]["max_new_tokens"], figure["command"]) == (24, 32, "test")
    assert json.loads((tmp_path / "scores.json").read_text())["vqa-rad"]["closed_accuracy/HEAD"]["n"] == 4


def test_stopped_run_goes_on_and_redoes_a_torn_line(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(questions(), FakeAnswerer(stop_after=7), tmp_path)
    outputs = tmp_path / "vqa-rad" / "outputs.jsonl"
    whole = outputs.read_text()
    assert whole.count("\n") == 7
    outputs.write_text(whole[:-9])
    second = FakeAnswerer()
    run(questions(), second, tmp_path)
    assert second.asked == [item.files[0] for item in questions()[6:]]
    run(questions(), once := FakeAnswerer(), tmp_path / "once")
    assert len(once.asked) == 12 and texts(tmp_path) == texts(tmp_path / "once")
    run(questions(), third := FakeAnswerer(), tmp_path)
    assert third.asked == []


def test_an_unfinished_run_is_scored_and_said_to_be_unfinished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(questions(), FakeAnswerer(stop_after=7), tmp_path)
    result = CliRunner().invoke(evals.cli.app, ["score", str(tmp_path)])
    assert result.exit_code == 1 and "vqa-rad: 5 of 12 items have no output yet" in result.stderr
    figure = json.loads((tmp_path / "scores.json").read_text())["vqa-rad"]["closed_accuracy"]
    assert (figure["n"], figure["n_items"], figure["n_unanswered"]) == (7, 12, 5)


def test_broken_line_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    run(questions(), FakeAnswerer(), tmp_path)
    path = tmp_path / "vqa-rad" / "outputs.jsonl"
    path.write_text("{]\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1 is no output"):
        run(questions(), FakeAnswerer(), tmp_path)


def test_a_changed_question_is_asked_again(tmp_path: Path) -> None:
    run(questions(), FakeAnswerer(), tmp_path)
    changed = [*questions()[:-1], replace(questions()[-1], prompt="Is it not?")]
    run(changed, second := FakeAnswerer(), tmp_path)
    assert second.asked == ["no-11.png"]
    assert score_dir(tmp_path)["vqa-rad"]["closed_accuracy"]["n"] == 12


def test_another_model_or_other_settings_need_another_folder(tmp_path: Path) -> None:
    run(questions(), FakeAnswerer(), tmp_path)
    with pytest.raises(ValueError, match="holds answers of the model m1; got m2"):
        run(questions(), FakeAnswerer("m2"), tmp_path)
    with pytest.raises(ValueError, match=r"made otherwise \(max_new_tokens 32, now 64\)"):
        run(questions(), FakeAnswerer(), tmp_path, RunOptions(max_new_tokens=64))
    with pytest.raises(ValueError, match=r"made otherwise \(version 2 of the task, now 7\)"):
        run(questions(), FakeAnswerer(), tmp_path, task={"version": 7})


def test_a_mended_model_answers_anew_and_its_old_answers_are_kept(tmp_path: Path) -> None:
    """The same weights with another tokenizer, say; half of the old run, so that a stale answer would be counted."""
    old, new = f"m1+{'a' * 16}", f"m1+{'b' * 16}"
    with pytest.raises(KeyboardInterrupt):
        run(questions(), FakeAnswerer(old, stop_after=7), tmp_path)
    before = texts(tmp_path)
    assert run(questions(), model := FakeAnswerer(new), tmp_path) == [] and len(model.asked) == 12
    assert {output.model for output in read_outputs(tmp_path / "vqa-rad" / "outputs.jsonl")} == {new}
    kept = read_outputs(tmp_path / "vqa-rad" / "outputs.before-1.jsonl")
    assert [(output.item_id, output.text) for output in kept] == before and {output.model for output in kept} == {old}
    run(questions(), once_more := FakeAnswerer(new), tmp_path)
    assert once_more.asked == [] and not (tmp_path / "vqa-rad" / "outputs.before-2.jsonl").exists()
    record = json.loads((tmp_path / "vqa-rad" / "run.json").read_text())
    assert (record["model_fingerprint"], record["model_identity"]) == ("weights", new)


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    busy = pytest.raises(ValueError, match="another run is writing it")
    with OutputFile(tmp_path / "vqa-rad" / "outputs.jsonl"), busy:
        run(questions(), FakeAnswerer(), tmp_path)
    run(questions(), FakeAnswerer(), tmp_path)


def test_items_that_make_a_figure_wrong_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    train = next(name for name in (f"patient-{number}" for number in range(99)) if side(name) == "train")
    first, second, *rest = questions()
    for items, message in (
        ([first, first, *rest], "q0 is there more than once"),
        ([first, replace(second, group=train), *rest], "the patient is on another side"),
        ([first, replace(second, files=first.files, group=rest[-1].group)], "is of 2 groups"),
    ):
        with pytest.raises(ValueError, match=message):
            run(items, model := FakeAnswerer(), tmp_path)
        assert model.asked == []


@pytest.mark.parametrize("bad", [0, 5, 11])
def test_a_bad_picture_fails_alone_by_name_and_stays_in_n(tmp_path: Path, bad: int) -> None:
    assert run(questions(bad=bad), FakeAnswerer(), tmp_path) == [f"q{bad}"]
    outputs = {o.item_id: o for o in read_outputs(tmp_path / "vqa-rad" / "outputs.jsonl")}
    assert outputs[f"q{bad}"].error == "bad.png: truncated; fetch it again"
    figure = score_dir(tmp_path)["vqa-rad"]["closed_accuracy"]
    assert (figure["value"], figure["n"], figure["n_failed"]) == (pytest.approx(11 / 12), 12, 1)
    assert (figure["n_failed_counted_wrong"], figure["value_of_answered"]) == (1, 1.0)
    assert run(questions(bad=bad), again := FakeAnswerer(), tmp_path) == [f"q{bad}"]
    assert again.asked == []
    assert CliRunner().invoke(evals.cli.app, ["score", str(tmp_path)]).exit_code == 1


def test_a_row_that_cannot_be_read_fails_by_its_reason_and_stays_in_n(tmp_path: Path) -> None:
    items = [*questions()[:-1], replace(questions()[-1], fault="row 12: no answer")]
    assert run(items, model := FakeAnswerer(), tmp_path) == ["q11"]
    assert len(model.asked) == 11
    figure = score_dir(tmp_path)["vqa-rad"]["closed_accuracy"]
    assert (figure["value"], figure["n"], figure["n_failed"]) == (pytest.approx(11 / 12), 12, 1)


def test_questions_about_one_picture_are_put_together(tmp_path: Path) -> None:
    pictures = ["a", "b", "a", "c", "b", "a"]
    items = [replace(item, files=(p,), group=p) for item, p in zip(questions(6), pictures, strict=True)]
    assert [item.item_id for item in side_by_side(items)] == ["q0", "q2", "q5", "q1", "q4", "q3"]
    heads = [replace(item, files=(), prompt=head + "x" * 200) for item, head in zip(items, "ababca", strict=True)]
    assert [item.item_id for item in side_by_side(heads)] == ["q0", "q2", "q5", "q1", "q3", "q4"]


def drawn(*texts: str) -> Output:
    return Output("q0", "", "m", text=texts[0], samples=texts)


@pytest.mark.parametrize(
    ("draws", "winner"),
    [
        (("no", "Yes.", "Final answer: yes"), "Yes."),
        (("no", "yes", "no", "yes"), "no"),
        (("", "", "yes"), "yes"),
        (("", ""), ""),
        (("no",), "no"),
    ],
)
def test_the_majority_of_the_parsed_answers_counts(draws: tuple[str, ...], winner: str) -> None:
    """Ties go to the earliest, and a draw that says nothing has no vote."""
    task = replace(TASK, parse=lambda item, text: vqa_rad.parse_answer(text).lower())
    assert voted(task, questions()[0], drawn(*draws)).text == winner


# --- the cache ---


def test_a_cached_answer_is_taken_over_and_says_so(tmp_path: Path) -> None:
    items = with_pictures(tmp_path)
    with AnswerCache(tmp_path / "cache") as cache:
        run(items, FakeAnswerer(), tmp_path / "one", cache=cache)
        run(items, again := FakeAnswerer(), tmp_path / "two", cache=cache)
    assert again.asked == [] and sorted(texts(tmp_path / "one")) == sorted(texts(tmp_path / "two"))
    one, two = (score_dir(tmp_path / name)["vqa-rad"]["closed_accuracy"] for name in ("one", "two"))
    assert (one["value"], one["n_cached"]) == (two["value"], 0) == (1.0, 0) and two["n_cached"] == 12


def test_nothing_stale_comes_out_of_the_cache(tmp_path: Path) -> None:
    """Another model, setting, version, prompt, or other bytes under the picture's name: asked again."""
    items = with_pictures(tmp_path)
    changes: list[dict[str, Any]] = [
        {"model": FakeAnswerer("m2")},
        {"options": RunOptions(max_new_tokens=64)},
        {"task": {"version": 7}},
        {"items": [replace(item, prompt="Is it not?") for item in items]},
    ]
    with AnswerCache(tmp_path / "cache") as cache:
        run(items, FakeAnswerer(), tmp_path / "first", cache=cache)
        for number, change in enumerate(changes):
            call = {"items": items, "model": FakeAnswerer(), **change}
            run(out=tmp_path / str(number), cache=cache, **call)
            assert len(call["model"].asked) == 12, change
    Path(items[3].files[0]).write_bytes(b"another picture")
    with AnswerCache(tmp_path / "cache") as cache:
        run(items, model := FakeAnswerer(), tmp_path / "bytes", cache=cache)
    assert model.asked == [Path(items[3].files[0]).name]


def test_failures_are_not_kept(tmp_path: Path) -> None:
    items = with_pictures(tmp_path, bad=4)
    with AnswerCache(tmp_path / "cache") as cache:
        assert run(items, FakeAnswerer(), tmp_path / "one", cache=cache) == ["q4"]
        assert run(items, FakeAnswerer(), tmp_path / "two", cache=cache) == ["q4"]
    (tmp_path / "cache" / "answers.sqlite").write_text("no database, but long enough to be looked at" * 9)
    with pytest.raises(ValueError, match="is no cache of answers"):
        AnswerCache(tmp_path / "cache")


def with_pictures(folder: Path, bad: int | None = None) -> list[Item]:
    """The questions, their pictures as files in a folder."""
    items = [replace(item, files=(str(folder / item.files[0]),)) for item in questions(bad=bad)]
    for item in items:
        Path(item.files[0]).write_bytes(item.item_id.encode())
    return items


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
    run(items, FakeAnswerer(), tmp_path)
    run(items, FakeAnswerer(), tmp_path, RunOptions(condition="shuffled"))
    scores = score_dir(tmp_path)
    real, other = (scores[name]["closed_accuracy"]["value"] for name in ("vqa-rad", "vqa-rad:shuffled"))
    difference = scores["vqa-rad"]["closed_accuracy_real_minus_shuffled"]
    assert difference["value"] == pytest.approx(real - other) and difference["n"] == 40


def test_answers_of_several_batches_keep_their_order() -> None:
    outputs = list(answer_items(questions(bad=6), FakeAnswerer(batch=5), Generation()))
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
    with OutputFile(folder / "outputs.jsonl") as file:
        for output in outputs:
            file.write(output)
    write_items(folder / "items.jsonl", items)
    (folder / "run.json").write_text("{}")
    figures = score_dir(tmp_path)["zero-shot-mednist"]
    assert {name: (figure["value"], figure["n"]) for name, figure in figures.items()} == {
        "accuracy": (0.8, 5),
        "macro_f1": (pytest.approx((1 + 2 * 2 / 5) / 2), 5),
        "macro_auroc_one_vs_rest": (1.0, 4),
    }
    assert figures["macro_auroc_one_vs_rest"]["n_left_out"] == 1
    assert figures["accuracy"]["value_of_answered"] == 1.0


@pytest.mark.kit
def test_command_runs_resumes_and_scores(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"text": FakeAnswerer(), "label": FakeEmbedder()}
    monkeypatch.setattr(evals.asking, "load_model", lambda answers, *rest: models[answers])
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
    monkeypatch.setattr(evals.asking, "load_model", lambda *rest: FakeAnswerer(batch=16))
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


@pytest.mark.parametrize("name", TASKS)
def test_show_says_how_a_task_is_run(name: str) -> None:
    output = CliRunner().invoke(evals.cli.app, ["show", name]).output
    for wanted in (f"{name}, version ", "\nsides ", "\nanswers ", "\nmain metric ", "\nwording "):
        assert wanted in output


def test_list_names_every_task() -> None:
    output = CliRunner().invoke(evals.cli.app, ["list"]).output
    assert all(name in output for name in TASKS)
