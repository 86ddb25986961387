"""Runs and demonstrations of a task that is seen through: on a state s of two numbers the expert does 0.5 s."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from experience import Episode, Step, write_episodes
from finetune.imitation.policy import Policy, Shape, save_policy

LENGTH = 30


def episode(name: str, act: Callable[[np.ndarray], np.ndarray], seed: int, group: str, reward: float = 1.0) -> Episode:
    """A state goes half its action on, with some noise."""
    rng = np.random.default_rng(seed)
    state, steps = rng.normal(size=2), []
    for number in range(LENGTH):
        action = act(state).astype(np.float32)
        steps.append(Step(state.astype(np.float32), action, reward, 1.0, number == 0))
        state = state - action + 0.5 * rng.normal(size=2)
    steps.append(Step(state.astype(np.float32), is_last=True))
    return Episode(tuple(steps), name, {"group": group, "outcome": "right"})


def demonstrate(folder: Path, num_groups: int = 6, reward: float = 1.0) -> Path:
    """Two episodes a group."""
    acts = [(f"e{n}", n, f"patient-{n // 2}") for n in range(2 * num_groups)]
    write_episodes(folder, [episode(name, lambda s: 0.5 * s, seed, group, reward) for name, seed, group in acts])
    return folder


def make_run(folder: Path, gains: dict[int, float], *, rollouts: bool = True) -> Path:
    """A run whose policy after STEP steps does tanh(gain · s); 0.5 is nearest to the expert's."""
    for step, gain in gains.items():
        policy = Policy(2, [-1, -1], [1, 1], Shape(hidden_units=2, hidden_layers=1))
        with torch.no_grad():
            for layer, weight in ((policy.network[0], torch.tensor([[1.0, 0], [0, 1]])), (policy.network[2], gain)):
                layer.weight.copy_(torch.as_tensor(weight) * torch.eye(2))
                layer.bias.zero_()
            policy.network[0].bias.fill_(20)  # so that the rectifier lets everything pass
            policy.network[2].bias.fill_(-20 * gain)
        save_policy(policy, folder / "checkpoints" / f"{step:07}" / "policy.safetensors")
        if rollouts:
            act = policy.act()
            played = [episode(f"{folder.name}-{step}-{n}", act, 100 + n, f"start-{n}") for n in range(4)]
            write_episodes(folder / "rollouts" / f"{step:07}", played)
    return folder
