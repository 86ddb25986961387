"""Episodes of a policy in a Gymnasium environment: recorded as a data set, or only their returns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experience import EpisodeWriter
from experience.environments import record_gymnasium
from experience.recorder import EpisodeRecorder, Provenance
from finetune.imitation.policy import Act

if TYPE_CHECKING:
    import gymnasium


def returns_of(act: Act, env: gymnasium.Env[Any, Any], seeds: range) -> list[float]:
    """Return the undiscounted return of an episode from each seed."""
    return [_episode(act, env, seed) for seed in seeds]


def record(act: Act, env: gymnasium.Env[Any, Any], seeds: range, folder: Path, provenance: Provenance) -> list[float]:
    """Record an episode from each seed as a data set in a folder; return the returns.

    The index says the seed of an episode, and that it is a group of its own.
    """
    with EpisodeWriter(folder) as writer, EpisodeRecorder(writer, provenance) as recorder:
        recorded = record_gymnasium(env, recorder)
        return [_episode(act, recorded, seed) for seed in seeds]


def _episode(act: Act, env: gymnasium.Env[Any, Any], seed: int) -> float:
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        total, over = total + float(reward), terminated or truncated
    return total
