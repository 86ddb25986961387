"""What is written has the Hub's keys and loads in plain transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from medgemma import MedGemma
from medgemma.checkpoints.layouts import hub_layout, save_in_hub_layout


def hub_keys(text_layers: int, vision_layers: int) -> set[str]:
    """The keys of google/medgemma-4b-it's index, for other numbers of layers."""
    text = ["embed_tokens.weight", "norm.weight"]
    attention, norms = (
        ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"),
        ("gate_proj", "up_proj", "down_proj"),
    )
    for i in range(text_layers):
        text += [f"layers.{i}.self_attn.{name}.weight" for name in attention]
        text += [f"layers.{i}.mlp.{name}.weight" for name in norms]
        text += [
            f"layers.{i}.{name}_layernorm.weight"
            for name in ("input", "post_attention", "pre_feedforward", "post_feedforward")
        ]
    vision = ["embeddings.position_embedding.weight"]
    modules = ["embeddings.patch_embedding", "post_layernorm"]
    for i in range(vision_layers):
        modules += [f"encoder.layers.{i}.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")]
        modules += [f"encoder.layers.{i}.{name}" for name in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")]
    vision += [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    return {
        *(f"language_model.model.{key}" for key in text),
        *(f"vision_tower.vision_model.{key}" for key in vision),
        "multi_modal_projector.mm_input_projection_weight",
        "multi_modal_projector.mm_soft_emb_norm.weight",
    }


def test_the_number_of_keys_is_medgemma_4bs() -> None:
    assert len(hub_keys(text_layers=34, vision_layers=27)) == 883  # its model.safetensors.index.json


def test_saved_keys_are_the_hubs(tiny_folder: Path) -> None:
    with safe_open(tiny_folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == hub_keys(text_layers=7, vision_layers=2)
        assert file.metadata() == {"format": "pt"}


def test_plain_transformers_loads_it_whole_with_equal_logits(
    gemma: MedGemma, images: list[Any], tmp_path: Path
) -> None:
    from transformers import Gemma3ForConditionalGeneration

    save_in_hub_layout(gemma.model, tmp_path, torch.float32)
    loaded, report = Gemma3ForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = loaded.state_dict()
    assert state.keys() == gemma.model.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in gemma.model.state_dict().items())
    prompt = gemma.prompt([{"role": "user", "content": [{"type": "image"}]}], 1)
    inputs = {
        "input_ids": torch.tensor([prompt.input_ids]),
        "token_type_ids": torch.tensor([prompt.token_type_ids]),
        "pixel_values": torch.rand(1, 3, 56, 56),
    }
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(**inputs).logits, gemma.model(**inputs).logits)


def test_older_in_memory_keys_become_the_hubs_too(gemma: MedGemma) -> None:
    """transformers 4.52 to 4.57 keep the inner `vision_model`."""
    now = gemma.model.state_dict()
    older = {key.replace("model.vision_tower.", "model.vision_tower.vision_model."): t for key, t in now.items()}
    assert hub_layout(older).keys() == hub_layout(now).keys() == hub_keys(text_layers=7, vision_layers=2)


def test_an_unknown_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="tensor model.audio_tower.weight is no part of a model of type gemma3"):
        hub_layout({"model.audio_tower.weight": torch.zeros(1)})


def test_a_failed_save_keeps_the_old_weights(gemma: MedGemma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_in_hub_layout(gemma.model, tmp_path, torch.bfloat16)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full_disk(_: Any) -> Any:
        raise OSError("no space left on device")

    monkeypatch.setattr("medsiglip.checkpoints.safetensors_files._bytes_of", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_in_hub_layout(gemma.model, tmp_path, torch.bfloat16)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))
