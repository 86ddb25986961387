"""Who owns the reward: the one shift between how environments speak and how RLDS writes.

An environment answers an action with a reward, a discount and the next observation, all at once (ARS: action, reward,
state). RLDS puts the reward on the step whose observation the action was taken on (SAR: state, action, reward).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from experience.episode import Step


@dataclass(frozen=True)
class First:
    """What an environment says at a reset."""

    observation: Any
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further fields that came with the observation."""


@dataclass(frozen=True)
class Transition:
    """What an environment was told, and what it said next."""

    action: Any
    reward: Any
    discount: Any
    observation: Any
    """The next one."""
    is_last: bool = False
    is_terminal: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further fields that came with the next observation."""


def sar_steps(first: First, transitions: Iterable[Transition]) -> Iterator[Step]:
    """Yield the steps of N transitions, N + 1 of them."""
    observation, metadata, ended, number = first.observation, first.metadata, (False, False), 0
    for number, next_ in enumerate(transitions, start=1):
        yield Step(observation, next_.action, next_.reward, next_.discount, number == 1, metadata=metadata)
        observation, metadata, ended = next_.observation, next_.metadata, (next_.is_last, next_.is_terminal)
    yield Step(observation, None, None, None, number == 0, *ended, metadata=metadata)


def transitions_of(steps: Iterable[Step]) -> Iterator[First | Transition]:
    """Yield what an environment said, from the steps: the inverse of `sar_steps`."""
    before: Step | None = None
    for step in steps:
        if before is None:
            yield First(step.observation, step.metadata)
        else:
            said = (before.action, before.reward, before.discount, step.observation)
            yield Transition(*said, step.is_last, step.is_terminal, step.metadata)
        before = step
