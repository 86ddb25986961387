"""Cross-entropy over completion tokens only, without the full logits tensor.

Letters: B conversations, T tokens, D hidden width, V vocabulary, K completion tokens.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""Label of a token that is not learned: prompt, image, padding."""


def completion_loss(
    hidden_states: torch.Tensor, labels: torch.Tensor, output_weight: torch.Tensor, chunk_tokens: int = 2048
) -> torch.Tensor:
    """Mean next-token cross-entropy over the K tokens that carry a label.

    The logits exist for `chunk_tokens` tokens at a time and are made again in the backward pass: memory is
    chunk_tokens · V instead of B · T · V (Gemma's V is 262,208, 1 MB a token in float32).

    Args:
        hidden_states: (B, T, D) float, the decoder's last hidden states.
        labels: (B, T) int64; `IGNORED` where nothing is learned. Position t is predicted from position t - 1.
        output_weight: (V, D), the output embedding.
        chunk_tokens: tokens whose logits exist at once.

    Raises:
        ValueError: no token carries a label.
    """
    targets = labels[:, 1:]
    learned = targets != IGNORED
    if not bool(learned.any()):
        raise ValueError("no token carries a label; a completion is empty or was cut away")
    states, targets = hidden_states[:, :-1][learned], targets[learned]  # (K, D), (K,)
    total = states.new_zeros((), dtype=torch.float32)
    for start in range(0, len(states), chunk_tokens):
        chunk = slice(start, start + chunk_tokens)
        total = total + checkpoint(_summed_loss, states[chunk], targets[chunk], output_weight, use_reentrant=False)
    return total / len(targets)


def _summed_loss(states: torch.Tensor, targets: torch.Tensor, output_weight: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy((states @ output_weight.T.to(states.dtype)).float(), targets, reduction="sum")
