"""Trackers by name: what they are told, and what a user is told where they are not installed."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from finetune.training import Loop, Part, Schedule, Turn, train


def run(folder: Path, trackers: Any, *, stops_at: int | None = None) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)

    def loss_of(inputs: torch.Tensor, turn: Turn) -> torch.Tensor:
        if turn.step == stops_at:
            raise KeyboardInterrupt
        turn.log("kl", 0.25 / turn.denominator)
        loss: torch.Tensor = model(inputs).square().sum() / turn.denominator
        return loss

    def draw(step: int) -> list[Part[torch.Tensor]]:
        return [Part(torch.ones(3, 2), 3.0)] * 2

    loop = Loop(quiet=True, trackers=trackers, log_every_steps=1, save_every_s=-1)
    train(model, draw, loss_of, Schedule(0.1, 3), folder, loop)


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    for name in ("torch.utils.tensorboard", "tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"tracker {tracker}: the package is not installed; pip install {tracker}"):
        run(tmp_path, (tracker,))
    assert not (tmp_path / "state.safetensors").exists()


def test_tensorboard_gets_every_value_and_forgets_steps_that_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            told.append((Path(folder).name, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((step, name, round(value, 6)))

        def close(self) -> None:
            told.append("closed")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ("tensorboard",), stops_at=1)
    assert told[0] == ("tensorboard", 0) and told[-1] == "closed"
    assert (0, "kl", 0.083330) in told and (0, "denominator", 6.0) in told  # 2 x 0.25 / 6, to five digits
    told.clear()
    run(tmp_path, ("tensorboard",))
    assert told[0] == ("tensorboard", 1)
    assert {entry[0] for entry in told[1:-1]} == {1, 2} and {entry[1] for entry in told[1:-1]} == {
        "loss",
        "learning_rate",
        "gradient_norm",
        "denominator",
        "kl",
    }


def test_wandb_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict[str, Any]] = []
    steps: list[int] = []

    def init(**given: Any) -> SimpleNamespace:
        begun.append(given)
        return SimpleNamespace(log=lambda values, step: steps.append(step), finish=lambda: steps.append(-1))

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", ("wandb",), stops_at=2)
    run(tmp_path / "a", ("wandb",))
    run(tmp_path / "b", ("wandb",))
    assert steps == [0, 1, -1, 2, -1, 0, 1, 2, -1]
    assert begun[0]["id"] == begun[1]["id"] != begun[2]["id"] and begun[0]["resume"] == "allow"
    assert begun[0]["config"]["peak_learning_rate"] == 0.1
