"""Conversations to training batches: prompt and image tokens masked, token_type_ids always there.

Letters: B conversations, T tokens of the longest, P pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from finetune.losses.completion import IGNORED


@dataclass(frozen=True)
class Example:
    """One tokenised conversation: what is given, and what is to be learned."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    pictures: tuple[int, ...] = ()
    """Numbers of its pictures, in the order of their slots."""


@dataclass(frozen=True)
class Batch:
    """A right-padded batch."""

    input_ids: torch.Tensor
    """(B, T) int64."""
    attention_mask: torch.Tensor
    """(B, T) int64, 0 on padding."""
    token_type_ids: torch.Tensor
    """(B, T) int64, 1 on image tokens."""
    labels: torch.Tensor
    """(B, T) int64, IGNORED on prompt, image and padding tokens."""
    pictures: tuple[int, ...]
    """P picture numbers in the order of their slots."""

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            token_type_ids=self.token_type_ids.to(device),
            labels=self.labels.to(device),
        )


def collate(examples: Sequence[Example], *, pad_id: int, image_id: int, max_tokens: int) -> Batch:
    """Pad examples to one length.

    Args:
        examples: B conversations.
        pad_id: the tokenizer's pad id.
        image_id: the id of an image's soft tokens.
        max_tokens: completions are cut here.

    Raises:
        ValueError: a prompt alone fills `max_tokens`: cutting it would cut image tokens or leave nothing to learn.
    """
    for example in examples:
        if len(example.prompt_ids) >= max_tokens:
            raise ValueError(f"a prompt of {len(example.prompt_ids)} tokens leaves no room in {max_tokens}; shorten it")
    rows = [(*e.prompt_ids, *e.completion_ids)[:max_tokens] for e in examples]
    width = max(map(len, rows))
    input_ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    attention_mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    prompt_lengths = torch.tensor([len(e.prompt_ids) for e in examples])[:, None]
    image = (input_ids == image_id) & (attention_mask == 1)
    given = (torch.arange(width)[None] < prompt_lengths) | image | (attention_mask == 0)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        token_type_ids=image.long(),
        labels=input_ids.masked_fill(given, IGNORED),
        pictures=tuple(p for e in examples for p in e.pictures),
    )
