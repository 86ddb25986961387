"""Folder to folder: any SigLIP tower in any Gemma 3 decoder, the position table resized, the head dropped."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma3ForConditionalGeneration, SiglipVisionModel

from medgemma.checkpoints.layouts import read_checkpoint
from medgemma.checkpoints.plug import plug_folders
from medsiglip.checkpoints.positions import resized_positions
from tests import checkpoints

TOWER = "vision_tower.vision_model."
PIXELS = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.5, 0.5, 0.5],
    "size": {"height": 28, "width": 28},
    "image_processor_type": "SiglipImageProcessor",
}
TOKENS = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """siglip, vision, decoder, text: folders as they come from the Hub."""
    root = tmp_path_factory.mktemp("plug")
    siglip = checkpoints.siglip(seed=5)
    checkpoints.write(siglip, root / "siglip", lambda name: name)
    vision = SiglipVisionModel(siglip.config.vision_config)
    vision.load_state_dict(siglip.vision_model.state_dict())
    vision.save_pretrained(root / "vision")
    for name in ("siglip", "vision"):
        (root / name / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    checkpoints.write(checkpoints.multimodal(seed=6), root / "decoder")
    text = checkpoints.text_only(seed=7)
    checkpoints.write(text, root / "text", lambda name: None if name == "lm_head.weight" else name)
    added = [{"id": 37 + i, "content": token} for i, token in enumerate(TOKENS)]
    for name in ("decoder", "text"):
        (root / name / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
        (root / name / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3]}))
    return root


def load(folder: Path) -> Any:
    return read_checkpoint(Gemma3ForConditionalGeneration, folder, dtype=torch.float32)


@pytest.mark.parametrize("encoder", ["siglip", "vision"])
@pytest.mark.parametrize("decoder", ["decoder", "text"])
def test_every_tensor_is_the_encoders_or_the_decoders(
    folders: Path, encoder: str, decoder: str, tmp_path: Path
) -> None:
    done = plug_folders(folders / encoder, folders / decoder, tmp_path / "out", image_tokens=4)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    source, text = (load_file(folders / name / "model.safetensors") for name in (encoder, decoder))
    for name, tensor in stored.items():
        if name.startswith(TOWER):
            inner = name.removeprefix(TOWER)
            assert torch.equal(tensor, source.get(f"vision_model.{inner}", source.get(inner))), name  # type: ignore[arg-type]
        elif name.startswith("language_model."):
            assert torch.equal(tensor, text.get(name, text.get(name.removeprefix("language_model.")))), name  # type: ignore[arg-type]
    head = {k: t for k, t in source.items() if k.removeprefix("vision_model.").startswith("head.")}
    assert len(head) == 11 and done.dropped_parameters == sum(t.numel() for t in head.values())
    assert (
        sum(done.parameters.values())
        == sum(t.numel() for t in stored.values())
        == load(tmp_path / "out").num_parameters()
    )
    assert (done.patches_before, done.patches, done.projector) == (4, 4, "new")


@torch.inference_mode()
def test_the_tower_sees_what_the_encoder_sees(folders: Path, tmp_path: Path) -> None:
    plug_folders(folders / "siglip", folders / "decoder", tmp_path / "out")
    pixels = torch.rand(2, 3, 28, 28) * 2 - 1
    theirs = SiglipVisionModel.from_pretrained(folders / "siglip", dtype=torch.float32).eval()
    ours = load(tmp_path / "out").model.vision_tower
    expected = theirs(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(ours(pixel_values=pixels).last_hidden_state, expected, rtol=0, atol=1e-5)
    own = load(folders / "decoder").model.vision_tower  # control: the decoder's own tower
    assert (own(pixel_values=pixels).last_hidden_state - expected).abs().max() > 0.1


@pytest.mark.parametrize(("size_px", "patches"), [(56, 16), (84, 36), (28, 4), (14, 1)])
@torch.inference_mode()
def test_the_position_table_is_resized_as_transformers_does(
    folders: Path, size_px: int, patches: int, tmp_path: Path
) -> None:
    done = plug_folders(folders / "siglip", folders / "text", tmp_path / "out", image_size_px=size_px, image_tokens=1)
    assert done.patches == patches
    pixels = torch.rand(1, 3, size_px, size_px) * 2 - 1
    theirs = SiglipVisionModel.from_pretrained(folders / "siglip", dtype=torch.float32).eval()
    expected = theirs(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
    ours = load(tmp_path / "out").model.vision_tower(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def smooth_table(side: int) -> torch.Tensor:
    """(side², 3): what a learned table looks like, slow waves over the picture."""
    x = (torch.arange(side) + 0.5) / side
    waves = [torch.sin(3 * x)[:, None] + torch.cos(5 * x), torch.cos(4 * x)[:, None] * x, x[:, None] * x]
    return torch.stack(waves, -1).reshape(side * side, -1)


def test_448_to_896_and_back() -> None:
    table = smooth_table(32)
    large = resized_positions(table, 4096)
    assert large.shape == (4096, 3)
    inner = torch.zeros(64, 64, dtype=torch.bool)
    inner[4:-4, 4:-4] = True  # edges have no neighbours to interpolate from
    torch.testing.assert_close(large[inner.flatten()], smooth_table(64)[inner.flatten()], rtol=0, atol=2e-2)
    torch.testing.assert_close(resized_positions(large, 1024), table, rtol=0, atol=2e-2)
    corner = resized_positions(large, 1024).reshape(32, 32, 3).transpose(0, 1).reshape(-1, 3)
    assert (corner - table).abs().max() > 0.5  # control: rows and columns exchanged


def test_a_table_that_fits_is_untouched_and_keeps_its_dtype() -> None:
    table = smooth_table(8).to(torch.bfloat16)
    assert resized_positions(table, 64) is table
    assert resized_positions(table, 256).dtype == torch.bfloat16


@torch.inference_mode()
def test_a_new_projector_makes_image_tokens_as_long_as_text_tokens(folders: Path, tmp_path: Path) -> None:
    plug_folders(folders / "siglip", folders / "decoder", tmp_path / "out", seed=3)
    model = load(tmp_path / "out")
    patches = model.model.vision_tower(pixel_values=torch.rand(8, 3, 28, 28)).last_hidden_state
    images = model.model.multi_modal_projector(patches)
    text = model.get_input_embeddings()(torch.arange(40))
    assert 0.6 < float(images.norm(dim=-1).mean() / text.norm(dim=-1).mean()) < 1.6
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    plug_folders(folders / "siglip", folders / "decoder", tmp_path / "again", seed=3)
    plug_folders(folders / "siglip", folders / "decoder", tmp_path / "other", seed=4)
    again, other = (load(tmp_path / n).model.multi_modal_projector for n in ("again", "other"))
    assert torch.equal(projection, again.mm_input_projection_weight)
    assert not torch.equal(projection, other.mm_input_projection_weight)


def test_a_tower_put_back_with_its_projector_is_the_model_it_came_from(folders: Path, tmp_path: Path) -> None:
    decoder = tmp_path / "decoder"
    shutil.copytree(folders / "decoder", decoder)
    shutil.copy(folders / "siglip" / "preprocessor_config.json", decoder)
    shutil.copytree(decoder, tmp_path / "tower")
    done = plug_folders(tmp_path / "tower", decoder, tmp_path / "out", keep_projector=True)
    assert done.projector == "kept" and done.dropped_parameters == 0
    ours, theirs = checkpoints.outputs(load(tmp_path / "out")), checkpoints.outputs(load(folders / "decoder"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_config_and_processor_of_the_result(folders: Path, tmp_path: Path) -> None:
    decoder = tmp_path / "text"
    shutil.copytree(folders / "text", decoder)
    (decoder / "preprocessor_config.json").write_text(json.dumps({**PIXELS, "resample": 2, "image_mean": [0.5] * 3}))
    plug_folders(folders / "siglip", decoder, tmp_path / "out", image_size_px=56, image_tokens=4, dtype="bfloat16")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["boi_token_index"], config["eoi_token_index"], config["image_token_index"]) == (37, 38, 39)
    assert (config["model_type"], config["mm_tokens_per_image"], config["dtype"]) == ("gemma3", 4, "bfloat16")
    assert config["vision_config"]["image_size"] == 56 and config["vision_config"]["vision_use_head"] is False
    assert config["text_config"]["rope_scaling"]["factor"] == 8.0
    pixels = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert pixels["size"] == {"height": 56, "width": 56} and pixels["image_mean"] == [0.4, 0.5, 0.6]
    assert pixels["resample"] == 3 and pixels["image_processor_type"] == "Gemma3ImageProcessor"
    processor = json.loads((tmp_path / "out" / "processor_config.json").read_text())
    assert processor["image_seq_length"] == 4 and processor["image_processor"] == pixels
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [1, 3]


# Refusals


def refused(folders: Path, out: Path, encoder: str, decoder: str, message: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        plug_folders(folders / encoder, folders / decoder, out, **options)
    assert not out.exists()


def test_what_does_not_fit_is_refused(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(folders, out, "siglip", "decoder", "a 2x2 patch grid cannot be pooled to 9 tokens", image_tokens=9)
    refused(folders, out, "siglip", "text", "a 2x2 patch grid cannot be pooled to 256 tokens")
    refused(folders, out, "siglip", "decoder", "image size 30: not a multiple of .* patch size 14", image_size_px=30)
    refused(folders, out, "siglip", "siglip", "model_type 'siglip', expected gemma3 or gemma3_text")
    refused(folders, out, "text", "decoder", "model_type 'gemma3_text', which has no vision tower")
    refused(folders, out, "siglip", "text", "has no projector to keep", image_tokens=4, keep_projector=True)
    refused(folders, out, "decoder", "text", "no preprocessor_config.json; the right pixels", image_tokens=4)


def test_a_tokenizer_or_embeddings_without_image_tokens(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "text", tmp_path / "text")
    shutil.copytree(folders / "siglip", tmp_path / "siglip")
    tokenizer = tmp_path / "text" / "tokenizer.json"
    added = [{"id": 37 + i, "content": token} for i, token in enumerate(TOKENS)]
    tokenizer.write_text(json.dumps({"added_tokens": added[:2]}))
    refused(tmp_path, tmp_path / "out", "siglip", "text", "its tokenizer has no <image_soft_token>", image_tokens=4)
    added[2]["id"] = 40
    tokenizer.write_text(json.dumps({"added_tokens": added}))
    refused(tmp_path, tmp_path / "out", "siglip", "text", "image token 40 is past its 40 embeddings", image_tokens=4)
    tokenizer.unlink()
    refused(tmp_path, tmp_path / "out", "siglip", "text", "no tokenizer.json there", image_tokens=4)


def test_a_projector_of_another_width_is_not_kept(folders: Path, tmp_path: Path) -> None:
    config = json.loads((folders / "siglip" / "config.json").read_text())
    wider = {**config["vision_config"], "hidden_size": 24}
    from transformers import SiglipVisionConfig

    SiglipVisionModel(SiglipVisionConfig(**wider)).save_pretrained(tmp_path / "wider")
    with pytest.raises(ValueError, match="projector is for a tower of width 12, the encoder's is 24"):
        plug_folders(tmp_path / "wider", folders / "decoder", tmp_path / "out", keep_projector=True)
