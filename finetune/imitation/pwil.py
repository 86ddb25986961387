"""PWIL: an agent is rewarded for steps that are near to demonstrated ones which none of its steps has taken yet.

The reward stands in `finetune.selection.imitation_return`; here a policy learns by it.
Source: Dadashi et al., Primal Wasserstein Imitation Learning, arXiv:2006.04678 (2020), algorithm 1.
"""

from __future__ import annotations

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
from finetune.selection.demonstrations import Demonstrations
from finetune.selection.imitation_return import ALPHA, BETA, Pwil, pwil_of

if TYPE_CHECKING:
    import gymnasium


class PWIL(Section):
    """The hyper-parameters; the defaults are the paper's where it gives one."""

    alpha: float = ALPHA
    """The largest reward."""
    beta: float = BETA
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


class Coupled:
    """The reward of `finetune.selection.imitation_return`, a step at a time, for a policy that learns by it."""

    def __init__(self, pwil: Pwil) -> None:
        self.pwil = pwil
        self.begin_episode()

    def begin_episode(self) -> None:
        """Let every demonstrated step be free."""
        self.coupling = self.pwil.begin()

    def step_reward(self, observation: Any, action: Any, reward: float) -> float:
        """Return the reward of a step; the environment's is not looked at."""
        (pair,) = self.pwil.pairs(np.asarray(observation)[None], np.asarray(action)[None])
        return self.coupling.reward(pair)

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

    Raises:
        ValueError: There is no demonstration, or they are of another environment.
    """
    steps = transitions_of(demonstrations, env, settings.subsampling, seed)
    learner = new_learner(env, settings.td3, steps["observation"] if settings.standardize else None, seed)
    coupled = Coupled(pwil_of(_pairs(steps), settings.time_horizon, settings.alpha, settings.beta))
    replay = transitions_replay(settings.interaction.replay_size, seed)
    if settings.prefill:
        again = np.resize(np.arange(len(steps["action"])), settings.prefill)
        filled = {name: column[again] for name, column in steps.items()}
        filled["reward"] = np.full(settings.prefill, settings.alpha, np.float32)
        replay.insert_many({name: filled[name] for name in Transitions._fields}, {TABLE: np.ones(settings.prefill)})
    policy = learner.policy
    interact(
        without_reward(env), learner, coupled, settings.interaction, seed, lambda n: on_checkpoint(n, policy), replay
    )
    return policy


def _pairs(steps: dict[str, Any]) -> Demonstrations:
    """Transitions as the reward takes them, which asks for no episodes."""
    count = len(steps["action"])
    return Demonstrations(steps["observation"], steps["action"], np.zeros(count, np.int64), ("all",), ("all",))
