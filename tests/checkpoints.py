"""Small random models in every key layout, made by renaming what transformers holds in memory."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

IMAGE = {"boi_token_index": 37, "eoi_token_index": 38, "image_token_index": 39}
TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 7,  # layer 6 is global
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "query_pre_attn_scalar": 12,
    "vocab_size": 40,
    "sliding_window": 8,
    "max_position_embeddings": 64,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
}
VISION = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
SIGLIP_TEXT = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "projection_size": 12,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
IDS = torch.tensor([[2, 5, 6, 37, 39, 39, 39, 39, 38, 7, 8, 9, 10, 11, 12, 13]])


def multimodal(seed: int = 0, text_layers: int = 7, vision_layers: int = 2) -> Any:
    """Gemma3ForConditionalGeneration."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {**VISION, "vision_use_head": False, "num_hidden_layers": vision_layers}
    text = {**TEXT, "num_hidden_layers": text_layers}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **IMAGE)
    return lively(Gemma3ForConditionalGeneration(config), seed)


def text_only(seed: int = 0) -> Any:
    """Gemma3ForCausalLM."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return lively(Gemma3ForCausalLM(Gemma3TextConfig(**TEXT)), seed)


def siglip(seed: int = 0) -> Any:
    """SiglipModel."""
    from transformers import SiglipConfig, SiglipModel

    return lively(SiglipModel(SiglipConfig(vision_config=dict(VISION), text_config=dict(SIGLIP_TEXT))), seed)


def lively(model: Any, seed: int) -> Any:
    """Every weight random and large enough to move the output."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def inputs(model_class: str) -> dict[str, torch.Tensor]:
    """Fixed inputs."""
    pixels = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(3))
    types = IDS.eq(IMAGE["image_token_index"]).long()
    tokens = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    return {
        "Gemma3ForConditionalGeneration": {**tokens, "pixel_values": pixels, "token_type_ids": types},
        "Gemma3ForCausalLM": tokens,
        "SiglipModel": {"input_ids": IDS, "pixel_values": pixels},
        "SiglipVisionModel": {"pixel_values": pixels},
        "SiglipTextModel": {"input_ids": IDS},
    }[model_class]


@torch.inference_mode()
def outputs(model: Any) -> torch.Tensor:
    """Logits, or what a tower gives, for fixed inputs."""
    out = model(**inputs(type(model).__name__))
    for name in ("logits", "logits_per_image", "pooler_output"):
        if getattr(out, name, None) is not None:
            value: torch.Tensor = getattr(out, name)
            return value
    raise AssertionError(out.keys())


def hub(name: str) -> str | None:
    """Names in memory in transformers 5 to the Hub's."""
    name = name.replace("model.language_model.", "language_model.model.")
    name = name.replace("model.vision_tower.", "vision_tower.vision_model.")
    name = name.replace("model.multi_modal_projector.", "multi_modal_projector.")
    return None if name == "lm_head.weight" else name


def older_memory(name: str) -> str:
    """Names in memory in transformers 4.52 to 4.57."""
    return name.replace("model.vision_tower.", "model.vision_tower.vision_model.")


def newer_file(name: str) -> str | None:
    """Names in a file that transformers 5 saved."""
    stored = hub(name)
    return stored and stored.replace("vision_tower.vision_model.", "vision_tower.")


LAYOUTS: Mapping[str, Callable[[str], str | None]] = {
    "hub": hub,
    "transformers 4.52 to 4.57, in memory": older_memory,
    "transformers 5, in memory": lambda name: name,
    "transformers 5, saved": newer_file,
}
"""Name as `medgemma info` gives it, to the renaming from transformers 5's memory; None leaves a tensor out."""


def write(
    model: Any, folder: Path, rename: Callable[[str], str | None] = hub, shards: int = 1, dtype: Any = torch.float32
) -> Path:
    """A folder as others write it: config by transformers, weights by safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tensors = {rename(name): tensor.to(dtype).clone() for name, tensor in model.state_dict().items()}
    write_tensors({name: tensor for name, tensor in tensors.items() if name}, folder, shards)
    return folder


def write_tensors(tensors: Mapping[str, torch.Tensor], folder: Path, shards: int = 1) -> None:
    """One file, or shards with their index; every n-th tensor goes to the same shard."""
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i in range(shards):
        name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[i::shards])
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, name))
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
