"""Episodes of a policy in a Gymnasium environment: recorded as a data set, or held, their returns apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experience import EpisodeWriter
from experience.environments import record_gymnasium
from experience.recorder import EpisodeRecorder, Provenance
from finetune.imitation.policy import Act
from finetune.selection.demonstrations import Demonstrations

if TYPE_CHECKING:
    import gymnasium


class Rollouts(NamedTuple):
    """What a policy saw and did, and apart from it what that earned."""

    steps: Demonstrations
    """Each episode a group of its own, named by its seed."""
    returns: list[float]
    """Undiscounted, of each episode."""


def roll_out(act: Act, env: gymnasium.Env[Any, Any], seeds: Sequence[int]) -> Rollouts:
    """Hold an episode from each seed."""
    observations, actions, numbers, returns = list[Any](), list[Any](), list[int](), list[float]()
    for number, seed in enumerate(seeds):
        (observation, _), total, over = env.reset(seed=seed), 0.0, False
        while not over:
            action = act(observation)
            observations.append(observation)
            actions.append(action)
            numbers.append(number)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    names = tuple(map(str, seeds))
    columns = np.array(observations, np.float32), np.array(actions, np.float32), np.array(numbers, np.int64)
    return Rollouts(Demonstrations(*columns, names, names), returns)


def record(act: Act, env: gymnasium.Env[Any, Any], seeds: Sequence[int], folder: Path, provenance: Provenance) -> None:
    """Record an episode from each seed as a data set in a folder, rewards included; the index knows the seeds."""
    with EpisodeWriter(folder) as writer, EpisodeRecorder(writer, provenance) as recorder:
        roll_out(act, record_gymnasium(env, recorder), seeds)
