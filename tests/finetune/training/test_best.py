"""The best weights by a metric: which are kept, over interruptions too."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from finetune.training import Evaluation, Loop, Part, Schedule, Turn, load_best, train

VALUES = (0.2, 0.6, 0.6, 0.5, 0.1)


def run(
    folder: Path, values: Sequence[float], *, stops_at: int | None = None, larger_is_better: bool = True
) -> nn.Module:
    """Five steps that count up a weight, measured every second step and after the last."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)

    def loss_of(drawn: None, turn: Turn) -> torch.Tensor:
        if turn.step == stops_at:
            raise KeyboardInterrupt
        loss: torch.Tensor = -model.weight.sum()
        return loss

    schedule = Schedule(1.0, 9, weight_decay=0.0, shape="constant")
    evaluation = Evaluation(lambda steps: values[steps // 2 - 1 if steps < 9 else 4], "accuracy", 2, larger_is_better)
    train(model, lambda step: [Part(None)], loss_of, schedule, folder, Loop(quiet=True), evaluation=evaluation)
    return model


@pytest.mark.parametrize(("larger_is_better", "steps"), [(True, 4), (False, 9)])
def test_the_best_weights_are_kept_and_the_earlier_of_equal_ones(
    tmp_path: Path, larger_is_better: bool, steps: int
) -> None:
    model = run(tmp_path, VALUES, larger_is_better=larger_is_better)
    assert model.weight.item() == pytest.approx(9, rel=1e-5)  # Adam moves by the learning rate
    found = load_best(tmp_path, model)
    assert model.weight.item() == pytest.approx(steps, rel=1e-5)
    assert (found["steps"], found["metric"], float(found["value"])) == (
        str(steps),
        "accuracy",
        0.6 if steps == 4 else 0.1,
    )
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["accuracy"]) for line in lines if "accuracy" in line] == [
        (1, 0.2), (3, 0.6), (5, 0.6), (7, 0.5), (8, 0.1),
    ]  # fmt: skip


@pytest.mark.parametrize("stops_at", [3, 4, 5, 7])
def test_the_best_before_an_interruption_still_counts(tmp_path: Path, stops_at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, VALUES, stops_at=stops_at)
    model = run(tmp_path, VALUES)
    load_best(tmp_path, model)
    assert model.weight.item() == pytest.approx(4, rel=1e-5)


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    """A checkpoint follows each evaluation."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, VALUES, stops_at=4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [], stops_at=5)


def test_without_an_evaluation_there_are_no_best_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="best.safetensors: no best weights there; run the stage with an Evaluation"):
        load_best(tmp_path, nn.Linear(1, 1))
