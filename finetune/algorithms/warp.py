"""WARP, first stage: REINFORCE held to a slow average of the policy itself.

    R(y) = r(y) - β (log π(y) - log π_ema(y));   θ_ema ← (1-μ) θ_ema + μ θ                      (§3.1)

Second and third stage average the task vectors of several such runs on the sphere, and go back toward the start (§3.2,
§3.3): `medgemma merge BASE RUN RUN --slerp --toward-base 0.7` (1 - η). What comes out is the next round's start.

The paper has μ = 0.01, β = 0.1, two runs that differ in the order of their prompts, η = 0.3. KL to the average is no
KL to the reference: that one is logged, and has no bound here.

Source: Ramé et al., WARP, arXiv:2406.16768 (2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from finetune.algorithms.following import Following, log_ratios
from finetune.algorithms.likelihood import weighted_log_likelihood
from finetune.algorithms.reinforce import leave_one_out
from finetune.collate import Batch, Example
from finetune.on_policy import Anchor, Network, Normalisation, Round
from finetune.on_policy.rollouts import groups_of
from finetune.training import Kept, Turn


@dataclass(frozen=True)
class Warp:
    """See the head of this file."""

    num_samples: int
    """Of each prompt."""
    anchor: Anchor
    following: Following = Following(0.01)
    """μ."""
    kl_coefficient: float = 0.1
    """β."""
    normalisation: Normalisation = "sequence-sum"

    @property
    def kept(self) -> Kept:
        """The average."""
        return self.anchor

    def examples(self, round: Round) -> Sequence[Example]:
        """Samples of the policy, each weighted by its advantage."""
        self.following.move(self.anchor, round.number)
        rollouts = round.learnable(round.sample(self.num_samples))
        rewards, ratios = round.grade(rollouts).total, log_ratios(round, rollouts, self.anchor)
        returns = [reward - self.kl_coefficient * ratio for reward, ratio in zip(rewards, ratios, strict=True)]
        baselines = leave_one_out(returns, groups_of(rollouts))
        return [
            rollout.example(gain - baseline, corrected=not round.is_exact)
            for rollout, gain, baseline in zip(rollouts, returns, baselines, strict=True)
        ]

    def loss(self, policy: Network, batch: Batch, turn: Turn, temperature: float) -> torch.Tensor:
        """-Σ advantage · log π(y)."""
        return weighted_log_likelihood(policy, batch, turn, temperature)
