"""The recipe `text`: the owners' releases in miniature, what is learned is graded as right, sets that are missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evals.outputs import Output
from finetune.cli import app
from finetune.recipes.text import kind, letter_line
from finetune.tables import of_sets
from finetune.tables.examples import with_shuffled_answers
from finetune.tables.learning import Lessons
from tests.evals.tasks.test_release_rows import multiple_choice


def taught(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Lessons, str]:
    seen: list[Lessons] = []
    monkeypatch.setattr(of_sets, "learn", lambda config, lessons, *rest: seen.append(lessons))
    result = CliRunner().invoke(app, ["run", "text", "--data", str(data), "--out", str(out)])
    assert result.exit_code == 0, (result.output, result.exception)
    return seen[0], result.output


def releases(folder: Path) -> None:
    """The releases in miniature, MedQA's development part beside the others."""
    multiple_choice(folder)
    parts = folder / "medqa" / "questions" / "US" / "4_options"
    test = (parts / "phrases_no_exclude_test.jsonl").read_text()
    (parts / "phrases_no_exclude_dev.jsonl").write_text(test.replace("test", "dev"))


def test_the_owners_releases_are_learned_by_their_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    releases(tmp_path)
    lessons, said = taught(tmp_path, tmp_path / "out", monkeypatch)
    assert {kind(item) for item in lessons.train} == {"medqa", "medmcqa-full", "pubmedqa-full"}
    assert [item.prompt.partition("\n")[0] for item in lessons.validation] == ["Why dev?"]
    assert not any("Why test?" in item.prompt or "Why dev?" in item.prompt for item in lessons.train)
    assert "learned is medqa, medmcqa, pubmedqa; not here: kit-medqa, kit-medmcqa, kit-pubmedqa" in said
    for item in lessons.train:
        graded = lessons.task.grade(item, Output("", "", "", text=letter_line(item)))
        assert graded == {"accuracy": 1, "unparsed": 0}


@pytest.mark.kit
def test_the_kits_sets_and_their_control(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffled, another letter is right as often as chance has it; the questions stay."""
    lessons, _ = taught(kit, tmp_path / "out", monkeypatch)
    assert {kind(item) for item in lessons.train} == {"medqa-usmle", "medmcqa", "pubmedqa"}
    shuffled = with_shuffled_answers(lessons.train, 0)
    same = sum(a.reference == b.reference for a, b in zip(lessons.train, shuffled, strict=True)) / len(shuffled)
    assert 0.22 < same < 0.32 and [i.prompt for i in shuffled] == [i.prompt for i in lessons.train]
    assert all(item.reference in "ABCDE" for item in shuffled)


def test_a_folder_without_a_set_is_refused(tmp_path: Path) -> None:
    said: Any = CliRunner().invoke(app, ["run", "text", "--data", str(tmp_path), "--out", str(tmp_path / "o")])
    assert "holds none of medqa, medmcqa-full, pubmedqa-full, medqa-usmle, medmcqa, pubmedqa" in str(said.exception)


@pytest.mark.slow
def test_a_folder_ends_in_a_table_of_before_and_after(shapes: Callable[[str], Path], tmp_path: Path) -> None:
    """A step over the releases in miniature, of nano's weights under the Hub's files; no quality is asked of it."""
    releases(tmp_path)
    settings = (f"model={shapes('hub')}", "epochs=1", "examples_per_step=4", "evaluations=1", "merge=false")
    arguments = ["run", "text", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet"]
    result = CliRunner().invoke(app, arguments + [f"--set={setting}" for setting in settings])
    assert result.exit_code == 0, (result.output, result.exception)
    text = (tmp_path / "out" / "scores" / "before_after.md").read_text()
    assert all(f"| learned | {name} | accuracy |" in text for name in ("medqa", "medmcqa", "pubmedqa"))
