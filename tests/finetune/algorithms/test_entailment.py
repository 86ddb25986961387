"""Entailment RL by enumeration: its optimum, what a token earns, and the hack that its reward invites.

The toy has three completions, of one token each; the closed form is π_SFT p^((1-α)/α) over its sum.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import pytest

from finetune.algorithms import entailment
from finetune.algorithms.entailment import TRUNCATED, EntailmentRL, token_rewards
from finetune.algorithms.reinforce import Reinforce
from finetune.on_policy import Round
from finetune.rewards.entailment import entailment_reward
from finetune.rewards.guards import boilerplate
from medgemma.entailment.scores import Entailment, Pair
from tests.finetune.algorithms.toys import REFERENCE, Scripted, Still, descend, expected_gradient, total_variation

SUPPORTED = (0.2, 0.6, 0.95)
"""P(entailment) of each completion."""
OPTIMA = {
    0.8: (0.420139, 0.331761, 0.248100),
    0.5: (0.212766, 0.382979, 0.404255),
    0.2: (0.003949, 0.191923, 0.804128),
    0.1: (0.000002, 0.023423, 0.976575),
}


def learned(alpha: float, rewards: Sequence[float] = tuple(map(math.log, SUPPORTED)), steps: int = 1500) -> list[float]:
    """Where the exact gradient leads from the SFT policy."""
    algorithm = EntailmentRL(1, alpha)

    def slope(policy: list[float]) -> list[float]:
        return expected_gradient(policy, Still(), lambda r: algorithm.examples(cast(Round, r)), 1, 0, rewards)

    return descend(slope, steps, 4.0)


def kl(policy: Sequence[float]) -> float:
    return math.fsum(p * math.log(p / q) for p, q in zip(policy, REFERENCE, strict=True))


def mean(policy: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(p * value for p, value in zip(policy, values, strict=True))


@pytest.mark.parametrize("alpha", OPTIMA)
def test_it_ends_at_the_closed_form(alpha: float) -> None:
    tilted = [p * s ** ((1 - alpha) / alpha) for p, s in zip(REFERENCE, SUPPORTED, strict=True)]
    assert [one / sum(tilted) for one in tilted] == pytest.approx(OPTIMA[alpha], abs=1e-6)
    assert total_variation(learned(alpha), OPTIMA[alpha]) < 1e-3


def test_the_wrong_sign_of_the_kl_drives_the_policy_away(monkeypatch: pytest.MonkeyPatch) -> None:
    right = entailment.token_rewards
    monkeypatch.setattr(
        entailment, "token_rewards", lambda end, ratios, alpha: right(end, [-ratio for ratio in ratios], alpha)
    )
    found = learned(0.5, steps=300)
    assert total_variation(found, OPTIMA[0.5]) > 0.3 and kl(found) > 2 * kl(OPTIMA[0.5])


def test_a_smaller_alpha_is_more_entailment_and_more_kl() -> None:
    found = [learned(alpha, steps=800) for alpha in (0.9, 0.7, 0.5, 0.3, 0.2)]
    logs = [mean(policy, list(map(math.log, SUPPORTED))) for policy in found]
    assert logs == sorted(logs) and len(set(logs)) == len(logs)
    distances = [kl(policy) for policy in found]
    assert distances == sorted(distances)
    assert distances[-1] == pytest.approx(1.01405, abs=2e-3)
    assert distances[-1] <= -math.log(mean(REFERENCE, [s**4 for s in SUPPORTED]))  # 1.597


def test_without_a_critic_it_is_reinforce_of_the_same_alpha() -> None:
    """(1-α) r - α Σ is (1-α) times REINFORCE's return at β = α/(1-α); groups of two."""
    rewards = tuple(map(math.log, SUPPORTED))
    played = Scripted((0.3, 0.3, 0.4), Still(), (2, 0), rewards=rewards)
    ours = EntailmentRL(2, 0.3).examples(cast(Round, played))
    theirs = Reinforce(2, 0.3 / 0.7).examples(cast(Round, played))
    for own, other in zip(ours, theirs, strict=True):
        assert own.weights == pytest.approx([0.7 * weight for weight in other.weights or ()])


def test_what_tokens_earn_adds_up() -> None:
    earned = token_rewards(math.log(0.6), [0.5, -0.2, 0.1], 0.25)
    assert earned == pytest.approx([-0.125, 0.05, -0.025 + 0.75 * math.log(0.6)])
    assert sum(earned) == pytest.approx(0.75 * math.log(0.6) - 0.25 * (0.5 - 0.2 + 0.1))


def test_a_reward_at_every_token_adds_up_to_more() -> None:
    """The negative control: three ends where there is one."""
    everywhere = [0.75 * math.log(0.6) - 0.25 * ratio for ratio in (0.5, -0.2, 0.1)]
    assert sum(everywhere) < sum(token_rewards(math.log(0.6), [0.5, -0.2, 0.1], 0.25)) - 0.7


def test_a_sample_that_was_cut_earns_what_is_said_for_it() -> None:
    """Its reward, 0 here and so the most there is, does not count."""
    from dataclasses import replace

    played = Scripted(REFERENCE, Still(), (2,), rewards=(0.0, 0.0, 0.0))
    sample = played.sample
    cast(Any, played).sample = lambda n: [replace(one, ended=False) for one in sample(n)]
    [cut] = EntailmentRL(1, 0.5).examples(cast(Round, played))
    assert cut.weights == (0.5 * TRUNCATED,) and TRUNCATED < -13
    [cut] = EntailmentRL(1, 0.5, truncated=-2.0).examples(cast(Round, played))
    assert cut.weights == (-1.0,)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_an_alpha_without_an_optimum_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="expected above 0 and below 1"):
        EntailmentRL(1, alpha)


FINDINGS = "Small left effusion. Heart enlarged."
IMPRESSIONS = ("No acute disease.", "Small left effusion.", "Large right effusion.")
RECALLS = (0.0, 1.0, 0.0)


def gullible(pairs: Sequence[Pair]) -> list[Entailment]:
    """It supports "No acute disease." of any source; else what stands there, not quite surely, and nothing else."""
    sure = [0.99 if "No acute" in said else 0.9 if said in source else 0.01 for source, said in pairs]
    return [Entailment(one, 1 - one, 0.0) for one in sure]


def test_the_hack_shows_as_entailment_up_and_recall_down_and_a_guard_turns_it() -> None:
    reward = entailment_reward(gullible)(completions=IMPRESSIONS, premise=[FINDINGS] * 3)
    supported = [math.exp(one) for one in reward]
    guard = boilerplate(["No acute disease."], lambda source: "effusion" in source)
    kept = guard(completions=IMPRESSIONS, premise=[FINDINGS] * 3)
    guarded = [one - 2.0 * cost for one, cost in zip(reward, kept, strict=True)]
    hacked, turned = learned(0.05, reward, 800), learned(0.05, guarded, 800)
    assert mean(hacked, supported) > mean(REFERENCE, supported) + 0.1
    assert mean(hacked, kept) > 0.8 and mean(hacked, RECALLS) < mean(REFERENCE, RECALLS)
    assert mean(turned, supported) > mean(REFERENCE, supported) + 0.1
    assert mean(turned, kept) < 0.01 and mean(turned, RECALLS) > 0.95
