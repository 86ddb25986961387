"""A Gemma 3 checkpoint as GGUF: the decoder in one file, tower and projector in another (mmproj).

Source: ggml-org/llama.cpp, the keys that its gemma3 and clip loaders read.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medgemma.checkpoints.convert import Advance, common_dtype, whole_folder
from medgemma.checkpoints.gguf.vocabulary import add_tokenizer
from medgemma.checkpoints.gguf.writing import (
    DECODER,
    SIGHT,
    GgufTensor,
    demand_gguf,
    gguf_names,
    kind_named,
    planned,
    write_gguf,
)
from medgemma.checkpoints.layouts import CLASSES, kind_of, matched_folder
from medsiglip.checkpoints.folders import image_processor, read_json
from medsiglip.checkpoints.safetensors_files import StoredTensor, opened

if TYPE_CHECKING:
    from gguf import GGUFWriter

MODEL_FILE, PROJECTOR_FILE = "model.gguf", "mmproj.gguf"
LAYERS_OF_27B = 62
"""llama.cpp scales the attention of so many layers by width over heads, of all others by the head's width."""
USUAL_PATTERN = 6
"""Every sixth layer looks at everything, where no key says otherwise."""
USUAL_MERGE = 4
"""Patches that one image token is pooled from, a side, where no key says otherwise."""
NOT_IN_GGUF = "vision_tower.vision_model.head."
"""The pooling head: no part of what the decoder sees."""


class WrittenFile(NamedTuple):
    """One file of a conversion."""

    path: Path
    tensors: int


def convert_to_gguf(
    source: Path,
    out: Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    advance: Advance = lambda tensors: None,
) -> list[WrittenFile]:
    """Write a checkpoint as model.gguf and, where it has a tower, mmproj.gguf.

    Args:
        source: folder of a Gemma 3 checkpoint, in any layout.
        out: new folder; it appears when it is whole.
        dtype: of matrices: "float32", "bfloat16", "float16" or "q8_0"; None keeps what is stored. Vectors, patch and
            position embeddings are float32; the projection is float16 at the narrowest, which llama.cpp transposes.
        overwrite: replace a folder that is there.
        advance: called with 1 after each tensor.

    Raises:
        ValueError: the `gguf` package is missing; the source is no Gemma 3, incomplete or damaged; it has a setting for
            which GGUF has no key; `out` is there.
    """
    import transformers

    from medsiglip.checkpoints.weights import load_config

    demand_gguf()
    kind = kind_of(read_json(source / "config.json"), source)
    if not kind.startswith("gemma3"):
        raise ValueError(f"model {source}: of type {kind}; GGUF is written of decoders (gemma3, gemma3_text)")
    matched = matched_folder(source)
    config = load_config(getattr(transformers, CLASSES[kind]), source)
    text = getattr(config, "text_config", config)
    number = kind_named(dtype, common_dtype(matched))
    decoder = {key: tensor for key, tensor in matched.items() if not _is_sight(key)}
    sight = {key: tensor for key, tensor in matched.items() if _is_sight(key) and not key.startswith(NOT_IN_GGUF)}
    written = []
    with ExitStack() as stack:
        folder = stack.enter_context(whole_folder(out, overwrite, source))
        handles = stack.enter_context(opened(sorted({tensor.file for tensor in matched.values()}), "pt"))
        rows = next(t.shape[0] for key, t in decoder.items() if key.endswith("embed_tokens.weight"))

        def decoder_keys(writer: "GGUFWriter") -> None:
            writer.add_type("model")
            writer.add_name(source.name)
            add_decoder(writer, text, source)
            add_tokenizer(writer, source, rows, _end_ids(source, text))

        def sight_keys(writer: "GGUFWriter") -> None:
            writer.add_type("mmproj")
            writer.add_name(source.name)
            _add_sight(writer, config, source)

        tensors = _decoder_tensors(decoder, number, handles, text.num_hidden_layers)
        write_gguf(folder / MODEL_FILE, DECODER, number, decoder_keys, tensors, advance)
        written.append(WrittenFile(out / MODEL_FILE, len(tensors)))
        if sight:
            tensors = _sight_tensors(sight, number, handles, config.vision_config.num_hidden_layers)
            write_gguf(folder / PROJECTOR_FILE, SIGHT, number, sight_keys, tensors, advance)
            written.append(WrittenFile(out / PROJECTOR_FILE, len(tensors)))
    return written


def _is_sight(key: str) -> bool:
    return key.startswith(("vision_tower.", "multi_modal_projector."))


def _decoder_tensors(
    stored: Mapping[str, StoredTensor], kind: str, handles: Mapping[Path, Any], num_layers: int
) -> list[GgufTensor]:
    name = gguf_names("GEMMA3", num_layers)
    return [
        planned(tensor, name(key), kind, handles, plus=float(key.endswith("norm.weight")))
        for key, tensor in stored.items()
    ]


def _sight_tensors(
    stored: Mapping[str, StoredTensor], kind: str, handles: Mapping[Path, Any], num_layers: int
) -> list[GgufTensor]:
    name = gguf_names("MMPROJ", num_layers)

    def kind_of_one(key: str) -> str:
        if ".embeddings." in key:
            return "F32"
        return "F16" if "projection" in key and kind in ("Q8_0", "BF16") else kind

    return [
        planned(tensor, name(key), kind_of_one(key), handles, plus=float("soft_emb_norm" in key))
        for key, tensor in stored.items()
    ]


def add_decoder(writer: "GGUFWriter", text: Any, source: Path) -> None:
    """Write a Gemma3TextConfig into a file's keys.

    Args:
        writer: of the file.
        text: the config.
        source: its folder, for messages.

    Raises:
        ValueError: a setting for which GGUF has no key.
    """
    from gguf import RopeScalingType

    _refuse_unsayable(text, source)
    rope, local = text.rope_parameters["full_attention"], text.rope_parameters["sliding_attention"]
    writer.add_block_count(text.num_hidden_layers)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_head_count(text.num_attention_heads)
    writer.add_head_count_kv(text.num_key_value_heads)
    writer.add_key_length(text.head_dim)
    writer.add_value_length(text.head_dim)
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_freq_base_swa(local["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    writer.add_sliding_window(text.sliding_window)
    is_local = [kind == "sliding_attention" for kind in text.layer_types]
    if is_local != [(layer + 1) % USUAL_PATTERN != 0 for layer in range(text.num_hidden_layers)]:
        writer.add_sliding_window_pattern(is_local)
    if text.final_logit_softcapping:
        writer.add_final_logit_softcapping(text.final_logit_softcapping)


def _refuse_unsayable(text: Any, source: Path) -> None:
    """What llama.cpp takes for granted must be so."""
    rope, local = text.rope_parameters["full_attention"], text.rope_parameters["sliding_attention"]
    scale = text.hidden_size / text.num_attention_heads if text.num_hidden_layers == LAYERS_OF_27B else text.head_dim
    taken = {
        "query_pre_attn_scalar": (text.query_pre_attn_scalar, scale),
        "hidden_activation": (text.hidden_activation, "gelu_pytorch_tanh"),
        "attn_logit_softcapping": (text.attn_logit_softcapping, None),
        "attention_bias": (bool(text.attention_bias), False),
        "use_bidirectional_attention": (bool(text.use_bidirectional_attention), False),
        "rope_type of local layers": (local["rope_type"], "default"),
        "rope_type": (rope["rope_type"], "linear" if rope["rope_type"] == "linear" else "default"),
    }
    for name, (found, expected) in taken.items():
        if found != expected:
            raise ValueError(
                f"model {source}: {name} is {found}; llama.cpp takes it to be {expected}, and GGUF has no key"
            )


def _add_sight(writer: "GGUFWriter", config: Any, source: Path) -> None:
    from gguf import VisionProjectorType

    vision = config.vision_config
    pixels = image_processor(source)
    if pixels is None:
        raise ValueError(f"model {source}: no preprocessor_config.json there; fetch that file too")
    if vision.hidden_act != "gelu_pytorch_tanh":
        raise ValueError(
            f"model {source}: hidden_act of the tower is {vision.hidden_act}; llama.cpp's is gelu_pytorch_tanh"
        )
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(VisionProjectorType.GEMMA3)
    writer.add_vision_projection_dim(config.text_config.hidden_size)
    writer.add_vision_image_size(vision.image_size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_block_count(vision.num_hidden_layers)
    writer.add_vision_head_count(vision.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
    writer.add_vision_use_gelu(True)
    writer.add_vision_image_mean(pixels.settings["image_mean"])
    writer.add_vision_image_std(pixels.settings["image_std"])
    merge = vision.image_size // vision.patch_size // isqrt(config.mm_tokens_per_image)
    if merge != USUAL_MERGE:
        writer.add_vision_projector_scale_factor(merge)


def _end_ids(source: Path, text: Any) -> list[int]:
    """Of generation_config.json, else of the config."""
    path = source / "generation_config.json"
    found = read_json(path).get("eos_token_id") if path.is_file() else None
    found = text.eos_token_id if found is None else found
    return [found] if isinstance(found, int) else list(found or ())
