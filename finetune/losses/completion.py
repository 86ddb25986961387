"""Cross-entropy over completion tokens only, without the full logits tensor.

Letters: D hidden width, V vocabulary, K completion tokens.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""Label of a token that is not learned: prompt, image, padding."""


def completion_loss(
    states: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, *, denominator: float, chunk_tokens: int = 2048
) -> torch.Tensor:
    """Next-token cross-entropy summed over K tokens, divided by `denominator`.

    The logits exist for `chunk_tokens` tokens at a time and are made again in the backward pass: memory is
    chunk_tokens · V instead of K · V (Gemma's V is 262,208, 1 MB a token in float32).

    Args:
        states: (K, D) float, the state that predicts each token.
        head: (V, D), the output embedding.
        targets: (K,) int64.
        denominator: completion tokens of the whole step, over all of its parts and ranks.
        chunk_tokens: tokens whose logits exist at once.
    """
    total = states.new_zeros((), dtype=torch.float32)
    for start in range(0, len(states), chunk_tokens):
        chunk = slice(start, start + chunk_tokens)
        total = total + checkpoint(_summed_loss, states[chunk], targets[chunk], head, use_reentrant=False)
    return total / denominator


def _summed_loss(states: torch.Tensor, targets: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy((states @ head.T.to(states.dtype)).float(), targets, reduction="sum")
