"""One training loop for every recipe: warm-up and cosine, clipping, a log, and checkpoints that resume exactly."""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from medsiglip.command import progress

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak_learning_rate`, a tenth of the steps at most, then a cosine to a hundredth of it."""

    peak_learning_rate: float
    total_steps: int
    warmup_steps: int = 100
    weight_decay: float = 0.05

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, min(self.warmup_steps, self.total_steps // 10)))
        return self.peak_learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / self.total_steps)))


def train(
    modules: nn.Module,
    loss_of_step: Callable[[int], torch.Tensor],
    schedule: Schedule,
    folder: Path,
    *,
    save_every_s: float = 120.0,
    quiet: bool = False,
) -> None:
    """Run or go on with one stage.

    `loss_of_step(step)` must depend on nothing but the step and the weights (draw from `step_generator`): then a
    run that was interrupted ends with the same weights as one that was not.

    Args:
        modules: what is trained; parameters that need no gradient are left alone and not saved here.
        loss_of_step: the loss of a step, a scalar.
        schedule: learning rates and length.
        folder: holds state.safetensors, state.json and log.jsonl.
        save_every_s: seconds between checkpoints.
        quiet: no progress bar.

    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = {name: p for name, p in modules.named_parameters() if p.requires_grad}
    optimizer = _optimizer(named, schedule)
    start = load_state(folder, named, optimizer)
    modules.train()
    saved_at = time.monotonic()
    with progress(schedule.total_steps - start, f"steps of {folder.name}", quiet) as advance:
        for step in range(start, schedule.total_steps):
            loss = _one_step(loss_of_step, step, optimizer, schedule, named.values())
            advance(1)
            last = step + 1 == schedule.total_steps
            if step % 20 == 0 or last:
                _log(folder, step, loss, schedule.learning_rate(step))
            if last or time.monotonic() - saved_at > save_every_s:
                save_state(folder, named, optimizer, step + 1)
                saved_at = time.monotonic()
    modules.eval()


def autocast(device_type: str, precision: Precision) -> torch.autocast:
    """The context in which a forward pass runs in `precision`; weights stay float32."""
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    """A generator that gives the same numbers for the same seed, stage and step, resumed or not."""
    import hashlib

    digest = hashlib.sha256(f"{seed}:{stage}:{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def save_state(folder: Path, named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, next_step: int) -> None:
    """Write weights and optimizer moments as safetensors; the old checkpoint stays until the new one is whole."""
    from safetensors.torch import save_file

    tensors = {}
    for name, parameter in named.items():
        tensors[f"parameter.{name}"] = parameter.detach()
        for moment, value in optimizer.state[parameter].items():
            tensors[f"{moment}.{name}"] = value
    partial = folder / "state.partial"
    save_file({name: t.contiguous() for name, t in tensors.items()}, partial, metadata={"next_step": str(next_step)})
    partial.replace(folder / "state.safetensors")


def load_state(folder: Path, named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Restore what `save_state` wrote; returns the step to go on with, 0 without a checkpoint."""
    from safetensors import safe_open

    path = folder / "state.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        moments = {key.split(".", 1)[0] for key in file.keys()} - {"parameter"}  # noqa: SIM118
        for name, parameter in named.items():
            parameter.data.copy_(file.get_tensor(f"parameter.{name}"))
            optimizer.state[parameter] = {moment: file.get_tensor(f"{moment}.{name}") for moment in moments}
        return int(file.metadata()["next_step"])


def _optimizer(named: dict[str, nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    decayed = [p for p in named.values() if p.ndim >= 2]
    others = [p for p in named.values() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.peak_learning_rate, betas=(0.9, 0.98))


def _one_step(
    loss_of_step: Callable[[int], torch.Tensor],
    step: int,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    parameters: Iterable[nn.Parameter],
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = schedule.learning_rate(step)
    loss = loss_of_step(step)
    if not bool(torch.isfinite(loss)):
        raise FloatingPointError(f"the loss is {loss.item()} at step {step}; lower the learning rate and resume")
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return loss.item()


def _log(folder: Path, step: int, loss: float, learning_rate: float) -> None:
    line = json.dumps({"step": step, "loss": round(loss, 5), "learning_rate": round(learning_rate, 8)})
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
