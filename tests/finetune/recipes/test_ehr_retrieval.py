"""The recipe `ehr_retrieval`: prompts that fit, answers graded as right, its reward, a table of one's own records."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evals.items import Item
from evals.tasks.record_questions import CHARACTERS_A_TOKEN, fact_line
from finetune.cli import app
from finetune.recipes import ehr_retrieval
from finetune.recipes.ehr_retrieval import kind, questions, reward, right_answer
from finetune.tables import learning, of_sets
from finetune.tables.examples import with_shuffled_answers
from finetune.tables.learning import Lessons, divided
from finetune.tables.scoring import CommonestAnswer
from medgemma.records import facts_of


@pytest.fixture(scope="module")
def held_out(kit: Path) -> list[Item]:
    return questions(kit, "held-out", 120)


@pytest.mark.kit
def test_every_prompt_fits_and_what_is_learned_is_right(held_out: list[Item]) -> None:
    items = held_out
    assert len(items) == 460  # as many as kit-ehrqa has
    for item in items:
        record = item.prompt.partition("--- begin of the record ---\n")[2].partition("\n--- end")[0]
        assert len(record) <= 120 * CHARACTERS_A_TOKEN and record.startswith("Patient | born")
        assert reward(item, right_answer(item)) == 1 and reward(item, "I do not know") == 0
    cut = [item for item in items if "more facts left out)" in item.prompt]
    assert 100 < len(cut) < 460


@pytest.mark.kit
def test_the_fact_asked_for_is_among_those_that_fit(held_out: list[Item]) -> None:
    """Where one value on one day is asked for, it stands in the prompt, though the whole record has thousands."""
    items = [item for item in held_out if item.meta["category"] in ("obs_on_date", "cond_status")]
    there = [is_said(item.prompt.partition("--- end")[0], json.loads(item.meta["answer_value"])) for item in items]
    assert len(items) > 40 and sum(there) / len(there) > 0.95


def is_said(record: str, value: Any) -> bool:
    """A status by its word; a quantity by its number, rounded to one decimal as the references are."""
    if isinstance(value, str):
        return value in record
    return any(abs(float(number) - value["value"]) <= 0.0501 for number in re.findall(r"\| (-?[\d.]+) ", record))


@pytest.mark.kit
def test_the_commonest_answer_is_that_of_the_kind(kit: Path, held_out: list[Item]) -> None:
    """Every record is a question of its own, so the commonest answer goes by kind; patients stay on their side."""
    every, asked = questions(kit, "train", 120), held_out
    train, validation = divided(every)
    assert not {item.group for item in train} & {item.group for item in (*validation, *asked)}
    assert len(train) + len(validation) == len(every) and len(validation) > 100
    commonest = CommonestAnswer.of(train, right_answer, kind, asked)
    texts = [reply.text for reply in commonest.ask_each([((), item.prompt) for item in asked], max_new_tokens=8)]
    by_kind = {item.meta["category"]: text for item, text in zip(asked, texts, strict=True)}
    assert by_kind["cond_present"] == "yes" and by_kind["cond_absent"] == "no" and by_kind["allergy"] == "none"
    assert {texts[n] for n, item in enumerate(asked) if kind(item) == "allergy"} == {"none"}


@pytest.mark.kit
def test_the_control_learns_and_is_chosen_by_other_answers_of_the_kind(held_out: list[Item]) -> None:
    """What an item is graded by goes with the answer, else the control's weights would be chosen by right ones."""
    shuffled = with_shuffled_answers(held_out, 0)
    assert sorted(i.reference for i in shuffled) == sorted(i.reference for i in held_out)
    assert all(reward(item, right_answer(item)) == 1 for item in shuffled)
    moved = [new.reference != old.reference for new, old in zip(shuffled, held_out, strict=True)]
    assert sum(moved) > 200 and all(kind(a) == kind(b) for a, b in zip(shuffled, held_out, strict=True))


def own_records(folder: Path, patients: int = 12) -> Path:
    """A bundle a patient, and a table with a question to each."""
    lines = []
    for number in range(patients):
        allergy = {"resourceType": "AllergyIntolerance", "code": {"text": "Latex allergy"}} if number % 2 else {}
        resources = [{"resourceType": "Patient", "id": f"p{number}", "birthDate": "1960-01-02"}, allergy]
        entries = [{"resource": resource} for resource in resources if resource]
        (folder / f"{number}.json").write_text(json.dumps({"resourceType": "Bundle", "entry": entries}))
        side = ("train", "train", "validation", "test")[number // 2 % 4]
        lines.append({"record": f"{number}.json", "question": "Is there an allergy to latex?", "split": side,
                      "answer": "yes" if number % 2 else "no", "patient": f"p{number}"})  # fmt: skip
    (folder / "T.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "T.jsonl"


def test_a_table_of_records_is_asked_by_its_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Lessons] = []
    monkeypatch.setattr(ehr_retrieval, "learn", lambda config, lessons, *rest: seen.append(lessons))
    arguments = ["run", "ehr_retrieval", "--table", str(own_records(tmp_path)), "--files", "record"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, (result.output, result.exception)
    [lessons] = seen
    assert len(lessons.train) == 8 and len(lessons.validation) == 2 and not any(i.files for i in lessons.train)
    for item in (*lessons.train, *lessons.validation):
        assert ("AllergyIntolerance | Latex allergy" in item.prompt) == (lessons.completion(item) == "yes")
        assert "Patient | born 1960-01-02" in item.prompt and "Is there an allergy to latex?" in item.prompt


def test_a_file_of_two_patients_is_refused_by_name(tmp_path: Path) -> None:
    path = own_records(tmp_path)
    two = [{"resource": {"resourceType": "Patient", "id": name, "name": [{"family": "Zyxwv"}]}} for name in "ab"]
    (tmp_path / "0.json").write_text(json.dumps({"resourceType": "Bundle", "entry": two}))
    said = CliRunner().invoke(
        app,
        ["run", "ehr_retrieval", "--table", str(path), "--files", "record", "--out", str(tmp_path / "out"), "--quiet"],
    )
    assert "0.json: holds 2 patients; expected one a file" in str(said.exception) and "Zyxwv" not in said.output
    assert not (tmp_path / "out").exists()


def test_a_table_without_questions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "T.csv").write_text("record,label\na.json,x\nb.json,y\n")
    for name in "ab":
        (tmp_path / f"{name}.json").write_text("{}")
    arguments = ["run", "ehr_retrieval", "--table", str(tmp_path / "T.csv"), "--files", "record", "--label", "label"]
    said = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert "has no questions with answers; name the columns" in str(said.exception)


def test_what_follows_a_name_is_what_is_asked_for() -> None:
    resource = {"resourceType": "Observation", "code": {"text": "Urate"}, "effectiveDateTime": "2002-01-02",
                "valueQuantity": {"value": 7.1, "unit": "mg/dL"}}  # fmt: skip
    assert fact_line(facts_of([resource]).facts[0]) == "Observation | Urate | 2002-01-02 | 7.1 mg/dL"


@pytest.mark.slow
def test_a_table_becomes_a_scored_model(shapes: Callable[[str], Path], tmp_path: Path) -> None:
    """A few steps from bundles to a table of before and after, of nano's weights under the Hub's files."""
    settings = [
        f"model={shapes('hub')}",
        "epochs=2",
        "merge=false",
        "examples_per_step=4",
        "evaluations=1",
        "adapter.method=lora",
    ]
    arguments = ["run", "ehr_retrieval", "--table", str(own_records(tmp_path)), "--files", "record", "--quiet"]
    arguments += ["--question", "question", "--answer", "answer", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments + [f"--set={setting}" for setting in settings])
    assert result.exit_code == 0, (result.output, result.exception)
    rows = json.loads((tmp_path / "out" / "scores" / "before_after.json").read_text())["rows"]
    assert {row["part"] for row in rows} == {"learned"} and rows[0]["difference"]["n"] == 2
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.kit
def test_the_kit_ends_in_a_table_of_before_and_after(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps, six questions of each task; the commonest answer stands beside them."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "synthea-fhir-r4").symlink_to(kit / "synthea-fhir-r4")
    monkeypatch.setattr(of_sets, "QUICK_ITEMS", 6)
    monkeypatch.setattr(learning, "QUICK_STEPS", 2)
    arguments = ["run", "ehr_retrieval", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--quiet"]
    settings = ("quick=true", "examples_per_step=2", "evaluations=0", "merge=false", "adapter.method=lora")
    result = CliRunner().invoke(app, arguments + [f"--set={setting}" for setting in settings])
    assert result.exit_code == 0, (result.output, result.exception)
    rows = json.loads((tmp_path / "out" / "scores" / "before_after.json").read_text())["rows"]
    right = {row["task"]: row for row in rows if row["metric"] == "accuracy"}
    assert set(right) == {"kit-ehrqa-facts", "kit-ehrqa-section"} and {row["part"] for row in rows} == {"learned"}
    assert all(row["difference"]["n"] + row["left_out"] == 6 for row in right.values())
    assert all("commonest answer" in row["baselines"] for row in right.values())
    facts, section = right["kit-ehrqa-facts"], right["kit-ehrqa-section"]
    assert facts["left_out"] == 0 < section["left_out"]  # whole sections do not fit nano, facts do
