"""Accepting a judge: agreement and kappa by hand, judges of known error, resuming, and runs that demand the file."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from evals.asking import Answering
from evals.cli import app
from evals.clinic import casting
from evals.clinic.dialogue import Message, Players
from evals.judging.acceptance import accept, demand_accepted, judged_texts, labelled_texts
from evals.judging.judge import VERSION, Verdict
from evals.results.scores import score_dir
from evals.running.options import RunOptions
from evals.running.runner import run_task
from evals.tasks.catalogue import task_named
from tests.data_cards.test_rubrics_and_calculations import HEALTHBENCH, healthbench
from tests.evals.judging.test_judging import nonce
from tests.evals.tasks.test_rubric_conversations import judge

Judge = Callable[[Sequence[Message]], str]


def labelled(folder: Path, n: int = 40) -> Path:
    rows = [
        {"text": f"{'right' if place % 2 else 'wrong'} {place}", "question": "Is it right?", "label": bool(place % 2)}
        for place in range(n)
    ]
    path = folder / "labelled.jsonl"
    path.write_text(
        "".join(json.dumps({**row, "group": str(i)}) + "\n" for i, row in enumerate(rows)), encoding="utf-8"
    )
    return path


def knows(messages: Sequence[Message]) -> str:
    """Says yes to a text that begins with "right"."""
    text = messages[-1]["content"].split("text begins ---\n")[1]
    return json.dumps({"nonce": nonce(messages), "verdict": "yes" if text.startswith("right") else "no"})


def wrong_every(n: int, error: Callable[[str], str]) -> Judge:
    asked = 0

    def answer(messages: Sequence[Message]) -> str:
        nonlocal asked
        asked += 1
        return error(knows(messages)) if asked % n == 0 else knows(messages)

    return answer


def test_agreement_and_kappa_by_hand() -> None:
    cells = (
        [(True, True)] * 18 + [(True, False)] * 2 + [(False, False)] * 14 + [(False, True)] * 4 + [(False, None)] * 2
    )
    verdicts, labels = [Verdict(met, "") for _, met in cells], [label for label, _ in cells]
    found = accept(verdicts, labels, [str(i) for i in range(40)], 0.5)
    assert found.agreement.value == 32 / 40
    by_chance = 20 / 40 * 22 / 40 + 20 / 40 * 16 / 40
    assert found.kappa.value == pytest.approx((0.8 - by_chance) / (1 - by_chance))
    assert found.unparsed == 2 / 40
    said = [str(met) for _, met in cells]
    assert found.kappa.value == pytest.approx(cohen_kappa_score([str(label) for label in labels], said))


@pytest.mark.parametrize(
    ("error", "unparsed"),
    [(lambda said: said.replace("yes", "x").replace('no"', 'yes"').replace("x", "no"), 0.0), (lambda said: "hm", 0.1)],
    ids=["wrong", "unparsed"],
)
def test_a_judge_of_known_error_has_that_agreement(
    tmp_path: Path, error: Callable[[str], str], unparsed: float
) -> None:
    texts = labelled_texts(labelled(tmp_path))
    verdicts = judged_texts(wrong_every(10, error), "j", texts, tmp_path, lambda n: None)
    found = accept(verdicts, [t.label for t in texts], [t.group for t in texts], 0.7)
    assert (found.agreement.value, found.unparsed) == (0.9, unparsed)
    assert found.is_accepted
    assert not accept(verdicts, [t.label for t in texts], [t.group for t in texts], 0.8).is_accepted  # 0.769 to 0.960


def test_a_killed_judge_goes_on_and_another_judge_begins_anew(tmp_path: Path) -> None:
    texts = labelled_texts(labelled(tmp_path, 6))
    asked: list[str] = []

    def dies_at_four(messages: Sequence[Message]) -> str:
        if len(asked) == 4:
            raise OSError("gone")
        asked.append("")
        return knows(messages)

    def counts(messages: Sequence[Message]) -> str:
        asked.append("")
        return knows(messages)

    with pytest.raises(OSError, match="gone"):
        judged_texts(dies_at_four, "j", texts, tmp_path, lambda n: None)
    with (tmp_path / "verdicts.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"judge": "j", "ver')  # a line that a killed run did not finish
    verdicts = judged_texts(counts, "j", texts, tmp_path, lambda n: None)
    assert [verdict.met for verdict in verdicts] == [text.label for text in texts] and len(asked) == 6
    judged_texts(counts, "other", texts, tmp_path, lambda n: None)
    assert len(asked) == 12


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "t", "question": "q", "label": 1, "group": "g"}', "line 1: label is neither true nor false"),
        ('{"text": "t", "question": "q", "label": true}', "line 1: 'group'; a line has text, question"),
        ("yes", "line 1: "),
        ("", "holds no labelled text"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "l.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        labelled_texts(tmp_path / "l.jsonl")
    with pytest.raises(ValueError, match=r"nothing\.jsonl: no such file; expected lines of text"):
        labelled_texts(tmp_path / "nothing.jsonl")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> list[Judge]:
    """What a server at any URL answers with: the first of the list."""
    judges: list[Judge] = [knows]
    monkeypatch.setattr(casting, "open_server", lambda address: (judges[0], f"{address} named"))
    return judges


def asked(path: Path, *words: str) -> Any:
    command = ["judge", str(labelled(path)), "--judge", "http://h/v1", "--out", str(path / "out"), "--quiet", *words]
    return CliRunner().invoke(app, command)


def test_the_command_writes_the_file_that_a_run_demands(tmp_path: Path, server: list[Judge]) -> None:
    ran = asked(tmp_path)
    assert ran.exit_code == 0, ran.output
    assert "http://h/v1 named: accepted" in ran.stdout
    told = json.loads((tmp_path / "out" / "judge.json").read_text(encoding="utf-8"))
    assert told["agreement"]["value"] == 1.0 and told["n"] == 40
    assert told["agreement"]["ci95"] == pytest.approx([40 / (40 + 1.959964**2), 1.0])  # Wilson's, all of n
    assert demand_accepted(tmp_path / "out", "http://h/v1 named") == told
    with pytest.raises(ValueError, match=r"is of the judge http://h/v1 named; got other"):
        demand_accepted(tmp_path / "out", "other")


def test_a_judge_below_what_is_required_is_refused_by_command_and_run(tmp_path: Path, server: list[Judge]) -> None:
    server[0] = wrong_every(2, lambda said: "hm")
    ran = asked(tmp_path)
    assert ran.exit_code == 1 and "http://h/v1 named: refused" in ran.stdout
    with pytest.raises(ValueError, match=r"refuses the judge: its agreement is 0\.5 .*above 0\.8, its kappa"):
        demand_accepted(tmp_path / "out", "http://h/v1 named")


def test_an_acceptance_without_a_judge_is_refused(tmp_path: Path) -> None:
    command = ["run", "vqa-rad", "--data", str(tmp_path), "--out", str(tmp_path), "--accepted", str(tmp_path)]
    ran = CliRunner().invoke(app, command)
    assert "--accepted is for a judge, and none plays" in str(ran.exception)


def test_a_file_of_another_frame_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"judge\.json: no such file; make it: medgemma-eval judge"):
        demand_accepted(tmp_path, "j")
    path = tmp_path / "judge.json"
    path.write_text(json.dumps({"judge": "j", "frame_version": VERSION + 1, "is_accepted": True}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"is of frame {VERSION + 1}, now {VERSION}"):
        demand_accepted(path, "j")
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="is no acceptance of a judge"):
        demand_accepted(path, "j")


def players(folder: Path) -> Players:
    said = judge(Asks="yes", Names="no")
    return Players(lambda messages: "Since when?", "weights", {"judge": said}, {"judge": "http://h/v1 named"})


def test_what_answers_takes_the_acceptance_of_its_judge_only(
    tmp_path: Path, server: list[Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(tmp_path)
    monkeypatch.setattr(casting, "local_players", lambda *_: players(tmp_path))
    answering = Answering("nano", {}, {}, {}, accepted=tmp_path / "out")
    monkeypatch.setattr("evals.asking.load_model", lambda *_: None)
    options = RunOptions()
    assert answering.for_task(task_named("healthbench"), options).accepted["n"] == 40
    assert not answering.for_task(task_named("agent-clinic-medqa"), options).accepted  # has no judge of that role
    assert not Answering("nano", {}, {}, {}).for_task(task_named("healthbench"), options).accepted
    none = Answering("nano", {}, {}, {}, accepted=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no such file"):
        none.for_task(task_named("healthbench"), options)


def test_a_score_says_who_judged_by_which_frame_and_how_well(tmp_path: Path) -> None:
    healthbench(tmp_path / "healthbench", HEALTHBENCH)
    accepted = {"agreement": {"value": 0.9, "ci95": [0.8, 1.0]}}
    cast = players(tmp_path)
    for folder, who in (("a", cast), ("b", Players(cast.model, "w", cast.others, cast.names, accepted=accepted))):
        run_task(task_named("healthbench"), RunOptions(), tmp_path, tmp_path / folder, who, "m", "command")
    found = [score_dir(tmp_path / folder)["healthbench"] for folder in ("a", "b")]
    assert found[0]["rubric_score"]["judge"] == {
        "judge": "http://h/v1 named",
        "frame_version": VERSION,
        "accepted": None,
    }
    assert found[1]["rubric_score"]["judge"]["accepted"] == accepted
    assert found[0]["unparsed"]["value"] == 0.0
