"""Support by random network distillation: does a policy stay where the demonstrations are? Larger is better.

A random network f is imitated by a second one g on the states of demonstrations; elsewhere they disagree. The proxy is
the mean of -||f(s) - g(s)||^2 over a policy's states.

Sources: Burda et al., Exploration by Random Network Distillation, arXiv:1810.12894 (2018); Wang et al., Random Expert
    Distillation, arXiv:1905.06750 (2019); Hussenot et al., arXiv:2105.12034 (2021).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from finetune.selection.demonstrations import Demonstrations
from finetune.selection.scaling import Scaling, scaling_of
from finetune.selection.scores import Score

WIDTH, OUTPUTS = 128, 32
STEPS, BATCH, LEARNING_RATE = 2000, 256, 1e-3
STATES_AT_ONCE = 8192


@dataclass(frozen=True)
class Support:
    """The two networks, fitted once for all policies that are compared."""

    scaling: Scaling
    target: nn.Module
    predictor: nn.Module

    def novelty(self, states: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N,) squared disagreement at (N, d) states."""
        scaled = torch.from_numpy(self.scaling(states))
        with torch.inference_mode():
            parts = [
                (self.target(part) - self.predictor(part)).double().square().sum(1)
                for part in torch.split(scaled, STATES_AT_ONCE)
            ]
        return np.asarray(torch.cat(parts))


def fit_support(demonstrations: Demonstrations, seed: int = 0, steps: int = STEPS) -> Support:
    """Fit the predictor on the states of demonstrations.

    Args:
        demonstrations: Those that no policy is judged on.
        seed: Of both networks and of the batches.
        steps: Of Adam.
    """
    scaling = scaling_of(demonstrations.observations)
    states = torch.from_numpy(scaling(demonstrations.observations))
    rng = torch.Generator().manual_seed(seed)
    target, predictor = (_network(states.shape[1], rng) for _ in range(2))
    with torch.no_grad():
        goals = target(states)
    optimizer = torch.optim.Adam(predictor.parameters(), LEARNING_RATE)
    for _ in range(steps):
        rows = torch.randint(len(states), (BATCH,), generator=rng)
        optimizer.zero_grad()
        (predictor(states[rows]) - goals[rows]).square().sum(1).mean().backward()
        optimizer.step()
    return Support(scaling, target.eval(), predictor.eval())


def support_score(support: Support, rollouts: Demonstrations) -> Score:
    """Score a policy by the states that it visited."""
    novelty = support.novelty(rollouts.observations)
    return Score(-rollouts.sums(novelty), rollouts.num_steps(), rollouts.groups, larger_is_better=True)


def _network(num_inputs: int, rng: torch.Generator) -> nn.Module:
    """Two hidden layers; He's initialisation, drawn from the generator alone."""
    sizes = (num_inputs, WIDTH, WIDTH, OUTPUTS)
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        linear = nn.Linear(inputs, outputs)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(outputs, inputs, generator=rng) * (2 / inputs) ** 0.5)
            linear.bias.zero_()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
