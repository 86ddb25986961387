"""A table in, a table of answers out: every row has its line, probabilities are the model's, a killed run goes on."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from data_cards.table import Columns, read_table
from medgemma import AnswerOptions, MedGemma, Sampling
from medgemma.endpoint import Endpoint, EndpointRefused
from medgemma.server.embedded import EmbeddedBackend
from medgemma.server.settings import Settings
from medgemma.server.state import Loaded
from medgemma.table_answers import TableQuestions, answer_table, of_endpoint, of_model
from tests import tiny
from tests.medgemma.server.conftest import running
from tests.nano import needs_nano


def table(tmp_path: Path, *, question: str = "") -> Path:
    from PIL import Image

    for number in range(3):
        Image.fromarray(tiny.picture_array(number)).save(tmp_path / f"{number}.png")
    lines = ["film,ask", *(f"{name}.png,Which view {name}?" for name in (0, 1, 2, "gone"))]
    path = tmp_path / "T.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(
    gemma: MedGemma | Endpoint, source: Path, out: Path, question: str = "none", overwrite: bool = False, **given: Any
) -> tuple[list[Any], list[Any]]:
    read = read_table(source, Columns(files=("film",), question=question, label=("none",)), labelled=False)
    problems: list[Any] = []
    asked = TableQuestions(**{"questions": (), "max_new_tokens": 4, **given})
    answerer = of_endpoint(gemma, asked) if isinstance(gemma, Endpoint) else of_model(gemma, asked)
    answer_table(answerer, read, asked, out, overwrite=overwrite, on_problem=problems.append)
    with out.open(newline="") as file:
        return list(csv.DictReader(file)), problems


def test_every_row_has_its_line(gemma: MedGemma, tmp_path: Path) -> None:
    lines, problems = run(gemma, table(tmp_path), tmp_path / "out.csv", "ask")
    assert [line["question"] for line in lines[:3]] == [f"Which view {n}?" for n in range(3)]
    local = gemma.ask(str(tmp_path / "1.png"), "Which view 1?", max_new_tokens=4)[0]
    assert lines[1]["answer"] == local.text and lines[1]["finish_reason"] == local.finish_reason
    assert len(lines) == 4 and "no such file" in lines[3]["error"] and len(problems) == 1
    assert not (tmp_path / "out.csv.partial").exists()


def test_the_table_is_never_written_over(gemma: MedGemma, tmp_path: Path) -> None:
    source = table(tmp_path)
    before = source.read_bytes()
    with pytest.raises(ValueError, match="T.csv: the table's own file; give another --out"):
        run(gemma, source, source, "ask")
    assert source.read_bytes() == before


def test_probabilities_of_choices(gemma: MedGemma, tmp_path: Path) -> None:
    asked = {"questions": ("Is it PA?", "Is it AP?"), "choices": ("yes", "no")}
    lines, _ = run(gemma, table(tmp_path), tmp_path / "out.csv", **asked)
    assert len(lines) == 7
    first = lines[0]
    scores = gemma.score(str(tmp_path / "0.png"), "Is it PA?", ["yes", "no"])
    shares = {"yes": float(first["probability_yes"]), "no": float(first["probability_no"])}
    assert sum(shares.values()) == pytest.approx(1) and first["answer"] == max(shares, key=shares.__getitem__)
    import math

    assert math.log(shares["yes"] / shares["no"]) == pytest.approx(scores[0].logprob - scores[1].logprob, abs=1e-4)


def test_a_run_that_was_killed_goes_on(gemma: MedGemma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = table(tmp_path), tmp_path / "out.csv"
    ask, asked = gemma.ask_parts, []

    def dies(requests: Any, *rest: Any) -> Any:
        asked.append(requests[0][1])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ask(requests, *rest)

    monkeypatch.setattr(gemma, "ask_parts", dies)
    with pytest.raises(KeyboardInterrupt):
        run(gemma, source, out, "ask")
    assert not out.exists()
    with (tmp_path / "out.csv.partial").open("a") as journal:
        journal.write('{"key": "half')  # what a kill may leave
    lines, _ = run(gemma, source, out, "ask")
    assert asked == [f"Which view {n}?" for n in (0, 1, 2, 2)]
    assert [line["row"] for line in lines[:3]] == [f"T.csv row {n}" for n in (2, 3, 4)]


def test_a_finished_table_is_added_to_and_never_replaced_in_silence(
    gemma: MedGemma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = table(tmp_path), tmp_path / "out.csv"
    first, _ = run(gemma, source, out, "ask")
    before = out.read_bytes()
    with pytest.raises(ValueError, match="holds something else than this model's answers to these questions"):
        run(gemma, source, out, questions=("Is it PA?",))
    assert out.read_bytes() == before
    (tmp_path / "gone.png").write_bytes((tmp_path / "0.png").read_bytes())
    ask, asked = gemma.ask_parts, []
    monkeypatch.setattr(gemma, "ask_parts", lambda r, *rest: (asked.append(r[0][1]), ask(r, *rest))[1])
    again, problems = run(gemma, source, out, "ask")
    assert asked == ["Which view gone?"] and again[:3] == first[:3] and not again[3]["error"] and not problems
    other, _ = run(gemma, source, out, questions=("Is it PA?",), overwrite=True)
    assert [line["question"] for line in other] == ["Is it PA?"] * 4
    (tmp_path / "own.csv").write_text("file,label\n0.png,PA\n")
    with pytest.raises(ValueError, match="holds something else"):
        run(gemma, source, tmp_path / "own.csv", "ask")


@needs_nano
def test_a_server_gives_what_the_model_gives(tmp_path: Path) -> None:
    nano = MedGemma.from_pretrained("nano", device="cpu")
    backend = EmbeddedBackend(nano, Settings())
    source = table(tmp_path)
    asked: dict[str, Any] = {"questions": ("Is it PA?", "Which organ?"), "max_new_tokens": 8}
    asked["options"] = AnswerOptions(Sampling(8))
    local, _ = run(nano, source, tmp_path / "a.csv", **asked)
    chosen, _ = run(nano, source, tmp_path / "b.csv", choices=("yes", "no"), **asked)
    with running(lambda metrics: Loaded(backend)) as served, Endpoint(served.url, retries=0) as endpoint:
        remote, problems = run(endpoint, source, tmp_path / "c.csv", **asked)
        shares, _ = run(endpoint, source, tmp_path / "d.csv", choices=("yes", "no"), **asked)
        endpoint.model = "other"
        with pytest.raises(EndpointRefused, match="no such model here"):
            run(endpoint, source, tmp_path / "e.csv", **asked)
    said = ("row", "question", "answer", "finish_reason")
    assert [[line[name] for name in said] for line in remote] == [[line[name] for name in said] for line in local]
    assert len(problems) == 1 and "no such file" in problems[0].reason
    for ours, theirs in zip(shares[:6], chosen[:6], strict=True):
        assert ours["answer"] == theirs["answer"]
        assert float(ours["probability_yes"]) == pytest.approx(float(theirs["probability_yes"]), abs=1e-4)


def test_the_command(command: Any, tiny_folder: Path, tmp_path: Path) -> None:
    source, out = table(tmp_path), tmp_path / "out.parquet"
    common = ["--model", tiny_folder, "--device", "cpu", "--quiet", "--max-new-tokens", 4]
    done = command("ask", "--table", source, "--files", "film", "-q", "ask", "--out", out, *common)
    assert done.returncode == 1 and "no such file" in done.stderr
    from pyarrow import parquet

    found = parquet.read_table(out).to_pylist()
    assert len(found) == 4 and json.loads(json.dumps(found[0]))["question"] == "Which view 0?"
    refused = command("ask", "--table", source, "-q", "ask", *common)
    assert refused.returncode == 1 and "--table needs --out" in refused.stderr
    idle = command("ask", "--table", source, "-q", "ask", "--out", out, "--regex", "[A-E]", *common)
    assert idle.returncode == 1 and "--regex does not go with --table" in idle.stderr
    below = command("ask", "--table", source, "-q", "ask", "--out", source / "x.csv", *common)
    assert below.returncode == 1 and "T.csv: a file; a folder is needed there" in below.stderr
    alone = command("ask", "-q", "ask", "--endpoint", "http://127.0.0.1:1/v1", *common)
    assert alone.returncode == 1 and "--endpoint goes with --table" in alone.stderr
    unread = command("ask", "-q", "ask", "--files", "film", *common)
    assert unread.returncode == 1 and "--files goes with --table; leave it out" in unread.stderr
