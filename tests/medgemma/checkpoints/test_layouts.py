"""Every key layout loads right, and what is missing, strange, mis-shaped, cut or not finite is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    SiglipModel,
    SiglipTextModel,
    SiglipVisionModel,
)

from medgemma.checkpoints.layouts import read_checkpoint
from medsiglip.checkpoints.weights import load_strictly
from tests import checkpoints

NORM = "language_model.model.norm.weight"
Edit = Callable[[dict[str, torch.Tensor]], Any]


@pytest.fixture(scope="module")
def model() -> Any:
    return checkpoints.multimodal()


@pytest.fixture(scope="module")
def expected(model: Any) -> torch.Tensor:
    return checkpoints.outputs(model)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """To float32 rounding: memory that a file is mapped into is aligned otherwise, which changes the order of sums."""
    return bool((one - other).abs().max() < 1e-5)


def load(folder: Path, **kwargs: Any) -> Any:
    return read_checkpoint(Gemma3ForConditionalGeneration, folder, dtype=torch.float32, **kwargs)


# Layouts


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
def test_every_layout_loads_right(model: Any, expected: torch.Tensor, layout: str, shards: int, tmp_path: Path) -> None:
    loaded = load(checkpoints.write(model, tmp_path, checkpoints.LAYOUTS[layout], shards))
    assert same(checkpoints.outputs(loaded), expected)
    assert loaded.lm_head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()


def test_what_the_installed_transformers_saves_loads_right(model: Any, expected: torch.Tensor, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    names = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(names) == {checkpoints.newer_file(name) for name in model.state_dict()} - {None}
    assert same(checkpoints.outputs(load(tmp_path)), expected)


@pytest.mark.parametrize("rename", [lambda name: name, lambda name: name.removeprefix("model.")], ids=["whole", "bare"])
def test_a_text_only_decoder(rename: Callable[[str], str], tmp_path: Path) -> None:
    model = checkpoints.text_only()
    without_head = lambda name: None if name == "lm_head.weight" else rename(name)  # noqa: E731
    for folder, layout in ((tmp_path / "tied", without_head), (tmp_path / "with head", rename)):
        loaded = read_checkpoint(
            Gemma3ForCausalLM, checkpoints.write(model, folder, layout, shards=2), dtype=torch.float32
        )
        assert same(checkpoints.outputs(loaded), checkpoints.outputs(model))


def test_siglip_and_its_towers_with_and_without_their_outer_prefix(tmp_path: Path) -> None:
    model = checkpoints.siglip()
    loaded = load_strictly(
        SiglipModel, checkpoints.write(model, tmp_path / "both", lambda n: n, 2), dtype=torch.float32
    )
    assert same(checkpoints.outputs(loaded), checkpoints.outputs(model))
    for tower_class, part, prefix in (
        (SiglipVisionModel, model.vision_model, "vision_model."),
        (SiglipTextModel, model.text_model, "text_model."),
    ):
        tower = checkpoints.lively(tower_class(part.config), 4)
        for written in ("", prefix):
            rename = lambda name, written=written, prefix=prefix: written + name.removeprefix(prefix)  # noqa: E731
            folder = checkpoints.write(tower, tmp_path / f"{written}{tower_class.__name__}", rename)
            loaded = load_strictly(tower_class, folder, dtype=torch.float32)
            assert same(checkpoints.outputs(loaded), checkpoints.outputs(tower)), written


def test_layers_whose_names_are_swapped_give_other_logits(model: Any, expected: torch.Tensor, tmp_path: Path) -> None:
    """Equal shapes hide a swap from any check of headers: the comparison of logits must see it."""

    def swapped(name: str) -> str | None:
        numbers = {".layers.1.": ".layers.2.", ".layers.2.": ".layers.1."}
        found = next((n for n in numbers if n in name and "language" in name), None)
        return checkpoints.hub(name.replace(found, numbers[found]) if found else name)

    assert (checkpoints.outputs(load(checkpoints.write(model, tmp_path, swapped))) - expected).abs().max() > 0.1


def test_a_head_trained_apart_is_kept_where_the_config_unties_it(tmp_path: Path) -> None:
    from transformers import Gemma3Config

    tied = checkpoints.multimodal()
    config = Gemma3Config(**{**tied.config.to_dict(), "tie_word_embeddings": False})
    config.text_config.tie_word_embeddings = False
    model = checkpoints.lively(Gemma3ForConditionalGeneration(config), 0)
    for name, head in (("memory", "lm_head.weight"), ("hub", "language_model.lm_head.weight")):
        folder = checkpoints.write(model, tmp_path / name, lambda n, head=head: checkpoints.hub(n) or head)
        loaded = load(folder)
        assert same(checkpoints.outputs(loaded), checkpoints.outputs(model)), name
        assert not torch.equal(loaded.lm_head.weight, loaded.get_input_embeddings().weight)
    with pytest.raises(ValueError, match="1 missing keys: language_model.lm_head.weight"):
        load(checkpoints.write(model, tmp_path / "without"))


def test_a_head_that_differs_from_tied_embeddings_is_refused(model: Any, tmp_path: Path) -> None:
    folder = checkpoints.write(model, tmp_path, checkpoints.older_memory)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][-1, -1] += 1
    checkpoints.write_tensors(tensors, folder)
    with pytest.raises(ValueError, match='lm_head.weight differs from the embeddings.*"tie_word_embeddings": false'):
        load(folder)


# Faults


@pytest.fixture
def edited(model: Any, tmp_path: Path) -> Callable[..., Path]:
    """A hub folder whose tensors were changed in place."""

    def make(edit: Edit = lambda tensors: None, shards: int = 1) -> Path:
        folder = checkpoints.write(model, tmp_path / "edited")
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        (folder / "model.safetensors").unlink()
        checkpoints.write_tensors(tensors, folder, shards)
        return folder

    return make


@pytest.mark.parametrize("shards", [1, 3])
def test_one_tensor_less_or_more_or_another_shape(edited: Callable[..., Path], shards: int) -> None:
    with pytest.raises(ValueError, match=f"1 missing keys: {NORM}; the weights do not belong to this config.json"):
        load(edited(lambda tensors: tensors.pop(NORM), shards))


def test_an_unexpected_tensor(edited: Callable[..., Path]) -> None:
    more = "language_model.model.layers.7.mlp.up_proj.weight"
    with pytest.raises(ValueError, match=f"1 unexpected keys: {more}; the weights do not belong"):
        load(edited(lambda tensors: tensors.update({more: torch.zeros(24, 16)})))


def test_a_tensor_of_another_shape_even_a_transposed_one(edited: Callable[..., Path]) -> None:
    name = "multi_modal_projector.mm_input_projection_weight"
    with pytest.raises(ValueError, match=rf"1 mismatched keys: {name} \(got \(16, 12\), expected \(12, 16\)\)"):
        load(edited(lambda tensors: tensors.update({name: tensors[name].T.contiguous()})))


def test_many_faults_are_counted_and_a_few_named(edited: Callable[..., Path]) -> None:
    def without_tower(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("vision_tower.")]:
            del tensors[name]
        tensors[NORM] = torch.zeros(3)

    with pytest.raises(ValueError, match=r"37 missing keys: (vision_tower\S+,? ){4}…; 1 mismatched keys") as caught:
        load(edited(without_tower))
    assert "\n" not in str(caught.value)


def test_a_known_part_in_two_layouts_at_once(edited: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=f"{NORM} and model.language_model.norm.weight both mean {NORM}"):
        load(edited(lambda tensors: tensors.update({"model.language_model.norm.weight": torch.zeros(16)})))


def test_a_layout_that_is_not_known(edited: Callable[..., Path]) -> None:
    def renamed(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[f"transformer.{name}"] = tensors.pop(name)

    with pytest.raises(ValueError, match=r"\d+ unexpected keys: transformer.*a layout that is not known"):
        load(edited(renamed))


def test_constants_that_old_versions_stored_are_no_weights(edited: Callable[..., Path], expected: torch.Tensor) -> None:
    name = "vision_tower.vision_model.embeddings.position_ids"
    loaded = load(edited(lambda tensors: tensors.update({name: torch.arange(4)[None]})))
    assert same(checkpoints.outputs(loaded), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite(edited: Callable[..., Path], value: float) -> None:
    def spoilt(tensors: dict[str, torch.Tensor]) -> None:
        tensors[NORM][3] = value

    folder = edited(spoilt)
    with pytest.raises(ValueError, match="NaN or infinity in 1 tensors: model.language_model.norm.weight"):
        load(folder)
    load(folder, check_finite=False)


# Files


def test_a_shard_that_is_not_there(edited: Callable[..., Path]) -> None:
    folder = edited(shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="1 of 3 weight files missing: model-00002-of-00003.safetensors"):
        load(folder)


@pytest.mark.parametrize("num_bytes", [0, 7, 100, -1])
def test_a_cut_shard(edited: Callable[..., Path], num_bytes: int) -> None:
    shard = edited(shards=3) / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=f"{shard}: weights do not load .*; fetch them again"):
        load(shard.parent)


def test_an_index_that_names_a_tensor_which_is_not_there(edited: Callable[..., Path]) -> None:
    folder = edited(shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], "ghost.weight": first}}))
    with pytest.raises(ValueError, match="disagree, 1 tensors are absent from the files: ghost.weight"):
        load(folder)
    del index["weight_map"][NORM]
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"disagree, 1 tensors are not in the index: {NORM}"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": 3}}', "has no weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "names the file ../model.safetensors, outside the folder"),
    ],
)
def test_a_damaged_index(edited: Callable[..., Path], text: str, message: str) -> None:
    folder = edited(shards=2)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_shards_without_an_index(edited: Callable[..., Path]) -> None:
    folder = edited(shards=2)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match="weight files but no model.safetensors.index.json; fetch that file too"):
        load(folder)


def test_pickled_weights_are_not_loaded(edited: Callable[..., Path]) -> None:
    folder = edited()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no .safetensors weights there; pickled weights are never loaded"):
        load(folder)


def test_an_adapter_is_no_model(edited: Callable[..., Path]) -> None:
    folder = edited()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="an adapter, not a model; put it into its base with `medgemma merge`"):
        load(folder)


def test_a_config_of_another_kind(edited: Callable[..., Path]) -> None:
    folder = edited()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="config.json says model_type 'llama', expected one of gemma3, gemma3_text"):
        load(folder)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        (("text_config",), None),
        (("text_config", "hidden_size"), "16"),
        (("text_config", "hidden_size"), []),
        (("text_config", "num_attention_heads"), 0),
        (("text_config", "rope_parameters", "full_attention"), 1.5),
        (("text_config", "rope_parameters", "full_attention", "factor"), None),
        (("text_config", "intermediate_size"), -1),
        (("vision_config",), "siglip"),
        (("vision_config", "patch_size"), 0),
        (("vision_config", "hidden_act"), "no such function"),
        (("model_type",), []),
    ],
)
def test_a_config_that_describes_no_model_is_one_line(
    edited: Callable[..., Path], setting: tuple[str, ...], value: Any
) -> None:
    folder = edited()
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for name in setting[:-1]:
        inner = inner[name]
    inner[setting[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
