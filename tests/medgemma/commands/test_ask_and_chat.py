"""The `medgemma` command on a tiny model: fields, refusals beside good inputs, a conversation from a pipe."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medgemma import MedGemma
from medgemma.cli import main

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Run:
    """`medgemma ARGS --model TINY --quiet`; returns the exit status."""

    def call(*arguments: object) -> int:
        words = [str(a) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["medgemma", *words, "--model", str(tiny_folder), "--quiet"])
        with pytest.raises(SystemExit) as done:
            main()
        return int(done.value.code or 0)

    return call


@pytest.fixture
def files(tmp_path: Path, images: list[Any]) -> list[Path]:
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path, image in zip(paths, images, strict=False):
        image.save(path)
    return paths


def test_ask_each_json(run: Run, files: list[Path], gemma: MedGemma, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ask", *files, "-q", "View?", "-q", "Organ?", "--each", "--json", "--max-new-tokens", 8) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    fields = {"files", "question", "answer", "thinking", "tokens", "seconds", "finish_reason"}
    assert all(line.keys() >= fields and "text" not in line for line in lines)
    asked = [(line["files"], line["question"]) for line in lines]
    assert asked == [([str(f)], q) for f in files for q in ("View?", "Organ?")]
    for line in lines:
        [answer] = gemma.ask(line["files"], line["question"], max_new_tokens=8)
        assert (line["answer"], line["tokens"], line["finish_reason"]) == (answer.text, answer.tokens, "length")
        assert line["thinking"] is None and line["seconds"] > 0


def test_ask_together_to_a_file(run: Run, files: list[Path], gemma: MedGemma, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "answers.jsonl"
    assert run("ask", *files, "-q", "Compare.", "--json", "--out", out, "--max-new-tokens", 8) == 0
    [line] = [json.loads(text) for text in out.read_text().splitlines()]
    assert line["files"] == [str(f) for f in files]
    assert line["answer"] == gemma.ask(files, "Compare.", max_new_tokens=8)[0].text


def test_bad_files_do_not_stop_the_good(
    run: Run, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    arguments = ("ask", files[0], bad, tmp_path / "gone.png", files[1], "-q", "View?", "--max-new-tokens", 4)
    assert run(*arguments, "--each") == 1
    said = capsys.readouterr()
    assert [line.split("\t")[:2] for line in said.out.splitlines()] == [[str(f), "View?"] for f in files]
    assert "bad.png" in said.err and "gone.png" in said.err and "2 input(s) could not be handled" in said.err


def test_a_question_too_long_does_not_stop_the_others(
    run: Run, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    long = "pneumothorax? " * 2000
    status = run("ask", files[0], "-q", "View?", "-q", long, "-q", "Organ?", "--json", "--max-new-tokens", 4)
    said = capsys.readouterr()
    assert status == 1
    assert [json.loads(line)["question"] for line in said.out.splitlines()] == ["View?", "Organ?"]
    assert "a.png" in said.err and "holds 2,048" in said.err
    assert len(said.err) < 1000


def test_chat_from_a_pipe(
    run: Run,
    files: list[Path],
    gemma: MedGemma,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Which view is this?\nAre you sure?\n"))
    assert run("chat", files[0], "--max-new-tokens", 8) == 0
    out = capsys.readouterr().out
    content = [{"type": "image"}, {"type": "text", "text": "Which view is this?"}]
    messages: list[Any] = [{"role": "user", "content": content}]
    first = "".join(gemma.stream(messages, files[:1], max_new_tokens=8))
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "Are you sure?"}]
    second = "".join(gemma.stream(messages, files[:1], max_new_tokens=8))
    assert out == f"{first}\n{second}\n"


def test_a_refused_turn_leaves_the_conversation_as_it_was(
    run: Run, files: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Is <eos> here?\nView?\n\nnever read\n"))
    assert run("chat", files[0], "--max-new-tokens", 4) == 1
    refused = capsys.readouterr()
    assert "control token <eos>" in refused.err
    monkeypatch.setattr(sys, "stdin", io.StringIO("View?\n"))
    assert run("chat", files[0], "--max-new-tokens", 4) == 0
    assert capsys.readouterr().out == refused.out


def test_a_mistake_is_one_line(run: Run, files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ask", files[0], "-q", "View?", "--device", "cpu", "--dtype", "float64") == 1
    err = capsys.readouterr().err
    assert err.startswith("error: dtype 'float64'") and err.count("\n") == 1
