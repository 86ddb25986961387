"""Whole runs on a server that misbehaves: every item has an output, the faults are named, and n is whole."""

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

import evals.cli
from evals.generation import Generation
from evals.items import Item
from evals.outputs import read_outputs
from evals.results.scores import score_dir
from evals.running.answering import MAX_FAULTS_IN_A_ROW, answer_on_server
from evals.running.options import RunOptions
from evals.running.runner import run_task
from evals.tasks.catalogue import TASKS
from medgemma.endpoint import Endpoint, EndpointRefused
from tests.evals.runs import HELD_OUT_GROUPS
from tests.medgemma.faulty_server import Server, serving, text_of

PLAIN = RunOptions()


def text_items(n: int) -> list[Item]:
    """Yes/no questions without pictures; the answer is yes."""
    meta = {"card": "vqa-rad", "organ": "CHEST"}
    return [Item(f"q{i}", (), f"Is {i} there?", "Yes", "closed", HELD_OUT_GROUPS[i], meta) for i in range(n)]


def run(server: Server, items: list[Item], out: Path, options: RunOptions = PLAIN, **how: object) -> list[str]:
    task = replace(TASKS["vqa-rad"], items=lambda data_dir, options: items)
    endpoint = Endpoint(server.url, timeout_s=5, retries=1, sleep=lambda s: None)
    with endpoint, mock.patch("evals.running.record.data_hashes", lambda cards, data_dir: ({}, [])):
        ran = run_task(task, options, "nowhere", out, endpoint, endpoint.fingerprint, "test", **how)  # type: ignore[arg-type]
    return sorted(f"{output.item_id}: {output.error}" for output in ran.failed)


def faulty(faults: dict[str, str]) -> Callable[[str, int], str]:
    """A fault of the item, else the answer yes."""
    return lambda prompt, before: next((fault for q, fault in faults.items() if f"Is {q} there" in prompt), "say Yes")


def test_every_fault_is_named_by_item_and_stays_in_n(tmp_path: Path) -> None:
    faults = {"1": "html", "3": "cut", "5": "status 500", "7": "status 400", "8": "no choice"}
    with serving(faulty(faults)) as server:
        failed = run(server, text_items(10), tmp_path)
        assert failed.pop(1).startswith("q3: the connection failed: peer closed connection without sending complete")
        assert failed == [
            "q1: got a web page (HTML) instead of JSON (attempts: 2)",
            "q5: HTTP 500: says no (attempts: 2)",
            "q7: HTTP 400: says no (attempts: 1)",
            "q8: the answer has no choice (attempts: 2)",
        ]
    figure = score_dir(tmp_path)["vqa-rad"]["closed_accuracy"]
    assert (figure["value"], figure["n"], figure["n_failed"], figure["n_unanswered"]) == (0.5, 10, 5, 0)
    assert (figure["value_of_answered"], figure["tokens"], figure["computed_on"]) == (1.0, 15, {})
    with serving(faulty({})) as server, mock.patch.object(Endpoint, "fingerprint", figure["model_fingerprint"]):
        assert run(server, text_items(10), tmp_path) == []
        assert sorted(text_of(body)[3] for body in server.asked) == sorted(faults)
    figure = score_dir(tmp_path)["vqa-rad"]["closed_accuracy"]
    assert (figure["value"], figure["n"], figure["n_failed"]) == (1.0, 10, 0) and "value_of_answered" not in figure


def test_items_are_asked_at_the_same_time_and_no_more_than_said(tmp_path: Path) -> None:
    """The server answers only when four requests are there: one at a time would never end."""
    with serving(lambda *_: "say Yes", parallel=4) as server:
        assert run(server, text_items(12), tmp_path, concurrency=4) == []
    assert server.most_at_once == 4 and len(server.asked) == 12


def test_draws_are_all_kept_and_voted_on_when_scoring(tmp_path: Path) -> None:
    said = {0: "No", 1: "Yes.", 2: "yes"}
    with serving(lambda prompt, before: f"say {said[before]}") as server:
        run(server, text_items(4), tmp_path, RunOptions(n_samples=3, temperature=0.8, seed=7), concurrency=1)
    assert sorted({body["seed"] for body in server.asked}) == [7, 8, 9]
    outputs = read_outputs(tmp_path / "vqa-rad" / "outputs.jsonl")
    assert [list(output.samples) for output in outputs] == [["No", "Yes.", "yes"]] * 4
    figure = score_dir(tmp_path)["vqa-rad"]["closed_accuracy"]
    assert (figure["value"], figure["generation"]["n_samples"], figure["generation"]["temperature"]) == (1.0, 3, 0.8)


def test_a_dead_server_ends_the_run_after_some_items(tmp_path: Path) -> None:
    items = text_items(3 * MAX_FAULTS_IN_A_ROW)
    ended = pytest.raises(EndpointRefused, match="in a row got no answer, the last: HTTP 500.*run again")
    with serving(lambda prompt, before: "status 500") as server, ended:
        run(server, items, tmp_path)
    outputs = read_outputs(tmp_path / "vqa-rad" / "outputs.jsonl")
    assert MAX_FAULTS_IN_A_ROW <= len(outputs) < len(items)


def test_pictures_that_are_missing_do_not_end_the_run(tmp_path: Path) -> None:
    gone = [replace(item, files=(f"{item.item_id}.png",)) for item in text_items(MAX_FAULTS_IN_A_ROW + 10)]
    good = Item("good", (), "Is it there?", "Yes", "closed", HELD_OUT_GROUPS[-1], gone[0].meta)
    with serving(lambda *_: "say Yes") as server:
        assert len(run(server, [*gone, good], tmp_path)) == len(gone) and len(server.asked) == 1


def test_no_thread_is_left(tmp_path: Path) -> None:
    with serving(lambda *_: "say Yes") as server, Endpoint(server.url) as endpoint:
        outputs = answer_on_server(text_items(20), endpoint, Generation(), concurrency=3)
        next(outputs)
        outputs.close()  # type: ignore[attr-defined]
        for thread in threading.enumerate():
            if thread.name.startswith("endpoint"):
                thread.join(timeout=20)
                assert not thread.is_alive()
    assert len(server.asked) < 20


@pytest.fixture
def own_copy(tmp_path: Path) -> Path:
    """A miniature of VQA-RAD in its own layout: six held-out questions, the picture of the last one missing."""
    folder = tmp_path / "data" / "vqa-rad"
    (folder / "images").mkdir(parents=True)
    rows = [
        "file,qid,question,answer,answer_type,question_type,phrase_type,organ,official_split,patient_id,source_url,licence"
    ]
    for i in range(6):
        PIL.Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / "images" / f"{i}.png")
        rows.append(f"images/{i}.png,{i},Is {i} there?,Yes,CLOSED,PRES,freeform,CHEST,train,{HELD_OUT_GROUPS[i]},x,CC0")
    (folder / "images" / "5.png").unlink()
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_command_on_a_server(own_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["medgemma-eval", "run", "vqa-rad", "--endpoint", "URL"])
    out = tmp_path / "out"
    with serving(faulty({"2": "html"})) as server:
        options = ["--data", str(own_copy), "--out", str(out), "--endpoint", server.url, "--retries", "0", "--quiet"]
        result = CliRunner().invoke(evals.cli.app, ["run", "vqa-rad", *options])
        assert result.exit_code == 1, result.output
        assert "vqa-rad-2: got a web page (HTML) instead of JSON (attempts: 1)" in result.stderr
        assert "vqa-rad-5: " in result.stderr and "5.png" in result.stderr
        assert "vqa-rad: 2 of 6 items failed; they stay in n and count as wrong" in result.stderr
        assert "0.667 [" in result.stdout and "n=6 groups=6" in result.stdout
        assert len(server.asked) == 5
        picks = CliRunner().invoke(evals.cli.app, ["run", "zero-shot-mednist", *options])
        assert "reads the weights, which --endpoint does not show; run it without" in str(picks.exception)
        cached = CliRunner().invoke(evals.cli.app, ["run", "vqa-rad", *options, "--cache", str(tmp_path / "c")])
        assert "may change behind its name" in str(cached.exception)
    figure = json.loads((out / "scores.json").read_text())["vqa-rad"]["closed_accuracy"]
    assert figure["model"] == f"tiny at {server.url}/v1"
    assert figure["command"] == "medgemma-eval run vqa-rad --endpoint URL"
