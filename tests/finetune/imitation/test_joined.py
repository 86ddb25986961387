"""The commands of docs/choosing.md in one piece: clinic, episodes, cloning, a chosen checkpoint, its figure."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals.cli import app as evaluate
from finetune.cli import app as finetune
from tests.medgemma.faulty_server import serving
from tests.nano import needs_nano

pytestmark = [pytest.mark.kit, pytest.mark.slow, needs_nano]

TASK = "agent-clinic-medqa"


def ran(app: object, *words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return str(result.output)


def doctor(prompt: str, before: int) -> str:
    """An expert whose conversations are short: two questions, and always the same diagnosis."""
    for turn, reply in (("Reply 3 of 20", "DIAGNOSIS READY: gout"), ("Reply 2 of 20", "Since when?")):
        if turn in prompt:
            return f"say {reply}"
    return "say Where does it hurt?"


def test_from_the_clinic_to_a_chosen_checkpoint_with_its_interval(kit: Path, tmp_path: Path) -> None:
    said, out = ["--data", kit, "--quiet"], tmp_path
    with serving(doctor) as expert:
        given = ["--endpoint", expert.url, "--side", "train", "--limit", 8, *said, "--out", out / "expert"]
        ran(evaluate, "run", TASK, *given)
    settings = ["learning_rate=0.003", "epochs=5", "examples_per_step=4", "checkpoints=2", "held_out_share=0.25"]
    chosen = [word for one in settings for word in ("--set", one)]
    episodes = out / "expert" / TASK / "episodes"
    ran(finetune, "run", "clone", "--data", episodes, "--out", out / "clone", "--set", "device=cpu", *chosen, "--quiet")
    given = ["--data", episodes, "--held-out", 0.25, "--device", "cpu", "--quiet", "--out", out / "choice"]
    ran(finetune, "choose", out / "clone", "--proxy", "token_nll", *given)
    choice = json.loads((out / "choice" / "chosen.json").read_text(encoding="utf-8"))
    log = (out / "clone" / "stages" / "clone" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    losses = {line["step"] + 1: line["held_out_token_nll"] for line in map(json.loads, log) if len(line) == 2}
    assert choice["step"] == min(losses, key=lambda step: losses[step])  # as the recipe has measured them
    given = ["--adapter", choice["checkpoint"], "--device", "cpu", "--max-new-tokens", 16, "--out", out / "after"]
    ran(evaluate, "run", TASK, "--side", "held-out", "--limit", 4, *given, *said)
    scores = json.loads((out / "after" / "scores.json").read_text(encoding="utf-8"))[TASK]
    assert scores["gave_diagnosis"]["value"] == 1 and scores["doctor_replies"]["value"] == 3  # as the expert does
    low, high = scores["diagnosis_match_norm"]["ci95"]
    assert 0 <= low <= scores["diagnosis_match_norm"]["value"] <= high <= 1
