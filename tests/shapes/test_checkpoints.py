"""Adapters, convert, merge and plug on nano in every clothing; what they write, plain transformers reads alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medgemma import MedGemma
from medgemma.asking import AnswerOptions
from tests.shapes.conftest import Plain, command, question

ASKED = "Which imaging modality is this?"
LAYER = "language_model.layers.5.mlp.down_proj"
Shapes = Callable[[str], Path]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Turns the last layer's down_proj over and adds a little, as PEFT writes it; the same for every clothing."""
    from medgemma.nano import NANO_FOLDER

    folder = tmp_path_factory.mktemp("adapter")
    weight = load_file(NANO_FOLDER / "model.safetensors")["language_model.model.layers.5.mlp.down_proj.weight"]
    left, lengths, right = torch.linalg.svd(weight.float(), full_matrices=False)
    names = [f"base_model.model.model.{LAYER}.lora_{part}.weight" for part in "AB"]
    tensors = dict(zip(names, [(lengths[:, None] * right).contiguous(), -left.contiguous()], strict=True))
    save_file(tensors, folder / "adapter_model.safetensors")
    rank = len(lengths)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": [f"model.{LAYER}"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    return lambda *arguments: command("medgemma", arguments, monkeypatch, capsys)


def plainly(folder: Path) -> Plain:
    from transformers import AutoProcessor, Gemma3ForConditionalGeneration

    network = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return Plain(network, AutoProcessor.from_pretrained(folder))


def test_an_adapter_answers_as_its_merge_does_in_transformers(
    shape: str, shapes: Shapes, load: Callable[[str], MedGemma], adapter: Path, films: list[Path], tmp_path: Path,
    run: Callable[..., Any],
) -> None:  # fmt: skip
    gemma = load(shape)
    if "turned" not in gemma.engine.adapters.names:
        gemma.load_adapter(adapter, "turned")
    [ours] = gemma.ask(films[0], ASKED, max_new_tokens=8, options=AnswerOptions(adapter="turned"))
    done = run("merge", shapes(shape), adapter, "--out", tmp_path / "merged", "--dtype", "float32", "--quiet")
    assert done.returncode == 0, done.err
    theirs = plainly(tmp_path / "merged")
    said = theirs.said(question(ASKED, films[0]), 8)
    assert ours.text == theirs.processor.tokenizer.decode(said, skip_special_tokens=True).strip()
    assert ours.text != gemma.ask(films[0], ASKED, max_new_tokens=8)[0].text  # control: the adapter does something


def test_what_is_converted_answers_the_same_in_transformers(
    shape: str, shapes: Shapes, load_plain: Callable[[str], Plain], films: list[Path], tmp_path: Path,
    run: Callable[..., Any],
) -> None:  # fmt: skip
    done = run("convert", shapes(shape), tmp_path / "out", "--shard-size", "100MB", "--quiet")
    assert done.returncode == 0, done.err
    asked = question(ASKED, films[0])
    assert plainly(tmp_path / "out").said(asked, 8) == load_plain(shape).said(asked, 8)
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()  # transformers 4.57 reads no other
    keys = {key for file in (tmp_path / "out").glob("*.safetensors") for key in load_file(file)}
    assert "vision_tower.vision_model.post_layernorm.weight" in keys and len(keys) == 183


@pytest.mark.parametrize("encoder", ["medsiglip nano", "medsiglip nano saved"])
@pytest.mark.parametrize("shape", ["hub", "hub saved"])
def test_towers_are_plugged_into_decoders(
    shape: str, encoder: str, shapes: Shapes, films: list[Path], tmp_path: Path, run: Callable[..., Any]
) -> None:
    parts = ("--encoder", shapes(encoder), "--decoder", shapes(shape))
    done = run("plug", *parts, "--out", tmp_path / "out", "--keep-projector", "--quiet")
    assert done.returncode == 0, done.err
    gemma, theirs = MedGemma.from_pretrained(tmp_path / "out", dtype="float32"), plainly(tmp_path / "out")
    [answer] = gemma.ask(films[0], ASKED, max_new_tokens=8)
    said = theirs.said(question(ASKED, films[0]), 8)
    assert answer.text == theirs.processor.tokenizer.decode(said, skip_special_tokens=True).strip()
