"""A tiny random pair in folders, made by the project's own functions: real shapes and files, no training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from finetune.recipes.nano.config import DecoderSection, EncoderSection
from finetune.recipes.nano.models import (
    decoder_config,
    image_token_ids,
    new_encoder,
    save_decoder,
    save_encoder,
)
from finetune.tokenizers import train_gemma_tokenizer, train_siglip_tokenizer
from medgemma.checkpoints.plug import plug

SENTENCES = (
    "Is there a pneumothorax on the left side?",
    "Which view is this, PA or AP?",
    "The lungs are clear; the heart is not enlarged.",
    "Describe the tissue.\nIt is benign lung tissue, 20x.",
    "No pleural effusion was seen in 2019.",
    "Name the organ and the modality of this picture.",
    "A chest X-ray of a 54 year old patient with cough.",
)

ENCODER = EncoderSection(
    image_size_px=56,  # 4x4 patches
    width=16,
    layers=2,
    mlp=32,
    heads=2,
    text_layers=1,
    text_mlp=32,
    vocabulary=64,
    initial_logit_scale=10.0,
    initial_logit_bias=-3.0,
)

DECODER = DecoderSection(
    width=32,
    layers=7,  # layer 6 is global
    mlp=64,
    heads=4,
    key_value_heads=2,
    head_width=16,
    sliding_window=24,
    vocabulary=400,
    image_tokens=4,
    views=2,
    augmentation=1.0,
    window=0.5,
    frame=0.5,
)


def gemma_tokenizer(folder: Path) -> Any:
    return train_gemma_tokenizer(SENTENCES * 8, DECODER.vocabulary, folder)


def encoder_folder(folder: Path, seed: int = 1) -> Path:
    train_siglip_tokenizer(SENTENCES * 8, ENCODER.vocabulary, folder)
    torch.manual_seed(seed)
    save_encoder(lively(new_encoder(ENCODER)), ENCODER, folder)
    return folder


def decoder_folder(folder: Path, image_tokens: int = DECODER.image_tokens, seed: int = 1) -> Path:
    tokenizer = gemma_tokenizer(folder)
    torch.manual_seed(seed)
    model = plug(
        new_encoder(ENCODER).vision_model,
        decoder_config(DECODER, tokenizer),
        mm_tokens_per_image=image_tokens,
        token_ids=image_token_ids(tokenizer),
    )
    with torch.no_grad():  # bytes are never said, so that answers are text
        lively(model).get_input_embeddings().weight[10:266] = 0
    save_decoder(model, tokenizer, ENCODER, folder)
    return folder


def turning_adapter(decoder: Path, folder: Path) -> Path:
    """A LoRA adapter that turns the last layer's down_proj over, as PEFT writes it."""
    layer = "language_model.layers.6.mlp.down_proj"
    [weight] = [
        w for key, w in load_file(decoder / "model.safetensors").items() if key.endswith(f"{layer[15:]}.weight")
    ]
    left, lengths, right = torch.linalg.svd(weight.float(), full_matrices=False)
    name, rank = f"base_model.model.model.{layer}", len(lengths)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"lora_A": (lengths[:, None] * right).contiguous(), "lora_B": -left.contiguous()}
    save_file({f"{name}.{k}.weight": v for k, v in tensors.items()}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": [f"model.{layer}"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def lively(model: Any) -> Any:
    """Weights so large that every input moves the output: at their usual start tiny models say one token for ever."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.4 if "embed_tokens" not in name else 0.05)
            elif "logit" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def picture_array(seed: int, height_px: int = 70, width_px: int = 90) -> np.ndarray:
    """(H, W, 3) uint8: blocks of colour, so that a resize keeps most of what tells two pictures apart."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    rows, columns = np.arange(height_px) * 5 // height_px, np.arange(width_px) * 6 // width_px
    return np.ascontiguousarray(blocks[rows][:, columns])
