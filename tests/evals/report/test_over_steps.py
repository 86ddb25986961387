"""Figures of a training run over its steps: means over seeds, agreement with a teacher, paired differences, a plot."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from evals.items import Item
from evals.report.over_steps import curve, differences, held_out, plot, steps_of
from evals.tasks.vqa_rad import ROWS
from tests.evals.runs import questions, write_run

[TASK] = ROWS
ITEMS = questions(8)


def measured(run: Path, stage: str, step: int, answers: str, items: list[Item] = ITEMS) -> None:
    """A measurement whose answers are y (yes) or n (no), one an item; the references are yes, no, yes, no, ..."""
    said = {item.item_id: {"y": "Yes.", "n": "no"}[answer] for item, answer in zip(items, answers, strict=True)}
    folder = run / "evals" / stage / f"step-{step}" / "vqa-rad"
    write_run(folder, items, lambda item: said[item.item_id], scored=False)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds: the teacher has 7 of 8 right, sft 4 then 5 and 7 of 8, gkd all of them."""
    found = [tmp_path / "seed-0", tmp_path / "seed-1"]
    for run in found:
        measured(run, "teacher", 0, "ynynynnn")
        measured(run, "sft", 0, "yyyyyyyy")
        measured(run, "gkd", 0, "yyyyyyyy")
        measured(run, "gkd", 20, "ynynynyn")
    measured(found[0], "sft", 20, "ynyyyyyy")
    measured(found[1], "sft", 20, "ynynyyyn")
    return found


def test_figures_are_means_over_seeds_with_intervals_over_groups(runs: list[Path]) -> None:
    assert steps_of(runs[0], "sft") == [0, 20]
    points = curve(TASK, runs, "sft")["closed_accuracy"]
    assert [(point["step"], point["value"]) for point in points] == [(0, 0.5), (20, 0.75)]
    assert points[1]["n"] == 8 and points[1]["n_groups"] == 4
    assert points[1]["ci95"][0] < 0.75 < points[1]["ci95"][1]
    assert held_out(TASK, runs, "sft", 20)["closed_accuracy"].values == (1.0, 1.0, 1.0, 0.5, 1.0, 0.0, 1.0, 0.5)
    assert [p["value"] for p in curve(TASK, runs[:1], "sft")["closed_accuracy"]] == [0.5, 0.625]  # control: one seed


def test_agreement_reads_the_short_answers(runs: list[Path]) -> None:
    """Whether right or wrong: gkd differs from the teacher where the teacher is wrong."""
    assert held_out(TASK, runs, "gkd", 20)["same_as_teacher"].values == (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0)
    assert curve(TASK, runs, "teacher")["same_as_teacher"][0]["value"] == 1


def test_differences_are_paired_and_of_the_last_step(runs: list[Path]) -> None:
    found = differences(TASK, runs, "gkd", "sft")["closed_accuracy"]
    assert found["value"] == pytest.approx(0.25) and found["ci95"][0] <= 0.25 <= found["ci95"][1]
    assert differences(TASK, runs, "sft", "gkd")["closed_accuracy"]["value"] == pytest.approx(-0.25)


def test_a_run_without_a_teacher_has_no_agreement(tmp_path: Path) -> None:
    measured(tmp_path, "sft", 0, "yyyyyyyy")
    assert set(held_out(TASK, [tmp_path], "sft", 0)) == {"closed_accuracy"}


def test_runs_with_other_questions_are_not_averaged(runs: list[Path], tmp_path: Path) -> None:
    measured(tmp_path / "other", "sft", 20, "yn", ITEMS[:2])
    with pytest.raises(ValueError, match="asked different questions"):
        held_out(TASK, [runs[0], tmp_path / "other"], "sft", 20)


def test_the_plot_has_a_line_and_a_band_a_name(runs: list[Path]) -> None:
    drawn = ElementTree.fromstring(
        plot({stage: curve(TASK, runs, stage)["closed_accuracy"] for stage in ("sft", "gkd")}, "closed_accuracy")
    )
    texts = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    assert "closed_accuracy, 95 % intervals over groups" in texts and {"sft 0.750", "gkd 1.000"} <= set(texts)
    lines = [element for element in drawn.iter() if element.tag.endswith("polyline")]
    heights = [[float(point.split(",")[1]) for point in line.attrib["points"].split()] for line in lines]
    assert heights[0][0] == heights[1][0] > heights[0][1] > heights[1][1]  # up is better, and both began alike
    assert len([element for element in drawn.iter() if element.tag.endswith("polygon")]) == 2


def test_a_plot_of_small_figures_without_intervals() -> None:
    """One point shows as a dot, the grid's lines have labels that differ, and no interval is spoken of."""
    points = [{"step": 5, "value": 0.001, "ci95": [None, None]}, {"step": 9, "value": 0.0013, "ci95": [None, None]}]
    drawn = ElementTree.fromstring(plot({"one": points[:1], "two": points}, "error"))
    texts = [element.text or "" for element in drawn.iter() if element.tag.endswith("text")]
    assert texts[:6] == ["error", "0.00100", "0.00125", "0.00150", "0.00175", "0.00200"]
    assert "one 0.001000" in texts and "two 0.001300" in texts
    assert len([element for element in drawn.iter() if element.tag.endswith("circle")]) == 3
