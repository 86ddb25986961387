"""The two models of the recipe nano: made new or gone on with, and written for plain transformers."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from finetune.recipes.nano.config import DecoderSection, EncoderSection
from finetune.tokenizers import name_special_tokens
from medgemma.checkpoints.layouts import save_in_hub_layout
from medgemma.prompts.special_tokens import turn_tokens

SIGLIP_TOKENIZER_FILES = ("spiece.model", "tokenizer_config.json")
GEMMA_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class Pair(NamedTuple):
    """The folders of an encoder and a decoder."""

    encoder: Path
    decoder: Path


def starting_pair(start: str) -> Pair | None:
    """The pair to go on with; None for nothing.

    Raises:
        ValueError: `start` is neither empty, `nano` nor a folder of this recipe's.
    """
    from medgemma.nano import NANO_FOLDER as DECODER_FOLDER
    from medsiglip.nano import NANO_FOLDER as ENCODER_FOLDER

    if not start:
        return None
    if start == "nano":
        return Pair(ENCODER_FOLDER, DECODER_FOLDER)
    pair = Pair(Path(start) / "medsiglip", Path(start) / "medgemma")
    for folder in pair:
        if not (folder / "model.safetensors").is_file():
            raise ValueError(f"{start}: found no {folder.name}/model.safetensors there; give nano, or a run's --out")
    return pair


def new_encoder(section: EncoderSection) -> Any:
    """A SiglipModel with random weights."""
    from transformers import SiglipConfig, SiglipModel

    shared = {"hidden_size": section.width, "num_attention_heads": section.heads}
    config = SiglipConfig(
        vision_config={
            **shared,
            "intermediate_size": section.mlp,
            "num_hidden_layers": section.layers,
            "image_size": section.image_size_px,
            "patch_size": 14,
        },
        text_config={
            **shared,
            "intermediate_size": section.text_mlp,
            "num_hidden_layers": section.text_layers,
            "vocab_size": section.vocabulary,
            "projection_size": section.width,
            # transformers' defaults are CLIP's ids
            "pad_token_id": 1,
            "eos_token_id": 1,
            "bos_token_id": 1,
        },
    )
    model = SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(section.initial_logit_scale).log_()
        model.logit_bias.fill_(section.initial_logit_bias)
    return model


def encoder_to_go_on_with(folder: Path, section: EncoderSection) -> Any:
    """The encoder of a former run, in float32.

    Raises:
        ValueError: its sizes are not the section's.
    """
    from transformers import SiglipModel

    former, model = SiglipModel.from_pretrained(folder, dtype=torch.float32), new_encoder(section)
    _demand_same_shapes(former, model, folder)
    model.load_state_dict(former.state_dict())
    return model


def decoder_to_go_on_with(folder: Path, fresh: Any) -> Any:
    """Language model and projector of a former run's decoder into `fresh`, whose vision tower stays.

    Raises:
        ValueError: the sizes differ.
    """
    from transformers import Gemma3ForConditionalGeneration

    former = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    _demand_same_shapes(former, fresh, folder)
    kept = {name: tensor for name, tensor in former.state_dict().items() if "vision_tower" not in name}
    fresh.load_state_dict(kept, strict=False)
    fresh.tie_weights()
    return fresh


def average_with_start(model: Any, folder: Path, share: float) -> None:
    """Give every weight but a decoder's vision tower (1 - share) of its own value and `share` of the one in `folder`.

    Source: WiSE-FT (Wortsman et al., arXiv:2109.01903) §3: what fine-tuning forgot comes back for little of its gain.
    """
    former = type(model).from_pretrained(folder, dtype=torch.float32).state_dict()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "vision_tower" not in name:
                weight.lerp_(former[name].to(weight.device), share)


def blind(model: Any) -> None:
    """Have a decoder see nothing in any picture: what it was shown in training as the text-only control."""
    with torch.no_grad():
        model.model.multi_modal_projector.mm_input_projection_weight.zero_()


def keep_tokenizer(source: Path, names: tuple[str, ...], folder: Path) -> None:
    """Copy a former run's tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(source / name, folder / name)


def decoder_config(section: DecoderSection, tokenizer: Any) -> Any:
    """Gemma3TextConfig of the decoder."""
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=section.width,
        intermediate_size=section.mlp,
        num_hidden_layers=section.layers,
        num_attention_heads=section.heads,
        num_key_value_heads=section.key_value_heads,
        head_dim=section.head_width,
        query_pre_attn_scalar=section.head_width,
        sliding_window=section.sliding_window,
        max_position_embeddings=2048,
        layer_types=["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(section.layers)],
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )


def image_token_ids(tokenizer: Any) -> dict[str, int]:
    """The ids that Gemma3Config wants, looked up in the tokenizer."""
    return {
        "boi_token_index": tokenizer.convert_tokens_to_ids(tokenizer.boi_token),
        "eoi_token_index": tokenizer.convert_tokens_to_ids(tokenizer.eoi_token),
        "image_token_index": tokenizer.convert_tokens_to_ids(tokenizer.image_token),
    }


def save_encoder(encoder: Any, section: EncoderSection, folder: Path) -> None:
    """Write the SiglipModel in bfloat16 with the processor files plain transformers wants."""
    from transformers import SiglipImageProcessorPil

    encoder.to(torch.bfloat16).save_pretrained(folder)
    encoder.to(torch.float32)
    side_px = {"height": section.image_size_px, "width": section.image_size_px}
    SiglipImageProcessorPil(size=side_px, resample=2).save_pretrained(folder)


def save_decoder(model: Any, tokenizer: Any, section: EncoderSection, folder: Path) -> None:
    """Write the Gemma3ForConditionalGeneration in the Hub's layout with its processor."""
    from transformers import Gemma3ImageProcessorPil, Gemma3Processor

    side_px = {"height": section.image_size_px, "width": section.image_size_px}
    model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        turn_tokens(tokenizer).end,
    ]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    save_in_hub_layout(model, folder, torch.bfloat16)
    images = Gemma3ImageProcessorPil(size=side_px, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    images.save_pretrained(folder)
    Gemma3Processor(images, tokenizer, image_seq_length=model.config.mm_tokens_per_image).save_pretrained(folder)
    name_special_tokens(folder)  # the processor has written the tokenizer again
    facts = {"image_seq_length": model.config.mm_tokens_per_image, "processor_class": "Gemma3Processor"}
    (folder / "processor_config.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _demand_same_shapes(former: Any, fresh: Any, folder: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in fresh.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in former.state_dict().items()}
    differing = [name for name in sorted(wanted.keys() | given.keys()) if wanted.get(name) != given.get(name)]
    if differing:
        name = differing[0]
        raise ValueError(
            f"{folder}: {name} has the shape {given.get(name)}, the configuration asks for {wanted.get(name)}; "
            "set the sizes of the run that is gone on with"
        )
