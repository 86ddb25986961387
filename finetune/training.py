"""One training loop for every recipe: warm-up and cosine, clipping, a log, and checkpoints that resume exactly."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from medsiglip.command import progress

Precision = Literal["float32", "bfloat16"]
Drawn = TypeVar("Drawn")

DRAWING_PROCESSES = 4
"""Beside a GPU, which would wait for one."""


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
    draw: Callable[[int], Drawn],
    loss_of: Callable[[int, Drawn], torch.Tensor],
    schedule: Schedule,
    folder: Path,
    *,
    save_every_s: float = 120.0,
    quiet: bool = False,
) -> None:
    """Run or go on with one stage, on the device where `modules` are.

    `draw(step)` must depend on nothing but the step, and `loss_of` on nothing but that, the step and the weights (draw
    from `step_generator`): then, on a CPU, a run that was interrupted ends with the same weights as one that was not.

    Args:
        modules: what is trained; parameters that need no gradient are left alone and not saved here.
        draw: a step to its examples, on the CPU; for a GPU it runs ahead in processes of its own.
        loss_of: the step and its examples to the loss, a scalar.
        schedule: learning rates and length.
        folder: holds state.safetensors and log.jsonl.
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
        steps = range(start, schedule.total_steps)
        for step, drawn in zip(steps, _drawn_ahead(draw, steps, _drawing_processes(named)), strict=True):
            loss = _one_step(loss_of(step, drawn), step, optimizer, schedule, named.values())
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
            optimizer.state[parameter] = {
                moment: file.get_tensor(f"{moment}.{name}").to(parameter.device) for moment in moments
            }
        return int(file.metadata()["next_step"])


def _drawing_processes(named: dict[str, nn.Parameter]) -> int:
    on_gpu = any(parameter.device.type == "cuda" for parameter in named.values())
    return DRAWING_PROCESSES if on_gpu else 0


def _drawn_ahead(draw: Callable[[int], Drawn], steps: range, processes: int) -> Iterator[Drawn]:
    """What `draw` gives for every step, in order; with processes, made while the steps before it run."""
    from torch.utils.data import DataLoader, Dataset

    class Steps(Dataset[Drawn]):
        def __len__(self) -> int:
            return len(steps)

        def __getitem__(self, place: int) -> Drawn:
            return draw(steps[place])

    return iter(
        DataLoader(
            Steps(),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=processes,
            # forked: what draws is a closure over the corpus, which must be neither pickled nor copied
            multiprocessing_context="fork" if processes else None,
        )
    )


def _as_it_is(drawn: Drawn) -> Drawn:
    return drawn


def _optimizer(named: dict[str, nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    decayed = [p for p in named.values() if p.ndim >= 2]
    others = [p for p in named.values() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = all(p.device.type == "cuda" for p in named.values())
    return torch.optim.AdamW(groups, lr=schedule.peak_learning_rate, betas=(0.9, 0.98), fused=fused or None)


def _one_step(
    loss: torch.Tensor,
    step: int,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    parameters: Iterable[nn.Parameter],
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = schedule.learning_rate(step)
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value} at step {step}; lower the learning rate and resume")
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return value


def _log(folder: Path, step: int, loss: float, learning_rate: float) -> None:
    line = json.dumps({"step": step, "loss": round(loss, 5), "learning_rate": round(learning_rate, 8)})
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
