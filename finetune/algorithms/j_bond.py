"""J-BOND: iterative BOND of N = 2 with three samples a prompt and an anchor that follows slowly.

for each step:
    of each prompt one sample y of π_t and two of the anchor, y'_1 and y'_2
    G_FW = -∇log π_t(the better y')
    r_J = -log 16 where y earns less than both y', strictly; else 0                             (eq. 17)
    R = r_J - (log π_t(y) - log π_anchor(y));   G_BW = -∇log π_t(y) (R - baseline)
    G_Reg = ∇KL(π_t‖π_anchor) = ∇log π_t(y) (log π_t(y) - log π_anchor(y))
    update with (1-β) G_FW + β G_BW + γ G_Reg
    anchor ← (1-η) anchor + η θ_{t+1}                                                           (eq. 18)

Read with care: Algorithm 2 prints G_Reg with the other sign, which would drive the policy away from the anchor; and
appendix A.4 has ≤ for < in eq. 17, against its own expectation. The reward must be graded: of pass or fail the penalty
fires seldom, (1-q)q² of the time at a pass rate q.

Source: Sessa et al., BOND, arXiv:2407.14622 (2024), Algorithm 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from finetune.algorithms.best_of_n import best_of, j_bond_reward
from finetune.algorithms.bond import mixed
from finetune.algorithms.following import Following, log_ratios
from finetune.algorithms.likelihood import weighted_log_likelihood
from finetune.collate import Batch, Example
from finetune.on_policy import Anchor, Network, Normalisation, Round
from finetune.on_policy.rollouts import groups_of
from finetune.training import Kept, Turn

ANCHOR_SAMPLES = 2


@dataclass(frozen=True)
class JBond:
    """See the head of this file."""

    anchor: Anchor
    following: Following = Following(0.02)
    """η, as the paper has it for Gemma 7B."""
    beta: float = 0.5
    gamma: float = 0.0
    """γ: how strongly the policy is held to the anchor beside BOND's own KL."""
    normalisation: Normalisation = "sequence-sum"

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1 or not self.gamma >= 0:
            raise ValueError(f"J-BOND: beta {self.beta}, gamma {self.gamma}; expected 0 to 1, and 0 or more")

    @property
    def kept(self) -> Kept:
        """The anchor."""
        return self.anchor

    def examples(self, round: Round) -> Sequence[Example]:
        """The better of each prompt's anchor samples, and the policy's own, weighted."""
        self.following.move(self.anchor, round.number)
        anchored = round.sample(ANCHOR_SAMPLES, of=self.anchor.model)
        earned = round.grade(anchored).total
        pairs = {anchored[group[0]].group: group for group in groups_of(anchored)}
        best = [anchored[group[best_of([earned[place] for place in group])]] for group in pairs.values()]
        ours = round.sample(1)
        ratios = log_ratios(round, ours, self.anchor)
        returns = [
            j_bond_reward(reward, *(earned[place] for place in pairs[rollout.group])) - ratio
            for reward, rollout, ratio in zip(round.grade(ours).total, ours, ratios, strict=True)
        ]
        return mixed(best, ours, returns, self.beta, [self.gamma * ratio for ratio in ratios])

    def loss(self, policy: Network, batch: Batch, turn: Turn, temperature: float) -> torch.Tensor:
        """-Σ weight · log π(y)."""
        return weighted_log_likelihood(policy, batch, turn, temperature)
