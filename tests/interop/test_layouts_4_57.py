"""Folders of ours in transformers 4.57, and its folders here: equal logits, for every kind of model."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from medgemma.checkpoints.convert import convert
from medgemma.checkpoints.info import inspect
from medgemma.checkpoints.layouts import read_checkpoint, save_in_hub_layout
from medsiglip.checkpoints.weights import load_strictly
from tests import checkpoints

SCRIPT = Path(__file__).with_name("outputs_with_transformers.py")
Make = Callable[[], Any]


def vision_tower() -> Any:
    return checkpoints.lively(transformers.SiglipVisionModel(checkpoints.siglip().config.vision_config), 4)


def text_tower() -> Any:
    return checkpoints.lively(transformers.SiglipTextModel(checkpoints.siglip().config.text_config), 4)


MODELS: list[Make] = [checkpoints.multimodal, checkpoints.text_only, checkpoints.siglip, vision_tower, text_tower]


def in_4_57(model: Any, folder: Path, saved: Path) -> dict[str, Any]:
    """What 4.57 makes of a folder; it also saves it again, and its memory, under `saved`."""
    saved.mkdir()
    inputs = {name: value.tolist() for name, value in checkpoints.inputs(type(model).__name__).items()}
    command = [os.environ["INTEROP_PYTHON"], str(SCRIPT), type(model).__name__, str(folder), str(saved)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, input=json.dumps(inputs), capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["version"].startswith("4.57.")
    return result


def load(model: Any, folder: Path) -> Any:
    if type(model).__name__.startswith("Gemma3"):
        return read_checkpoint(type(model), folder, dtype=torch.float32)
    return load_strictly(type(model), folder, dtype=torch.float32)


def close(theirs: Any, model: Any) -> None:
    torch.testing.assert_close(torch.tensor(theirs), checkpoints.outputs(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_saved_by_us_and_saved_by_4_57(make: Make, tmp_path: Path) -> None:
    model = make()
    save_in_hub_layout(model, tmp_path / "ours", torch.float32, max_shard_bytes=20_000)
    theirs = in_4_57(model, tmp_path / "ours", tmp_path / "theirs")
    assert not any(theirs["report"].values()), theirs["report"]
    close(theirs["outputs"], model)
    for form in ("file", "memory"):
        close(theirs["outputs"], load(model, tmp_path / "theirs" / form))
        convert(tmp_path / "theirs" / form, tmp_path / f"converted {form}")
        assert inspect(str(tmp_path / f"converted {form}")).layout == "hub"
        close(theirs["outputs"], load(model, tmp_path / f"converted {form}"))
    if make is checkpoints.multimodal:
        assert set(theirs["memory"]) == {checkpoints.older_memory(name) for name in model.state_dict()}
        assert inspect(str(tmp_path / "theirs" / "file")).layout == "hub"
        assert inspect(str(tmp_path / "theirs" / "memory")).layout == "transformers 4.52 to 4.57, in memory"


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_saved_by_5_is_converted_for_4_57(make: Make, tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path / "5")
    convert(tmp_path / "5", tmp_path / "hub")
    theirs = in_4_57(model, tmp_path / "hub", tmp_path / "theirs")
    assert not any(theirs["report"].values()), theirs["report"]
    close(theirs["outputs"], model)


def test_without_us_4_57_reads_a_folder_of_5_wrong(tmp_path: Path) -> None:
    """Control, the two traps: the tower is random, and the RoPE factor is lost."""
    model = checkpoints.multimodal()
    model.save_pretrained(tmp_path / "5")
    theirs = in_4_57(model, tmp_path / "5", tmp_path / "theirs")
    assert any("vision_tower" in key for key in theirs["report"]["missing_keys"])
    text = checkpoints.text_only()
    text.save_pretrained(tmp_path / "text")
    lost = in_4_57(text, tmp_path / "text", tmp_path / "theirs text")
    assert not any(lost["report"].values())  # not a word of warning
    assert (torch.tensor(lost["outputs"]) - checkpoints.outputs(text)).abs().max() > 0.1


def test_a_head_trained_apart_in_4_57(tmp_path: Path) -> None:
    config = checkpoints.multimodal().config
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    model = checkpoints.lively(transformers.Gemma3ForConditionalGeneration(config), 2)
    save_in_hub_layout(model, tmp_path / "ours", torch.float32)
    theirs = in_4_57(model, tmp_path / "ours", tmp_path / "theirs")
    assert not any(theirs["report"].values()), theirs["report"]
    close(theirs["outputs"], model)
    close(theirs["outputs"], load(model, tmp_path / "theirs" / "file"))
