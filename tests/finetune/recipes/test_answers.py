"""The recipe `answers`: one command from a table to a scored adapter and its merge; what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune.cli import app
from medgemma import MedGemma
from medgemma.checkpoints.adapters.trained_on import read_trained_on
from tests.finetune.tables.test_examples import colour_table

SHORT = ("epochs=8", "examples_per_step=8", "learning_rate=2e-3", "evaluations=2", "adapter.parts=[language,projector]")


def ran(table: Path, out: Path, *settings: str, status: int = 0, **options: str) -> str:
    arguments = ["run", "answers", "--table", str(table), "--out", str(out), "--quiet"]
    arguments += [f"--set={setting}" for setting in settings]
    arguments += [word for name, value in options.items() for word in (f"--{name}", value)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status, (result.output, result.exception)
    return result.output + str(result.exception or "")


def value(out: Path, against: str) -> dict[str, Any]:
    comparison = json.loads((out / "scores" / "gain.json").read_text())[against]
    [found] = [m for m in comparison["tasks"][0]["metrics"] if m["metric"] == "accuracy"]
    return dict(found)


@pytest.mark.slow
def test_a_table_becomes_a_scored_adapter_and_its_merge(tmp_path: Path) -> None:
    """Three colours are learned; the scores are of the files that were written; a second run goes on from the end."""
    table = colour_table(tmp_path / "data", rows=48)
    said = ran(table, tmp_path / "out", *SHORT, group="patient")
    assert "language" in said and "low-rank" in said and "whole" in said  # what is trained, before the first step
    found = value(tmp_path / "out", "commonest answer")
    assert found["second"]["value"] == 1.0 and found["second"]["n"] == 12
    assert found["difference"]["ci95"][0] > 0
    record = read_trained_on(tmp_path / "out" / "adapter")
    assert record and record.base == "nano" and "A: blue" in record.prompt_form["prompts"][0]
    films = [tmp_path / "data" / f"{number}.png" for number in (9, 10, 11)]
    [asked] = record.prompt_form["prompts"]
    tuned = MedGemma.from_pretrained("nano", device="cpu", adapter=tmp_path / "out" / "adapter")
    merged = MedGemma.from_pretrained(tmp_path / "out" / "model", device="cpu", dtype="float32")
    answers = [[model.ask(film, asked)[0].text for film in films] for model in (tuned, merged)]
    assert answers[0] == answers[1] == ["Final Answer: C", "Final Answer: B", "Final Answer: A"]
    weights = (tmp_path / "out" / "adapter" / "adapter_model.safetensors").read_bytes()
    ran(table, tmp_path / "out", *SHORT, group="patient")
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_free_answers_about_no_picture_and_a_model_in_full(tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"What is {n} called?", "answer": f"name {n}"}) for n in range(40)]
    (tmp_path / "T.jsonl").write_text("\n".join(lines) + "\n")
    settings = ("adapter.method=full", "learning_rate=1e-4", "epochs=1", "packed=true", "max_tokens=128")
    said = ran(tmp_path / "T.jsonl", tmp_path / "out", *settings, "tokens_a_part=256")
    assert "table-answers" in said and not (tmp_path / "out" / "adapter").exists()
    MedGemma.from_pretrained(tmp_path / "out" / "model", device="cpu")


def test_what_is_refused_before_the_first_step(tmp_path: Path) -> None:
    table = colour_table(tmp_path / "data", broken=1)
    assert "rows cannot be learned from: T.csv row 3" in ran(table, tmp_path / "a", status=1)
    assert "expected one of red, blue" in ran(table, tmp_path / "b", status=1, classes="red;blue")
    assert "has no column 'tumour'" in ran(table, tmp_path / "c", status=1, label="tumour")
    header = table.read_text().replace("label", "x17", 1)
    table.write_text(header)
    assert "cannot tell which column is the label" in ran(table, tmp_path / "d", status=1)
    said = CliRunner().invoke(app, ["run", "answers", "--out", str(tmp_path / "e")])
    assert "give a table of yours (--table T)" in str(said.exception)
    said = CliRunner().invoke(app, ["run", "nano", "--table", str(table), "--out", str(tmp_path / "e")])
    assert "learns from a folder of data, no table; give --data DIR" in str(said.exception)
