"""Steps and episodes as RLDS defines them.

A step holds the observation, the action taken on it, and the reward and discount that followed. N transitions
are N + 1 steps: the last step holds the final observation only; its action, reward and discount mean nothing.

Source: Ramos et al., RLDS: an Ecosystem to Generate, Share and Use Datasets in Reinforcement Learning,
    arXiv:2111.02767 (2021).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

CORE_FIELDS = frozenset({"observation", "action", "reward", "discount", "is_first", "is_last", "is_terminal"})


@dataclass(frozen=True)
class Step:
    """One step of an episode."""

    observation: Any
    """What the agent saw."""
    action: Any = None
    """What it did on this observation; meaningless if is_last."""
    reward: float = 0.0
    """What followed the action; meaningless if is_last."""
    discount: float = 1.0
    """0 to 1, goes with the reward; meaningless if is_last."""
    is_first: bool = False
    is_last: bool = False
    is_terminal: bool = False
    """The environment ended here; a last step without it was cut off (truncated)."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further fields, under other names than the core ones."""

    def __post_init__(self) -> None:
        taken = CORE_FIELDS & set(self.metadata)
        if taken:
            raise ValueError(f"step metadata uses the core names {', '.join(sorted(taken))}; rename them")
        if self.is_terminal and not self.is_last:
            raise ValueError("got a terminal step that is not the last; expected is_last=True with is_terminal")
        if not self.is_last and not (isfinite(self.reward) and 0 <= self.discount <= 1):
            raise ValueError(f"got reward {self.reward}, discount {self.discount}; expected a finite reward and 0 to 1")


@dataclass(frozen=True)
class Episode:
    """The steps from a first to a last one."""

    steps: tuple[Step, ...]
    episode_id: str
    """Unique, and most likely so over all data sets."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """For example agent_id, environment_config, experiment_id, invalid."""

    def __post_init__(self) -> None:
        where = f"episode {self.episode_id!r}"
        if not self.episode_id:
            raise ValueError("got an episode without an id; expected a unique episode_id")
        if not self.steps:
            raise ValueError(f"{where} has no steps; expected at least the first observation")
        last = len(self.steps) - 1
        if [i for i, step in enumerate(self.steps) if step.is_first] != [0]:
            raise ValueError(f"{where}: expected is_first on the first step and on no other")
        if [i for i, step in enumerate(self.steps) if step.is_last] != [last]:
            raise ValueError(f"{where}: expected is_last on the last step and on no other")
        if any(step.metadata.keys() != self.steps[0].metadata.keys() for step in self.steps):
            raise ValueError(f"{where}: expected the same metadata fields on every step")

    @property
    def num_transitions(self) -> int:
        """Number of actions: one less than steps."""
        return len(self.steps) - 1

    @property
    def total_reward(self) -> float:
        """Undiscounted sum of the rewards that mean something."""
        return float(sum(step.reward for step in self.steps[:-1]))

    @property
    def is_truncated(self) -> bool:
        """Whether it was cut off rather than ended."""
        return not self.steps[-1].is_terminal
