"""Learned position tables at another picture size."""

from math import isqrt
from typing import Any

import torch


def resized_positions(table: torch.Tensor, patches: int) -> torch.Tensor:
    """Resize a square learned position table.

    Bicubic, half-pixel centres, no antialias: what transformers' own `interpolate_pos_encoding` does, so that the tower
    sees after the resize what the encoder would see in transformers at that size.

    Args:
        table: (P, D).
        patches: P of the result, a square.

    Returns:
        (patches, D) of the same dtype.
    """
    old, new = isqrt(table.shape[0]), isqrt(patches)
    assert old * old == table.shape[0] and new * new == patches
    if old == new:
        return table
    square = table.float().T.reshape(1, -1, old, old)  # (1, D, side, side)
    resized = torch.nn.functional.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return resized.flatten(2)[0].T.contiguous().to(table.dtype)


def resize_tower(model: Any, size_px: int) -> None:
    """Give a SiglipModel's picture tower another picture size, in place.

    Raises:
        ValueError: the size is no multiple of the patch.
    """
    vision = model.config.vision_config
    if size_px % vision.patch_size or size_px <= 0:
        raise ValueError(f"size {size_px} px is no multiple of the patch of {vision.patch_size} px; give one that is")
    embeddings, patches = model.vision_model.embeddings, (size_px // vision.patch_size) ** 2
    old = embeddings.position_embedding.weight
    table = torch.nn.Embedding(patches, old.shape[1], device=old.device, dtype=old.dtype)
    with torch.no_grad():
        table.weight.copy_(resized_positions(old, patches))
    embeddings.position_embedding = table
    embeddings.position_ids = torch.arange(patches, device=old.device)[None]
    embeddings.image_size = vision.image_size = size_px
    embeddings.num_patches = embeddings.num_positions = patches
