"""Adapters that PEFT wrote, merged without PEFT: the logits PEFT gives unmerged; every tensor accounted for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForConditionalGeneration

from medgemma.checkpoints.adapters.merge import Merged, merge
from medgemma.checkpoints.layouts import read_checkpoint
from tests import checkpoints

PEFT = Path(__file__).parents[2] / "peft"
BASE = PEFT / "base"
EXPECTED = json.loads((PEFT / "logits.json").read_text())
ADAPTERS = sorted(name for name in EXPECTED if name != "base")
Edit = Callable[[dict[str, torch.Tensor], dict[str, Any]], Any]


def logits(folder: Path) -> torch.Tensor:
    model = read_checkpoint(Gemma3ForConditionalGeneration, folder, dtype=torch.float32)
    return checkpoints.outputs(model)[0, -2:]


def expected(name: str) -> torch.Tensor:
    return torch.tensor(EXPECTED[name])


def stored(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors.update(load_file(file))
    return tensors


def changed(folder: Path) -> set[str]:
    before, after = stored(BASE), stored(folder)
    return {name for name in after if name not in before or not torch.equal(after[name], before[name])}


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """A copy of an adapter whose tensors and settings were changed in place."""

    def make(name: str, edit: Edit) -> Path:
        folder = tmp_path / f"edited {name}"
        shutil.copytree(PEFT / name, folder)
        tensors, config = stored(folder), json.loads((folder / "adapter_config.json").read_text())
        edit(tensors, config)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder

    return make


def test_the_base_gives_the_logits_it_gave_when_the_adapters_were_made() -> None:
    torch.testing.assert_close(logits(BASE), expected("base"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_is_unmerged(name: str, tmp_path: Path) -> None:
    merge(BASE, PEFT / name, tmp_path / "out")
    torch.testing.assert_close(logits(tmp_path / "out"), expected(name), rtol=0, atol=2e-5)
    assert (expected(name) - expected("base")).abs().max() > 0.1  # the adapter does something


def test_only_the_targets_change(tmp_path: Path) -> None:
    assert merge(BASE, PEFT / "one-layer", tmp_path / "one") == Merged(1, 0, 51, False, "some/base")
    assert changed(tmp_path / "one") == {"language_model.model.layers.1.self_attn.q_proj.weight"}
    merge(BASE, PEFT / "vision", tmp_path / "vision")
    layer = "vision_tower.vision_model.encoder.layers.0"
    modules = [f"{layer}.self_attn.out_proj", f"{layer}.mlp.fc1", f"{layer}.mlp.fc2"]
    modules += ["vision_tower.vision_model.embeddings.patch_embedding"]
    assert changed(tmp_path / "vision") == {f"{m}.{kind}" for m in modules for kind in ("weight", "bias")}


def test_the_result_is_a_hub_folder_like_its_base(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    merge(tmp_path / "base", PEFT / "all-linear", tmp_path / "out")
    assert stored(tmp_path / "out").keys() == stored(BASE).keys()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


def test_head_and_embeddings_trained_apart_stay_apart(tmp_path: Path) -> None:
    """A tied head would give other logits: the control ties it again."""
    done = merge(BASE, PEFT / "head-and-embeddings", tmp_path / "out")
    assert done.head_apart and done.replaced == 2
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False and config["text_config"]["tie_word_embeddings"] is False
    tensors = stored(tmp_path / "out")
    del tensors["language_model.lm_head.weight"]
    checkpoints.write_tensors(tensors, tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text(
        json.dumps(
            {
                **config,
                "tie_word_embeddings": True,
                "text_config": {**config["text_config"], "tie_word_embeddings": True},
            }
        )
    )
    assert (logits(tmp_path / "out") - expected("head-and-embeddings")).abs().max() > 0.1


@pytest.mark.parametrize("name", ["head-tied-to-embeddings", "all-linear"])
def test_a_head_that_is_the_embeddings_is_not_stored(name: str, tmp_path: Path) -> None:
    assert not merge(BASE, PEFT / name, tmp_path / "out").head_apart
    assert "language_model.lm_head.weight" not in stored(tmp_path / "out")


@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
def test_base_and_adapter_of_any_transformers_version(layout: str, edited: Callable[..., Path], tmp_path: Path) -> None:
    base = checkpoints.multimodal(text_layers=2, vision_layers=1)
    base.load_state_dict(read_checkpoint(Gemma3ForConditionalGeneration, BASE, dtype=torch.float32).state_dict())
    rename = checkpoints.LAYOUTS[layout]

    def in_layout(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        for name in list(tensors):
            inner = name.removeprefix("base_model.model.")
            tensors[f"base_model.model.{rename(inner)}"] = tensors.pop(name)

    folder = checkpoints.write(base, tmp_path / "base", rename, shards=2)
    merge(folder, edited("all-linear", in_layout), tmp_path / "out")
    torch.testing.assert_close(logits(tmp_path / "out"), expected("all-linear"), rtol=0, atol=2e-5)


def test_the_sum_is_rounded_once(tmp_path: Path) -> None:
    merge(BASE, PEFT / "all-linear", tmp_path / "whole")
    merge(BASE, PEFT / "all-linear", tmp_path / "half", dtype="bfloat16")
    whole, half = stored(tmp_path / "whole"), stored(tmp_path / "half")
    base = {name: tensor.to(torch.bfloat16) for name, tensor in stored(BASE).items()}
    updated = changed(tmp_path / "whole")
    for name, tensor in half.items():
        assert tensor.dtype == torch.bfloat16
        exact = whole[name].to(torch.bfloat16) if name in updated else base[name]
        assert torch.equal(tensor, exact), name


# Refusals


def refused(adapter: Path, out: Path, message: str, base: Path = BASE) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        merge(base, adapter, out)
    assert "\n" not in str(caught.value)
    assert not out.exists() and not list(out.parent.glob("*.partial"))


def test_an_adapter_for_another_base(tmp_path: Path, edited: Callable[..., Path]) -> None:
    wider = checkpoints.multimodal(text_layers=2, vision_layers=2)
    refused(
        PEFT / "all-linear",
        tmp_path / "out",
        r"6 target modules have no update: vision_tower.vision_model.encoder.layers.1.* another base, or incomplete",
        checkpoints.write(wider, tmp_path / "base"),
    )
    shallower = checkpoints.multimodal(text_layers=1, vision_layers=1)
    refused(
        PEFT / "patterns",
        tmp_path / "out",
        r"layers.1.* changes nothing that the base holds; the adapter is for another base",
        checkpoints.write(shallower, tmp_path / "shallower"),
    )
    text_base = checkpoints.write(checkpoints.text_only(), tmp_path / "text", lambda n: None if "lm_head" in n else n)
    refused(PEFT / "patterns", tmp_path / "out", "changes nothing that the base holds", text_base)


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        (
            "all-linear",
            lambda tensors, config: tensors.update(
                {k: v[:, :5].clone() for k, v in tensors.items() if "o_proj.lora_A" in k}
            ),
            r"o_proj makes an update of \(16, 5\), the base's weight is \(16, 16\); the adapter is for another base",
        ),
        (
            "all-linear",
            lambda tensors, config: [tensors.pop(k) for k in list(tensors) if "layers.0.mlp.up_proj.lora_B" in k],
            "layers.0.mlp.up_proj has only one factor of its update",
        ),
        (
            "all-linear",
            lambda tensors, config: [tensors.pop(k) for k in list(tensors) if "layers.0.mlp.up_proj" in k],
            "1 target modules have no update: language_model.model.layers.0.mlp.up_proj;",
        ),
        (
            "all-linear",
            lambda tensors, config: tensors.update({"base_model.model.model.audio_tower.weight": torch.zeros(1)}),
            "audio_tower.weight changes nothing that the base holds",
        ),
        (
            "all-linear",
            lambda tensors, config: tensors.update({"stray": torch.zeros(1)}),
            "stray does not start with base_model.model.",
        ),
        ("all-linear", lambda tensors, config: config.update(r=3), "has rank 2, adapter_config.json says 3"),
        (
            "all-linear",
            lambda tensors, config: config["target_modules"].append("qkv_proj"),
            "nothing for target module qkv_proj",
        ),
        (
            "projector",
            lambda tensors, config: [tensors.pop(k) for k in list(tensors) if "multi_modal_projector" in k],
            "nothing for multi_modal_projector of modules_to_save",
        ),
        (
            "head-and-embeddings",
            lambda tensors, config: tensors.update({k: v[:-1].clone() for k, v in tensors.items() if "lm_head" in k}),
            r"lm_head.weight is \(39, 16\), expected \(40, 16\); the adapter is for another base",
        ),
        ("dora", lambda tensors, config: config.update(use_dora=False), "disagree about use_dora"),
        ("all-linear", lambda tensors, config: config.update(use_dora=True), "disagree about use_dora"),
        ("all-linear", lambda tensors, config: config.update(peft_type="IA3"), "peft_type 'IA3'; only LORA"),
        ("all-linear", lambda tensors, config: config.update(lora_bias=True), r"\(lora_bias\); merge it with PEFT"),
        ("all-linear", lambda tensors, config: config.update(init_lora_weights="pissa"), "changed the base's weights"),
        (
            "all-linear",
            lambda tensors, config: next(v for k, v in tensors.items() if "fc1.lora_A" in k).fill_(float("nan")),
            "NaN or infinity in base_model.model.model.vision_tower.*fc1.lora_A.weight",
        ),
    ],
)
def test_an_adapter_that_is_not_whole_or_not_understood(
    name: str, edit: Edit, message: str, edited: Callable[..., Path], tmp_path: Path
) -> None:
    refused(edited(name, edit), tmp_path / "out", message)


def test_a_folder_that_is_no_adapter(edited: Callable[..., Path], tmp_path: Path) -> None:
    refused(BASE, tmp_path / "out", "no adapter_config.json there; give the folder that PEFT's save_pretrained wrote")
    pickled = edited("dora", lambda tensors, config: None)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    refused(pickled, tmp_path / "out", "no adapter_model.safetensors there; pickled weights are never loaded")
    cut = PEFT / "dora" / "adapter_model.safetensors"
    (pickled / "adapter_model.safetensors").write_bytes(cut.read_bytes()[:-1])
    refused(pickled, tmp_path / "out", "adapter_model.safetensors: weights do not load")


def test_a_folder_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files already; give a new folder, or --overwrite"):
        merge(BASE, PEFT / "dora", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(ValueError, match="is where the weights are read from"):
        merge(BASE, PEFT / "dora", BASE, overwrite=True)
