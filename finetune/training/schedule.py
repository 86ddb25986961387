"""How long a stage is, how fast it learns, and with which optimizer."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Shape = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak_learning_rate`, a tenth of the steps at most, then down to a hundredth of it."""

    peak_learning_rate: float
    total_steps: int
    warmup_steps: int = 100
    weight_decay: float = 0.05
    """Of matrices; biases, norms and other vectors have none."""
    shape: Shape = "cosine"
    """The way down; constant stays at the peak."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW."""
    clip_norm: float = 1.0
    """The gradient's norm over all parameters is at most this."""

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, min(self.warmup_steps, self.total_steps // 10)))
        return self.peak_learning_rate * warm * (0.01 + 0.99 * self._left(step / self.total_steps))

    def _left(self, done: float) -> float:
        if self.shape == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        return 1 - done if self.shape == "linear" else 1.0


def optimizer_of(named: dict[str, nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW over parameters by name; on a GPU the fused one."""
    decayed = [p for p in named.values() if p.ndim >= 2]
    others = [p for p in named.values() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = all(p.device.type == "cuda" for p in named.values())
    return torch.optim.AdamW(groups, lr=schedule.peak_learning_rate, betas=schedule.betas, fused=fused or None)
