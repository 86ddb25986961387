"""The loop: an interrupted run ends as an uninterrupted one, bit for bit; its log; its refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from finetune.training import Loop, Part, Schedule, Turn, step_generator, train
from finetune.training.draws import drawn_ahead

SCHEDULE = Schedule(peak_learning_rate=0.05, total_steps=45, warmup_steps=5)
QUIET, SAVING = Loop(quiet=True), Loop(quiet=True, save_every_s=-1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12), nn.Tanh(), nn.Linear(12, 3))


def draw(step: int) -> list[Part[torch.Tensor]]:
    return [Part(torch.randn(8, 6, generator=step_generator(7, "test", step)))]


def loss_of(model: nn.Module, stops_at: int | None = None) -> Callable[[torch.Tensor, Turn], torch.Tensor]:
    def loss_of_step(inputs: torch.Tensor, turn: Turn) -> torch.Tensor:
        if turn.step == stops_at:
            raise KeyboardInterrupt
        loss: torch.Tensor = (model(inputs) - inputs[:, :3].sin()).square().mean()
        return loss

    return loss_of_step


def trained(folder: Path) -> nn.Module:
    model = network()
    train(model, draw, loss_of(model), SCHEDULE, folder, QUIET)
    return model


def equal(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("stops_at", [1, 17, 44])
def test_interrupted_and_resumed_is_uninterrupted(tmp_path: Path, stops_at: int) -> None:
    whole = trained(tmp_path / "whole")
    model = network()
    with pytest.raises(KeyboardInterrupt):
        train(model, draw, loss_of(model, stops_at), SCHEDULE, tmp_path / "cut", SAVING)
    torch.manual_seed(99)  # what the process drew before must not count
    resumed = network()
    with torch.no_grad():
        resumed[0].weight.add_(1)  # nor its start
    train(resumed, draw, loss_of(resumed), SCHEDULE, tmp_path / "cut", QUIET)
    assert equal(resumed, whole)
    assert not equal(whole, network())


def test_interrupted_before_any_checkpoint_starts_again(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(KeyboardInterrupt):
        train(model, draw, loss_of(model, 17), SCHEDULE, tmp_path / "cut", QUIET)
    assert equal(trained(tmp_path / "cut"), trained(tmp_path / "whole"))


def test_weights_without_the_optimizers_moments_end_elsewhere(tmp_path: Path) -> None:
    """The control: a resume that forgets Adam's moments is not the same run."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    model = network()
    with pytest.raises(KeyboardInterrupt):
        train(model, draw, loss_of(model, 17), SCHEDULE, tmp_path / "cut", SAVING)
    state = tmp_path / "cut" / "state.safetensors"
    forgotten = {k: v if k.startswith(("parameter", "step")) else v * 0 for k, v in load_file(state).items()}
    with safe_open(state, "pt") as file:
        facts = file.metadata()
    save_file(forgotten, state, facts)
    assert not equal(trained(tmp_path / "cut"), trained(tmp_path / "whole"))


def test_a_finished_stage_is_not_trained_on(tmp_path: Path) -> None:
    whole = trained(tmp_path)
    log = (tmp_path / "log.jsonl").read_text()
    assert equal(trained(tmp_path), whole)
    assert (tmp_path / "log.jsonl").read_text() == log


def test_the_log(tmp_path: Path) -> None:
    trained(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 20, 40, 44]
    assert lines[-1]["loss"] < lines[0]["loss"] / 2
    assert [line["learning_rate"] for line in lines] == [round(SCHEDULE.learning_rate(s), 8) for s in (0, 20, 40, 44)]


def test_the_schedule() -> None:
    rates = [SCHEDULE.learning_rate(step) for step in range(45)]
    assert rates[0] == pytest.approx(0.05 / 4) and rates.index(max(rates)) == 3
    assert rates[5:] == sorted(rates[5:], reverse=True) and 0 < rates[-1] < 0.001


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    model = network()
    honest = loss_of(model)

    def burst(inputs: torch.Tensor, turn: Turn) -> torch.Tensor:
        return honest(inputs, turn) * (float("nan") if turn.step == 20 else 1.0)

    with pytest.raises(FloatingPointError, match="the loss is nan at step 20; the checkpoint before step 20 is kept"):
        train(model, draw, burst, SCHEDULE, tmp_path / "cut", SAVING)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert equal(trained(tmp_path / "cut"), trained(tmp_path / "whole"))


def test_checkpoints_are_safetensors_only_and_frozen_weights_are_left(tmp_path: Path) -> None:
    model = network()
    model[0].requires_grad_(False)
    train(model, draw, loss_of(model), SCHEDULE, tmp_path, QUIET)
    assert equal(model[0], network()[0])
    assert {path.name for path in tmp_path.iterdir()} == {"state.safetensors", "log.jsonl"}
    from safetensors import safe_open

    with safe_open(tmp_path / "state.safetensors", "pt") as file:
        kept = set(file.keys())
        assert file.metadata()["next_step"] == "45"
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert kept == {f"{kind}.{n}" for n in names for kind in ("parameter", "step", "exp_avg", "exp_avg_sq")}


def test_step_generators_differ_by_seed_stage_and_step() -> None:
    drawn = {
        torch.randint(2**40, (1,), generator=step_generator(seed, stage, step)).item()
        for seed in (0, 1)
        for stage in ("a", "b")
        for step in (0, 1)
    }
    assert len(drawn) == 8


def test_a_short_run_warms_up_in_a_tenth_of_its_steps() -> None:
    """Cosine by hand: at a quarter, half and all of the way 0.853, 0.5 and 0 of the way to the hundredth."""
    schedule = Schedule(peak_learning_rate=2.0, total_steps=40)
    assert schedule.learning_rate(0) == pytest.approx(2.0 / 4)
    assert schedule.learning_rate(10) == pytest.approx(2.0 * (0.01 + 0.99 * 0.8535534))
    assert schedule.learning_rate(20) == pytest.approx(2.0 * (0.01 + 0.99 * 0.5))
    long = Schedule(peak_learning_rate=2.0, total_steps=10_000)
    assert long.learning_rate(49) == pytest.approx(1.0, rel=1e-3)


def test_drawing_in_processes_gives_the_same_in_the_same_order() -> None:
    """What a GPU's run does; the steps go on from where a resumed run starts."""
    ahead = list(drawn_ahead(draw, range(17, 45), 2))
    assert len(ahead) == 28 and all(
        torch.equal(a[0].drawn, draw(step)[0].drawn) for a, step in zip(ahead, range(17, 45), strict=True)
    )
