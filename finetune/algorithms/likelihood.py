"""The loss that policy gradients share: the weighted log-likelihood of what was sampled."""

import torch

from finetune.collate import Batch
from finetune.losses.completion import completion_loss
from finetune.on_policy import Network
from finetune.training import Turn


def weighted_log_likelihood(policy: Network, batch: Batch, turn: Turn, temperature: float) -> torch.Tensor:
    """-Σ weight · log π(token), over the step's denominator; its gradient is that of the policy's return.

    Args:
        policy: what is trained.
        batch: with a weight a token.
        turn: of the step.
        temperature: of the sampling, so that π is what was sampled from.
    """
    return completion_loss(
        policy.states(batch),
        policy.head(),
        batch.targets,
        weights=batch.weights,
        denominator=turn.denominator,
        temperature=temperature,
        soft_cap=policy.soft_cap,
    )
