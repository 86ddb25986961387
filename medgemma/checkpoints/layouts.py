"""Checkpoints in the Hub's key layout, which every transformers version reads, and reading every other layout.

transformers 5 writes the vision tower without its inner `vision_model`; 4.57 then initialises the whole tower at
random with only a warning. So what we write always has the Hub's keys, and a config.json that both understand.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgemma.checkpoints.reference import refuse_lost_settings
from medsiglip.checkpoints.folders import read_json
from medsiglip.checkpoints.layout import HubKey, hub_names, siglip_hub_key
from medsiglip.checkpoints.safetensors_files import MAX_SHARD_BYTES, PlannedTensor, StoredTensor, write_tensors
from medsiglip.checkpoints.weights import siglip_ids

if TYPE_CHECKING:
    import torch

HUB_PREFIXES = (
    ("model.language_model.", "language_model.model."),
    ("language_model.model.", "language_model.model."),
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("vision_tower.vision_model.", "vision_tower.vision_model."),
    ("vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("multi_modal_projector.", "multi_modal_projector."),
)
"""Prefix in memory and in files (transformers 4.50 to 5.x) to Hub prefix; the first that fits counts."""
GEMMA_HEAD = "language_model.lm_head.weight"
TEXT_PARTS = ("layers.", "embed_tokens.", "norm.")
TIED_HEADS = {
    "gemma3": {GEMMA_HEAD: "language_model.model.embed_tokens.weight"},
    "gemma3_text": {"lm_head.weight": "model.embed_tokens.weight"},
}
"""config.json's model_type to the Hub names of head and embeddings."""
CLASSES = {
    "gemma3": "Gemma3ForConditionalGeneration",
    "gemma3_text": "Gemma3ForCausalLM",
    "siglip": "SiglipModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip_text_model": "SiglipTextModel",
}
"""config.json's model_type to transformers' class."""


def hub_key(name: str, model_type: str = "gemma3") -> str | None:
    """The Hub's name of a tensor.

    Args:
        name: its name in any layout: the Hub's file; in memory in transformers 4.52 to 5.x; a file of transformers 5.
        model_type: config.json's, one of `CLASSES`.

    Returns:
        None if the name belongs to no part of such a model.
    """
    if model_type == "gemma3":
        return _gemma_hub_key(name)
    if model_type == "gemma3_text":
        known = name.removeprefix("model.").startswith(TEXT_PARTS)
        return f"model.{name.removeprefix('model.')}" if known else {"lm_head.weight": name}.get(name)
    return siglip_hub_key(model_type)(name)


def hub_key_of(model_type: str) -> HubKey:
    """`hub_key` for one kind of model."""
    return lambda name: hub_key(name, model_type)


def hub_layout(state: Mapping[str, "torch.Tensor"], model_type: str = "gemma3") -> dict[str, "torch.Tensor"]:
    """Rename a model's tensors, in any layout, to the Hub's keys; a head tied to the embeddings is left out.

    Raises:
        ValueError: a tensor belongs to no known part, or is quantised.
    """
    tied = TIED_HEADS.get(model_type, {})
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        key = hub_key(name, model_type)
        if key is None:
            raise ValueError(f"tensor {name} is no part of a model of type {model_type}; give such a model")
        if not tensor.is_floating_point():
            raise ValueError(f"tensor {name} is quantised; save the model as it was before")
        renamed[key] = tensor
    for head, embeddings in tied.items():
        if head in renamed and renamed[head].data_ptr() == renamed[embeddings].data_ptr():
            del renamed[head]
    return renamed


def kind_of(config: Mapping[str, Any], folder: Path) -> str:
    """config.json's model_type.

    Raises:
        ValueError: it is none of `CLASSES`.
    """
    found = config.get("model_type")
    if str(found) not in CLASSES:
        raise ValueError(f"model {folder}: config.json says model_type {found!r}, expected one of {', '.join(CLASSES)}")
    return str(found)


def read_checkpoint(model_class: Any, folder: Path, **kwargs: Any) -> Any:
    """Load a Gemma 3 from any layout; arguments and errors as in `medsiglip.checkpoints.weights.load_strictly`.

    Raises:
        ValueError: also when config.json has lost a setting of a released shape, such as the RoPE factor.
    """
    from medsiglip.checkpoints.weights import load_strictly

    config = read_json(folder / "config.json")
    kind = kind_of(config, folder)
    refuse_lost_settings(config, folder)
    return load_strictly(model_class, folder, hub_key=hub_key_of(kind), tied=TIED_HEADS.get(kind), **kwargs)


def matched_folder(folder: Path) -> dict[str, StoredTensor]:
    """A folder's tensors by Hub name, compared with what its config's model expects; only headers are read.

    Raises:
        ValueError: the config is of no known kind or has lost a setting; the tensors are not the config's.
    """
    import transformers

    from medsiglip.checkpoints.weights import load_config, matched_tensors

    config = read_json(folder / "config.json")
    kind = kind_of(config, folder)
    refuse_lost_settings(config, folder)
    model_class = getattr(transformers, CLASSES[kind])
    matched = matched_tensors(
        model_class, load_config(model_class, folder), folder, hub_key_of(kind), TIED_HEADS.get(kind)
    )
    return hub_names({t.name: t for t in matched.values()}, hub_key_of(kind), f"model {folder}")


def save_in_hub_layout(
    model: Any, folder: str | Path, dtype: "torch.dtype", max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write config.json, generation_config.json and the weights, in shards where they are large.

    Args:
        model: a Gemma 3 or SigLIP model of transformers.
        folder: made if it is not there.
        dtype: of the stored weights.
        max_shard_bytes: a larger file is written as several, with an index.
    """
    from medsiglip.checkpoints.safetensors_files import stored_dtype

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = dtype
    model.config.architectures = [type(model).__name__]
    tensors = hub_layout(model.state_dict(), model.config.model_type)
    name = stored_dtype(dtype)
    planned = [
        PlannedTensor(key, name, tuple(tensor.shape), partial(tensor.to, dtype)) for key, tensor in tensors.items()
    ]
    write_tensors(folder, planned, max_shard_bytes)
    model.config.save_pretrained(folder)
    write_config(folder, read_json(folder / "config.json"), name)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def write_config(folder: Path, config: Mapping[str, Any], dtype: str | None = None) -> None:
    """Write a config.json that transformers 4.57 and 5.x read alike.

    Args:
        folder: where it goes.
        config: as read from a config.json of either.
        dtype: of the weights beside it, as safetensors names it; None leaves what the config says.
    """
    portable = _readable_by_both(config)
    portable.pop("quantization_config", None)  # of weights that these are not
    if dtype is not None:
        name = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}[dtype]
        portable = _with_dtype(portable, name) | {"dtype": name}
    unfinished = folder / "config.json.partial"
    unfinished.write_text(json.dumps(portable, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(folder / "config.json")


def _gemma_hub_key(name: str) -> str | None:
    if name in ("lm_head.weight", GEMMA_HEAD):
        return GEMMA_HEAD
    for prefix, hub in HUB_PREFIXES:
        if name.startswith(prefix):
            return hub + name.removeprefix(prefix)
    return None


def _readable_by_both(config: Mapping[str, Any]) -> dict[str, Any]:
    """Say transformers 5's `rope_parameters` in 4.57's words too: without them it takes its defaults, in silence."""
    if "text_config" in config:
        return {**config, "text_config": _readable_by_both(config["text_config"])}
    both = dict(config)
    rope = config.get("rope_parameters")
    if rope:
        whole, local = (dict(rope.get(kind) or {}) for kind in ("full_attention", "sliding_attention"))
        both["rope_theta"] = whole.pop("rope_theta", config.get("rope_theta", 1_000_000.0))
        both["rope_local_base_freq"] = local.get("rope_theta", config.get("rope_local_base_freq", 10_000.0))
        both["rope_scaling"] = whole if whole.get("rope_type", "default") != "default" else None
    if str(config.get("model_type", "")).startswith("siglip_text"):
        both.update(siglip_ids(config))
    return both


def _with_dtype(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Change a dtype wherever it is said: at the top, in the parts, under its older name."""
    said = {k: _with_dtype(v, name) if isinstance(v, dict) else v for k, v in config.items()}
    return {k: name if k in ("dtype", "torch_dtype") and isinstance(v, str) else v for k, v in said.items()}
