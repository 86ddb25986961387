"""The commands convert, merge and plug: what they write loads, what they refuse is one line."""

import json
from pathlib import Path

import pytest
import torch
from transformers import Gemma3ForConditionalGeneration

from medgemma.commands.checkpoint import num_bytes
from medsiglip.checkpoints.safetensors_files import stored_tensors
from tests import checkpoints
from tests.medgemma.conftest import Command

PEFT = Path(__file__).parents[1] / "peft"


def load(folder: Path) -> torch.Tensor:
    model = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return checkpoints.outputs(model)


def test_convert(command: Command, tmp_path: Path) -> None:
    model = checkpoints.multimodal()
    source = checkpoints.write(model, tmp_path / "source", checkpoints.newer_file)
    done = command("convert", source, tmp_path / "out", "--shard-size", "20KB", "--quiet")
    assert done.returncode == 0, done.stderr
    assert len({t.file for t in stored_tensors(tmp_path / "out").values()}) > 2
    torch.testing.assert_close(load(tmp_path / "out"), checkpoints.outputs(model), rtol=0, atol=1e-5)
    again = command("convert", source, tmp_path / "out", "--quiet")
    assert again.returncode == 1 and "holds files already" in again.stderr and again.stderr.count("\n") == 1
    half = command("convert", source, tmp_path / "out", "--overwrite", "--dtype", "bfloat16", "--quiet")
    assert half.returncode == 0, half.stderr
    assert {t.dtype for t in stored_tensors(tmp_path / "out").values()} == {"BF16"}
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["model.safetensors"]


def test_merge(command: Command, tmp_path: Path) -> None:
    done = command("merge", PEFT / "base", PEFT / "all-linear", "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "20 weights updated" in done.stdout and "trained on some/base" in done.stderr
    expected = torch.tensor(json.loads((PEFT / "logits.json").read_text())["all-linear"])
    torch.testing.assert_close(load(tmp_path / "out")[0, -2:], expected, rtol=0, atol=2e-5)
    apart = command("merge", PEFT / "base", PEFT / "low-rank-head", "--out", tmp_path / "apart", "--quiet")
    assert "tie_word_embeddings: false" in apart.stderr
    other = checkpoints.write(checkpoints.multimodal(), tmp_path / "other")
    refused = command("merge", other, PEFT / "all-linear", "--out", tmp_path / "refused", "--quiet")
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("error: adapter") and not (tmp_path / "refused").exists()


def test_several_adapters_want_slerp(command: Command, tmp_path: Path) -> None:
    arguments = ("merge", PEFT / "base", PEFT / "all-linear", PEFT / "vision", "--out", tmp_path / "out", "--quiet")
    refused = command(*arguments)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "want --slerp" in refused.stderr
    done = command(*arguments, "--slerp", "--toward-base", "0.5")
    assert done.returncode == 0, done.stderr
    assert "2 versions" in done.stdout and load(tmp_path / "out").isfinite().all()


def test_plug(command: Command, tmp_path: Path) -> None:
    siglip = checkpoints.write(checkpoints.siglip(), tmp_path / "siglip", lambda name: name)
    pixels = {"size": {"height": 28, "width": 28}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (siglip / "preprocessor_config.json").write_text(json.dumps(pixels))
    decoder = checkpoints.write(checkpoints.multimodal(), tmp_path / "decoder")
    arguments = ("plug", "--encoder", siglip, "--decoder", decoder, "--out", tmp_path / "out", "--quiet")
    done = command(*arguments, "--image-size", 56)
    assert done.returncode == 0, done.stderr
    for line in ("position table\t4 to 16 patches", "projector\tnew; train it", "  vision tower\t", "pooling head\t"):
        assert line in done.stdout
    model = Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert f"parameters\t{model.num_parameters():,}" in done.stdout
    again = command(*arguments)
    assert again.returncode == 1 and "holds files already" in again.stderr


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5_000_000_000), ("500 mb", 500_000_000), ("1.5GiB", 1_610_612_736), ("100", 100), ("2KiB", 2048)],
)
def test_sizes(text: str, size: int) -> None:
    assert num_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "five GB", "-1GB", "0", "1e3MB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="give a number and a unit, such as 5GB or 500MB"):
        num_bytes(text)
