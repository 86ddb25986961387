"""Pictures into the decoder: features, projection, and their place among the text embeddings.

Letters: B prompts, T tokens, P pictures, I tokens of one image, H decoder width.
"""

from typing import Any

import torch


def project(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """(P, I, H): pixel values (P, 3, S, S) through tower and projector."""
    return project_patches(model, patch_features(model, pixel_values))


def patch_features(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """(P, patches, vision width): the tower's patch tokens after its last layer norm."""
    features: torch.Tensor = model.model.vision_tower(pixel_values=pixel_values).last_hidden_state
    return features


def project_patches(model: Any, patches: torch.Tensor) -> torch.Tensor:
    """(P, I, H) from (P, patches, vision width)."""
    projected: torch.Tensor = model.model.multi_modal_projector(patches)
    return projected


def merge(model: Any, input_ids: torch.Tensor, token_type_ids: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Embed a batch with its images in place.

    Args:
        model: Gemma3ForConditionalGeneration.
        input_ids: (B, T) int64.
        token_type_ids: (B, T), 1 on image tokens.
        images: (P, I, H) projected images in the order of their slots.

    Returns:
        (B, T, H) input embeddings; images go in after the embedding scale, unscaled.

    Raises:
        ValueError: the number of image tokens and of image features differ.
    """
    slots = token_type_ids == 1
    if int(slots.sum()) != images.shape[0] * images.shape[1]:
        raise ValueError(f"{int(slots.sum())} image tokens for {images.shape[0] * images.shape[1]} image features")
    embeddings = model.get_input_embeddings()(input_ids.masked_fill(slots, 0))
    merged: torch.Tensor = embeddings.masked_scatter(slots.unsqueeze(-1), images.to(embeddings.dtype))
    return merged
