"""Adapters as others write them: every tensor finds its weight, or the adapter is refused; none answers as the base."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForConditionalGeneration

from medgemma import MedGemma
from medgemma.checkpoints.adapters.merge import merge
from medgemma.checkpoints.layouts import read_checkpoint
from medgemma.engine.adapters import Adapters
from medsiglip.remarks import Remark
from tests import checkpoints, tiny

MODULES = ("q_proj", "v_proj")
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three decoder layers and a tower of one layer, whose attention has q_proj and v_proj too."""
    model = checkpoints.multimodal(text_layers=3, vision_layers=1)
    return checkpoints.write(model, tmp_path_factory.mktemp("base"))


def updates(base: Path, prefix: str, layers: Iterable[int] = range(3), inner: str = "", tower: str = "") -> Tensors:
    """Factors of rank 2, the same for the same layer under any name."""
    stored = load_file(base / "model.safetensors")
    hub = {f"{prefix}layers.{i}.self_attn.": f"language_model.model.layers.{i}.self_attn." for i in layers}
    if tower:
        hub[f"{tower}layers.0.self_attn."] = "vision_tower.vision_model.encoder.layers.0.self_attn."
    made = {}
    for name, key in hub.items():
        for module in MODULES:
            drawn = torch.Generator().manual_seed(len(key) + ord(key[-12]) + len(module) + ord(module[0]))
            out, into = stored[f"{key}{module}.weight"].shape
            for factor, shape in (("lora_A", (2, into)), ("lora_B", (out, 2))):
                made[f"base_model.model.{name}{module}.{factor}{inner}.weight"] = torch.randn(shape, generator=drawn)
    return made


def adapter(folder: Path, tensors: Tensors, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    facts = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": list(MODULES), **config}
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    return folder


def read(folder: Path) -> Any:
    return read_checkpoint(Gemma3ForConditionalGeneration, folder, dtype=torch.float32)


NAMES: dict[str, Callable[[Path], Tensors]] = {
    "transformers 5": lambda base: updates(base, "model.language_model."),
    "transformers 4.50": lambda base: updates(base, "language_model.model."),
    "text alone": lambda base: updates(base, "model."),
    "inner name": lambda base: updates(base, "model.language_model.", inner=".default"),
    "another inner name": lambda base: updates(base, "model.", inner=".my-adapter_2"),
    "half and half": lambda base: {**updates(base, "model.", [0]), **updates(base, "model.language_model.", [1, 2])},
}


@pytest.mark.filterwarnings("ignore::medsiglip.remarks.Remark")
@pytest.mark.parametrize("names", NAMES)
def test_names_of_every_kind_make_the_sum_made_by_hand(base: Path, tmp_path: Path, names: str) -> None:
    folder = adapter(tmp_path / "adapter", NAMES[names](base))
    merge(base, folder, tmp_path / "merged")
    plain, merged = (load_file(path / "model.safetensors") for path in (base, tmp_path / "merged"))
    factors = updates(base, "language_model.model.")
    for key, weight in plain.items():
        module = f"base_model.model.{key.removesuffix('.weight')}"
        a, b = (factors.get(f"{module}.{factor}.weight") for factor in ("lora_A", "lora_B"))
        expected = weight if a is None or b is None else weight + 6 / 2 * b @ a
        torch.testing.assert_close(merged[key], expected, rtol=0, atol=1e-5)
    model = read(base)
    adapters = Adapters(model)
    adapters.load("one", folder)
    with adapters.using("one"):
        active = checkpoints.outputs(model)
    torch.testing.assert_close(active, checkpoints.outputs(read(tmp_path / "merged")), rtol=0, atol=2e-5)


def test_a_plain_list_and_an_untouched_tower_is_said(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", updates(base, "model.language_model."))
    with pytest.warns(Remark, match="name 2 layers of the vision tower and projector too, and it changes none; it is"):
        merge(base, folder, tmp_path / "merged")


def refused(base: Path, folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge(base, folder, folder / "merged")
    with pytest.raises(ValueError, match=message):
        Adapters(read(base)).load("one", folder)


V5, TOWER = "model.language_model.", "model.vision_tower.encoder."
REGEX = r".*language_model.*self_attn\.(q_proj|v_proj)"
LOST = "2 target modules have no update: language_model.model.layers.2.self_attn.[qv]_proj, language_"
TOWER_LOST = "2 target modules have no update: vision_tower.vision_model.encoder.layers.0"


@pytest.mark.parametrize(
    ("prefix", "config", "message"),
    [
        (V5, {"target_modules": REGEX}, LOST),
        ("language_model.model.", {"target_modules": REGEX}, LOST),
        ("model.", {"target_modules": r"model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"}, LOST),
        ("model.", {}, LOST),
        (V5, {"layers_to_transform": [1, 2]}, LOST),
        (V5, {"layers_to_transform": 2}, LOST),
        (V5, {"layers_to_transform": [2], "layers_pattern": "layers"}, LOST),
        (V5, {"exclude_modules": r".*vision_tower.*"}, LOST),
        (
            V5,
            {"target_modules": "all-linear"},
            "target modules have no update: language_model.model.layers.0.self_attn.k",
        ),
    ],
)
def test_lost_layers_are_refused_however_the_targets_are_named(
    base: Path, tmp_path: Path, prefix: str, config: dict[str, Any], message: str
) -> None:
    refused(base, adapter(tmp_path / "adapter", updates(base, prefix, [0, 1]), **config), message)


def test_a_lost_tower_is_refused_where_the_targets_name_it(base: Path, tmp_path: Path) -> None:
    named = {"target_modules": r".*(language_model|vision_tower).*self_attn\.(q_proj|v_proj)"}
    refused(base, adapter(tmp_path / "adapter", updates(base, V5), **named), TOWER_LOST)
    half = updates(base, V5, tower=TOWER)
    half = {name: tensor for name, tensor in half.items() if "vision_tower" not in name or "q_proj" in name}
    refused(base, adapter(tmp_path / "adapter", half), "1 target modules have no update: vision_tower.*v_proj")


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": REGEX},
        {"exclude_modules": ["encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.v_proj"]},
        {"layers_to_transform": [0, 1, 2], "exclude_modules": r".*vision_tower.*"},
    ],
)
def test_what_the_targets_leave_out_is_not_missed(base: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    merge(base, adapter(tmp_path / "adapter", updates(base, V5), **config), tmp_path / "merged")


def test_layers_that_are_not_named_need_no_update(base: Path, tmp_path: Path) -> None:
    chosen = {"layers_to_transform": [1], "layers_pattern": ["layers"]}
    merge(base, adapter(tmp_path / "adapter", updates(base, "model.", [1]), **chosen), tmp_path / "merged")


def test_two_tensors_for_one_weight_and_two_adapters_in_a_file_are_refused(base: Path, tmp_path: Path) -> None:
    twice = {**updates(base, V5), **updates(base, "model.", [0])}
    refused(base, adapter(tmp_path / "adapter", twice), "both mean language_model.model.layers.0.self_attn")
    two = {**updates(base, V5, [0, 1], inner=".one"), **updates(base, V5, [2], inner=".two")}
    refused(base, adapter(tmp_path / "adapter", two), r"holds several adapters \(one, two\); save one of them")


@pytest.mark.parametrize("name", ["model.language_model.embed_tokens.weight", "lm_head.weight"])
def test_resized_embeddings_are_refused_with_their_reason(base: Path, tmp_path: Path, name: str) -> None:
    tensors = {**updates(base, V5), f"base_model.model.{name}": torch.zeros(43, 16)}
    message = "has 43 rows, the base's weight 40: it was trained with added tokens; merge it with PEFT into the resized"
    refused(base, adapter(tmp_path / "adapter", tensors, target_modules=REGEX), message)


def test_a_tokenizer_with_more_tokens_is_refused(tmp_path: Path) -> None:
    """Its rows may be there already, as in Gemma's 64 spare ones; the base's tokenizer would cut them to pieces."""
    decoder = tiny.decoder_folder(tmp_path / "decoder")
    folder = tiny.turning_adapter(decoder, tmp_path / "adapter")
    tokenizer = json.loads((decoder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    model = MedGemma.from_pretrained(decoder, adapter=folder)  # the base's own tokenizer beside it is as good as none
    assert model.adapter_name == "adapter"
    (folder / "added_tokens.json").write_text(json.dumps({"<finding>": 400, "<eos>": 1}))
    message = "its tokenizer has 1 tokens that .*decoder has not: <finding>; merge it with PEFT"
    with pytest.raises(ValueError, match=message):
        MedGemma.from_pretrained(decoder, adapter=folder)
    with pytest.raises(ValueError, match=message):
        merge(decoder, folder, tmp_path / "merged")
