"""A sweep by a proxy, with trials side by side: a recipe that only puts a policy into its folder."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune.choosing.judging import Judging
from finetune.choosing.sweeping import ProxyValues, demand_judgeable, proxy_sweep
from finetune.cli import app
from finetune.recipes import clone
from finetune.sweeps import sweep as module
from finetune.sweeps.space import Space
from finetune.sweeps.sweep import Sweep, sweep
from tests.finetune.choosing.small import demonstrate, make_run

RECIPE = """
import shutil, sys, time
from pathlib import Path
settings = dict(a.split("=", 1) for a in sys.argv if "=" in a)
out = Path(sys.argv[sys.argv.index("--out") + 1])
made = Path(__file__).parent / f"gain-{settings['gain']}"
(out / "began").write_text(repr(time.time()))
while "together" in settings and len(list(out.parent.glob("*/began"))) < int(settings["together"]):
    time.sleep(0.01)
if made.is_dir():
    shutil.copytree(made / "checkpoints", out / "checkpoints")
"""


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.02)


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    for gain in (0.1, 0.5, 0.9):
        make_run(tmp_path / f"gain-{gain}", {100: 0.0, 200: gain}, rollouts=False)
    (tmp_path / "recipe.py").write_text(RECIPE)
    return [sys.executable, "-S", str(tmp_path / "recipe.py")]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]


def test_a_sweep_is_judged_by_a_proxy(tmp_path: Path, program: list[str]) -> None:
    demonstrate(tmp_path / "expert")
    space = Space(settings={"gain": [0.1, 0.5, 0.9, 7.0]}, full_trials=4)
    asked, values_of = proxy_sweep("clone", (), space, "action_error", tmp_path / "expert", None)
    assert not asked.space.larger_is_better  # of an error
    sweep(asked, tmp_path / "out", values_of, program)
    found = {row["settings"]["gain"]: row for row in lines(tmp_path / "out")}
    errors = {gain: row["value"] for gain, row in found.items() if row["state"] == "complete"}
    assert min(errors, key=lambda gain: errors[gain]) == "0.5" and set(errors) == {"0.1", "0.5", "0.9"}
    assert found["0.5"]["evaluations"] <= 2
    assert found["7.0"]["state"] == "failed" and "holds no checkpoint" in found["7.0"]["reason"]
    assert "proxy: action_error" in (tmp_path / "out" / "config.yaml").read_text()


def test_a_checkpoint_is_judged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demonstrate(tmp_path / "expert")
    run = make_run(tmp_path / "run", {100: 0.0}, rollouts=False)
    values_of = ProxyValues("action_error", Judging(tmp_path / "expert"), divide_as_run=True)
    first = values_of(run)
    make_run(run, {200: 0.5}, rollouts=False)
    (run / "checkpoints" / "0000100" / "policy.safetensors").write_bytes(b"not read again")
    assert values_of(run)[0] == first[0] and values_of(run)[1] < first[0]


def test_trials_run_side_by_side(tmp_path: Path, program: list[str]) -> None:
    """Each waits for the other: one after the other they would never end."""
    demonstrate(tmp_path / "expert")
    space = Space(settings={"gain": [0.1, 0.9]})
    given = ("--set", "together=2")
    asked, values_of = proxy_sweep("clone", given, space, "action_error", tmp_path / "expert", None)
    sweep(asked, tmp_path / "out", values_of, program, jobs=2)
    assert sorted(row["state"] for row in lines(tmp_path / "out")) == ["complete", "complete"]
    before = (tmp_path / "out" / "trials.jsonl").read_text()
    sweep(asked, tmp_path / "out", values_of, ["this program is not there"], jobs=2)  # nothing is left to run
    assert (tmp_path / "out" / "trials.jsonl").read_text() == before


def test_an_interrupted_sweep_goes_on_with_all_that_were_cut(
    tmp_path: Path, program: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while two run: neither counts as failed, and both are there in the end."""
    demonstrate(tmp_path / "expert")
    space = Space(settings={"gain": [0.1, 0.9]})
    given = ("--set", "together=3")
    asked, values_of = proxy_sweep("clone", given, space, "action_error", tmp_path / "expert", None)
    out = tmp_path / "out"

    def interrupt(folder: Path) -> list[float]:
        if len(list((out / "trials").glob("*/began"))) == 2:
            raise KeyboardInterrupt
        raise ValueError("nothing yet")

    with pytest.raises(KeyboardInterrupt):
        sweep(asked, out, interrupt, program, jobs=2)
    assert not (out / "trials.jsonl").exists()
    (out / "trials" / "third").mkdir()
    (out / "trials" / "third" / "began").write_text("")
    sweep(asked, out, values_of, program, jobs=2)
    assert [(row["trial"], row["state"]) for row in lines(out)] == [(0, "complete"), (1, "complete")]


def test_another_proxy_in_the_folder_is_refused(tmp_path: Path, program: list[str]) -> None:
    demonstrate(tmp_path / "expert")
    space = Space(settings={"gain": [0.5]})
    asked, values_of = proxy_sweep("clone", (), space, "action_error", tmp_path / "expert", None)
    sweep(asked, tmp_path / "out", values_of, program)
    with pytest.raises(ValueError, match="another run is here, with"):
        sweep(Sweep(recipe="clone", arguments=(), space=space), tmp_path / "out", None, program)


def test_mistakes_are_told_before_a_trial(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("settings: {learning_rate: [1.0e-3]}\n")
    words = ["sweep", "clone", "--space", str(tmp_path / "space.yaml"), "--out", str(tmp_path / "out"), "--proxy"]
    fault = CliRunner().invoke(app, [*words, "token_nll"]).exception
    assert str(fault) == "--proxy token_nll needs --demonstrations: a data set of episodes"
    fault = CliRunner().invoke(app, [*words[:-1], "--demonstrations", str(tmp_path)]).exception
    assert str(fault) == "--demonstrations and --held-out belong to --proxy; add it, or leave them out"
    fault = CliRunner().invoke(app, [*words, "reward", "--demonstrations", str(tmp_path)]).exception
    assert str(fault).startswith("--proxy reward: unknown; choose of action_error")
    fault = CliRunner().invoke(app, [*words, "token_nll", "--demonstrations", str(tmp_path)]).exception
    assert "no episodes.parquet there" in str(fault)
    numbers = str(demonstrate(tmp_path / "numbers"))
    fault = CliRunner().invoke(app, [*words, "token_nll", "--demonstrations", numbers]).exception
    assert (
        str(fault) == "--proxy token_nll: is of texts, and the demonstrations' actions are numbers; take action_error"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("recipe", "proxy", "said"),
    [
        ("clone", "action_error", "a run of clone leaves no policy over numbers; give --proxy token_nll"),
        ("clone", "state_distance", "a run of clone leaves no episodes of its own; give --proxy token_nll"),
        ("vqa", "support", "a run of vqa leaves no episodes of its own; give --proxy token_nll"),
        ("classify", "token_nll", "a run of classify leaves no MedGemma to judge; sweep it without --proxy"),
    ],
)
def test_what_no_trial_could_be_judged_by_is_refused_before_the_first(
    tmp_path: Path, recipe: str, proxy: str, said: str
) -> None:
    (tmp_path / "space.yaml").write_text("settings: {seed: [0, 1]}\n")
    words = ["sweep", recipe, "--space", str(tmp_path / "space.yaml"), "--out", str(tmp_path / "out")]
    given = ["--proxy", proxy, "--demonstrations", str(demonstrate(tmp_path / "expert"))]
    fault = CliRunner().invoke(app, [*words, *given]).exception
    assert str(fault) == f"--proxy {proxy}: {said}" and not (tmp_path / "out").exists()


def test_a_share_that_the_recipe_would_not_hold_out_is_refused_before_the_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--held-out 0.5: a run of clone .* give --set held_out_share=0.5"):
        demand_judgeable("clone", clone.Config, "token_nll", 0.5)
    demand_judgeable("clone", clone.Config, "token_nll", 1)
