"""TD3, the off-policy learner under the imitation algorithms, and what made their experts.

B transitions, O numbers of an observation, A numbers of an action.
Source: Fujimoto et al., Addressing Function Approximation Error in Actor-Critic Methods, arXiv:1802.09477 (2018).
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import nn

from finetune.configuration import Section
from finetune.imitation.policy import Policy, Shape


class TD3Settings(Section):
    """The hyper-parameters; the defaults are the paper's, with smaller networks."""

    hidden_units: int = 128
    hidden_layers: int = 2
    actor_learning_rate: float = 1e-3
    critic_learning_rate: float = 1e-3
    discount: float = 0.99
    batch_size: int = 128
    target_rate: float = 0.005
    """How far the target networks go towards the networks, an update (the paper's tau)."""
    policy_delay: int = 2
    """Updates of the critics for one of the policy."""
    target_noise: float = 0.2
    """On the target's action; as a part of half the range of an action, like the next two."""
    target_noise_clip: float = 0.5
    exploration_noise: float = 0.1

    @property
    def shape(self) -> Shape:
        """Of the policy and the critics."""
        return Shape(hidden_units=self.hidden_units, hidden_layers=self.hidden_layers)


class Transitions(NamedTuple):
    """A batch, float32."""

    observation: torch.Tensor
    """(B, O)."""
    action: torch.Tensor
    """(B, A)."""
    reward: torch.Tensor
    """(B,)."""
    discount: torch.Tensor
    """(B,): 0 where the environment ended, else 1."""
    next_observation: torch.Tensor
    """(B, O)."""


class Critics(nn.Module):
    """Two critics side by side: observation and action to two values, (2, B)."""

    def __init__(self, numinputs: int, shape: Shape) -> None:
        super().__init__()
        sizes = [numinputs, *[shape.hidden_units] * shape.hidden_layers, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in zip(sizes, sizes[1:], strict=False):
            bound = 1 / math.sqrt(inputs)  # as nn.Linear begins
            self.weights.append(nn.Parameter(torch.empty(2, inputs, outputs).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(2, 1, outputs).uniform_(-bound, bound)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the values, (2, B), of inputs, (B, O + A)."""
        values = inputs.expand(2, *inputs.shape)  # (2, B, O + A)
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = torch.baddbmm(bias, values if place == 0 else torch.relu(values), weight)
        return values.squeeze(-1)


class TD3:
    """A policy, two critics, their slow copies, and one optimizer over all."""

    def __init__(self, policy: Policy, settings: TD3Settings, seed: int) -> None:
        """Take a policy to improve; the critics see observations as it does."""
        self.settings, self.policy = settings, policy
        self.generator = torch.Generator().manual_seed(seed)
        low, high = policy.action_low, policy.action_high
        self.half_range = (high - low) / 2
        self.critics = Critics(len(policy.observation_mean) + len(low), settings.shape)
        self.target_policy, self.target_critics = copy.deepcopy(policy), copy.deepcopy(self.critics)
        groups = [
            {"params": list(policy.parameters()), "lr": settings.actor_learning_rate},
            {"params": list(self.critics.parameters()), "lr": settings.critic_learning_rate},
        ]
        self.optimizer = torch.optim.Adam(groups, foreach=True)
        self.num_updates = 0

    def update(self, batch: Transitions) -> None:
        """Make one update of the critics, and every `policy_delay` one of the policy and the slow copies."""
        self.num_updates += 1
        with torch.no_grad():
            target = self.target_values(batch)
        values = self.critics(self.inputs(batch.observation, batch.action))
        self._step(((values - target) ** 2).mean(dim=1).sum(), self.critics)
        if self.num_updates % self.settings.policy_delay == 0:
            action = self.policy(batch.observation)
            self._step(-self.critics(self.inputs(batch.observation, action))[0].mean(), self.policy)
            with torch.no_grad():
                self._follow()

    def target_values(self, batch: Transitions) -> torch.Tensor:
        """Return r + discount * the smaller of the two values of a noisy next action, (B,): equation 14 with noise."""
        settings = self.settings
        noise = torch.randn(batch.action.shape, generator=self.generator) * settings.target_noise
        noise = noise.clamp(-settings.target_noise_clip, settings.target_noise_clip) * self.half_range
        action = self.target_policy(batch.next_observation) + noise
        action = action.clamp(self.policy.action_low, self.policy.action_high)
        following: torch.Tensor = self.target_critics(self.inputs(batch.next_observation, action)).amin(dim=0)
        return batch.reward + settings.discount * batch.discount * following

    def inputs(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return what a critic sees, (B, O + A): observations as the policy takes them, beside the actions."""
        standard = (observation - self.policy.observation_mean) / self.policy.observation_std
        return torch.cat([standard, action], dim=-1)

    def _step(self, loss: torch.Tensor, of: nn.Module) -> None:
        """Improve the policy, or the critics, alone: Adam passes over what has no gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        parameters = list(of.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    def _follow(self) -> None:
        for slow, fast in ((self.target_policy, self.policy), (self.target_critics, self.critics)):
            torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), self.settings.target_rate)
