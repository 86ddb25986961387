"""Three completions of one token each, a policy that is a table, and rounds whose samples are scripted: no sampling."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.collate import Example
from finetune.on_policy import Graded, Rollout

REFERENCE = (0.5, 0.3, 0.2)
REWARDS = (1.0, 2.0, 3.0)


def softmax(logits: Sequence[float]) -> list[float]:
    highest = max(logits)
    weights = [math.exp(one - highest) for one in logits]
    return [one / math.fsum(weights) for one in weights]


def total_variation(p: Sequence[float], q: Sequence[float]) -> float:
    return math.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


def rollout(outcome: int, group: int = 0, logprob: float = 0.0) -> Rollout:
    return Rollout((7,), (outcome,), (), f"row {group}", group, True, (logprob,), (logprob,), "toy")


class Still:
    """An anchor that never moves, or is told to; its distribution is a table."""

    def __init__(self, law: Sequence[float] = REFERENCE) -> None:
        self.law = list(law)
        self.model = self
        self.followed: list[tuple[float, int]] = []

    def follow(self, share: float, step: int) -> None:
        self.followed.append((share, step))


@dataclass
class Scripted:
    """A round of one prompt: what is sampled is said beforehand, of the policy and of the anchor."""

    policy: Sequence[float]
    anchor: Still
    ours: Sequence[int]
    anchored: Sequence[int] = ()
    rewards: Sequence[float] = REWARDS
    number: int = 0
    asked: list[tuple[str, int]] = field(default_factory=list)
    is_exact: bool = True

    @property
    def tools(self) -> Any:
        return self

    @property
    def reference(self) -> Still:
        return self.anchor

    def sample(self, num_samples: int, *, of: Still | None = None) -> list[Rollout]:
        outcomes, law = (self.ours, self.policy) if of is None else (self.anchored, of.law)
        self.asked.append(("policy" if of is None else "anchor", num_samples))
        assert len(outcomes) == num_samples
        return [rollout(outcome, logprob=math.log(law[outcome])) for outcome in outcomes]

    def learnable(self, rollouts: Sequence[Rollout]) -> Sequence[Rollout]:
        return rollouts

    def grade(self, rollouts: Sequence[Rollout]) -> Graded:
        return Graded(tuple(self.rewards[one.completion_ids[0]] for one in rollouts), {})

    def policy_logprobs(self, rollouts: Sequence[Rollout]) -> list[tuple[float, ...]]:
        return [(math.log(self.policy[one.completion_ids[0]]),) for one in rollouts]

    def logprobs(self, rollouts: Sequence[Rollout], of: Still) -> list[tuple[float, ...]]:
        return [(math.log(of.law[one.completion_ids[0]]),) for one in rollouts]

    def log_ratios(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [ratio for (ratio,) in self.token_log_ratios(rollouts)]

    def token_log_ratios(self, rollouts: Sequence[Rollout]) -> list[tuple[float, ...]]:
        pairs = zip(self.policy_logprobs(rollouts), self.logprobs(rollouts, self.anchor), strict=True)
        return [(a - b,) for (a,), (b,) in pairs]


def scripts(law: Sequence[float], count: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every sequence of so many independent outcomes, with its probability."""
    for outcomes in itertools.product(range(len(law)), repeat=count):
        yield outcomes, math.prod(law[outcome] for outcome in outcomes)


def gradient(policy: Sequence[float], examples: Sequence[Example]) -> list[float]:
    """Of the mean over examples of -weight · log π(y), in the table's logits: weight · (π - one at y)."""
    total = [0.0] * len(policy)
    for example in examples:
        assert example.weights is not None
        for place, mass in enumerate(policy):
            total[place] += sum(example.weights) * (mass - (place == example.completion_ids[0])) / len(examples)
    return total


def expected_gradient(
    policy: Sequence[float],
    anchor: Still,
    examples_of: Callable[[Scripted], Sequence[Example]],
    num_ours: int,
    num_anchored: int,
    rewards: Sequence[float] = REWARDS,
) -> list[float]:
    """Over all samples that there can be."""
    total = [0.0] * len(policy)
    for ours, mass in scripts(policy, num_ours):
        for anchored, other_mass in scripts(anchor.law, num_anchored):
            found = gradient(policy, examples_of(Scripted(policy, anchor, ours, anchored, rewards)))
            total = [a + mass * other_mass * b for a, b in zip(total, found, strict=True)]
    return total


def descend(field_of: Callable[[list[float]], Sequence[float]], steps: int, rate: float) -> list[float]:
    """Where plain gradient descent in the logits ends, from the reference."""
    logits = [math.log(one) for one in REFERENCE]
    for _ in range(steps):
        logits = [one - rate * slope for one, slope in zip(logits, field_of(softmax(logits)), strict=True)]
    return softmax(logits)
