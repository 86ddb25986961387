"""Who may look at whom, said by positions: in the engine's prefill, and in training.

A token sees what came before it, and the tokens of its own picture in both directions; a local layer only what is
less than a window behind. Composition as in transformers 5: window AND (causal OR same picture). Of the branches that
share a row, a token sees its own and its trunk: so several continuations stand behind one prompt, and several
conversations in one row.

Letters: R rows, T queries (the chunk), K keys (past slots, then the chunk), W window.
"""

from dataclasses import dataclass

import torch

from medgemma.engine.cache import PrefillStep


@dataclass(frozen=True)
class Chunk:
    """One stretch of tokens a row, right-padded."""

    positions: torch.Tensor
    """(R, T) int64."""
    pictures: torch.Tensor
    """(R, T) int64: which picture of its row a token belongs to, -1 on text."""
    branches: torch.Tensor
    """(R, T) int64: tokens see their own branch and its trunk only."""
    counts: torch.Tensor
    """(R,) int64 tokens of each row; the rest is padding."""
    trunks: torch.Tensor | None = None
    """(R, T) int64: the trunk of a token's branch. None: branch 0, which the past belongs to, is the trunk of all."""


def prefill_masks(step: PrefillStep, chunk: Chunk) -> dict[str, torch.Tensor]:
    """Masks (R, 1, T, K) bool by layer type, True where a query may look."""
    starts = torch.tensor(step.starts, device=chunk.positions.device)
    window = step.cache.window
    before = torch.arange(step.past_slots(False), device=starts.device).expand(len(starts), -1)
    slots = torch.arange(step.past_slots(True), device=starts.device)
    ring = ring_positions(starts, slots, window)
    return {
        "full_attention": _mask(chunk, before, before < starts[:, None], None),
        "sliding_attention": _mask(chunk, ring, ring >= 0, window),
    }


def packed_masks(chunk: Chunk, window: int) -> dict[str, torch.Tensor]:
    """Masks (R, 1, T, T) bool by layer type of rows without a past, True where a query may look."""
    nothing = chunk.positions.new_zeros((len(chunk.positions), 0))
    held = nothing.bool()
    return {
        "full_attention": _mask(chunk, nothing, held, None),
        "sliding_attention": _mask(chunk, nothing, held, window),
    }


def decode_masks(positions: torch.Tensor, slots: torch.Tensor, window: int) -> dict[str, torch.Tensor]:
    """Masks (R, 1, 1, slots) bool by layer type, for one token at `positions` (R,) in each row.

    A local layer holds nothing but its window, so what is held is seen.
    """
    seen = (slots <= positions[:, None])[:, None, None]
    return {"full_attention": seen, "sliding_attention": seen[..., : min(len(slots), window)]}


def ring_positions(lengths: torch.Tensor, slots: torch.Tensor, window: int) -> torch.Tensor:
    """(R, slots): the position that each slot of a local layer holds in a row of `lengths` (R,); negative: none."""
    last = lengths[:, None] - 1
    return last - (last - slots) % window


def _mask(chunk: Chunk, past: torch.Tensor, held: torch.Tensor, window: int | None) -> torch.Tensor:
    rows, length = chunk.positions.shape
    real = torch.arange(length, device=past.device) < chunk.counts[:, None]
    key_positions = torch.cat([past, chunk.positions], 1)[:, None]
    key_pictures = torch.cat([torch.full_like(past, -2), chunk.pictures], 1)[:, None]
    key_branches = torch.cat([torch.zeros_like(past), chunk.branches], 1)[:, None]
    positions, pictures, branches = (x[:, :, None] for x in (chunk.positions, chunk.pictures, chunk.branches))
    mask = (key_positions <= positions) | ((key_pictures == pictures) & (pictures >= 0))
    trunks = 0 if chunk.trunks is None else chunk.trunks[:, :, None]
    mask &= (key_branches == trunks) | (key_branches == branches)
    if window is not None:
        mask &= positions - key_positions < window
    mask &= torch.cat([held, real], 1)[:, None]
    # A padded query sees itself: a row of nothing would be NaN in the softmax, and NaN spreads.
    own = torch.eye(length, dtype=torch.bool, device=past.device)
    mask[:, :, past.shape[1] :] |= own & ~real[:, :, None]
    return mask[:, None]
