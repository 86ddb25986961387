"""Attention one head after the other, for CPUs: in bfloat16 over many positions faster than torch's own kernel.

Letters: B batch, H heads, N positions, D width of a head.
"""

from typing import Any

import torch

NAME = "one_head_after_the_other"
LEAST_POSITIONS = 256
"""Below, and in float32, torch's scaled_dot_product_attention is faster (benchmarks/README.md)."""


def use_one_head_after_the_other(model: Any) -> None:
    """Have a model's towers attend so, through transformers' AttentionInterface.

    What it is not faster for, and whatever has a mask, goes to transformers' "sdpa".
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def is_faster(dtype: torch.dtype, num_positions: int) -> bool:
    """Whether it pays."""
    return dtype == torch.bfloat16 and num_positions >= LEAST_POSITIONS


def one_head_after_the_other(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> torch.Tensor:
    """(B, N, H, D) of (B, H, N, D) each: softmax(query · keyᵀ · scaling) · value."""
    batch, heads, positions, width = query.shape
    out = query.new_empty(batch, positions, heads, width)
    for b in range(batch):
        for h in range(heads):
            weights = torch.softmax((query[b, h] * scaling) @ key[b, h].T, dim=-1)
            out[b, :, h] = weights @ value[b, h]
    return out


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is not None or dropout or not is_faster(query.dtype, query.shape[2]) or torch.is_grad_enabled():
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out, None
    return one_head_after_the_other(query, key, value, scaling or query.shape[-1] ** -0.5), None
