"""A sweep over a recipe that takes no time: a script that logs as `finetune.training` does."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune.cli import app
from finetune.sweeps import sweep as module
from finetune.sweeps.space import Space, read_space
from finetune.sweeps.sweep import Sweep, evaluations, sweep

RECIPE = """
import json, sys, time
from pathlib import Path
arguments = sys.argv[1:]
settings = dict(a.split("=", 1) for a in arguments if "=" in a)
out = Path(arguments[arguments.index("--out") + 1])
rate = float(settings["learning_rate"])
if rate > 1:
    print("error: the loss is nan at step 3")
    sys.exit(1)
stage = out / "stages" / "tune"
stage.mkdir(parents=True, exist_ok=True)
done = len((stage / "log.jsonl").read_text().splitlines()) // 2 if (stage / "log.jsonl").is_file() else 0
with (stage / "log.jsonl").open("a") as log:
    for step in range(done, int(settings.get("evaluations", 3))):
        log.write(json.dumps({"step": step, "loss": 1.0, "learning_rate": rate, "gradient_norm": 1.0}) + "\\n")
        log.write(json.dumps({"step": step, "accuracy": rate * (step + 1)}) + "\\n")
        log.flush()
        time.sleep(float(settings.get("seconds", 0)))
"""


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.02)


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    script = tmp_path / "recipe.py"
    script.write_text(RECIPE)
    return [sys.executable, "-S", str(script)]


def asked(rates: list[float] | dict[str, Any], *arguments: str, **more: Any) -> Sweep:
    space = Space.model_validate({"settings": {"learning_rate": rates}, **more})
    return Sweep(recipe="answers", arguments=arguments, space=space)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]


def test_a_grid_runs_once_each_and_the_table_has_the_best(tmp_path: Path, program: list[str]) -> None:
    sweep(asked([0.1, 0.3, 0.2]), tmp_path / "out", program=program)
    found = {line["settings"]["learning_rate"]: line for line in lines(tmp_path / "out")}
    assert {rate: round(line["value"], 6) for rate, line in found.items()} == {"0.1": 0.3, "0.3": 0.9, "0.2": 0.6}
    assert {line["state"] for line in found.values()} == {"complete"}
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert "learning_rate=0.3 | 0.9000 |" in text and text.count("\n") == 4
    before = (tmp_path / "out" / "trials.jsonl").read_text()
    sweep(asked([0.1, 0.3, 0.2]), tmp_path / "out", program=["this program is not there"])  # nothing is left to run
    assert (tmp_path / "out" / "trials.jsonl").read_text() == before


def test_a_failed_trial_is_named_and_the_others_go_on(
    tmp_path: Path, program: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(asked([0.1, 5.0, 0.2]), tmp_path / "out", program=program)
    found = {line["settings"]["learning_rate"]: line for line in lines(tmp_path / "out")}
    assert found["5.0"]["state"] == "failed" and found["5.0"]["reason"] == "error: the loss is nan at step 3"
    assert ": failed, error: the loss is nan at step 3\n" in capsys.readouterr().err
    assert [found[rate]["state"] for rate in ("0.1", "0.2")] == ["complete", "complete"]


def test_where_all_fail_the_first_reason_is_said(tmp_path: Path, program: list[str]) -> None:
    with pytest.raises(ValueError, match="every trial has failed; the first: error: the loss is nan at step 3"):
        sweep(asked([4.0, 5.0]), tmp_path / "out", program=program)
    with pytest.raises(ValueError, match="the recipe evaluated nothing; give it a validation side"):
        sweep(asked([0.1], "--set", "evaluations=0"), tmp_path / "none", program=program)


def test_a_trial_that_falls_behind_is_stopped(tmp_path: Path, program: list[str]) -> None:
    """Two run to their end; of the later ones, those below their median at the first evaluation are stopped."""
    arguments = ("--set", "evaluations=60", "--set", "seconds=0.02")
    sweep(asked([0.6, 0.5, 0.1, 0.2], *arguments), tmp_path / "out", program=program)
    found = lines(tmp_path / "out")
    assert [line["state"] for line in found[:2]] == ["complete", "complete"]
    stopped = [line for line in found if line["state"] == "stopped early"]
    assert stopped and all(line["evaluations"] < 60 for line in stopped)
    best = max(found, key=lambda line: line["value"])
    assert best["state"] == "complete"


def test_a_killed_sweep_goes_on_with_the_trial_that_was_cut(tmp_path: Path, program: list[str]) -> None:
    out, arguments = tmp_path / "out", ("--set", "evaluations=8", "--set", "seconds=0.2")
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from finetune.sweeps.sweep import Sweep, sweep\n"
        "asked, out, program = json.loads(sys.argv[1])\n"
        "sweep(Sweep.model_validate(asked), Path(out), program=program)\n"
    )
    given = json.dumps([asked([0.1, 0.2], *arguments).model_dump(mode="json"), str(out), program])
    process = subprocess.Popen([sys.executable, "-c", code, given], start_new_session=True)
    log = out / "trials" / "0" / "stages" / "tune" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.is_file() and len(log.read_text().splitlines()) >= 4):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    subprocess.run(["kill", "-s", "KILL", "--", f"-{process.pid}"], check=True)  # the trial with it
    assert process.wait() == -signal.SIGKILL
    assert not (out / "trials.jsonl").exists()
    sweep(asked([0.1, 0.2], *arguments), out, program=program)
    found = lines(out)
    assert [line["trial"] for line in found] == [0, 1] and {line["state"] for line in found} == {"complete"}
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()[::2]]
    assert steps == list(range(8))  # it went on where it was


def test_another_sweep_in_the_folder_is_refused(tmp_path: Path, program: list[str]) -> None:
    sweep(asked([0.1]), tmp_path / "out", program=program)
    with pytest.raises(ValueError, match="another run is here"):
        sweep(asked([0.2]), tmp_path / "out", program=program)


def test_a_range_is_drawn_from(tmp_path: Path, program: list[str]) -> None:
    sweep(asked({"low": 1e-3, "high": 0.9, "log": True}, trials=4), tmp_path / "out", program=program)
    rates = [line["settings"]["learning_rate"] for line in lines(tmp_path / "out")]
    assert len(set(rates)) == 4 and all(1e-3 <= rate <= 0.9 for rate in rates)


def test_evaluations_are_told_from_steps(tmp_path: Path) -> None:
    stage = tmp_path / "stages" / "tune"
    stage.mkdir(parents=True)
    rows = [
        {"step": 0, "loss": 2.0, "learning_rate": 1e-3},
        {"step": 0, "accuracy": 0.25},
        {"step": 1, "accuracy": 0.5},
    ]
    (stage / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 2, "accu')
    assert evaluations(tmp_path) == [0.25, 0.5]


def test_the_reports_learning_rates_ship() -> None:
    space = read_space("report_learning_rates")
    assert [float(place["learning_rate"]) for place in space.places] == [1e-7, 5e-7, 1e-6]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: [1.0e-4]", "space.yaml: configuration settings: Field required"),
        ("settings: {}", "varies nothing; name a setting"),
        ("settings: {learning_rate: []}", "learning_rate has no values"),
        ("settings: {learning_rate: {low: 2, high: 1}}", "give low below high"),
        ("settings: {learning_rat: [1.0e-4]}", "configuration learning_rat: Extra inputs are not permitted"),
        ("settings: {learning_rate: [-1]}", "configuration learning_rate: Input should be greater than 0"),
    ],
)
def test_spaces_that_cannot_be_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "space.yaml").write_text(text)
    given = [
        "sweep",
        "answers",
        "--space",
        str(tmp_path / "space.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--table",
        "T",
    ]
    done = CliRunner().invoke(app, given)
    assert isinstance(done.exception, ValueError) and message in str(done.exception)
    assert not (tmp_path / "out").exists()
