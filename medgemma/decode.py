"""Greedy decoding, one step at a time, over a key-value cache.

transformers' `generate` refuses input embeddings for Gemma 3, so it would send a picture through the tower again for
every question; here the features are made once. Letters: B prompts, T tokens, H decoder width.
"""

from collections.abc import Collection, Iterator
from typing import Any

import torch


def greedy_steps(
    model: Any,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor,
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    pad_id: int,
) -> Iterator[torch.Tensor]:
    """Yield the next token of every prompt until all have stopped.

    Args:
        model: Gemma3ForConditionalGeneration.
        inputs_embeds: (B, T, H), left-padded, with images in place.
        attention_mask: (B, T) int64, 0 on padding.
        token_type_ids: (B, T) int64, 1 on image tokens; only the prefill needs them.
        max_new_tokens: at most so many steps.
        stop_ids: a prompt has stopped after one of these.
        pad_id: what a stopped prompt yields.

    Yields:
        (B,) int64.
    """
    stops = torch.tensor(sorted(stop_ids), device=inputs_embeds.device)
    running = torch.ones(len(inputs_embeds), dtype=torch.bool, device=inputs_embeds.device)
    given: dict[str, Any] = {"inputs_embeds": inputs_embeds, "token_type_ids": token_type_ids}
    position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    cache = None
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            step = model.model(
                **given,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
            token = model.lm_head(step.last_hidden_state[:, -1]).argmax(-1).masked_fill(~running, pad_id)
        yield token
        running &= ~torch.isin(token, stops)
        if not bool(running.any()):
            return
        cache = step.past_key_values
        given = {"input_ids": token[:, None]}
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(token), 1)], 1)
        position_ids = position_ids[:, -1:] + 1
