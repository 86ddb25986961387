"""The law of the best of N, by values that others have computed, by counting, and against planted faults."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest

from finetune.algorithms.best_of_n import (
    Ranks,
    best_of,
    best_of_n_kl_bound,
    best_of_n_law,
    bond_reward,
    collisions,
    estimated_ranks,
    exact_ranks,
    j_bond_reward,
    kl,
)
from tests.finetune.algorithms.toys import REFERENCE, REWARDS, descend, total_variation


def counted(reference: Sequence[float], rewards: Sequence[float], n: int) -> list[float]:
    """By all sequences of n samples; the first of the best is taken."""
    law = [0.0] * len(reference)
    for drawn in itertools.product(range(len(reference)), repeat=n):
        law[drawn[best_of([rewards[y] for y in drawn])]] += math.prod(reference[y] for y in drawn)
    return law


@pytest.mark.parametrize(
    ("n", "law"),
    [
        (2, (0.25, 0.39, 0.36)),
        (4, (0.0625, 0.3471, 0.5904)),
        (8, (0.003906, 0.163866, 0.832228)),
    ],
)
def test_the_law(n: int, law: Sequence[float]) -> None:
    found = best_of_n_law(REFERENCE, REWARDS, n)
    assert found == pytest.approx(law, abs=5e-7)
    assert math.fsum(found) == pytest.approx(1, abs=1e-12)
    if n < 8:
        assert found == pytest.approx(counted(REFERENCE, REWARDS, n), abs=1e-12)


def test_without_the_collisions_it_is_another_law() -> None:
    masses = [p * r.at_most for p, r in zip(REFERENCE, exact_ranks(REFERENCE, REWARDS), strict=True)]
    wrong = [mass / math.fsum(masses) for mass in masses]
    assert wrong == pytest.approx((0.362, 0.348, 0.290), abs=5e-4)
    assert total_variation(wrong, best_of_n_law(REFERENCE, REWARDS, 2)) == pytest.approx(0.112, abs=5e-4)


def test_equal_rewards_share_their_levels_mass_as_the_reference_does() -> None:
    reference, rewards = (0.4, 0.1, 0.3, 0.2), (0.0, 0.0, 1.0, 1.0)
    law = best_of_n_law(reference, rewards, 4)
    assert law == pytest.approx((0.05, 0.0125, 0.5625, 0.375), abs=1e-12)
    assert law == pytest.approx(counted(reference, rewards, 4), abs=1e-12)
    assert law[2] + law[3] == pytest.approx(1 - 0.5**4)  # pass goes q to 1 - (1 - q)^N
    broken = [p * r.at_most**3 for p, r in zip(reference, exact_ranks(reference, rewards), strict=True)]
    assert total_variation(law, [b / math.fsum(broken) for b in broken]) > 0.04


def test_the_best_of_two_bests_of_two_is_the_best_of_four() -> None:
    twice = best_of_n_law(best_of_n_law(REFERENCE, REWARDS, 2), REWARDS, 2)
    assert twice == pytest.approx(best_of_n_law(REFERENCE, REWARDS, 4), abs=1e-14)


@pytest.mark.parametrize(("n", "nats"), [(2, 0.14064), (4, 0.55975), (8, 1.06853), (16, 1.46964)])
def test_the_kl_is_below_its_bound(n: int, nats: float) -> None:
    found = kl(best_of_n_law(REFERENCE, REWARDS, n), REFERENCE)
    assert found == pytest.approx(nats, abs=5e-6)
    assert found < best_of_n_kl_bound(n)
    fine = [1 / 4_000] * 4_000  # where outcomes have no mass, the bound is reached
    assert kl(best_of_n_law(fine, range(4_000), n), fine) == pytest.approx(best_of_n_kl_bound(n), abs=1e-3)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_the_law_is_what_the_reward_and_its_kl_ask_for(n: int) -> None:
    """Eq. 7: π_ref · exp((N-1) r_BOND) needs no normalising."""
    ranks = exact_ranks(REFERENCE, REWARDS)
    asked = [p * math.exp((n - 1) * bond_reward(r, n)) for p, r in zip(REFERENCE, ranks, strict=True)]
    assert asked == pytest.approx(best_of_n_law(REFERENCE, REWARDS, n), abs=1e-14)
    assert all(0 <= math.log(collisions(r, n)) / (n - 1) <= math.log(n) / (n - 1) for r in ranks)


def test_gradient_descent_on_the_backward_divergence_ends_at_the_law_and_the_papers_slip_elsewhere() -> None:
    ranks = exact_ranks(REFERENCE, REWARDS)

    def backward(rewards: Sequence[float]) -> list[float]:
        def field(policy: list[float]) -> list[float]:
            gains = [r - math.log(p / ref) for r, p, ref in zip(rewards, policy, REFERENCE, strict=True)]
            return [
                math.fsum(
                    p * gain * (policy[k] - (k == y)) for y, (p, gain) in enumerate(zip(policy, gains, strict=True))
                )
                for k in range(3)
            ]

        return descend(field, 400, 1.0)

    exact = backward([bond_reward(r, 2) for r in ranks])
    assert total_variation(exact, best_of_n_law(REFERENCE, REWARDS, 2)) < 1e-6
    assert backward([r.at_most for r in ranks]) == pytest.approx((0.405, 0.328, 0.267), abs=5e-4)  # §4.2: no logarithm


def test_only_ranks_count() -> None:
    changed = [math.exp(reward) for reward in REWARDS]
    assert exact_ranks(REFERENCE, changed) == exact_ranks(REFERENCE, REWARDS)
    samples = [2.0, 1.0, 3.0, 3.0]
    for reward in REWARDS:
        same = estimated_ranks(3 * reward + 1, [3 * other + 1 for other in samples])
        assert same == estimated_ranks(reward, samples)
        assert j_bond_reward(math.exp(reward), math.exp(2), math.exp(3)) == j_bond_reward(reward, 2, 3)


def test_estimated_ranks_by_hand() -> None:
    assert estimated_ranks(2.0, [1.0, 2.0, 2.0, 3.0]) == Ranks(0.25, 0.75)
    assert estimated_ranks(0.0, [1.0, 2.0, 2.0]) == Ranks(0.0, 0.25)  # not 0, whose logarithm has no value
    with pytest.raises(ValueError, match="no reference sample to rank among"):
        estimated_ranks(0.0, [])
    with pytest.raises(ValueError, match="the best of 1: expected 2 or more"):
        bond_reward(Ranks(0, 1), 1)


def test_j_bonds_reward_is_calibrated() -> None:
    """On a continuous reward: -log 16 · (1 - p)², and -.924 over the anchor's own samples."""
    places = 400
    grid = [(place + 0.5) / places for place in range(places)]
    for p in (0.25, 0.5, 0.9):
        mean = math.fsum(j_bond_reward(p, a, b) for a in grid for b in grid) / places**2
        assert mean == pytest.approx(-math.log(16) * (1 - p) ** 2, abs=2e-2)
    mean = math.fsum(-math.log(16) * (1 - p) ** 2 for p in grid) / places
    assert mean == pytest.approx(-0.924196, abs=1e-4)
    assert -math.log(16) * 0.25 == pytest.approx(math.log(0.5))  # what log p_≤ is at the median
    assert j_bond_reward(1.0, 1.0, 1.0) == 0  # "≤" would punish a tie


def test_pass_or_fail_fires_seldom() -> None:
    for q in (0.1, 0.5, 2 / 3):
        law, rewards = (1 - q, q), (0.0, 1.0)
        fired = math.fsum(
            law[y] * law[a] * law[b] * (j_bond_reward(rewards[y], rewards[a], rewards[b]) < 0)
            for y, a, b in itertools.product(range(2), repeat=3)
        )
        assert fired == pytest.approx((1 - q) * q**2)


def test_a_policy_that_cannot_be_the_law_ends_where_its_divergence_says() -> None:
    """Only π(y3) = q is free, the rest stays .625 to .375: forward KL takes the law's mass of y3, backward more."""
    law = best_of_n_law(REFERENCE, REWARDS, 2)

    def of(q: float) -> list[float]:
        return [(1 - q) * 0.625, (1 - q) * 0.375, q]

    def lowest(divergence: Callable[[list[float]], float]) -> float:
        return min((place / 100_000 for place in range(1, 100_000)), key=lambda q: divergence(of(q)))

    forward, backward = lowest(lambda policy: kl(law, policy)), lowest(lambda policy: kl(policy, law))
    jeffreys = lowest(lambda policy: 0.5 * kl(law, policy) + 0.5 * kl(policy, law))
    assert forward == pytest.approx(0.36, abs=1e-5)
    assert backward == pytest.approx(0.38611, abs=1e-5)  # the two directions changed over would not pass
    assert forward < jeffreys < backward
