"""An encoder's tower into a Gemma 3 decoder: in memory for training from scratch, or folder to folder.

Letters: P patches, D vision width, H decoder width.
"""

import json
from collections.abc import Mapping
from functools import partial
from math import isqrt, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch

from medgemma.checkpoints.convert import Advance, common_dtype, copy_companions, planned_from, stored_name, whole_folder
from medgemma.checkpoints.info import parameters_by_part
from medgemma.checkpoints.layouts import kind_of, matched_folder, write_config
from medsiglip.checkpoints.folders import image_processor, read_json
from medsiglip.checkpoints.positions import resized_positions
from medsiglip.checkpoints.safetensors_files import (
    MAX_SHARD_BYTES,
    PlannedTensor,
    StoredTensor,
    opened,
    torch_dtype,
    write_tensors,
)

TOWER = "vision_tower.vision_model."
POSITIONS = f"{TOWER}embeddings.position_embedding.weight"
PROJECTION = "multi_modal_projector.mm_input_projection_weight"
PROJECTION_NORM = "multi_modal_projector.mm_soft_emb_norm.weight"
EMBEDDINGS = "language_model.model.embed_tokens.weight"
IMAGE_TOKENS = {
    "boi_token_index": ("boi_token", "<start_of_image>"),
    "eoi_token_index": ("eoi_token", "<end_of_image>"),
    "image_token_index": ("image_token", "<image_soft_token>"),
}
"""config.json's name of an id: the token's name in tokenizer_config.json, and Gemma 3's token."""
PIXEL_SETTINGS = (
    "do_convert_rgb",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "resample",
    "rescale_factor",
)
"""What a tower was trained with; the rest of a preprocessor_config.json is the decoder's."""


class Plugged(NamedTuple):
    """What `plug_folders` made."""

    parameters: Mapping[str, int]
    """By part."""
    dropped_parameters: int
    """Of the encoder's attention-pooling head."""
    patches_before: int
    patches: int
    projector: str
    """"new" or "kept"."""


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
    _refuse_uneven_pooling(vision_config.image_size // vision_config.patch_size, mm_tokens_per_image)
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


def plug_folders(
    encoder: Path,
    decoder: Path,
    out: Path,
    *,
    image_size_px: int | None = None,
    image_tokens: int | None = None,
    keep_projector: bool = False,
    seed: int = 0,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
    advance: Advance = lambda tensors: None,
) -> Plugged:
    """Write a MedGemma-shaped model made of an encoder's tower and a decoder, tensor by tensor.

    The tower loses its attention-pooling head, and its position table is resized to `image_size_px`. A new projector
    starts so that an image token is as long as an embedded text token: normal with standard deviation s / √D, where s
    is that of embedded text tokens, after a norm of gain 1. It has learned nothing: train it.

    Args:
        encoder: folder of a SigLIP model, a SigLIP vision tower, or a Gemma 3 whose tower is taken.
        decoder: folder of a Gemma 3 with or without a tower.
        out: new folder; it appears when it is whole.
        image_size_px: side of the square that the tower will see; the decoder's, else the encoder's, without it.
        image_tokens: tokens an image; the decoder's, else 256, without it.
        keep_projector: keep the decoder's projector: for a tower that is a tuned version of the decoder's own.
        seed: of the new projector.
        dtype: "float32" or "bfloat16"; None keeps what each part is stored in.
        max_shard_bytes: a larger file is written as several, with an index.
        overwrite: replace a folder that is there.
        advance: called with 1 after each tensor.

    Raises:
        ValueError: a folder is incomplete or of the wrong kind; the patch grid cannot be pooled to `image_tokens`; the
            decoder's tokenizer or embeddings have no place for images; there is no projector to keep.
    """
    config = _plugged_config(encoder, decoder, image_size_px, image_tokens)
    tower, dropped = _tower_tensors(encoder)
    text = _text_tensors(decoder)
    _refuse_no_projector(decoder, config, keep_projector)
    kept = _projector_tensors(decoder) if keep_projector else {}
    stored = stored_name(dtype)
    files = sorted({t.file for t in (*tower.values(), *text.values(), *kept.values())})
    with whole_folder(out, overwrite, encoder, decoder) as folder, opened(files, "pt") as handles:
        planned = planned_from(handles, {**tower, **kept, **text}, stored, advance)
        if not keep_projector:
            embeddings = handles[text[EMBEDDINGS].file].get_slice(text[EMBEDDINGS].name)
            planned += _new_projector(config, embeddings, seed, stored or common_dtype(text))
        planned = [_resized(t, _grid(config["vision_config"]) ** 2) if t.name == POSITIONS else t for t in planned]
        write_tensors(folder, planned, max_shard_bytes)
        write_config(folder, config, stored or common_dtype(text))
        copy_companions(decoder, folder)
        _write_processor(encoder, decoder, folder, config)
    before = tower[POSITIONS].shape[0]
    return Plugged(
        parameters_by_part({t.name: t.shape for t in planned}),
        dropped,
        before,
        _grid(config["vision_config"]) ** 2,
        "kept" if keep_projector else "new",
    )


def _refuse_uneven_pooling(grid: int, image_tokens: int) -> None:
    side = isqrt(image_tokens)
    if side * side != image_tokens or grid % side:
        raise ValueError(f"a {grid}x{grid} patch grid cannot be pooled to {image_tokens} tokens")


def _initialise_projector(model: Any) -> None:
    weight = model.model.multi_modal_projector.mm_input_projection_weight  # (D, H)
    with torch.no_grad():
        embedded = model.get_input_embeddings()(torch.arange(64))  # as long as text tokens are
        weight.normal_(std=float(embedded.std()) / weight.shape[0] ** 0.5)


def _plugged_config(
    encoder: Path, decoder: Path, image_size_px: int | None, image_tokens: int | None
) -> dict[str, Any]:
    """The result's config.json: the decoder's, with the encoder's tower at the image size asked for."""
    vision = _vision_config(encoder)
    config = read_json(decoder / "config.json")
    kind = kind_of(config, decoder)
    if not kind.startswith("gemma3"):
        raise ValueError(f"decoder {decoder}: config.json says model_type {kind!r}, expected gemma3 or gemma3_text")
    if kind == "gemma3_text":
        config = {"text_config": config, "model_type": "gemma3", **_image_token_ids(decoder, config)}
        config["tie_word_embeddings"] = config["text_config"].get("tie_word_embeddings", True)
    size_px = image_size_px or config.get("vision_config", vision).get("image_size", 224)
    config["architectures"] = ["Gemma3ForConditionalGeneration"]
    config["mm_tokens_per_image"] = image_tokens or config.get("mm_tokens_per_image", 256)
    config["vision_config"] = {**vision, "image_size": size_px, "vision_use_head": False}
    if size_px % vision["patch_size"]:
        raise ValueError(f"image size {size_px}: not a multiple of the encoder's patch size {vision['patch_size']}")
    _refuse_uneven_pooling(_grid(config["vision_config"]), config["mm_tokens_per_image"])
    return config


def _vision_config(encoder: Path) -> dict[str, Any]:
    config = read_json(encoder / "config.json")
    kind = kind_of(config, encoder)
    if kind in ("gemma3_text", "siglip_text_model"):
        raise ValueError(f"encoder {encoder}: config.json says model_type {kind!r}, which has no vision tower")
    vision = config if kind == "siglip_vision_model" else config["vision_config"]
    return {"image_size": 224, "patch_size": 16, "model_type": "siglip_vision_model", **vision}


def _grid(vision_config: Mapping[str, Any]) -> int:
    return int(vision_config["image_size"]) // int(vision_config["patch_size"])


def _image_token_ids(decoder: Path, text_config: Mapping[str, Any]) -> dict[str, int]:
    """Ids of a text-only decoder's image tokens, by name from its tokenizer."""
    if not (decoder / "tokenizer.json").is_file():
        raise ValueError(f"decoder {decoder}: no tokenizer.json there; the ids of its image tokens cannot be known")
    ids = {token["content"]: token["id"] for token in read_json(decoder / "tokenizer.json")["added_tokens"]}
    named = decoder / "tokenizer_config.json"
    names = read_json(named) if named.is_file() else {}
    found = {}
    for setting, (name, usual) in IMAGE_TOKENS.items():
        token = names.get(name, usual)
        if token not in ids:
            raise ValueError(f"decoder {decoder}: its tokenizer has no {token}; add it to tokenizer and embeddings")
        found[setting] = ids[token]
    rows = text_config.get("vocab_size", 262_208)
    if max(found.values()) >= rows:
        raise ValueError(f"decoder {decoder}: image token {max(found.values())} is past its {rows:,} embeddings")
    return found


class _Tower(NamedTuple):
    tensors: dict[str, StoredTensor]
    dropped_parameters: int


def _tower_tensors(encoder: Path) -> _Tower:
    """The tower by the names it has inside a Gemma 3, without its head."""
    named = matched_folder(encoder)
    tower = {
        TOWER + key.removeprefix(TOWER).removeprefix("vision_model."): tensor
        for key, tensor in named.items()
        if key.startswith((TOWER, "vision_model."))
    }
    head = {key for key in tower if key.startswith(f"{TOWER}head.")}
    dropped = sum(tower[key].num_elements for key in head)
    return _Tower({key: tensor for key, tensor in tower.items() if key not in head}, dropped)


def _text_tensors(decoder: Path) -> dict[str, StoredTensor]:
    named = matched_folder(decoder)
    if kind_of(read_json(decoder / "config.json"), decoder) == "gemma3_text":
        return {f"language_model.{key}": tensor for key, tensor in named.items()}
    return {key: tensor for key, tensor in named.items() if key.startswith("language_model.")}


def _projector_tensors(decoder: Path) -> dict[str, StoredTensor]:
    return {key: t for key, t in matched_folder(decoder).items() if key in (PROJECTION, PROJECTION_NORM)}


def _refuse_no_projector(decoder: Path, config: Mapping[str, Any], keep: bool) -> None:
    if not keep:
        return
    theirs = read_json(decoder / "config.json").get("vision_config")
    width = config["vision_config"]["hidden_size"]
    if theirs is None:
        raise ValueError(f"decoder {decoder}: has no projector to keep; leave out --keep-projector")
    if theirs["hidden_size"] != width:
        raise ValueError(
            f"decoder {decoder}: its projector is for a tower of width {theirs['hidden_size']}, the encoder's is "
            f"{width}; leave out --keep-projector"
        )


def _new_projector(config: Mapping[str, Any], embeddings: Any, seed: int, dtype: str) -> list[PlannedTensor]:
    rows, width = embeddings.get_shape()
    # the middle of a vocabulary is ordinary text; control tokens and bytes stand at its ends
    sample = embeddings[max(0, rows // 2 - 512) : rows // 2 + 512].float()
    vision_width = config["vision_config"]["hidden_size"]
    deviation = float(sample.std()) * sqrt(width) / sqrt(vision_width)

    def weight() -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(vision_width, width, generator=generator) * deviation).to(torch_dtype(dtype))

    norm = partial(torch.zeros, vision_width, dtype=torch_dtype(dtype))  # Gemma's norm adds 1 to its gain
    return [
        PlannedTensor(PROJECTION, dtype, (vision_width, width), weight),
        PlannedTensor(PROJECTION_NORM, dtype, (vision_width,), norm),
    ]


def _resized(positions: PlannedTensor, patches: int) -> PlannedTensor:
    make = positions.make
    shape = (patches, positions.shape[1])
    return positions._replace(shape=shape, make=lambda: resized_positions(make(), patches))


def _write_processor(encoder: Path, decoder: Path, out: Path, config: Mapping[str, Any]) -> None:
    """The pixels that the tower was trained with, at the size it sees now."""
    known = image_processor(encoder) or image_processor(decoder)
    if known is None:
        raise ValueError(f"encoder {encoder}: no preprocessor_config.json; the right pixels cannot be known")
    side_px = config["vision_config"]["image_size"]
    pixels = {k: v for k, v in known.settings.items() if k in PIXEL_SETTINGS}
    pixels |= {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": side_px, "width": side_px}}
    whole = {"image_seq_length": config["mm_tokens_per_image"], "processor_class": "Gemma3Processor"}
    _write_json(out / "preprocessor_config.json", pixels)
    _write_json(out / "processor_config.json", {**whole, "image_processor": pixels})


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
