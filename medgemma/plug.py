"""An encoder's tower into a Gemma 3 decoder."""

from typing import Any

import torch


def plug(vision_model: Any, text_config: Any, *, mm_tokens_per_image: int, token_ids: dict[str, int]) -> Any:
    """Build a Gemma3ForConditionalGeneration around a trained SigLIP tower.

    The tower is copied without its attention-pooling head (MedGemma reads the patch tokens after the last layer
    norm). The decoder is new. The projector starts so that an image token is as long as an embedded text token.

    Args:
        vision_model: a SiglipVisionTransformer or SiglipVisionModel.
        text_config: Gemma3TextConfig of the decoder.
        mm_tokens_per_image: image tokens the decoder sees; a square whose side divides the patch grid.
        token_ids: boi_token_index, eoi_token_index and image_token_index.

    Raises:
        ValueError: the patch grid cannot be pooled to `mm_tokens_per_image`.
    """
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision_config = vision_model.config
    grid, side = vision_config.image_size // vision_config.patch_size, int(mm_tokens_per_image**0.5)
    if side * side != mm_tokens_per_image or grid % side:
        raise ValueError(f"a {grid}x{grid} patch grid cannot be pooled to {mm_tokens_per_image} tokens")
    config = Gemma3Config(
        text_config=text_config.to_dict(),
        vision_config={**vision_config.to_dict(), "vision_use_head": False},
        mm_tokens_per_image=mm_tokens_per_image,
        tie_word_embeddings=True,
        **token_ids,
    )
    model = Gemma3ForConditionalGeneration(config)
    tower = {
        k: v for k, v in vision_model.state_dict().items() if not k.removeprefix("vision_model.").startswith("head")
    }
    model.model.vision_tower.load_state_dict(tower, strict=True)
    _initialise_projector(model)
    return model


def _initialise_projector(model: Any) -> None:
    weight = model.model.multi_modal_projector.mm_input_projection_weight  # (vision width, hidden)
    with torch.no_grad():
        embedded = model.get_input_embeddings()(torch.arange(64))  # as long as text tokens are
        weight.normal_(std=float(embedded.std()) / weight.shape[0] ** 0.5)
