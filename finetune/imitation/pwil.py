"""PWIL: a reward that couples each step of the agent with the nearest demonstrated steps that are still free.

M demonstrated steps, O numbers of an observation, A numbers of an action.
Source: Dadashi et al., Primal Wasserstein Imitation Learning, arXiv:2006.04678 (2020), algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from experience.episode import Episode
from finetune.configuration import Section
from finetune.imitation.demonstrated import new_learner, transitions_of
from finetune.imitation.interaction import TABLE, Interaction, interact, transitions_replay, without_reward
from finetune.imitation.policy import Policy
from finetune.imitation.td3 import TD3Settings, Transitions
from finetune.training.draws import seed_of

if TYPE_CHECKING:
    import gymnasium

ROUNDING = 1e-12
"""What many subtractions leave of a weight of nothing, at most."""


class PWIL(Section):
    """The hyper-parameters; the defaults are the paper's where it gives one."""

    alpha: float = 5.0
    """The largest reward."""
    beta: float = 5.0
    """How fast the reward falls with the distance."""
    time_horizon: int = 1_000
    """Steps of an episode, at most."""
    subsampling: int = 20
    """Every so-manieth step of a demonstration is used."""
    prefill: int = 50_000
    """Transitions of the demonstrations that the replay begins with, again and again, at the largest reward."""
    standardize: bool = True
    """Observations by the mean and standard deviation of the demonstrations."""
    td3: TD3Settings = TD3Settings()
    interaction: Interaction = Interaction()


class Coupling:
    """The greedy coupling of one episode at a time."""

    def __init__(self, demonstrated: Any, settings: PWIL, num_dimensions: int) -> None:
        """Take demonstrated observations and actions side by side, (M, O + A).

        Args:
            demonstrated: All alike heavy; distances are Euclidean after each column is made of unit variance.
            settings: alpha, beta, time_horizon.
            num_dimensions: O + A.
        """
        std = demonstrated.std(axis=0)
        self.mean, self.std = demonstrated.mean(axis=0), np.where(std > 0, std, 1.0)
        self.atoms = (demonstrated - self.mean) / self.std
        self.settings = settings
        self.sigma = settings.beta * settings.time_horizon / math.sqrt(num_dimensions)
        self.begin_episode()

    def begin_episode(self) -> None:
        """Let every demonstrated step be free."""
        self.weights = np.full(len(self.atoms), 1 / len(self.atoms))

    def step_reward(self, observation: Any, action: Any, reward: float) -> float:
        """Return alpha * exp(-sigma * cost); the environment's reward is not looked at.

        The cost is that of moving a weight of 1 / time_horizon to what is nearest and free.

        Raises:
            ValueError: The episode is longer than time_horizon.
        """
        atom = (np.concatenate([observation, action]) - self.mean) / self.std
        distances = np.linalg.norm(self.atoms - atom, axis=1)
        distances[self.weights <= 0] = np.inf
        left, cost = 1 / self.settings.time_horizon, 0.0
        if np.isinf(distances.min()):
            raise ValueError(f"an episode is longer than time_horizon={self.settings.time_horizon}; give its limit")
        while left > ROUNDING and np.isfinite(distances[nearest := int(distances.argmin())]):
            moved = min(left, self.weights[nearest])
            cost += moved * distances[nearest]
            left -= moved
            self.weights[nearest] -= moved
            if self.weights[nearest] <= ROUNDING:
                self.weights[nearest], distances[nearest] = 0.0, np.inf
        return self.settings.alpha * math.exp(-self.sigma * cost)

    def batch_rewards(self, batch: Transitions) -> torch.Tensor:
        """As they were kept."""
        return batch.reward


def learn_pwil(
    env: gymnasium.Env[Any, Any],
    demonstrations: Sequence[Episode],
    settings: PWIL,
    seed: int,
    on_checkpoint: Callable[[int, Policy], None],
) -> Policy:
    """Learn a policy from demonstrations in an environment, whose reward is hidden.

    Args:
        env: Of observations and actions that are vectors.
        demonstrations: Episodes of the expert.
        settings: The hyper-parameters.
        seed: Decides everything that is drawn.
        on_checkpoint: Called with the number of steps made and the policy as it is.
    """
    generator = np.random.default_rng(seed_of(seed, "demonstrations"))
    steps = transitions_of(demonstrations, settings.subsampling, generator)
    learner = new_learner(env, settings.td3, steps["observation"] if settings.standardize else None, seed)
    both = np.concatenate([steps["observation"], steps["action"]], axis=1)
    coupling = Coupling(both, settings, both.shape[1])
    replay = transitions_replay(settings.interaction.replay_size, seed)
    again = np.resize(np.arange(len(both)), settings.prefill)
    filled = {name: column[again] for name, column in steps.items()}
    filled["reward"] = np.full(settings.prefill, settings.alpha, np.float32)
    replay.insert_many({name: filled[name] for name in Transitions._fields}, {TABLE: np.ones(settings.prefill)})
    policy = learner.policy
    interact(
        without_reward(env), learner, coupling, settings.interaction, seed, lambda n: on_checkpoint(n, policy), replay
    )
    return policy
