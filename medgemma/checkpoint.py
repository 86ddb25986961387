"""Checkpoints in the Hub's key layout, which every transformers version reads.

transformers 5 writes the vision tower without its inner `vision_model`; 4.57 then initialises the whole tower at
random with only a warning. So what we write always has the Hub's keys.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

HUB_PREFIXES = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
"""In-memory prefix (transformers 4.52 to 5.x) to Hub prefix; the first that fits counts."""


def hub_layout(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a Gemma3ForConditionalGeneration's in-memory tensors to the Hub's keys; the tied lm_head is left out.

    Raises:
        ValueError: a tensor belongs to no known part.
    """
    return {_hub_key(key): tensor for key, tensor in state.items() if key != "lm_head.weight"}


def save_in_hub_layout(model: Any, folder: str | Path, dtype: torch.dtype) -> None:
    """Write config.json, generation_config.json and model.safetensors.

    Args:
        model: Gemma3ForConditionalGeneration with tied embeddings.
        folder: made if it is not there.
        dtype: of the stored weights.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = dtype
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tensors = {key: tensor.to(dtype).contiguous() for key, tensor in hub_layout(model.state_dict()).items()}
    partial = folder / "model.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")


def _hub_key(key: str) -> str:
    for prefix, hub in HUB_PREFIXES:
        if key.startswith(prefix):
            return hub + key.removeprefix(prefix)
    raise ValueError(f"tensor {key} is no part of a Gemma 3 with a vision tower; give such a model")
