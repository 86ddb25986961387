"""What a checkpoint is, from its config and the headers of its weight files: no weight is read, torch is not needed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from medgemma.checkpoints.layouts import CLASSES, hub_key_of, kind_of
from medgemma.checkpoints.memory import fits, machine_memory_bytes, weight_bytes_by_dtype
from medgemma.checkpoints.reference import refuse_lost_settings, text_settings
from medgemma.nano import NANO_FOLDER
from medsiglip.checkpoints.folders import HUB_ID, PROCESSOR_FILES, image_processor, read_json, resolve_model
from medsiglip.checkpoints.layout import hub_names
from medsiglip.checkpoints.quantised import scheme_of
from medsiglip.checkpoints.safetensors_files import ITEM_BYTES, stored_tensors
from medsiglip.checkpoints.weights import blamed_on_config

PARTS: Mapping[str, tuple[str, ...]] = {
    "vision tower": ("vision_tower.", "vision_model."),
    "text tower": ("text_model.",),
    "projector": ("multi_modal_projector.",),
    "embeddings": ("language_model.model.embed_tokens.", "model.embed_tokens."),
    "output head": ("language_model.lm_head.", "lm_head."),
    "decoder layers": ("language_model.", "model."),
    "logit scale and bias": ("logit_",),
}
"""Part to the beginnings of its tensors' Hub names; the first that fits counts."""
TOKENIZERS = {"tokenizer": ("tokenizer.json", "tokenizer.model", "spiece.model")}
SIGLIP_TOKENIZER = {"tokenizer": ("spiece.model", "tokenizer.json")}
PIXELS = {"image processor": PROCESSOR_FILES}
CHAT = {"chat template": ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")}
TEMPLATE_CONFIGS = ("chat_template.json", "tokenizer_config.json", "processor_config.json")
"""Files that may hold a chat template under that key."""
NEEDED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "gemma3": {**TOKENIZERS, **CHAT, **PIXELS},
    "gemma3_text": {**TOKENIZERS, **CHAT},
    "siglip": {**SIGLIP_TOKENIZER, **PIXELS},
    "siglip_vision_model": PIXELS,
    "siglip_text_model": SIGLIP_TOKENIZER,
}
"""model_type to what must lie beside the weights, and the files that may hold it."""


@dataclass(frozen=True)
class Decoder:
    """What decides a decoder's speed and memory."""

    layers_local: int
    layers_global: int
    sliding_window: int
    context_tokens: int
    kv_cache_bytes_per_token: int
    """While the sequence is within the window: every layer keeps it."""
    kv_cache_bytes_per_token_past_window: int
    """Global layers alone keep it."""
    image_tokens: int | None
    """Tokens of one image; None without a vision tower."""


@dataclass(frozen=True)
class ModelInfo:
    """What `medgemma info` says."""

    folder: str
    model_class: str
    parameters: int
    parameters_by_part: Mapping[str, int]
    parameters_by_dtype: Mapping[str, int]
    layout: str
    tensors: int
    weight_files: int
    weight_bytes: int
    image_size_px: int | None
    decoder: Decoder | None
    quantised: str | None
    """The scheme of weights that are quantised already; the numbers of parameters are then those that are stored."""
    files_missing: tuple[str, ...]
    """Files without which nothing can be asked."""
    problems: tuple[str, ...]
    """Why the model would be refused."""
    memory_bytes: int | None
    """What this machine has."""
    weight_bytes_by_dtype: Mapping[str, int]
    """What a Gemma 3's weights take in memory as float32, bfloat16 and int8; nothing for others."""
    dtypes_that_fit: tuple[str, ...]
    """Those that leave room for what asking needs."""


def inspect(model: str) -> ModelInfo:
    """Describe a checkpoint.

    Args:
        model: "nano", a local folder, or a Hub id that is on this machine already: nothing is fetched.

    Raises:
        ValueError: the model is not here; a file is missing, damaged or cut short; its tensors' names are of no known
            layout.
    """
    folder = _local_folder(model)
    config = read_json(folder / "config.json")
    kind = kind_of(config, folder)
    stored = stored_tensors(folder)
    named = hub_names(stored, hub_key_of(kind), f"model {folder}")
    dtypes: dict[str, int] = {}
    for tensor in named.values():
        dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + tensor.num_elements
    parts = parameters_by_part({key: tensor.shape for key, tensor in named.items()})
    main = max(dtypes, key=lambda name: dtypes[name])
    with blamed_on_config(folder):
        image_size_px = _image_size_px(config, kind)
        decoder = _decoder(config, ITEM_BYTES.get(main, 1)) if kind.startswith("gemma3") else None
    memory = machine_memory_bytes()
    held = weight_bytes_by_dtype(named) if kind.startswith("gemma3") else {}
    return ModelInfo(
        folder=str(folder),
        model_class=CLASSES[kind],
        parameters=sum(parts.values()),
        parameters_by_part=parts,
        parameters_by_dtype=dtypes,
        layout=layout_of(stored, kind),
        tensors=len(stored),
        weight_files=len({tensor.file for tensor in stored.values()}),
        weight_bytes=sum(tensor.num_bytes for tensor in stored.values()),
        image_size_px=image_size_px,
        decoder=decoder,
        quantised=scheme_of(config, stored),
        files_missing=_missing(folder, kind),
        problems=_problems(config, folder),
        memory_bytes=memory,
        weight_bytes_by_dtype=held,
        dtypes_that_fit=tuple(dtype for dtype, size in held.items() if fits(size, memory)),
    )


def parameters_by_part(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Count the parameters of each of `PARTS`.

    Args:
        shapes: of tensors by Hub name.
    """
    counts = dict.fromkeys(PARTS, 0)
    for name, shape in shapes.items():
        counts[next(part for part, beginnings in PARTS.items() if name.startswith(beginnings))] += prod(shape)
    return {part: count for part, count in counts.items() if count}


def layout_of(names: Iterable[str], kind: str) -> str:
    """Say who writes names like these.

    Args:
        names: of the stored tensors.
        kind: config.json's model_type.
    """
    found = {_layout(name, kind) for name in names} - {""}
    return found.pop() if len(found) == 1 else " and ".join(sorted(found))


def _layout(name: str, kind: str) -> str:
    """Who writes a name like this; empty where several do."""
    if kind == "gemma3" and "vision_tower." in name:
        inner = "vision_tower.vision_model." in name
        if name.startswith("model."):
            return "transformers 4.52 to 4.57, in memory" if inner else "transformers 5, in memory"
        return "hub" if inner else "transformers 5, saved"
    bare = {"gemma3_text": "model.", "siglip_vision_model": "vision_model.", "siglip_text_model": "text_model."}
    if kind in bare and name != "lm_head.weight":
        return "hub" if name.startswith(bare[kind]) else "transformers 5, without the outer prefix"
    return "hub" if kind == "siglip" else ""


def _local_folder(model: str) -> Path:
    if model == "nano" or Path(model).exists() or not HUB_ID.fullmatch(model):
        return resolve_model(model, NANO_FOLDER)
    from huggingface_hub import snapshot_download

    try:
        return resolve_model(snapshot_download(model, local_files_only=True))
    except OSError as error:
        raise ValueError(f"model {model}: not on this machine; fetch it with `hf download {model}` first") from error


def _image_size_px(config: Mapping[str, Any], kind: str) -> int | None:
    vision = config if kind == "siglip_vision_model" else config.get("vision_config")
    return None if vision is None else int(vision.get("image_size", 224))


def _decoder(config: Mapping[str, Any], item_bytes: int) -> Decoder:
    text = text_settings(config)
    every = text.get("sliding_window_pattern", text.get("_sliding_window_pattern", 6))
    layers = text["num_hidden_layers"]
    types = text.get("layer_types") or [
        "sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)
    ]
    local = types.count("sliding_attention")
    a_layer = 2 * text["num_key_value_heads"] * text["head_dim"] * item_bytes  # key and value
    return Decoder(
        layers_local=local,
        layers_global=layers - local,
        sliding_window=text["sliding_window"],
        context_tokens=text["max_position_embeddings"],
        kv_cache_bytes_per_token=layers * a_layer,
        kv_cache_bytes_per_token_past_window=(layers - local) * a_layer,
        image_tokens=config.get("mm_tokens_per_image", 256) if "vision_config" in config else None,
    )


def _missing(folder: Path, kind: str) -> tuple[str, ...]:
    names = {path.name for path in folder.iterdir()}
    there = {
        "image processor": image_processor(folder) is not None,
        "chat template": "chat_template.jinja" in names
        or any((folder / "additional_chat_templates").glob("*.jinja"))
        or any(read_json(folder / name).get("chat_template") for name in TEMPLATE_CONFIGS if name in names),
    }
    return tuple(
        f"{what} ({' or '.join(files)})"
        for what, files in NEEDED[kind].items()
        if not there.get(what, bool(names.intersection(files)))
    )


def _problems(config: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    try:
        refuse_lost_settings(config, folder)
    except ValueError as error:
        return (str(error),)
    return ()
