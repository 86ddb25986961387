"""The Best-of-N distribution: the law of the best of N samples, by rank alone, ties included.

With p_<(y) and p_≤(y) the probabilities that a reference sample earns less than y, or at most as much:

    π_BoN(y) = π_ref(y) · p_≤(y)^(N-1) · Σ_{i=1..N} (p_<(y) / p_≤(y))^(i-1)                    (Theorem 1, eq. 4)

It is what maximises E[r_BOND] - 1/(N-1) · KL(π‖π_ref) (eq. 7), where

    r_BOND(y) = log p_≤(y) + 1/(N-1) · log Σ_{i=1..N} (p_<(y) / p_≤(y))^(i-1)                           (eq. 8)

Ties go to the sample drawn first: a level's mass is then shared as the reference shares it, and the law is exact.

Source: Sessa et al., BOND: Aligning LLMs with Best-of-N Distillation, arXiv:2407.14622 (2024), §3.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

BEATEN = -math.log(16)
"""J-BOND's reward of a sample that both anchor samples beat (eq. 17); its mean is log p_≤ at p_≤ = 1/2."""


class Ranks(NamedTuple):
    """Where a reward stands among samples of the reference."""

    below: float
    """p_<: earned less."""
    at_most: float
    """p_≤: earned at most as much."""


def best_of(rewards: Sequence[float]) -> int:
    """The place of the highest reward, the first of equals.

    Raises:
        ValueError: there is none.
    """
    if not rewards:
        raise ValueError("the best of no samples; sample one at least")
    return max(range(len(rewards)), key=lambda place: (rewards[place], -place))


def exact_ranks(reference: Sequence[float], rewards: Sequence[float]) -> list[Ranks]:
    """Of every outcome of a finite distribution.

    Args:
        reference: probability of each outcome.
        rewards: of each.
    """
    mass_of: dict[float, float] = {}
    for mass, reward in zip(reference, rewards, strict=True):
        mass_of[reward] = mass_of.get(reward, 0.0) + mass
    levels = sorted(mass_of)
    up_to = dict(zip(levels, accumulate(mass_of[level] for level in levels), strict=True))
    return [Ranks(up_to[reward] - mass_of[reward], up_to[reward]) for reward in rewards]


def estimated_ranks(reward: float, reference_rewards: Sequence[float]) -> Ranks:
    """Monte-Carlo ranks among K samples of the reference for the same prompt (eq. 10).

    A sample below all K would have p_≤ = 0, whose logarithm the paper does not bound. Here p_≤ is 1/(K+1) at least: the
    sample itself is one that earned at most as much.

    Raises:
        ValueError: there is no reference sample.
    """
    count = len(reference_rewards)
    if not count:
        raise ValueError("no reference sample to rank among; take one at least")
    below = sum(other < reward for other in reference_rewards) / count
    at_most = sum(other <= reward for other in reference_rewards) / count
    return Ranks(below, max(at_most, 1 / (count + 1)))


def collisions(ranks: Ranks, n: int) -> float:
    """Σ_{i=1..N} (p_< / p_≤)^(i-1), in 1..N: the term that counts how often the best is drawn more than once."""
    share = ranks.below / ranks.at_most
    return math.fsum(share**power for power in range(n))


def bond_reward(ranks: Ranks, n: int, *, with_collisions: bool = True) -> float:
    """r_BOND (eq. 8), at most log N / (N - 1).

    Args:
        ranks: of the sample among the reference's.
        n: N, from 2.
        with_collisions: keep the second term, which is exact; the paper leaves it out in practice, where a single
            sequence has next to no mass.

    Raises:
        ValueError: N is below 2.
    """
    if n < 2:
        raise ValueError(f"the best of {n}: expected 2 or more; of 1 there is nothing to learn")
    second = math.log(collisions(ranks, n)) / (n - 1) if with_collisions else 0.0
    return math.log(ranks.at_most) + second


def j_bond_reward(reward: float, first: float, second: float) -> float:
    """r_J (eq. 17): -log 16 where two anchor samples both earned more, strictly; else 0."""
    return BEATEN if reward < min(first, second) else 0.0


def best_of_n_law(reference: Sequence[float], rewards: Sequence[float], n: int) -> list[float]:
    """π_BoN of a finite distribution (Theorem 1).

    Args:
        reference: probability of each outcome.
        rewards: of each; equal ones are a level.
        n: N, from 1.
    """
    return [
        p * ranks.at_most ** (n - 1) * collisions(ranks, n) if p else 0.0
        for p, ranks in zip(reference, exact_ranks(reference, rewards), strict=True)
    ]


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    """KL(p‖q) of two finite distributions, in nats."""
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def best_of_n_kl_bound(n: int) -> float:
    """Log N - (N-1)/N: KL(π_BoN‖π_ref) is at most this, and less wherever outcomes have mass (arXiv:2401.01879)."""
    return math.log(n) - (n - 1) / n
