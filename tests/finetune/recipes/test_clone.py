"""Behaviour cloning of conversations; then the whole way from the clinic to a chosen checkpoint with its interval."""

import json
from pathlib import Path
from typing import Any

import pytest

from evals.clinic.backends import local
from evals.clinic.dialogue import Meter, chat
from evals.generation import Generation
from experience import Episode, Step, write_episodes
from finetune.configuration import load_config
from finetune.recipes import clone
from medgemma import MedGemma
from tests.nano import needs_nano

YAML = Path(clone.__file__).with_suffix(".yaml")


def config(*settings: str) -> clone.Config:
    return load_config(clone.Config, [YAML], ["device=cpu", *settings])


def episode(number: int, reward: float = 1.0) -> Episode:
    """A nurse asks twice, and the expert always says the same."""
    system = {"role": "system", "content": "Be brief."}
    first = {"role": "user", "content": f"Patient {number} has a cough. Which film?"}
    then = {"role": "user", "content": "And the next step?"}
    replies = [{"text": "chest radiograph"}, {"text": "wait and see"}]
    steps = (
        Step({"messages": [system, first]}, replies[0], 0.0, 1.0, is_first=True),
        Step({"messages": [then]}, replies[1], reward, 0.0),
        Step({"messages": []}, is_last=True, is_terminal=True),
    )
    return Episode(steps, f"e{number}", {"group": f"p{number // 2}"})


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "stages" / "clone" / "log.jsonl").read_text().splitlines()]


@needs_nano
def test_replies_are_learned_and_every_checkpoint_answers(tmp_path: Path) -> None:
    write_episodes(tmp_path / "episodes", [episode(number) for number in range(12)])
    settings = ("learning_rate=0.003", "epochs=6", "examples_per_step=4", "held_out_share=0.2", "checkpoints=2")
    clone.run(config(*settings), tmp_path / "episodes", tmp_path / "out", True)
    losses = [line["held_out_token_nll"] for line in log(tmp_path / "out") if "held_out_token_nll" in line]
    checkpoints = sorted((tmp_path / "out" / "checkpoints").iterdir())
    assert [one.name for one in checkpoints] == ["0000015", "0000030"]  # 10 episodes of 2 replies, 6 times, 4 a step
    assert losses[1] < losses[0] and losses[1] < 0.5
    gemma = MedGemma.from_pretrained("nano", device="cpu", adapter=checkpoints[-1] / "adapter")
    asked = chat("Be brief.", [("user", "Patient 77 has a cough. Which film?")])
    assert local(gemma, Generation(), Meter())(asked) == "chest radiograph"


@needs_nano
def test_rewards_are_not_read(tmp_path: Path) -> None:
    for name, reward in (("paid", 1.0), ("unpaid", -5.0)):
        write_episodes(tmp_path / name / "episodes", [episode(number, reward) for number in range(6)])
        clone.run(config("epochs=0.5", "checkpoints=1"), tmp_path / name / "episodes", tmp_path / name / "out", True)
    assert log(tmp_path / "paid" / "out") == log(tmp_path / "unpaid" / "out")


@needs_nano
def test_the_division_is_not_the_seeds(tmp_path: Path) -> None:
    """Nothing is learned at so small a rate: a NLL tells which replies were held out."""
    write_episodes(tmp_path / "episodes", [episode(number) for number in range(8)])
    drawn = {"a": (0, 0), "b": (1, 0), "c": (0, 1)}
    for name, (seed, division_seed) in drawn.items():
        given = (f"seed={seed}", f"division_seed={division_seed}", "learning_rate=1e-12", "epochs=0.1", "checkpoints=1")
        clone.run(config(*given), tmp_path / "episodes", tmp_path / name, True)
    a, b, c = (log(tmp_path / name)[-1]["held_out_token_nll"] for name in drawn)
    assert a == pytest.approx(b, rel=1e-6) and a != pytest.approx(c, rel=1e-6)


def test_one_group_alone_is_named(tmp_path: Path) -> None:
    write_episodes(tmp_path / "episodes", [episode(0), episode(1)])
    with pytest.raises(ValueError, match="all 2 demonstrations are of one group"):
        clone.run(config(), tmp_path / "episodes", tmp_path / "out", True)
