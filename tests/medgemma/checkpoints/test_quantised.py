"""Checkpoints that hold quantised weights: loaded with the right numbers, or refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, Gemma3ForConditionalGeneration

from medgemma.checkpoints.convert import convert
from medgemma.checkpoints.info import inspect
from medgemma.checkpoints.loading import load_network
from medsiglip.encoder import MedSigLIP
from medsiglip.remarks import Remark
from tests import checkpoints

APART = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]
DOWN = "language_model.model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    return checkpoints.write(checkpoints.multimodal(), folder, dtype=torch.bfloat16)


def saved_by_bitsandbytes(base: Path, folder: Path, **bits: Any) -> Path:
    config = BitsAndBytesConfig(**bits, llm_int8_skip_modules=APART)
    placed = {"device_map": {"": "cpu"}, "dtype": torch.bfloat16}
    Gemma3ForConditionalGeneration.from_pretrained(base, quantization_config=config, **placed).save_pretrained(folder)
    return folder


def written(base: Path, folder: Path, quantization: Any, **tensors: torch.Tensor | None) -> Path:
    """A copy whose config says so, with some tensors in the place of others; None leaves one out."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    stored = load_file(base / "model.safetensors") | tensors
    kept = {name: tensor for name, tensor in stored.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_4_bits_give_the_logits_of_plain_transformers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle computes with the bits, in code that not every CPU has; ours runs on every CPU."""
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    folder = saved_by_bitsandbytes(base, tmp_path / "four", **four)
    with pytest.warns(Remark, match=r"quantised by bitsandbytes, 4 bits \(nf4\) are made bfloat16 here: 0.0 GB"):
        ours = load_network(folder, device="cpu")
    found = checkpoints.outputs(ours)
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    stock = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16, device_map={"": "cpu"})
    torch.testing.assert_close(found, checkpoints.outputs(stock), rtol=0, atol=0.05)
    unquantised = checkpoints.outputs(load_network(base, device="cpu", dtype="bfloat16"))
    assert (found - unquantised).abs().max() > 0.2


@pytest.mark.filterwarnings("ignore::medsiglip.remarks.Remark")
def test_8_bits_become_the_floats_they_stand_for(base: Path, tmp_path: Path) -> None:
    folder = saved_by_bitsandbytes(base, tmp_path / "eight", load_in_8bit=True)
    stored = load_file(folder / "model.safetensors")
    network = load_network(folder, device="cpu", dtype="float32")
    for i, layer in enumerate(network.model.language_model.layers):
        name = f"language_model.model.layers.{i}.mlp.down_proj"
        expected = stored[f"{name}.weight"].float() * stored[f"{name}.SCB"][:, None] / 127
        torch.testing.assert_close(layer.mlp.down_proj.weight, expected, rtol=0, atol=4e-3)


@pytest.mark.filterwarnings("ignore::medsiglip.remarks.Remark")
def test_8_bit_floats_with_scales_become_the_floats_they_stand_for(base: Path, tmp_path: Path) -> None:
    """As transformers' own fp8 writes them: a scale for each block of 8 by 8."""
    made: dict[str, torch.Tensor] = {}
    expected = {}
    for name, weight in load_file(base / "model.safetensors").items():
        if name.startswith("language_model.model.layers") and name.endswith("_proj.weight"):
            rows, columns = weight.shape
            blocks = weight.float().reshape(rows // 8, 8, columns // 8, 8)
            scale = blocks.abs().amax((1, 3)) / 448
            made[name] = (blocks / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
            made[f"{name}_scale_inv"] = scale
            back = made[name].float().reshape(rows // 8, 8, columns // 8, 8) * scale[:, None, :, None]
            expected[name] = back.reshape(rows, columns)
    facts = {"quant_method": "fp8", "weight_block_size": [8, 8], "modules_to_not_convert": APART}
    network = load_network(written(base, tmp_path / "fp8", facts, **made), device="cpu", dtype="float32")
    assert inspect(str(tmp_path / "fp8")).quantised == "fp8"
    for i, layer in enumerate(network.model.language_model.layers):
        name = f"language_model.model.layers.{i}.mlp.down_proj.weight"
        torch.testing.assert_close(layer.mlp.down_proj.weight, expected[name], rtol=0, atol=4e-3)


PACKED = {DOWN: None, DOWN.replace("weight", "qweight"): torch.zeros(3, 16, dtype=torch.int32)}
FP8 = {DOWN: torch.zeros(16, 24).to(torch.float8_e4m3fn)}
BITS = {DOWN: torch.zeros(192, 1, dtype=torch.uint8), f"{DOWN}.absmax": torch.zeros(6)}


@pytest.mark.parametrize(
    ("facts", "tensors", "scheme", "reason"),
    [
        ({"quant_method": "gptq", "bits": 4}, PACKED, "gptq, 4 bits", "pip install optimum|gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, PACKED, "awq, 4 bits", "gptqmodel"),
        (
            {"quant_method": "compressed-tensors", "format": "float-quantized"},
            FP8,
            "compressed-tensors, float-",
            "pip ",
        ),
        ({"quant_method": "fp8", "modules_to_not_convert": APART}, FP8, "fp8", "have no scales|missing"),
        ({"quant_method": "ours"}, FP8, "ours", "transformers does not know this scheme"),
        ({}, FP8, r"no scheme that config.json names \(.*down_proj.weight is stored as F8_E4M3\)", ""),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, BITS, r"bitsandbytes, 4 bits \(fp4\)", ""),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_its_scheme_and_what_it_needs(
    base: Path, tmp_path: Path, facts: Any, tensors: dict[str, Any], scheme: str, reason: str
) -> None:
    folder = written(base, tmp_path / "model", facts, **tensors)
    with pytest.raises(
        ValueError, match=f"its weights are quantised by {scheme}.* do not load: .*({reason})"
    ) as caught:
        load_network(folder, device="cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=f"quantised by {scheme}.*, and floats are needed here; give the model as it"):
        convert(folder, tmp_path / "converted")
    found = inspect(str(folder)).quantised
    assert found is not None and found.split(",")[0] in str(caught.value)


def test_quantised_twice_is_refused(base: Path, tmp_path: Path) -> None:
    folder = written(base, tmp_path / "model", {"quant_method": "fp8"}, **FP8)
    with pytest.raises(ValueError, match="quantize 'int8': the weights of .* are quantised by fp8 already"):
        load_network(folder, device="cpu", quantize="int8")


def test_a_quantization_config_that_was_left_over_counts_for_nothing(base: Path, tmp_path: Path) -> None:
    """Floats after a merge: loaded as they are, and written without it."""
    folder = written(base, tmp_path / "model", {"quant_method": "bitsandbytes", "load_in_4bit": True})
    network = load_network(folder, device="cpu", dtype="float32")
    expected = checkpoints.outputs(load_network(base, device="cpu", dtype="float32"))
    assert torch.equal(checkpoints.outputs(network), expected) and inspect(str(folder)).quantised is None
    convert(folder, tmp_path / "converted")
    assert "quantization_config" not in json.loads((tmp_path / "converted" / "config.json").read_text())


def test_a_quantised_encoder_is_refused_by_name(tmp_path: Path) -> None:
    folder = checkpoints.write(checkpoints.siglip(), tmp_path / "siglip")
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    eight = load_file(folder / "model.safetensors") | {name: torch.zeros(20, 12, dtype=torch.int8)}
    save_file(eight, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    facts = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": facts}))
    with pytest.raises(
        ValueError, match="its weights are quantised by bitsandbytes, 8 bits, and floats are needed here"
    ):
        MedSigLIP.from_pretrained(folder, device="cpu")
