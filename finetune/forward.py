"""A batch through the decoder: the states that predict what is to be learned, and nothing else of the head's input.

Letters: B rows, T tokens, P pictures, N patches, K learned tokens, H decoder width.
"""

from typing import Any

import torch

from finetune.collate import Batch
from finetune.training import Precision, autocast
from medgemma.engine.masks import packed_masks
from medgemma.engine.vision import merge, project, project_patches


def completion_states(
    model: Any,
    batch: Batch,
    *,
    pixel_values: torch.Tensor | None = None,
    patches: torch.Tensor | None = None,
    precision: Precision = "float32",
) -> torch.Tensor:
    """(K, H): the last hidden state of each token that predicts a learned one, in the order of `batch.targets`.

    Rows of one conversation get transformers' own masks; packed rows those of `medgemma.engine.masks`.

    Args:
        model: Gemma3ForConditionalGeneration, or Gemma3ForCausalLM where no batch has pictures.
        batch: on the model's device.
        pixel_values: (P, 3, S, S), the batch's pictures in the order of their slots; the tower runs on them.
        patches: (P, N, width) instead, what a frozen tower gave for them.
        precision: of the forward pass.

    Raises:
        ValueError: the number of pictures differs from the slots.
    """
    with autocast(batch.input_ids.device.type, precision):
        return _hidden_states(model, batch, _images(model, pixel_values, patches)).flatten(0, 1)[batch.predictors]


def checkpoint_activations(model: Any) -> None:
    """Keep only the layers' inputs in the forward pass, and compute the rest again in the backward pass."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _images(model: Any, pixel_values: torch.Tensor | None, patches: torch.Tensor | None) -> torch.Tensor | None:
    """(P, I, H) projected, or None for a batch of text."""
    assert pixel_values is None or patches is None
    if pixel_values is not None and len(pixel_values):
        return project(model, pixel_values)
    if patches is not None and len(patches):
        return project_patches(model, patches)
    return None


def _hidden_states(model: Any, batch: Batch, images: torch.Tensor | None) -> torch.Tensor:
    """(B, T, H)."""
    if images is None:
        if (slots := int(batch.token_type_ids.sum())) > 0:
            raise ValueError(f"{slots} image tokens and no picture; give the batch's pixel values")
        embeddings = model.get_input_embeddings()(batch.input_ids)
    else:
        embeddings = merge(model, batch.input_ids, batch.token_type_ids, images)
    if batch.packing is not None:
        masks = packed_masks(batch.packing, model.config.get_text_config().sliding_window)
        seen = {"attention_mask": masks, "position_ids": batch.packing.positions}
    elif hasattr(model.config, "vision_config"):
        seen = {"attention_mask": batch.attention_mask, "token_type_ids": batch.token_type_ids}
    else:
        seen = {"attention_mask": batch.attention_mask}
    hidden: torch.Tensor = model.model(inputs_embeds=embeddings, use_cache=False, **seen).last_hidden_state
    return hidden
