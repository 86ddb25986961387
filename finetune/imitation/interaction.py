"""Acting and learning in turns: an environment, TD3, and a reward that is learned, computed or the environment's own.

An imitation algorithm sees no reward of the environment: `without_reward` puts NaN in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from experience.replay import Replay, Table, rate_limiters, selectors
from finetune.configuration import Section
from finetune.imitation.td3 import TD3, Transitions
from finetune.training.draws import seed_of

if TYPE_CHECKING:
    import gymnasium

TABLE = "transitions"


class Interaction(Section):
    """How long and how often."""

    steps: int = 100_000
    """Of the environment."""
    random_steps: int = 1_000
    """First ones with random actions, in which nothing is learned."""
    replay_size: int = 1_000_000
    """Transitions that are kept; the oldest goes."""
    updates_per_step: float = 1.0
    """Of TD3, after the random steps."""
    checkpoint_every: int = 20_000
    """Steps."""


class Rewarder(Protocol):
    """Where the reward of a transition comes from."""

    def begin_episode(self) -> None:
        """The environment was reset."""

    def step_reward(self, observation: Any, action: Any, reward: float) -> float:
        """Return what is kept as the reward of a step, from what the environment said."""

    def batch_rewards(self, batch: Transitions) -> torch.Tensor:
        """Return the rewards, (B,), of what was kept, when an update is made of it; a reward may learn here."""


class OwnReward:
    """The environment's: for experts."""

    def begin_episode(self) -> None:
        """Nothing to do."""

    def step_reward(self, observation: Any, action: Any, reward: float) -> float:
        """As the environment said."""
        return reward

    def batch_rewards(self, batch: Transitions) -> torch.Tensor:
        """As it was kept."""
        return batch.reward


def without_reward(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Return the environment with NaN for every reward, so that what reads one by mistake shows it."""
    import gymnasium

    return gymnasium.wrappers.TransformReward(env, lambda reward: math.nan)


def interact(
    env: gymnasium.Env[Any, Any],
    learner: TD3,
    rewarder: Rewarder,
    interaction: Interaction,
    seed: int,
    on_checkpoint: Callable[[int], None],
    replay: Replay | None = None,
) -> None:
    """Act and learn, `interaction.steps` long.

    Args:
        env: Of observations and actions that are vectors.
        learner: Its policy acts, with noise.
        rewarder: Of every transition.
        interaction: How long and how often.
        seed: Decides actions, resets and draws.
        on_checkpoint: Called with the number of steps made, every `checkpoint_every` and after the last.
        replay: Filled before; None: an empty one.
    """
    replay = transitions_replay(interaction.replay_size, seed) if replay is None else replay
    generator = np.random.default_rng(seed_of(seed, "actions"))
    low, high = learner.policy.action_low.numpy(), learner.policy.action_high.numpy()
    noise = learner.settings.exploration_noise * (high - low) / 2
    act, due = learner.policy.act(), 0.0  # due: updates
    observation, _ = env.reset(seed=seed_of(seed, "environment") % 2**31)
    rewarder.begin_episode()
    for step in range(1, interaction.steps + 1):
        if step <= interaction.random_steps:
            action = generator.uniform(low, high).astype(np.float32)
        else:
            action = np.clip(act(observation) + generator.normal(size=low.shape) * noise, low, high).astype(np.float32)
        following, reward, terminated, truncated, _ = env.step(action)
        kept = rewarder.step_reward(observation, action, float(reward))
        replay.insert(transition(observation, action, kept, following, terminated=terminated), {TABLE: 1.0})
        observation = following
        if terminated or truncated:
            observation, _ = env.reset()
            rewarder.begin_episode()
        due += interaction.updates_per_step if step > interaction.random_steps else 0.0
        for _ in range(int(due)):
            batch = Transitions(**{k: torch.from_numpy(v) for k, v in _sampled(replay, learner).items()})
            learner.update(batch._replace(reward=rewarder.batch_rewards(batch)))
        due %= 1
        if step % interaction.checkpoint_every == 0 or step == interaction.steps:
            on_checkpoint(step)


def transitions_replay(size: int, seed: int) -> Replay:
    """Return an empty replay of transitions, drawn evenly, the oldest out first."""
    limiter = rate_limiters.MinSize(1)
    return Replay([Table(TABLE, selectors.Uniform(), selectors.Fifo(), size, limiter)], seed=seed)


def transition(observation: Any, action: Any, reward: float, following: Any, *, terminated: bool) -> dict[str, Any]:
    """Return one transition as the replay keeps it."""
    return {
        "observation": np.asarray(observation, np.float32),
        "action": np.asarray(action, np.float32),
        "reward": np.float32(reward),
        "discount": np.float32(0.0 if terminated else 1.0),
        "next_observation": np.asarray(following, np.float32),
    }


def _sampled(replay: Replay, learner: TD3) -> dict[str, Any]:
    sampled: dict[str, Any] = replay.sample(TABLE, learner.settings.batch_size).data
    return sampled
