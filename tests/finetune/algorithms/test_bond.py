"""BOND and J-BOND by enumeration: what their examples ask for on average, and what planted faults would ask for."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from finetune.algorithms import j_bond
from finetune.algorithms.best_of_n import best_of_n_law, bond_reward, estimated_ranks
from finetune.algorithms.bond import Bond, mixed
from finetune.algorithms.following import STILL, Following
from finetune.algorithms.j_bond import JBond
from finetune.collate import Example
from tests.finetune.algorithms.toys import (
    REFERENCE,
    REWARDS,
    Scripted,
    Still,
    descend,
    expected_gradient,
    gradient,
    rollout,
    scripts,
    total_variation,
)

POLICY = (0.35, 0.25, 0.4)


def examples_of(algorithm: Any) -> Any:
    def ask(round: Scripted) -> Sequence[Example]:
        examples: Sequence[Example] = algorithm.examples(round)
        return examples

    return ask


def j_bond_end(beta: float, gamma: float = 0.0) -> list[float]:
    anchor = Still()
    algorithm: Any = JBond(anchor, STILL, beta, gamma)  # type: ignore[arg-type]
    return descend(lambda policy: expected_gradient(policy, anchor, examples_of(algorithm), 1, 2), 150, 1.5)


def test_forward_alone_ends_at_the_best_of_n() -> None:
    anchor = Still()
    bond: Any = Bond(2, anchor, beta=0.0, ranked_among=2)  # type: ignore[arg-type]
    end = descend(lambda policy: expected_gradient(policy, anchor, examples_of(bond), 1, 2), 200, 1.5)
    assert total_variation(end, best_of_n_law(REFERENCE, REWARDS, 2)) < 1e-6


def test_the_backward_gradient_is_the_formulas() -> None:
    """Over all samples: -E[∇log π ((N-1) E r_BOND - log π/π_anchor)], r from the rank among the same anchor samples."""
    anchor, n, among = Still(), 3, 3
    bond: Any = Bond(n, anchor, beta=1.0, ranked_among=among, with_collisions=True)  # type: ignore[arg-type]
    found = expected_gradient(POLICY, anchor, examples_of(bond), 1, among)
    wanted = [0.0] * 3
    for y, mass in enumerate(POLICY):
        earned = math.fsum(
            other * bond_reward(estimated_ranks(REWARDS[y], [REWARDS[a] for a in drawn]), n)
            for drawn, other in scripts(REFERENCE, among)
        )
        gain = (n - 1) * earned - math.log(mass / REFERENCE[y])
        wanted = [w - mass * gain * ((k == y) - POLICY[k]) for k, w in enumerate(wanted)]
    assert found == pytest.approx(wanted, abs=1e-12)


def test_a_baseline_of_the_others_changes_no_mean_and_lowers_the_variance() -> None:
    anchor = Still()
    one: Any = Bond(2, anchor, beta=1.0, ranked_among=2)  # type: ignore[arg-type]
    four: Any = Bond(2, anchor, beta=1.0, ranked_among=2, num_samples=4)  # type: ignore[arg-type]
    alone = expected_gradient(POLICY, anchor, examples_of(one), 1, 2)
    assert expected_gradient(POLICY, anchor, examples_of(four), 4, 2) == pytest.approx(alone, abs=1e-12)
    squares = {"with": 0.0, "without": 0.0, "own": 0.0}
    means = {"own": [0.0] * 3}
    for ours, mass in scripts(POLICY, 4):
        for anchored, other in scripts(REFERENCE, 2):
            round = Scripted(POLICY, anchor, ours, anchored)
            returns = four._returns(round, round.sample(4), {0: [REWARDS[a] for a in anchored]})
            own = [gain - sum(returns) / 4 for gain in returns]  # a baseline that includes the sample itself
            for name, gains in (("with", None), ("without", returns), ("own", own)):
                asked = (
                    four.examples(Scripted(POLICY, anchor, ours, anchored))
                    if gains is None
                    else [rollout(y).example(gain) for y, gain in zip(ours, gains, strict=True)]
                )
                found = gradient(POLICY, asked)
                squares[name] += mass * other * math.fsum(g * g for g in found)
                if name == "own":
                    means["own"] = [m + mass * other * g for m, g in zip(means["own"], found, strict=True)]
    assert squares["with"] < squares["without"]
    assert means["own"] == pytest.approx([g * 3 / 4 for g in alone], abs=1e-12)  # biased: 3/4 of it


def test_jeffreys_weighs_the_two() -> None:
    best, ours = [rollout(2)], [rollout(0), rollout(1)]
    forward, *backward = mixed(best, ours, [1.0, 3.0], beta=0.25)
    assert forward.weights == (0.75 * 3,)  # the mean over three examples is .75 of it
    assert [one.weights for one in backward] == [(0.25 * -2.0 * 1.5,), (0.25 * 2.0 * 1.5,)]
    assert [one.completion_ids for one in mixed(best, ours, [1.0, 3.0], beta=1.0)] == [(0,), (1,)]


@pytest.mark.parametrize(
    ("beta", "law"),
    [
        (0.0, (0.25, 0.39, 0.36)),
        (0.5, (0.298090, 0.383073, 0.318837)),
        (1.0, (0.347943, 0.373702, 0.278355)),
    ],
)
def test_j_bond_on_a_still_anchor_ends_where_it_was_computed(beta: float, law: Sequence[float]) -> None:
    assert j_bond_end(beta) == pytest.approx(law, abs=2e-6)


def test_punishing_ties_too_ends_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Appendix A.4's "≤"."""

    def tied(reward: float, first: float, second: float) -> float:
        return -math.log(16) if reward <= min(first, second) else 0.0

    monkeypatch.setattr(j_bond, "j_bond_reward", tied)
    assert total_variation(j_bond_end(1.0), (0.347943, 0.373702, 0.278355)) > 0.01


def test_gamma_brings_the_policy_back_to_the_anchor() -> None:
    """Rewards equal and β 0: what is left is γ; as the paper prints its sign, the policy would run away."""
    anchor = Still()
    algorithm: Any = JBond(anchor, STILL, 0.0, 4.0)  # type: ignore[arg-type]

    def divergence(policy: Sequence[float]) -> float:
        return math.fsum(p * math.log(p / q) for p, q in zip(policy, REFERENCE, strict=True))

    policy = list(POLICY)
    seen = [divergence(policy)]
    for _ in range(20):
        slopes = expected_gradient(policy, anchor, examples_of(algorithm), 1, 2, (1.0, 1.0, 1.0))
        raised = [math.log(p) - 0.1 * slope for p, slope in zip(policy, slopes, strict=True)]
        masses = [math.exp(one) for one in raised]
        policy = [mass / math.fsum(masses) for mass in masses]
        seen.append(divergence(policy))
    assert all(after < before for before, after in zip(seen, seen[1:], strict=False))
    pulled = expected_gradient(POLICY, anchor, examples_of(algorithm), 1, 2, (1.0, 1.0, 1.0))
    without: Any = JBond(anchor, STILL, 0.0)  # type: ignore[arg-type]
    free = expected_gradient(POLICY, anchor, examples_of(without), 1, 2, (1.0, 1.0, 1.0))
    of_gamma = [a - b for a, b in zip(pulled, free, strict=True)]
    of_kl = [p * (math.log(p / q) - divergence(POLICY)) for p, q in zip(POLICY, REFERENCE, strict=True)]
    assert of_gamma == pytest.approx([4 * one for one in of_kl], abs=1e-12)


def test_three_generations_a_prompt() -> None:
    anchor = Still()
    round = Scripted(POLICY, anchor, (1,), (0, 2), number=5)
    JBond(anchor, Following(0.02)).examples(round)  # type: ignore[arg-type]
    assert round.asked == [("anchor", 2), ("policy", 1)]
    assert anchor.followed == [(0.02, 5)]


def test_an_anchor_moves_when_it_is_due() -> None:
    """Before the first step nothing has been learned; iterative BOND takes the policy every so many steps."""
    for following, moved in {
        STILL: [],
        Following(0.1): [(0.1, 1), (0.1, 2), (0.1, 3), (0.1, 4)],
        Following(1.0, 2): [(1.0, 2), (1.0, 4)],
    }.items():
        anchor: Any = Still()
        for step in range(5):
            following.move(anchor, step)
        assert anchor.followed == moved


def test_what_cannot_be_is_refused() -> None:
    anchor: Any = Still()
    with pytest.raises(ValueError, match="BOND: n 8, beta 0.5, num_samples 1, ranked_among 4; expected n from 2"):
        Bond(8, anchor, ranked_among=4)
    with pytest.raises(ValueError, match="J-BOND: beta 1.5, gamma 0.0; expected 0 to 1"):
        JBond(anchor, STILL, 1.5)
    with pytest.raises(ValueError, match="anchor: rate 2, every 1 steps"):
        Following(2)
