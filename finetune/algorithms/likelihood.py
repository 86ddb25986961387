"""The loss that policy gradients share: the weighted log-likelihood of what was sampled."""

import torch

from finetune.collate import Batch
from finetune.losses.policy import CISPO, policy_loss
from finetune.on_policy import Network
from finetune.training import Turn

LARGEST_RATIO = 2.0
"""Of π to what a served sampler says its tokens were drawn from; the engine's need no correction."""


def weighted_log_likelihood(policy: Network, batch: Batch, turn: Turn, temperature: float) -> torch.Tensor:
    """-Σ weight · log π(token), over the step's denominator; its gradient is that of the policy's return.

    Samples of a server whose weights or kernels are not quite the policy's (`Batch.sampled_logprobs`) are weighted
    token by token, by min(π / π_sampled, `LARGEST_RATIO`).

    Args:
        policy: what is trained.
        batch: with a weight a token.
        turn: of the step.
        temperature: of the sampling, so that π is what was sampled from.
    """
    assert batch.weights is not None
    found = policy_loss(
        policy.states(batch),
        policy.head(),
        batch.targets,
        weights=batch.weights,
        denominator=turn.denominator,
        sampled_logprobs=batch.sampled_logprobs,
        clip=None if batch.sampled_logprobs is None else CISPO(LARGEST_RATIO - 1),
        temperature=temperature,
        soft_cap=policy.soft_cap,
    )
    turn.log("entropy", float(found.entropies.sum()) / turn.denominator)
    return found.loss
