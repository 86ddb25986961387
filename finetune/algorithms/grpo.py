"""GRPO and its published variants: advantages within a prompt's group, KL to the reference in the loss.

    A_i = r_i - mean of its group's r        over the group's standard deviation, but in dr_grpo
    loss = -Σ_t [ A_i - β (1 - π_ref(t)/π(t)) ] log π(t)

The bracket's second part is the gradient of the estimate π_ref/π - log(π_ref/π) - 1 of KL(π‖π_ref), a token. There is
one update a step, on samples of the policy as it is, so the ratio that GRPO clips is 1 and the clip does nothing.

| variant | deviation | tokens |
|---|---|---|
| grpo | divided by | mean over each sequence, then over sequences |
| dr_grpo | left | sum over each sequence, over the longest that is allowed |
| dapo | divided by | mean over all tokens of the step |

Source: Shao et al., DeepSeekMath, arXiv:2402.03300 (2024), eq. 3 and 4; Liu et al., Dr. GRPO, arXiv:2503.20783 (2025);
    Yu et al., DAPO, arXiv:2503.14476 (2025).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

import torch

from finetune.algorithms.likelihood import weighted_log_likelihood
from finetune.collate import Batch, Example
from finetune.on_policy import Network, Normalisation, Round
from finetune.on_policy.rollouts import groups_of
from finetune.training import Kept, Turn

Variant = Literal["grpo", "dr_grpo", "dapo"]
NORMALISATIONS: Mapping[Variant, Normalisation] = {
    "grpo": "sequence-mean",
    "dr_grpo": "sequence-sum",
    "dapo": "token",
}
LEAST_DEVIATION = 1e-4
"""Added to a group's standard deviation."""


@dataclass(frozen=True)
class Grpo:
    """See the head of this file."""

    num_samples: int
    """Of each prompt, two at least."""
    kl_coefficient: float
    """β."""
    variant: Variant = "grpo"
    max_new_tokens: int = 1
    """The longest completion that is allowed: what dr_grpo divides by."""
    kept: Kept | None = None

    def __post_init__(self) -> None:
        if self.num_samples < 2:
            raise ValueError(f"GRPO: {self.num_samples} samples a prompt; a group needs two or more")

    @property
    def normalisation(self) -> Normalisation:
        """See the head of this file."""
        return NORMALISATIONS[self.variant]

    def examples(self, round: Round) -> Sequence[Example]:
        """Samples of the policy, each token weighted."""
        rollouts = round.learnable(round.sample(self.num_samples))
        rewards = round.grade(rollouts).total
        advantages = group_advantages(rewards, groups_of(rollouts), scaled=self.variant != "dr_grpo")
        policy, reference = round.policy_logprobs(rollouts), round.logprobs(rollouts, round.tools.reference)
        share = 1 / self.max_new_tokens if self.variant == "dr_grpo" else 1.0
        return [
            rollout.example(
                [
                    share * (advantage - self.kl_coefficient * (1 - math.exp(theirs - ours)))
                    for ours, theirs in zip(own, other, strict=True)
                ],
                corrected=not round.is_exact,
            )
            for rollout, advantage, own, other in zip(rollouts, advantages, policy, reference, strict=True)
        ]

    def loss(self, policy: Network, batch: Batch, turn: Turn, temperature: float) -> torch.Tensor:
        """-Σ weight · log π(token)."""
        return weighted_log_likelihood(policy, batch, turn, temperature)


def group_advantages(rewards: Sequence[float], groups: Sequence[Sequence[int]], *, scaled: bool) -> list[float]:
    """Rewards less their group's mean; `scaled`: over its standard deviation (of a sample, as TRL)."""
    advantages = [0.0] * len(rewards)
    for group in groups:
        earned = [rewards[place] for place in group]
        mean = fmean(earned)
        over = stdev(earned) + LEAST_DEVIATION if scaled else 1.0
        for place in group:
            advantages[place] = (rewards[place] - mean) / over
    return advantages
