"""Demonstrated transitions as arrays, and a learner for the environment in which they were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from experience.episode import Episode
from finetune.imitation.policy import Policy
from finetune.imitation.td3 import TD3, TD3Settings
from finetune.training.draws import seed_of

if TYPE_CHECKING:
    import gymnasium


def transitions_of(
    demonstrations: Sequence[Episode], env: gymnasium.Env[Any, Any], every: int, seed: int
) -> dict[str, Any]:
    """Return every so-manieth transition of each episode, stacked, without the reward.

    Args:
        demonstrations: Episodes; those that were cut are passed over.
        env: Whose observations and actions they must have.
        every: Which transitions.
        seed: Decides with which of the first ones each episode begins.

    Returns:
        observation and next_observation (M, O), action (M, A), discount (M,): float32.

    Raises:
        ValueError: There is none, or they are of another environment.
    """
    generator = np.random.default_rng(seed_of(seed, "demonstrations"))
    kept = [
        (one.steps[place], one.steps[place + 1])
        for one in demonstrations
        if not one.is_invalid
        for place in range(int(generator.integers(every)), one.num_transitions, every)
    ]
    if not kept:
        raise ValueError(f"{len(demonstrations)} demonstrations hold no transition; record an expert")
    columns = {
        "observation": [step.observation for step, _ in kept],
        "action": [step.action for step, _ in kept],
        "discount": [0.0 if following.is_terminal else 1.0 for _, following in kept],
        "next_observation": [following.observation for _, following in kept],
    }
    found = {name: np.asarray(column, np.float32) for name, column in columns.items()}
    for name, space in (("observation", env.observation_space), ("action", env.action_space)):
        if found[name].shape[1:] != space.shape:
            raise ValueError(
                f"the demonstrations have an {name} of shape {found[name].shape[1:]}, the environment of "
                f"{space.shape}; give those of this environment"
            )
    return found


def new_learner(env: gymnasium.Env[Any, Any], settings: TD3Settings, observations: Any | None, seed: int) -> TD3:
    """Return a learner of random weights for an environment.

    Args:
        env: Of observations and actions that are vectors.
        settings: Of the learner.
        observations: By whose mean and standard deviation it sees observations, (M, O); None: as they are.
        seed: Decides the weights.
    """
    (num_observations,), space = env.observation_space.shape or (0,), env.action_space
    torch.manual_seed(seed_of(seed, "weights"))
    policy = Policy(num_observations, space.low, space.high, settings.shape)
    if observations is not None:
        policy.standardize(observations)
    return TD3(policy, settings, seed_of(seed, "target noise"))
