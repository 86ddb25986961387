"""Steps and episodes as RLDS defines them.

A step holds the observation, the action taken on it, and the reward and discount that followed. N transitions
are N + 1 steps: the last step holds the final observation only; its action, reward and discount mean nothing, and what
we record leaves them None. None is how a value that is not there is written everywhere, on disk as null.

Source: Ramos et al., RLDS: an Ecosystem to Generate, Share and Use Datasets in Reinforcement Learning,
    arXiv:2111.02767 (2021).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CORE_FIELDS = ("observation", "action", "reward", "discount", "is_first", "is_last", "is_terminal")

FLAGS = CORE_FIELDS[-3:]

PLACE_FIELDS = ("episode_id", "step")
"""What the tables on disk add to every step: whose it is, and its number from 0."""

INDEX_FIELDS = ("episode_id", "num_steps", "split", "shard", "row", "sha256")
"""What the index of a data set says of every episode."""


@dataclass(frozen=True)
class Step:
    """One step of an episode. Any value may be nested dicts, lists and tuples of texts, bytes, numbers and arrays."""

    observation: Any
    """What the agent saw."""
    action: Any = None
    """What it did on this observation; meaningless if is_last."""
    reward: Any = None
    """What followed the action; meaningless if is_last. Any number, NaN and infinity too; an int becomes a float."""
    discount: Any = None
    """Goes with the reward; meaningless if is_last. 0 where the environment ended."""
    is_first: bool = False
    is_last: bool = False
    is_terminal: bool = False
    """The environment ended here; a last step without it was cut off (truncated)."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further fields, under other names than the core ones."""

    def __post_init__(self) -> None:
        taken = {*CORE_FIELDS, *PLACE_FIELDS} & set(self.metadata)
        if taken:
            raise ValueError(f"step metadata uses the names {', '.join(sorted(taken))}, which are kept; rename them")
        if self.is_terminal and not self.is_last:
            raise ValueError("got a terminal step that is not the last; expected is_last=True with is_terminal")
        for name in ("reward", "discount"):
            if isinstance(getattr(self, name), int):
                object.__setattr__(self, name, float(getattr(self, name)))

    def fields(self) -> dict[str, Any]:
        """Return the step as RLDS has it: the core fields and the further ones side by side."""
        return {name: getattr(self, name) for name in CORE_FIELDS} | dict(self.metadata)


def step_of(fields: Mapping[str, Any]) -> Step:
    """Return the step that `Step.fields` gave."""
    core = {name: fields[name] for name in CORE_FIELDS if name in fields}
    return Step(**core, metadata={name: value for name, value in fields.items() if name not in CORE_FIELDS})


@dataclass(frozen=True)
class Episode:
    """The steps from a first to a last one; one that is `invalid` may lack the end, or hold no step at all."""

    steps: tuple[Step, ...]
    episode_id: str
    """Unique, and most likely so over all data sets."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """For example agent_id, environment_config, experiment_id, invalid."""

    def __post_init__(self) -> None:
        where = f"episode {self.episode_id!r}"
        if "invalid" in self.metadata:
            object.__setattr__(self, "metadata", {**self.metadata, "invalid": bool(self.metadata["invalid"])})
        if not self.episode_id:
            raise ValueError("got an episode without an id; expected a unique episode_id")
        if not self.steps and not self.is_invalid:
            raise ValueError(f"{where} has no steps; expected at least the first observation, or invalid=True")
        if taken := set(INDEX_FIELDS) & set(self.metadata):
            raise ValueError(
                f"{where}: metadata uses the names {', '.join(sorted(taken))}, which are kept; rename them"
            )
        last = len(self.steps) - 1
        if self.steps and [i for i, step in enumerate(self.steps) if step.is_first] != [0]:
            raise ValueError(f"{where}: expected is_first on the first step and on no other")
        ends = [i for i, step in enumerate(self.steps) if step.is_last]
        if ends != [last] and not (self.is_invalid and not ends):
            raise ValueError(
                f"{where}: expected is_last on the last step and on no other; mark an episode that was cut as invalid"
            )
        if any(step.metadata.keys() != self.steps[0].metadata.keys() for step in self.steps):
            raise ValueError(f"{where}: expected the same metadata fields on every step")

    @property
    def is_invalid(self) -> bool:
        """Whether it was cut by a crash or an error: kept, and dropped at read time by whoever trains on it."""
        return bool(self.metadata.get("invalid", False))

    @property
    def num_transitions(self) -> int:
        """Number of actions that were followed by an observation: one less than steps."""
        return max(0, len(self.steps) - 1)

    @property
    def total_reward(self) -> float:
        """Undiscounted sum of the rewards that mean something; a reward that was not recorded counts 0."""
        return float(sum(step.reward for step in self.steps[:-1] if step.reward is not None))

    @property
    def is_truncated(self) -> bool:
        """Whether it was cut off rather than ended."""
        return not self.steps or not self.steps[-1].is_terminal
