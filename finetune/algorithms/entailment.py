"""Entailment RL: a summary earns log P(entailment) by its source at its end, and pays for leaving the SFT model.

    r_t = -α (log π(y_t) - log π_SFT(y_t))  at every token, and at the last one (1-α) log P(entailment | x, y) beside it
    ∇J = E_y~π [ Σ_t ∇log π(y_t) A_t ]        A_t by a learned value, see `finetune.algorithms.critic`

The optimum is π*(y) ∝ π_SFT(y) P(entailment | x, y)^((1-α)/α): a smaller α is more entailment and more KL. Without a
critic this is REINFORCE with the same reward: A of all tokens of y is its return less the mean of the prompt's others.

A sample that was cut has no end and is no summary. It earns `truncated` in place of what its reward says; 0 would be
the most there is, for a logarithm is below it. Where there are more rewards, their weighted sum stands for log P.

Source: Roit et al., arXiv:2306.00186 (2023), sections 3 and 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from finetune.algorithms.critic import Critic
from finetune.algorithms.likelihood import weighted_log_likelihood
from finetune.algorithms.reinforce import leave_one_out
from finetune.collate import Batch, Example
from finetune.on_policy import Network, Normalisation, Rollout, Round
from finetune.on_policy.rollouts import groups_of
from finetune.training import Turn
from medgemma.entailment.scores import LEAST

TRUNCATED = math.log(LEAST)
"""The least that entailment may earn."""


@dataclass(frozen=True)
class EntailmentRL:
    """See the head of this file."""

    num_samples: int
    """Of each prompt."""
    alpha: float
    """α, above 0 and below 1."""
    critic: Critic | None = None
    truncated: float = TRUNCATED
    normalisation: Normalisation = "sequence-sum"

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"entailment: alpha {self.alpha}; expected above 0 and below 1")

    @property
    def kept(self) -> Critic | None:
        """The critic, if there is one."""
        return self.critic

    def examples(self, round: Round) -> Sequence[Example]:
        """Samples of the policy, each token weighted by its advantage."""
        rollouts = round.learnable(round.sample(self.num_samples))
        earned, ratios = round.grade(rollouts).total, round.token_log_ratios(rollouts)
        rewards = [
            token_rewards(total if rollout.ended else self.truncated, of_tokens, self.alpha)
            for rollout, total, of_tokens in zip(rollouts, earned, ratios, strict=True)
        ]
        return [
            rollout.example(advantage, corrected=not round.is_exact)
            for rollout, advantage in zip(rollouts, self._advantages(round, rollouts, rewards), strict=True)
        ]

    def loss(self, policy: Network, batch: Batch, turn: Turn, temperature: float) -> torch.Tensor:
        """-Σ advantage · log π(token), over the sequences of the step; the critic learns beside it."""
        if self.critic is not None and (error := self.critic.learn(turn.step)) is not None:
            turn.log("critic_error", error)
        return weighted_log_likelihood(policy, batch, turn, temperature)

    def _advantages(
        self, round: Round, rollouts: Sequence[Rollout], rewards: Sequence[Sequence[float]]
    ) -> Sequence[Sequence[float] | float]:
        if self.critic is not None:
            return self.critic.advantages(round, rollouts, rewards)
        returns = [sum(of_tokens) for of_tokens in rewards]
        baselines = leave_one_out(returns, groups_of(rollouts))
        return [gain - baseline for gain, baseline in zip(returns, baselines, strict=True)]


def token_rewards(end: float, log_ratios: Sequence[float], alpha: float) -> list[float]:
    """R of each token; their sum is (1-α) · end - α Σ log-ratio.

    Args:
        end: log P(entailment) of the whole completion.
        log_ratios: log π - log π_SFT of each token, one at least.
        alpha: α.
    """
    rewards = [-alpha * ratio for ratio in log_ratios]
    rewards[-1] += (1 - alpha) * end
    return rewards
