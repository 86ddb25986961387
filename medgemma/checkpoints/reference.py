"""What is known of the released models: their configs, and the settings that only config.json carries.

Source: the Hub's config.json of google/medgemma-4b-it; google/gemma_pytorch, gemma/config.py, for 27B; the card and
server of google/medsiglip-448. transformers' class defaults fill in what these leave out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

TEXT_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
}
"""What transformers' Gemma3TextConfig takes where a config.json is silent."""
_ROPE = {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "rope_theta": 1_000_000.0}
_TEXT_4B = {
    "model_type": "gemma3_text",
    "hidden_size": 2560,
    "intermediate_size": 10_240,
    "num_hidden_layers": 34,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 1024,
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
    "rope_local_base_freq": 10_000.0,
    **_ROPE,
}
_TEXT_27B = {
    **_TEXT_4B,
    "hidden_size": 5376,
    "intermediate_size": 21_504,
    "num_hidden_layers": 62,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "head_dim": 128,
    "query_pre_attn_scalar": 168,
}
_TOWER = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
}
_VISION = {**_TOWER, "model_type": "siglip_vision_model", "patch_size": 14}
_MULTIMODAL = {
    "model_type": "gemma3",
    "vision_config": {**_VISION, "image_size": 896, "vision_use_head": False},
    "mm_tokens_per_image": 256,
    "boi_token_index": 255_999,
    "eoi_token_index": 256_000,
    "image_token_index": 262_144,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "medgemma-4b": {**_MULTIMODAL, "text_config": _TEXT_4B},
    "medgemma-27b": {**_MULTIMODAL, "text_config": _TEXT_27B},
    "medgemma-27b-text": _TEXT_27B,
    "medsiglip-448": {
        "model_type": "siglip",
        "vision_config": {**_VISION, "image_size": 448},
        "text_config": {
            **_TOWER,
            "model_type": "siglip_text_model",
            "vocab_size": 32_000,
            "max_position_embeddings": 64,
            "projection_size": 1152,
            "pad_token_id": 1,
            "bos_token_id": 1,
            "eos_token_id": 1,
        },
    },
}
"""config.json of the released models, without what has no influence on the network."""


class Settings(NamedTuple):
    """What a Gemma 3's weights do not show, or show too late."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    query_pre_attn_scalar: int


SETTINGS: Mapping[tuple[int, int], Settings] = {
    (2560, 34): Settings(8, 4, 256, 256),
    (3840, 48): Settings(16, 8, 256, 256),
    (5376, 62): Settings(32, 16, 128, 168),
}
"""(hidden_size, num_hidden_layers) of the Gemma 3 that hold 131,072 tokens; all scale global RoPE by 8."""
UNSCALED_CONTEXT = 32_768
"""Tokens that Gemma 3 was trained on before its global RoPE was scaled; longer ones need the factor."""


def text_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's settings, defaults filled in; `config` is a gemma3 or gemma3_text config.json."""
    return {**TEXT_DEFAULTS, **config.get("text_config", config)}


def global_rope_factor(text: Mapping[str, Any]) -> float | None:
    """The factor by which global layers divide positions, 1.0 if none is given; None for a scaling of another type."""
    rope = text.get("rope_scaling") or (text.get("rope_parameters") or {}).get("full_attention") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return 1.0
    return float(rope["factor"]) if kind == "linear" and "factor" in rope else None


def refuse_lost_settings(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse a config.json with a released shape and other settings: its answers would be wrong, without a sign.

    Raises:
        ValueError: heads, head width, query scalar or the global RoPE factor are not those of the released model.
    """
    if config.get("model_type") not in ("gemma3", "gemma3_text"):
        return
    if not isinstance(config.get("text_config", {}), dict):
        raise ValueError(f"{folder / 'config.json'}: text_config is not an object; fetch it again")
    text = text_settings(config)
    sizes = (text["hidden_size"], text["num_hidden_layers"])
    expected = SETTINGS.get(sizes) if all(isinstance(size, int) for size in sizes) else None
    if expected is None:
        return
    of = f"a Gemma 3 of width {text['hidden_size']} and {text['num_hidden_layers']} layers"
    for name, value in expected._asdict().items():
        if text[name] != value:
            raise ValueError(f"{folder / 'config.json'}: {name} is {text[name]}, expected {value} in {of}; correct it")
    if int(text["max_position_embeddings"]) > UNSCALED_CONTEXT and global_rope_factor(text) == 1.0:
        raise ValueError(
            f"{folder / 'config.json'}: no rope_scaling, expected "
            f'{{"rope_type": "linear", "factor": 8.0}} in {of}; add it (transformers itself would leave the factor out)'
        )
