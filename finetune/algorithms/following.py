"""How an anchor follows the policy: what BOND distils from, and what WARP holds the policy to.

Source: Sessa et al., BOND, arXiv:2407.14622, Algorithms 1 and 2, eq. 18; Ramé et al., WARP, arXiv:2406.16768, §3.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.on_policy import Anchor, Rollout, Round


@dataclass(frozen=True)
class Following:
    """Of an anchor."""

    rate: float
    """η, the share of the way to the policy that it goes: 0 never moves, 1 becomes the policy."""
    every_steps: int = 1
    """1 is a moving average; with rate 1, the steps of iterative BOND between two anchors."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1 or self.every_steps < 1:
            raise ValueError(f"anchor: rate {self.rate}, every {self.every_steps} steps; expected 0 to 1, 1 or more")

    def move(self, anchor: Anchor, step: int) -> None:
        """Move it before a step, if it is due: the policy has then been updated `step` times."""
        if self.rate > 0 and step > 0 and step % self.every_steps == 0:
            anchor.follow(self.rate, step)


STILL = Following(0.0)
"""The anchor stays the start."""


def log_ratios(round: Round, rollouts: Sequence[Rollout], anchor: Anchor) -> list[float]:
    """Log π(y) - log π_anchor(y), summed over the tokens of each sample."""
    policy, theirs = round.policy_logprobs(rollouts), round.logprobs(rollouts, anchor.model)
    return [sum(own) - sum(other) for own, other in zip(policy, theirs, strict=True)]
