"""Before and after in one table: figures by hand, forgetting apart, quadrants that move, data that is not there."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_cards.table import Table, read_table
from evals.running.options import RunOptions
from evals.tasks.table_grading import METRICS
from evals.tasks.tables import task_of
from finetune.tables.before_after import Asked, before_and_after, forgetting
from finetune.tables.scoring import Reply
from tests.finetune.tables.test_examples import COLOURS, colour_table


class Scripted:
    """Answers by a rule of the pictures and the prompt."""

    def __init__(self, name: str, rule: Callable[[Sequence[Any], str], str]) -> None:
        self.fingerprint = self.identity = name
        self.rule = rule

    def ask_each(self, requests: Sequence[tuple[Any, str]], *, max_new_tokens: int) -> Iterator[Reply]:
        for pictures, prompt in requests:
            yield Reply(self.rule(pictures, prompt))


def by_looking(pictures: Sequence[Any], prompt: str) -> str:
    """The letter before the name of the picture's colour; none without a picture."""
    if not pictures:
        return "I see none"
    mean = np.asarray(Image.open(pictures[0]).convert("RGB")).reshape(-1, 3).mean(axis=0)
    name = min(COLOURS, key=lambda colour: float(np.abs(mean - COLOURS[colour]).sum()))
    [line] = [line for line in prompt.splitlines() if line.endswith(f": {name}")]
    return f"Final Answer: {line[0]}"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return read_table(colour_table(tmp_path_factory.mktemp("colours"), rows=48))


def test_one_table_holds_what_was_learned_and_whether_it_looks(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve rows, four of each colour: a constant letter is right in four, a look in all; nothing moves by itself."""
    asked = Asked(task_of(table, "classes"), table.source, RunOptions(side="test"))
    lines = before_and_after(
        [asked],
        lambda: Scripted("blind", lambda pictures, prompt: "Final Answer: A"),
        lambda: Scripted("looks", by_looking),
        tmp_path,
        baselines={"commonest answer": lambda: Scripted("commonest", lambda pictures, prompt: "Final Answer: B")},
        probed=[asked],
        command="test",
        quiet=True,
    )
    [accuracy] = [line for line in lines if line.metric == "accuracy"]
    assert (accuracy.part, accuracy.before, accuracy.after) == ("learned", 4 / 12, 1.0)
    assert accuracy.difference["value"] == pytest.approx(8 / 12) and accuracy.difference["n"] == 12
    assert accuracy.difference["n_groups"] == 12 and accuracy.difference["ci95"][0] > 0
    assert accuracy.baselines["commonest answer"]["value"] == pytest.approx(8 / 12)
    looks = {line.metric: (line.before, line.after) for line in lines if line.part == "looks"}
    assert looks["stable and looking"] == (0, 1) and looks["unstable, looking"] == (0, 0)
    assert looks["stable, not looking"][0] + looks["unstable, not looking"][0] == 1
    assert json.loads((tmp_path / "before_after.json").read_text())["rows"][0]["before"] == 4 / 12
    text = (tmp_path / "before_after.md").read_text()
    assert "| learned | table-classes | accuracy | 0.333 | 1.000 | +0.667 (" in text
    assert "| looks | table-classes | stable and looking | 0.000 | 1.000 | +1.000 (" in text
    assert text in capsys.readouterr().err


def test_items_that_a_model_cannot_answer_are_left_out_and_counted(table: Table, tmp_path: Path) -> None:
    """Two pictures of twelve fail both models, and not the baseline: ten are compared, and the table says so."""
    [first, second, *_] = sorted(str(row.files[0]) for row in table.on("test"))

    def fails(pictures: Sequence[Any], prompt: str) -> str:
        if str(pictures[0]) in (first, second):
            raise ValueError("too long")
        return by_looking(pictures, prompt)

    asked = Asked(task_of(table, "classes"), table.source, RunOptions(side="test"))
    lines = before_and_after(
        [asked],
        lambda: Scripted("one", fails),
        lambda: Scripted("two", fails),
        tmp_path,
        baselines={"commonest answer": lambda: Scripted("commonest", lambda pictures, prompt: "Final Answer: B")},
        command="test",
        quiet=True,
    )
    [accuracy] = [line for line in lines if line.metric == "accuracy"]
    assert (accuracy.difference["n"], accuracy.left_out, accuracy.before, accuracy.after) == (10, 2, 1, 1)
    assert accuracy.baselines["commonest answer"]["n"] == 10
    assert "| 10, 10; 2 left out |" in (tmp_path / "before_after.md").read_text()


def test_what_must_not_be_lost_is_asked_of_both_models_and_of_no_baseline(table: Table, tmp_path: Path) -> None:
    learned = Asked(task_of(table, "classes"), table.source, RunOptions(side="test"))
    (tmp_path / "T.jsonl").write_text(
        "".join(json.dumps({"question": f"What is {n}?", "answer": "I do not know"}) + "\n" for n in range(8))
    )
    other = read_table(tmp_path / "T.jsonl")
    kept = Asked(task_of(other, "answers"), other.source, RunOptions(side="all"))
    lines = before_and_after(
        [learned],
        lambda: Scripted("knows", lambda pictures, prompt: "I do not know"),
        lambda: Scripted("forgot", by_looking),
        tmp_path / "out",
        baselines={"commonest answer": lambda: Scripted("commonest", lambda pictures, prompt: "Final Answer: B")},
        kept=[kept],
        command="test",
        quiet=True,
    )
    assert [line.part for line in lines] == sorted((line.part for line in lines), reverse=True)  # learned first
    [lost] = [line for line in lines if line.part == "kept" and line.metric == METRICS["answers"][0]]
    assert (lost.before, lost.after, lost.difference["value"], lost.baselines) == (1, 0, -1, {})
    assert not (tmp_path / "out" / "commonest-answer" / "table-answers").exists()


def test_forgetting_is_measured_where_the_pictures_are_and_else_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forgetting(tmp_path) == ([], [])
    assert "what tuning costs elsewhere is not measured" in capsys.readouterr().err
    for card in ("modality-mednist", "histo-lc25000-lung", "cxr-nih14", "synthea-fhir-r4"):
        (tmp_path / card).mkdir()
    for data in (tmp_path, tmp_path / "synthea-fhir-r4"):
        kept, probed = forgetting(data)
        assert [one.task.name for one in kept] == ["picture-questions-new-wordings", "outside-questions"]
        assert {one.data for one in kept + probed} == {tmp_path} and len(probed) == 1
