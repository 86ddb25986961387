"""What steps draw, and what a step refuses."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from finetune.training import Loop, Part, Schedule, Turn, named_places, rows_of_step, train
from finetune.training.draws import seed_streams


def test_every_row_comes_once_an_epoch_in_another_order() -> None:
    rows = [row for step in range(15) for row in rows_of_step(10, 4, 7, step)]
    epochs = [rows[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert rows_of_step(10, 4, 7, 11) == rows[44:48]  # asked for alone, in the middle of an epoch
    assert rows_of_step(10, 4, 8, 11) != rows[44:48]
    assert sorted(rows_of_step(3, 7, 0, 0)[:6]) == [0, 0, 1, 1, 2, 2]  # a step of more than an epoch


def test_the_three_global_streams_are_seeded() -> None:
    def drawn(*names: object) -> tuple[float, float, float]:
        seed_streams(3, *names)
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    assert drawn("stage", 1) == drawn("stage", 1)
    assert all(one != other for one, other in zip(drawn("stage", 1), drawn("stage", 2), strict=True))


def test_places_are_named_once_and_counted() -> None:
    assert named_places(["a:1", "", "a:2", "a:1"]) == "a:1, a:2" and named_places(["", ""]) == ""
    assert named_places([f"a:{n}" for n in range(9)], most=2) == "a:0, a:1 and 7 more"


def run(folder: Path, parts: Sequence[Part[Any]], model: nn.Module | None = None) -> None:
    model = model or nn.Linear(2, 1, bias=False)

    def loss_of(inputs: torch.Tensor, turn: Turn) -> torch.Tensor:
        loss: torch.Tensor = model(inputs).abs().sqrt().sum() / turn.denominator
        return loss

    train(model, lambda step: parts, loss_of, Schedule(0.1, 2), folder, Loop(quiet=True))


def test_a_gradient_that_is_not_finite_names_the_rows_of_its_step(tmp_path: Path) -> None:
    """The root of zero: its value is 0, its slope is not."""
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    parts = [Part(torch.ones(1, 2), 1.0, ("T.csv row 4",)), Part(torch.zeros(1, 2), 1.0, ("T.csv row 9",))]
    said = "the gradient is nan at step 0, in the batch of T.csv row 4, T.csv row 9; no checkpoint yet; look at"
    with pytest.raises(FloatingPointError, match=said):
        run(tmp_path, parts, model)
    assert torch.equal(model.weight, before)


def test_only_the_part_whose_loss_is_not_finite_is_named(tmp_path: Path) -> None:
    spoiled = torch.tensor([[1.0, float("inf")]])
    parts = [Part(torch.ones(1, 2), 1.0, ("T.csv row 4",)), Part(spoiled, 1.0, ("T.csv row 9", "T.csv row 2"))]
    with pytest.raises(FloatingPointError, match="at step 0, in the batch of T.csv row 9, T.csv row 2; no checkpoint"):
        run(tmp_path, parts)


def test_a_part_of_weight_zero_counts_for_nothing(tmp_path: Path) -> None:
    models = [nn.Linear(2, 1, bias=False) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    part = Part(torch.ones(1, 2))
    run(tmp_path / "a" / "s", [part], models[0])
    run(tmp_path / "b" / "s", [part, Part(torch.randn(5, 2), 0.0)], models[1])
    assert torch.equal(models[0].weight, models[1].weight)


def test_what_cannot_be_learned_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step 0: rank 0 has drawn nothing; draw more parts"):
        run(tmp_path, [])
    with pytest.raises(ValueError, match="step 0: nothing to learn in its 1 parts; draw others"):
        run(tmp_path, [Part(torch.ones(1, 2), 0.0)])
    with pytest.raises(ValueError, match="no parameter is trained; unfreeze some"):
        run(tmp_path, [Part(torch.ones(1, 2))], nn.Linear(2, 1).requires_grad_(False))


def test_shapes_of_schedules() -> None:
    """By hand: down to a hundredth in a straight line, or at the peak to the end."""
    linear = Schedule(2.0, 40, warmup_steps=1, shape="linear")
    assert [linear.learning_rate(step) for step in (0, 10, 20)] == pytest.approx([2.0, 2 * 0.7525, 2 * 0.505])
    constant = Schedule(2.0, 40, warmup_steps=4, shape="constant")
    assert [constant.learning_rate(step) for step in (0, 1, 3, 39)] == pytest.approx([0.5, 1.0, 2.0, 2.0])
