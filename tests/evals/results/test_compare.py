"""Comparing two runs: figures by hand, and every way in which they are not the same questions."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import evals.cli
from data_cards.split import side
from evals.items import Item, write_items
from evals.metrics.paired import mcnemar
from evals.results.compare import compare_dirs, remarks
from evals.results.scores import score_dir
from evals.running.checks import check_items, demand_disjoint_groups
from medsiglip.metrics.delong import delong_paired
from tests.evals.runs import HELD_OUT_GROUPS, questions, write_label_run, write_run


def right_but_every(step: int) -> Callable[[Item], str]:
    """Answers right, but wrongly to every so many-th question."""

    def answer(item: Item) -> str:
        number = int(item.item_id[1:])
        return item.reference if number % step else {"Yes": "No", "No": "Yes"}[item.reference]

    return answer


def two_runs(tmp_path: Path, items: list[Item] | None = None, **record: object) -> tuple[Path, Path]:
    """The first wrong on every 4th of 40 questions, the second on every 10th."""
    items = questions() if items is None else items
    first = write_run(tmp_path / "one" / "vqa-rad", items, right_but_every(4))
    return first, write_run(tmp_path / "two" / "vqa-rad", items, right_but_every(10), **record)


def test_values_and_tests_by_hand(tmp_path: Path) -> None:
    """Wrong: 10 of 40, and 4 of 40 of which 2 are shared (0, 20): accuracies 0.75 and 0.9; discordant 2 and 8."""
    (task,) = compare_dirs(*two_runs(tmp_path)).tasks
    found = {metric.metric: metric for metric in task.metrics}["closed_accuracy"]
    assert (found.first["value"], found.second["value"], found.difference["value"]) == pytest.approx((0.75, 0.9, 0.15))
    assert (found.first["n"], found.first["n_groups"], task.n_items) == (40, 20, 40)
    assert found.mcnemar == mcnemar([1] * 2 + [0] * 8, [0] * 2 + [1] * 8)._asdict()
    assert found.mcnemar["p_exact"] == pytest.approx(2 * (1 + 10 + 45) / 1024)
    low, high = found.difference["ci95"]
    assert low < 0.15 < high and found.p_bootstrap is not None and 0.005 < found.p_bootstrap < 0.2
    assert found.p_holm == found.p_bootstrap and found.delong is None


def test_the_other_way_round_is_the_negative(tmp_path: Path) -> None:
    one, other = two_runs(tmp_path)
    there, back = (compare_dirs(*pair).tasks[0].metrics[0] for pair in ((one, other), (other, one)))
    assert back.difference["value"] == pytest.approx(-there.difference["value"])
    assert back.difference["ci95"] == pytest.approx([-bound for bound in there.difference["ci95"][::-1]])
    assert back.p_bootstrap == there.p_bootstrap


def test_a_run_against_itself_differs_by_nothing(tmp_path: Path) -> None:
    one, _ = two_runs(tmp_path)
    found = compare_dirs(one, one).tasks[0].metrics[0]
    said = list(remarks(compare_dirs(one, one)))
    assert "vqa-rad: both runs are of the same weights" in said and any("no width" in line for line in said)
    assert found.difference["value"] == 0 and found.p_bootstrap == 1.0
    assert found.mcnemar is not None and found.mcnemar["p_mid"] == 1.0


def test_open_answers_are_no_proportion(tmp_path: Path) -> None:
    """Token F1 of all questions has halves; a part where it is 0 and 1 only is still no right-or-wrong metric."""
    items = [replace(item, kind="open", reference="left lung") for item in questions()]
    items = [replace(item, meta={**item.meta, "organ": ("HEAD", "CHEST")[n < 20]}) for n, item in enumerate(items)]
    one = write_run(tmp_path / "one" / "vqa-rad", items, lambda i: "left lung" if int(i.item_id[1:]) % 3 else "right")
    other = write_run(
        tmp_path / "two" / "vqa-rad", items, lambda i: "left lung" if int(i.item_id[1:]) < 20 else "left side"
    )
    found = {metric.metric: metric for metric in compare_dirs(one, other).tasks[0].metrics}
    assert found["open_exact_match_norm/CHEST"].mcnemar is not None
    assert found["open_token_f1_squad"].mcnemar is None and found["open_token_f1_squad/CHEST"].mcnemar is None
    assert "ci95_wilson_if_independent" in found["open_exact_match_norm"].first
    assert "ci95_wilson_if_independent" not in found["open_token_f1_squad/CHEST"].second


def test_label_tasks_have_f1_and_delong(tmp_path: Path) -> None:
    items = [
        Item(f"i{n}", (f"{n}.png",), "captions", ("no finding", "pneumonia")[n % 2], "class", HELD_OUT_GROUPS[n])
        for n in range(30)
    ]

    def steady(item: Item) -> float:
        return 0.2 + 0.5 * (item.reference == "pneumonia") + int(item.item_id[1:]) / 100

    def noisy(item: Item) -> float:
        return 0.5 + (int(item.item_id[1:]) * 7 % 30 - 15) / 40 + 0.1 * (item.reference == "pneumonia")

    classes = ("no finding", "pneumonia")
    one = write_label_run(tmp_path / "one" / "zero-shot-nih-pneumonia", items, noisy, classes)
    other = write_label_run(tmp_path / "two" / "zero-shot-nih-pneumonia", items, steady, classes)
    found = {metric.metric: metric for metric in compare_dirs(one, other).tasks[0].metrics}
    assert set(found) == {"accuracy", "macro_f1", "macro_auroc_one_vs_rest"}
    truth = [item.reference == "pneumonia" for item in items]
    expected = delong_paired([steady(i) for i in items], [noisy(i) for i in items], truth)
    ranked = found["macro_auroc_one_vs_rest"]
    assert ranked.delong is not None and ranked.delong["p"] == pytest.approx(expected.p)
    assert ranked.delong["difference"] == pytest.approx(ranked.difference["value"]) and ranked.difference["value"] > 0
    assert found["accuracy"].mcnemar is not None and ranked.mcnemar is None
    assert found["accuracy"].p_holm is not None and found["macro_f1"].p_holm is None
    scored = json.loads((one / "scores.json").read_text())["zero-shot-nih-pneumonia"]["macro_auroc_one_vs_rest"]
    assert scored["ci95_delong"][0] < scored["value"] < scored["ci95_delong"][1]


def test_holm_goes_over_the_tasks(tmp_path: Path) -> None:
    for run, steps in (("one", (3, 3)), ("two", (20, 4))):
        for task, step in zip(("vqa-rad", "picture-questions"), steps, strict=True):
            items = [replace(i, meta={**i.meta, "attribute": "view"}) for i in questions(60)]
            write_run(tmp_path / run / task, items, right_but_every(step), task=task)
    comparison = compare_dirs(tmp_path / "one", tmp_path / "two")
    assert comparison.holm_family == ["picture-questions: closed_accuracy", "vqa-rad: closed_accuracy"]
    mains = [metric for task in comparison.tasks for metric in task.metrics if metric.p_holm is not None]
    small, large = sorted(mains, key=lambda metric: metric.p_bootstrap or 0)
    assert small.p_holm == pytest.approx(2 * (small.p_bootstrap or 0)) and large.p_holm == large.p_bootstrap


def test_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    one, other = two_runs(tmp_path, model="two", generation={"max_new_tokens": 64})
    out = tmp_path / "made" / "comparison.json"
    result = CliRunner().invoke(evals.cli.app, ["compare", str(one), str(other), "--out", str(out)])
    assert result.exit_code == 0, result.output
    head, *rows = result.stdout.splitlines()
    assert head.split()[:4] == ["task", "metric", "first", "second"] and "second - first" in head
    assert rows[0].startswith("vqa-rad  closed_accuracy") and "+0.150 [" in rows[0] and rows[0].endswith("40  20")
    assert (
        "generation.max_new_tokens differs: 32 and 64" in result.stderr
        and "model differs: one and two" in result.stderr
    )
    written = json.loads(out.read_text())
    assert written["difference_is"] == "second - first" and written["tasks"][0]["metrics"][0]["mcnemar"]["p_mid"] < 0.2
    assert written["n_resamples"] == 2000


def test_folders_may_lie_elsewhere(tmp_path: Path) -> None:
    one, _ = two_runs(tmp_path)
    moved = [replace(item, files=(f"/other/{item.files[0]}",)) for item in questions()]
    elsewhere = write_run(tmp_path / "three" / "vqa-rad", moved, right_but_every(10))
    assert compare_dirs(one, elsewhere).tasks[0].n_items == 40


# --- planted faults: each is seen, by name ---


def refused(one: Path, other: Path, message: str, common: bool = False) -> None:
    with pytest.raises(ValueError, match=message) as fault:
        compare_dirs(one, other, common)
    assert "\n" not in str(fault.value)


def test_a_prompt_changed_without_a_version_change(tmp_path: Path) -> None:
    one, _ = two_runs(tmp_path)
    worded = [replace(item, prompt=item.prompt + " Think first.") for item in questions()]
    other = write_run(tmp_path / "three" / "vqa-rad", worded, right_but_every(10))
    message = r"the prompt of 40 item\(s\) differs \(q0, q1, q2\), though both say version 1 .* wording was changed"
    refused(one, other, message)
    refused(one, other, message, common=True)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"task_version": 2}, "the task's versions differ: 1 and 2"),
        ({"side": "all"}, "side differs: 'held-out' and 'all'"),
        ({"data_sha256": {"vqa-rad/labels.csv": "cd"}}, "data_sha256 differs: vqa-rad/labels.csv"),
        ({"condition": "shuffled"}, "condition differs: 'real' and 'shuffled'"),
    ],
)
def test_another_version_split_or_copy(tmp_path: Path, record: dict[str, object], message: str) -> None:
    refused(*two_runs(tmp_path, **record), message)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"reference": "Maybe"}, "reference"),
        ({"files": ("images/other.png",)}, "files"),
        ({"group": HELD_OUT_GROUPS[-1]}, "group"),
        ({"meta": {"card": "vqa-rad", "organ": "HEAD"}}, "meta"),
    ],
)
def test_another_question_under_the_same_name(tmp_path: Path, change: dict[str, object], field: str) -> None:
    one, _ = two_runs(tmp_path)
    items = questions(items_per_group=1)[:10]
    changed = [*items[:5], replace(items[5], **change), *items[6:]]  # type: ignore[arg-type]
    one = write_run(tmp_path / "four" / "vqa-rad", items, right_but_every(4))
    other = write_run(tmp_path / "five" / "vqa-rad", changed, lambda item: "Yes")
    refused(one, other, rf"the {field} of 1 item\(s\) differs \(q5\)")


def test_a_duplicated_item(tmp_path: Path) -> None:
    twice = [*questions(), questions()[3]]
    with pytest.raises(ValueError, match="vqa-rad: q3 is there more than once"):
        write_run(tmp_path / "one" / "vqa-rad", twice, right_but_every(4))


def test_a_copy_under_another_name_is_counted_and_shown(tmp_path: Path) -> None:
    """Published sets have some, so they stay; the other question of the same picture is no copy."""
    renamed = [*questions(), replace(questions()[3], item_id="q99")]
    one, other = two_runs(tmp_path, renamed)
    figure = json.loads((one / "scores.json").read_text())["vqa-rad"]["closed_accuracy"]
    assert (figure["n"], figure["n_repeated"]) == (41, 1)
    result = CliRunner().invoke(evals.cli.app, ["compare", str(one), str(other)])
    assert "vqa-rad: 1 item(s) repeat another one" in result.stderr
    clean = write_run(tmp_path / "three" / "vqa-rad", questions(), right_but_every(4))
    assert json.loads((clean / "scores.json").read_text())["vqa-rad"]["closed_accuracy"]["n_repeated"] == 0


def test_a_duplicated_item_put_in_after_scoring(tmp_path: Path) -> None:
    one, other = two_runs(tmp_path)
    write_items(other / "vqa-rad" / "items.jsonl", [*questions(), questions()[3]])
    refused(one, other, "q3 is there more than once")


def test_one_patient_on_both_sides(tmp_path: Path) -> None:
    train = next(name for name in (f"patient-{n}" for n in range(99)) if side(name) == "train")
    astray = [replace(questions()[0], group=train), *questions()[2:]]
    with pytest.raises(ValueError, match="q0 is not of the side 'held-out'.*on another side") as fault:
        write_run(tmp_path / "one" / "vqa-rad", astray, right_but_every(4))
    assert train not in str(fault.value), "a group may be a patient's number"
    with pytest.raises(ValueError, match="q0, q1, q2 and 1 other are of a patient .* also on the side that is learnt"):
        demand_disjoint_groups(questions()[:4], questions())
    demand_disjoint_groups(questions()[:4], questions()[4:])
    held_out = questions()[:4]
    check_items(held_out, {"side": "held-out"}, "here")
    for other in ("train", "final"):
        with pytest.raises(ValueError, match=f"are not of the side '{other}'"):
            check_items(held_out, {"side": other}, "here")


def test_one_picture_under_two_patients(tmp_path: Path) -> None:
    split = [replace(questions()[0], group=HELD_OUT_GROUPS[-1]), *questions()[1:]]
    with pytest.raises(ValueError, match="the picture p0.png is of 2 groups; expected one patient"):
        check_items(split, {"side": "held-out"}, tmp_path)
    check_items(split, {"side": "held-out", "condition": "shuffled"}, tmp_path)


def test_an_outputs_file_cut_within_a_line(tmp_path: Path) -> None:
    one, other = two_runs(tmp_path)
    outputs = other / "vqa-rad" / "outputs.jsonl"
    outputs.write_bytes(outputs.read_bytes()[:-30])
    refused(one, other, "outputs.jsonl: the last line is cut off")


def test_an_outputs_file_cut_between_lines(tmp_path: Path) -> None:
    """Seen against scores.json; and once that is made anew, as questions that one side only answered."""
    one, other = two_runs(tmp_path)
    outputs = other / "vqa-rad" / "outputs.jsonl"
    outputs.write_text("".join(outputs.read_text().splitlines(keepends=True)[:-5]))
    refused(
        one, other, "says vqa-rad closed_accuracy 0.9 of 40 items, but the outputs give .* of 35; outputs were lost"
    )
    score_dir(other)
    refused(
        one, other, r"q35, q36, q37 and 2 others are answered by the first run only \(5 in all; 5 without an output"
    )
    kept = compare_dirs(one, other, common=True).tasks[0]
    assert kept.n_items == 35 and len(kept.left_out.only_first) == 5
    assert kept.metrics[0].first["n"] == kept.metrics[0].second["n"] == 35


def test_outputs_edited_after_scoring(tmp_path: Path) -> None:
    one, other = two_runs(tmp_path)
    outputs = other / "vqa-rad" / "outputs.jsonl"
    outputs.write_text(outputs.read_text().replace('"text": "No"', '"text": "Yes"', 1))
    refused(one, other, "says vqa-rad closed_accuracy 0.9 of 40 items, but the outputs give")


def test_items_that_only_one_side_has(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one" / "vqa-rad", questions(40), right_but_every(4))
    other = write_run(tmp_path / "two" / "vqa-rad", questions(30), right_but_every(10), limit=30)
    refused(one, other, r"q30, q31, q32 and 7 others are answered by the first run only \(10 in all; 10 not among")
    kept = compare_dirs(one, other, common=True).tasks[0]
    assert kept.n_items == 30 and kept.settings_that_differ["limit"] == [None, 30]
    result = CliRunner().invoke(evals.cli.app, ["compare", str(one), str(other), "--common"])
    assert result.exit_code == 0 and "10" not in result.stdout.split()[-2:]
    assert "q30, q31, q32 and 7 others are answered by the first run only, and left out" in result.stderr
    nothing = write_run(tmp_path / "three" / "vqa-rad", questions(60)[40:], right_but_every(4))
    refused(one, nothing, "no item is answered by both", common=True)


def test_failed_items_are_named_and_counted(tmp_path: Path) -> None:
    def failing(numbers: set[str]) -> Callable[[Item], str]:
        return lambda item: "!bad picture" if item.item_id in numbers else right_but_every(4)(item)

    one = write_run(tmp_path / "one" / "vqa-rad", questions(), failing({"q1", "q2"}))
    other = write_run(tmp_path / "two" / "vqa-rad", questions(), failing({"q2", "q5"}))
    message = (
        r"q5 is answered by the first run only \(1 in all; 1 failed there\); q1 is answered by the second run only"
    )
    refused(one, other, message)
    left_out = compare_dirs(one, other, common=True).tasks[0].left_out
    assert (left_out.only_first, left_out.only_second, left_out.neither) == (["q5"], ["q1"], ["q2"])
    assert list(left_out.lines())[2] == "q2 is answered by neither, and left out"


def test_missing_files_and_tasks(tmp_path: Path) -> None:
    one, other = two_runs(tmp_path)
    with pytest.raises(ValueError, match="holds no task"):
        compare_dirs(one, tmp_path / "nothing")
    (other / "scores.json").unlink()
    refused(one, other, "scores.json: no such file; make it: medgemma-eval score")
    (other / "vqa-rad" / "run.json").unlink()
    refused(one, other, "run.json: no such file")
    classes = ("no finding", "pneumonia")
    item = Item("i", ("i.png",), "c", "pneumonia", "class", HELD_OUT_GROUPS[0])
    label = write_label_run(tmp_path / "label" / "zero-shot-nih-pneumonia", [item], lambda i: 0.7, classes)
    refused(one, label, "expected a task in common")


def test_a_figure_without_an_interval_says_why(tmp_path: Path) -> None:
    items = [replace(item, group=HELD_OUT_GROUPS[0], files=("images/p0.png",)) for item in questions(4)]
    out = write_run(tmp_path / "one" / "vqa-rad", items, lambda item: "yes")
    line = CliRunner().invoke(evals.cli.app, ["score", str(out)]).stdout.splitlines()[0]
    assert line.endswith("0.500 (all items are of one group: no interval)  n=4 groups=1")


# --- answering without looking gives the closed forms ---


@pytest.mark.parametrize(("n_yes", "said", "accuracy"), [(25, "yes", 0.25), (25, "no", 0.75), (50, "Yes.", 0.5)])
def test_a_constant_answer_gives_exactly_its_share(tmp_path: Path, n_yes: int, said: str, accuracy: float) -> None:
    items = [replace(item, reference="Yes" if n < n_yes else "No") for n, item in enumerate(questions(100))]
    write_run(tmp_path / "one" / "vqa-rad", items, lambda item: said)
    figure = json.loads((tmp_path / "one" / "scores.json").read_text())["vqa-rad"]["closed_accuracy"]
    assert (figure["value"], figure["n"]) == (accuracy, 100)


def test_a_coin_gives_exactly_one_half_and_an_empty_answer_nothing(tmp_path: Path) -> None:
    """Yes to half of the yes and half of the no questions; an empty or other answer is wrong and stays in n."""
    write_run(tmp_path / "coin" / "vqa-rad", questions(100), lambda item: ("yes", "no")[int(item.item_id[1:]) // 2 % 2])
    write_run(tmp_path / "mute" / "vqa-rad", questions(100), lambda item: "")
    coin, mute = (json.loads((tmp_path / name / "scores.json").read_text())["vqa-rad"] for name in ("coin", "mute"))
    assert coin["closed_accuracy"]["value"] == 0.5
    assert (mute["closed_accuracy"]["value"], mute["closed_accuracy"]["n"]) == (0.0, 100)
    assert mute["closed_accuracy"]["note"].startswith("the same in every resample")
    assert mute["closed_accuracy"]["ci95_wilson_if_independent"][1] == pytest.approx(0.037, abs=0.001)
