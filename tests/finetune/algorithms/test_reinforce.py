"""REINFORCE with leave-one-out on an enumerated toy: its expectation is the gradient of what it maximises.

The toy is a bigram model in float64 with completions of two tokens: nine of them, 81 pairs.
"""

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from finetune.algorithms.reinforce import MovingBaseline, Reinforce, leave_one_out
from finetune.on_policy import Network, Rollout, Round, normalised
from finetune.on_policy.normalising import counted
from finetune.training import Turn
from tests.finetune.algorithms.test_gkd import LAYOUT, Bigram, gradient, log_distributions

POLICY, REFERENCE = Bigram(0), Bigram(1)
SAMPLES = tuple(itertools.product(range(3), repeat=2))
REWARDS = {y: 2 + 0.3 * y[0] - 0.7 * y[1] + y[0] * y[1] for y in SAMPLES}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def logprob(y: tuple[int, ...], network: Bigram = POLICY) -> torch.Tensor:
    """log π(y) behind token 1."""
    rows = log_distributions(network)
    return rows[1, y[0]] + rows[y[0], y[1]]


class Played:
    """A round whose samples are given; all else is computed from the toy."""

    is_exact, number = True, 0

    def __init__(self, samples: tuple[tuple[int, ...], ...], groups: tuple[int, ...]) -> None:
        zeros = (0.0, 0.0)
        pairs = zip(samples, groups, strict=True)
        self.samples = [Rollout((1,), y, (), f"row {g}", g, True, zeros, zeros, "v0") for y, g in pairs]

    def sample(self, num_samples: int) -> list[Rollout]:
        return self.samples

    def learnable(self, rollouts: list[Rollout]) -> list[Rollout]:
        return rollouts

    def grade(self, rollouts: list[Rollout]) -> Any:
        return SimpleNamespace(total=[REWARDS[cast(Any, r.completion_ids)] for r in rollouts])

    def log_ratios(self, rollouts: list[Rollout]) -> list[float]:
        ys = [r.completion_ids for r in rollouts]
        return [(logprob(y) - logprob(y, REFERENCE)).item() for y in ys]


def estimate(algorithm: Reinforce, samples: Any, groups: tuple[int, ...]) -> torch.Tensor:
    """The gradient of one step's loss."""
    examples = normalised(algorithm.examples(cast(Round, Played(samples, groups))), algorithm.normalisation)
    [part] = LAYOUT.parts(examples)
    turn = Turn(0, counted(part.drawn, algorithm.normalisation))
    return gradient(algorithm.loss(cast(Network, POLICY), part.drawn, turn, 1.0), POLICY)


def expected(algorithm: Reinforce, groups: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the estimate over all pairs of samples."""
    mean, square = torch.zeros(2, *POLICY.table.shape)
    for pair in itertools.product(SAMPLES, repeat=2):
        probability = (logprob(pair[0]) + logprob(pair[1])).exp().detach()
        found = estimate(algorithm, pair, groups)
        mean, square = mean + probability * found, square + probability * found**2
    return mean, (square - mean**2).sum()


def objective(kl_coefficient: float) -> torch.Tensor:
    """E[r] - β KL(π‖π_ref), by enumeration."""
    total = torch.zeros(())
    for y in SAMPLES:
        total = total + logprob(y).exp() * (REWARDS[y] - kl_coefficient * (logprob(y) - logprob(y, REFERENCE).detach()))
    return total


@pytest.mark.parametrize("groups", [(0, 0), (0, 1)])
@pytest.mark.parametrize("kl_coefficient", [0.0, 0.4])
def test_its_expectation_is_the_gradient_of_reward_less_kl(kl_coefficient: float, groups: tuple[int, ...]) -> None:
    """With two samples of a prompt, and with one sample of each of two prompts."""
    mean, _ = expected(Reinforce(2, kl_coefficient), groups)
    torch.testing.assert_close(mean, -gradient(objective(kl_coefficient), POLICY), atol=1e-9, rtol=0)


def test_the_baseline_changes_no_mean_and_lowers_the_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, variance = expected(Reinforce(2, 0.4), (0, 0))
    with monkeypatch.context() as patched:
        patched.setattr("finetune.algorithms.reinforce.leave_one_out", lambda returns, groups: [0.0] * len(returns))
        plain_mean, plain_variance = expected(Reinforce(2, 0.4), (0, 0))
    torch.testing.assert_close(mean, plain_mean, atol=1e-9, rtol=0)
    assert variance < 0.8 * plain_variance


def test_a_baseline_that_holds_the_sample_itself_is_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of both tests above."""
    mean, _ = expected(Reinforce(2, 0.4), (0, 0))
    own = "finetune.algorithms.reinforce.leave_one_out"
    monkeypatch.setattr(own, lambda returns, groups: [sum(returns) / len(returns)] * len(returns))
    assert (expected(Reinforce(2, 0.4), (0, 0))[0] - mean).abs().max() > 0.01


def test_leave_one_out_by_hand() -> None:
    assert leave_one_out([1.0, 4.0, 7.0, 10.0], [[0, 2, 3], [1]]) == [8.5, 6.0, 5.5, 4.0]
    assert leave_one_out([3.0], [[0]]) == [0.0]


def test_a_served_samplers_tokens_are_weighted_by_their_bounded_ratio() -> None:
    """min(π / π_sampled, 2) a token, by hand; without the bound the third would count 10 times."""
    from finetune.collate import Example, collate

    y = (0, 2)
    rows = log_distributions(POLICY)
    own = [float(rows[1, 0]), float(rows[0, 2])]
    example = Example((1,), y, weights=(1.5, 1.5), sampled_logprobs=(own[0] + 0.3, own[1] - 2.3))
    batch = collate([example], pad_id=0, image_id=None, max_tokens=16)
    found = gradient(Reinforce(2, 0.0).loss(cast(Network, POLICY), batch, Turn(0, 1.0), 1.0), POLICY)
    ratios = torch.tensor([-0.3]).exp().item(), 2.0
    by_hand = gradient(-1.5 * (ratios[0] * rows[1, 0] + ratios[1] * rows[0, 2]), POLICY)
    torch.testing.assert_close(found, by_hand, atol=1e-9, rtol=0)


def test_a_moving_baseline_is_of_earlier_steps_alone() -> None:
    """By hand, a share of one half: 0; 4; (2 + 0.25 · 4 · 2) / 0.75 ...; asked twice in a step it counts once."""
    baseline = MovingBaseline(0.5)
    assert baseline.before([4.0, 4.0], 0) == 0
    assert baseline.before([7.0, 9.0], 1) == 4
    assert baseline.before([1.0], 2) == pytest.approx((0.5 * 8 + 0.25 * 4) / 0.75)
    kept = {name: value.clone() for name, value in baseline.tensors().items()}
    again = MovingBaseline(0.5)
    again.restore(kept)
    assert again.before([0.0], 3) == baseline.before([0.0], 3)
    with pytest.raises(ValueError, match="share 0; expected above 0"):
        MovingBaseline(0)


def test_a_moving_baseline_moves_no_expectation() -> None:
    groups = (0, 0)
    moving = MovingBaseline()
    moving.before([5.0], 0)  # the toy's step is 0: what is earned in it counts for nothing
    plain, _ = expected(Reinforce(2, 0.5), groups)
    with_moving, _ = expected(Reinforce(2, 0.5, moving), groups)
    torch.testing.assert_close(with_moving, plain, rtol=0, atol=1e-9)
