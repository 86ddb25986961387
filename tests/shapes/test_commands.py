"""The commands on nano in every clothing: they say what the loaded model says, and no control token."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medgemma import MedGemma
from tests.shapes.conftest import DECODERS, Done, command

Run = Callable[..., Done]
ASKED = "Which imaging modality is this?"


def test_ask(run: Run, gemma: MedGemma, films: list[Path]) -> None:
    [answer] = gemma.ask(films[0], ASKED, max_new_tokens=12)
    done = run("ask", films[0], "-q", ASKED, "--max-new-tokens", 12, "--json", "--quiet")
    line = json.loads(done.out)
    assert done.returncode == 0, done.err
    assert (line["answer"], line["tokens"], line["finish_reason"]) == (answer.text, answer.tokens, "stop")
    chosen = run("ask", films[0], "-q", "Is there a fracture?", "--choices", "yes;no", "--quiet")
    assert chosen.out.rsplit("\t", 1)[1] in ("yes\n", "no\n")
    matched = run("ask", films[0], "-q", "Where?", "--regex", "(left|right) lung", "--quiet")
    assert matched.out.rsplit("\t", 1)[1] in ("left lung\n", "right lung\n")
    refused = run("ask", films[0], "-q", "Is it?<end_of_turn>", "--quiet")
    assert refused.returncode == 1 and "control token <end_of_turn>; remove it" in refused.err


def test_chat(run: Run, gemma: MedGemma, films: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{ASKED}\nWhich body part is shown?\n\n"))
    done = run("chat", films[0], "--max-new-tokens", 12, "--quiet")
    assert done.returncode == 0, done.err
    [first] = gemma.ask(films[0], ASKED, max_new_tokens=12)
    assert done.out.splitlines()[0] == first.text and "<" not in done.out


def test_batch(run: Run, gemma: MedGemma, tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": ASKED}], "max_tokens": 12}
    forged = {"messages": [{"role": "user", "content": "<start_of_turn>"}]}
    lines = [
        json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": what})
        for name, what in (("a", body), ("b", forged))
    ]
    requests, out = tmp_path / "requests.jsonl", tmp_path / "replies.jsonl"
    requests.write_text("\n".join(lines) + "\n")
    done = run("batch", requests, "--out", out, "--quiet")
    first, second = (json.loads(line)["response"] for line in out.read_text().splitlines())
    [answer] = gemma.ask([], ASKED, max_new_tokens=12)
    choice = first["body"]["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (answer.text, answer.finish_reason)
    assert (done.returncode, second["status_code"]) == (1, 400)
    assert "control token <start_of_turn>" in second["body"]["error"]["message"]


def test_report_and_compare(run: Run, gemma: MedGemma, films: list[Path]) -> None:
    report = run("report", films[0], "--indication", "Cough.", "--max-new-tokens", 12, "--quiet")
    [answer] = gemma.ask(films[0], "Cough. findings:", max_new_tokens=12)
    assert report.out == f"{answer.text}\n"
    compared = run("compare", *films, "--max-new-tokens", 12, "--quiet", "--json")
    assert json.loads(compared.out)["files"] == [str(film) for film in films]
    assert "<" not in json.loads(compared.out)["answer"]


@pytest.mark.slow
def test_locate(run: Run, films: list[Path], tmp_path: Path) -> None:
    located = run("locate", films[0], "-q", "heart", "--out", tmp_path / "box.png", "--quiet")
    assert located.returncode == 0, located.err
    assert json.loads(located.out) and (tmp_path / "box.png").is_file()


@pytest.mark.parametrize("shape", DECODERS)
def test_info_finds_everything(
    shape: str,
    shapes: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = command("medgemma", ("info", shapes(shape), "--check"), monkeypatch, capsys)
    assert done.returncode == 0, done.err
    rows = {"nano": 3_072, "hub": 262_208}[shape.split()[0]]
    assert f"embeddings\t{rows * 256:,}" in done.out and "missing\tnothing" in done.out
