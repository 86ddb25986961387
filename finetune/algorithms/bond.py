"""BOND: the policy is brought to the Best-of-N distribution of an anchor.

    J^β(π‖π_BoN) = (1-β) KL(π_BoN‖π) + β KL(π‖π_BoN)                                          (eq. 11)
    forward:   -E_y~π_BoN ∇log π(y)                                                            (eq. 13)
    backward:  -E_y~π ∇log π(y) ((N-1) r_BOND(y) - (log π(y) - log π_anchor(y)) - baseline)    (eq. 15)

for each step:
    sample prompts; of each N samples y' of the anchor, and one or more samples y of the policy
    y_BoN = the best y';  r_BOND(y) from the rank of y among the y'                            (eq. 10)
    update with (1-β) G_FW + β G_BW
    iterative BOND (Algorithm 1): after a number of steps the anchor becomes the policy: Best-of-N^M of the start

The paper writes r_BOND = p_≤ in §4.2; what follows from eq. 8, and is here, is its logarithm. The baseline is the mean
return of the other samples of the step.

Source: Sessa et al., arXiv:2407.14622 (2024), §4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from finetune.algorithms.best_of_n import best_of, bond_reward, estimated_ranks
from finetune.algorithms.following import STILL, Following, log_ratios
from finetune.algorithms.likelihood import weighted_log_likelihood
from finetune.algorithms.reinforce import leave_one_out
from finetune.collate import Batch, Example
from finetune.on_policy import Anchor, Network, Normalisation, Rollout, Round
from finetune.on_policy.rollouts import groups_of
from finetune.training import Kept, Turn


@dataclass(frozen=True)
class Bond:
    """See the head of this file."""

    n: int
    """N, of the Best-of-N."""
    anchor: Anchor
    """What it is the Best-of-N of."""
    following: Following = STILL
    """The anchor is the start; with `Following(1.0, steps)`, the policy so many steps ago (iterative BOND)."""
    beta: float = 0.5
    """β of the Jeffreys divergence: 0 forward alone, 1 backward alone."""
    num_samples: int = 1
    """Of the policy, of each prompt."""
    ranked_among: int = 16
    """Anchor samples that a rank is estimated with, N at least."""
    with_collisions: bool = False
    """Keep the second term of r_BOND, which counts where single completions have mass."""
    normalisation: Normalisation = "sequence-sum"

    def __post_init__(self) -> None:
        if self.n < 2 or self.ranked_among < self.n or not 0 <= self.beta <= 1 or self.num_samples < 1:
            raise ValueError(
                f"BOND: n {self.n}, beta {self.beta}, num_samples {self.num_samples}, ranked_among "
                f"{self.ranked_among}; expected n from 2, beta from 0 to 1, a sample or more, ranked among n or more"
            )

    @property
    def kept(self) -> Kept:
        """The anchor."""
        return self.anchor

    def examples(self, round: Round) -> Sequence[Example]:
        """The best of each prompt's anchor samples, and the policy's own, weighted."""
        self.following.move(self.anchor, round.number)
        anchored = round.sample(self.ranked_among, of=self.anchor.model)
        earned = round.grade(anchored).total
        groups = groups_of(anchored)
        best = [anchored[group[best_of([earned[place] for place in group[: self.n]])]] for group in groups]
        ours = round.sample(self.num_samples)
        among = {anchored[group[0]].group: [earned[place] for place in group] for group in groups}
        returns = self._returns(round, ours, among)
        return mixed(best, ours, returns, self.beta)

    def loss(self, policy: Network, batch: Batch, turn: Turn, temperature: float) -> torch.Tensor:
        """-Σ weight · log π(y)."""
        return weighted_log_likelihood(policy, batch, turn, temperature)

    def _returns(self, round: Round, ours: Sequence[Rollout], among: dict[int, list[float]]) -> list[float]:
        ratios = log_ratios(round, ours, self.anchor)
        ranks = [
            estimated_ranks(reward, among[rollout.group])
            for reward, rollout in zip(round.grade(ours).total, ours, strict=True)
        ]
        return [
            (self.n - 1) * bond_reward(rank, self.n, with_collisions=self.with_collisions) - ratio
            for rank, ratio in zip(ranks, ratios, strict=True)
        ]


def mixed(
    best: Sequence[Rollout],
    ours: Sequence[Rollout],
    returns: Sequence[float],
    beta: float,
    penalties: Sequence[float] | None = None,
) -> list[Example]:
    """(1-β) of each prompt's best, β · (return - baseline) of the policy's samples, less penalties.

    The loss is a mean over all examples; weights make it (1-β) times a mean over the best and β times one over ours.

    Args:
        best: a sample a prompt, learned as it is.
        ours: of the policy.
        returns: of `ours`.
        beta: β.
        penalties: taken off their weights: J-BOND's γ · (log π(y) - log π_anchor(y)).
    """
    baselines = leave_one_out(returns, [range(len(returns))])
    gains = [beta * (gain - baseline) for gain, baseline in zip(returns, baselines, strict=True)]
    if penalties is not None:
        gains = [gain - penalty for gain, penalty in zip(gains, penalties, strict=True)]
    count = (len(best) if beta < 1 else 0) + len(ours)
    forward = [one.example((1 - beta) * count / len(best)) for one in best] if beta < 1 else []
    return forward + [one.example(gain * count / len(ours)) for one, gain in zip(ours, gains, strict=True)]
