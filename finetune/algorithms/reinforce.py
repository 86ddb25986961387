"""REINFORCE with leave-one-out or moving baselines, and KL to the reference in the reward.

    R(y) = r(y) - β (log π(y) - log π_ref(y))
    ∇J = E_y~π [ ∇log π(y) · (R(y) - mean of R over the other samples of y's prompt) ]

Sums over tokens, so log π(y) is a sequence's, the token that ends it included. One sample a prompt has no other: its
baseline is the mean over the other samples of the step. Samples of a server whose weights or kernels are not quite the
policy's are corrected, see `finetune.algorithms.likelihood`.

Source: Williams (1992); Kool et al., Buy 4 REINFORCE Samples, Get a Baseline for Free! (2019); Ahmadian et al.,
    Back to Basics, arXiv:2402.14740 (2024).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from finetune.algorithms.likelihood import weighted_log_likelihood
from finetune.collate import Batch, Example
from finetune.on_policy import Network, Normalisation, Round
from finetune.on_policy.rollouts import groups_of
from finetune.training import Kept, Turn


class MovingBaseline:
    """The mean of earlier steps' returns, newer ones counting more; saved and restored with the run (`Kept`).

    b_t = Σ_k s (1-s)^k R_{t-1-k} over Σ_k s (1-s)^k, R_t the mean return of step t; 0 before the first.

    Args:
        share: s, of the newest step.
    """

    def __init__(self, share: float = 0.1) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"moving baseline: share {share}; expected above 0, 1 at most")
        self.share = share
        self._state = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)  # weighted sum, weight, last step

    def before(self, returns: Sequence[float], step: int) -> float:
        """The baseline of a step, which does not look at its returns; then they count for the next."""
        total, weight, last = self._state.tolist()
        baseline = total / weight if weight else 0.0
        if step > last:
            mean = sum(returns) / len(returns)
            kept = 1 - self.share
            values = [kept * total + self.share * mean, kept * weight + self.share, float(step)]
            self._state = torch.tensor(values, dtype=torch.float64)
        return float(baseline)

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `finetune.training.Kept`."""
        return {"moving_baseline": self._state}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `finetune.training.Kept`."""
        self._state = tensors["moving_baseline"]


@dataclass(frozen=True)
class Reinforce:
    """See the head of this file."""

    num_samples: int
    """Of each prompt."""
    kl_coefficient: float
    """β."""
    moving: MovingBaseline | None = None
    """The baseline of all samples instead of the others' mean: what was earned before."""
    normalisation: Normalisation = "sequence-sum"

    @property
    def kept(self) -> Kept | None:
        """The moving baseline, if there is one."""
        return self.moving

    def examples(self, round: Round) -> Sequence[Example]:
        """Samples of the policy, each weighted by its advantage."""
        rollouts = round.learnable(round.sample(self.num_samples))
        rewards = round.grade(rollouts).total
        ratios = round.log_ratios(rollouts)
        returns = [r - self.kl_coefficient * ratio for r, ratio in zip(rewards, ratios, strict=True)]
        if self.moving is not None:
            baselines = [self.moving.before(returns, round.number)] * len(returns)
        else:
            baselines = leave_one_out(returns, groups_of(rollouts))
        return [
            rollout.example(gain - baseline, corrected=not round.is_exact)
            for rollout, gain, baseline in zip(rollouts, returns, baselines, strict=True)
        ]

    def loss(self, policy: Network, batch: Batch, turn: Turn, temperature: float) -> torch.Tensor:
        """-Σ advantage · log π(y), over the sequences of the step."""
        return weighted_log_likelihood(policy, batch, turn, temperature)


def leave_one_out(returns: Sequence[float], groups: Sequence[Sequence[int]]) -> list[float]:
    """The mean of the others in each one's group; of all others where it is alone; 0 where there is no other."""
    baselines = [0.0] * len(returns)
    for group in groups:
        others = group if len(group) > 1 else range(len(returns))
        for place in group:
            if len(others) > 1:
                baselines[place] = (sum(returns[n] for n in others) - returns[place]) / (len(others) - 1)
    return baselines
