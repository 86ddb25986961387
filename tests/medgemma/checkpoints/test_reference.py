"""The released models' configs give their exact tensors and counts; a config that lost a setting is refused."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from medgemma.checkpoints.info import parameters_by_part
from medgemma.checkpoints.layouts import CLASSES, hub_key_of, read_checkpoint
from medgemma.checkpoints.reference import (
    CONFIGS,
    TEXT_DEFAULTS,
    global_rope_factor,
    refuse_lost_settings,
    text_settings,
)
from medsiglip.checkpoints.layout import expected_tensors
from medsiglip.checkpoints.weights import load_config, load_strictly
from tests import checkpoints

Shapes = dict[str, tuple[int, ...]]


def shapes_of(config: Mapping[str, Any]) -> Shapes:
    model_class = getattr(transformers, CLASSES[config["model_type"]])
    settings = model_class.config_class.from_dict(json.loads(json.dumps(config)))
    expected = expected_tensors(model_class, settings, hub_key_of(config["model_type"]))
    return {name: shape for name, (_, shape) in expected.items()}


def text_shapes(prefix: str, width: int, layers: int, mlp: int, heads: int, key_value_heads: int, head: int) -> Shapes:
    shapes: Shapes = {"embed_tokens.weight": (262_208, width), "norm.weight": (width,)}
    for i in range(layers):
        layer: Shapes = {
            "self_attn.q_proj": (heads * head, width),
            "self_attn.k_proj": (key_value_heads * head, width),
            "self_attn.v_proj": (key_value_heads * head, width),
            "self_attn.o_proj": (width, heads * head),
            "self_attn.q_norm": (head,),
            "self_attn.k_norm": (head,),
            "mlp.gate_proj": (mlp, width),
            "mlp.up_proj": (mlp, width),
            "mlp.down_proj": (width, mlp),
            "input_layernorm": (width,),
            "post_attention_layernorm": (width,),
            "pre_feedforward_layernorm": (width,),
            "post_feedforward_layernorm": (width,),
        }
        shapes |= {f"layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return {prefix + name: shape for name, shape in shapes.items()}


def encoder_shapes(prefix: str) -> Shapes:
    """27 layers of width 1152: the same in both towers."""
    shapes: Shapes = {}
    for i in range(27):
        at = f"{prefix}encoder.layers.{i}."
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
            shapes |= {f"{at}{name}.weight": (1152, 1152), f"{at}{name}.bias": (1152,)}
        shapes |= {f"{at}mlp.fc1.weight": (4304, 1152), f"{at}mlp.fc1.bias": (4304,)}
        shapes |= {f"{at}mlp.fc2.weight": (1152, 4304), f"{at}mlp.fc2.bias": (1152,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{at}{name}.{kind}": (1152,) for kind in ("weight", "bias")}
    return shapes


def vision_shapes(prefix: str, patches: int) -> Shapes:
    at = f"{prefix}embeddings."
    return {
        f"{at}patch_embedding.weight": (1152, 3, 14, 14),
        f"{at}patch_embedding.bias": (1152,),
        f"{at}position_embedding.weight": (patches, 1152),
        f"{prefix}post_layernorm.weight": (1152,),
        f"{prefix}post_layernorm.bias": (1152,),
        **encoder_shapes(prefix),
    }


def projector_shapes(width: int) -> Shapes:
    names = ("mm_input_projection_weight", "mm_soft_emb_norm.weight")
    return {f"multi_modal_projector.{n}": s for n, s in zip(names, [(1152, width), (1152,)], strict=True)}


def medsiglip_shapes() -> Shapes:
    head = "vision_model.head."
    text = "text_model."
    return {
        "logit_scale": (1,),
        "logit_bias": (1,),
        **vision_shapes("vision_model.", 1024),
        f"{head}probe": (1, 1, 1152),
        f"{head}attention.in_proj_weight": (3456, 1152),
        f"{head}attention.in_proj_bias": (3456,),
        f"{head}attention.out_proj.weight": (1152, 1152),
        f"{head}attention.out_proj.bias": (1152,),
        f"{head}layernorm.weight": (1152,),
        f"{head}layernorm.bias": (1152,),
        f"{head}mlp.fc1.weight": (4304, 1152),
        f"{head}mlp.fc1.bias": (4304,),
        f"{head}mlp.fc2.weight": (1152, 4304),
        f"{head}mlp.fc2.bias": (1152,),
        f"{text}embeddings.token_embedding.weight": (32_000, 1152),
        f"{text}embeddings.position_embedding.weight": (64, 1152),
        f"{text}final_layer_norm.weight": (1152,),
        f"{text}final_layer_norm.bias": (1152,),
        f"{text}head.weight": (1152, 1152),
        f"{text}head.bias": (1152,),
        **encoder_shapes(text),
    }


WIDTHS_4B = (2560, 34, 10_240, 8, 4, 256)
WIDTHS_27B = (5376, 62, 21_504, 32, 16, 128)
TOWER = "vision_tower.vision_model."
RELEASED: dict[str, tuple[Shapes, int]] = {
    "medgemma-4b": (
        text_shapes("language_model.model.", *WIDTHS_4B) | vision_shapes(TOWER, 4096) | projector_shapes(2560),
        4_300_079_472,
    ),
    "medgemma-27b": (
        text_shapes("language_model.model.", *WIDTHS_27B) | vision_shapes(TOWER, 4096) | projector_shapes(5376),
        27_432_406_640,
    ),
    "medgemma-27b-text": (text_shapes("model.", *WIDTHS_27B), 27_009_346_304),
    "medsiglip-448": (medsiglip_shapes(), 878_300_338),
}


@pytest.mark.parametrize("name", RELEASED)
def test_every_tensor_of_the_released_models(name: str) -> None:
    """Key by key, on the meta device, against names and shapes written out here."""
    shapes, parameters = RELEASED[name]
    assert shapes_of(CONFIGS[name]) == shapes
    assert sum(prod(shape) for shape in shapes.values()) == parameters
    assert sum(parameters_by_part(shapes).values()) == parameters


def test_the_4b_index_holds_883_tensors_of_8_600_158_944_bytes() -> None:
    shapes = shapes_of(CONFIGS["medgemma-4b"])
    assert len(shapes) == 883
    assert sum(prod(shape) for shape in shapes.values()) * 2 == 8_600_158_944


def test_parameters_by_part_are_the_published_ones() -> None:
    parts = parameters_by_part(shapes_of(CONFIGS["medgemma-4b"]))
    assert parts["vision tower"] == 416_866_032
    assert parts["projector"] == 2_950_272
    assert parts["embeddings"] + parts["decoder layers"] == 3_880_263_168
    parts = parameters_by_part(shapes_of(CONFIGS["medsiglip-448"]))
    assert parts == {"vision tower": 428_565_440, "text tower": 449_734_896, "logit scale and bias": 2}


def test_a_wrong_head_width_is_seen_in_the_shapes() -> None:
    """Control: 27B's head_dim is 128, not the 168 of width over heads, nor the class default 256."""
    wrong = {**CONFIGS["medgemma-27b-text"], "head_dim": 256}
    assert shapes_of(wrong) != RELEASED["medgemma-27b-text"][0]


def test_the_defaults_are_transformers_own() -> None:
    from transformers import Gemma3TextConfig

    theirs = Gemma3TextConfig()
    assert {name: getattr(theirs, name) for name in TEXT_DEFAULTS} == dict(TEXT_DEFAULTS)


@pytest.mark.parametrize(("name", "scalar"), [("medgemma-4b", 256), ("medgemma-27b", 168), ("medgemma-27b-text", 168)])
def test_settings_that_no_tensor_shows_reach_the_network(name: str, scalar: int) -> None:
    model_class = getattr(transformers, CLASSES[CONFIGS[name]["model_type"]])
    config = model_class.config_class.from_dict(json.loads(json.dumps(CONFIGS[name])))
    with torch.device("meta"):
        model = model_class(config)
    decoder = model.model.language_model if name != "medgemma-27b-text" else model.model
    attention = decoder.layers[5].self_attn
    assert attention.scaling == scalar**-0.5
    assert attention.head_dim == (256 if name == "medgemma-4b" else 128)
    rope = decoder.config.rope_parameters
    assert rope["full_attention"] == {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0}
    assert rope["sliding_attention"] == {"rope_type": "default", "rope_theta": 10_000.0}
    types = decoder.config.layer_types
    assert [i for i, kind in enumerate(types) if kind == "full_attention"] == list(range(5, len(types), 6))
    assert types.count("full_attention") == (5 if name == "medgemma-4b" else 10)


# A config that lost something


def without(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Leave settings out, as a config.json does that transformers' defaults should fill."""
    inner = {k: without(v, *names) if k == "text_config" else v for k, v in config.items()}
    return {k: v for k, v in inner.items() if k not in names}


def test_the_released_configs_pass() -> None:
    for config in CONFIGS.values():
        refuse_lost_settings(config, Path("folder"))


@pytest.mark.parametrize("name", ["medgemma-4b", "medgemma-27b", "medgemma-27b-text"])
def test_a_lost_rope_factor_is_refused_by_name(name: str) -> None:
    lost = without(CONFIGS[name], "rope_scaling")
    with pytest.raises(ValueError, match=r'folder/config.json: no rope_scaling, expected .*"factor": 8.0.*add it'):
        refuse_lost_settings(lost, Path("folder"))
    settings = {"sliding_attention": {"rope_type": "default"}, "full_attention": {"rope_type": "default"}}
    text = {**text_settings(lost), "rope_parameters": settings}  # what transformers 5 writes of such a config
    with pytest.raises(ValueError, match="no rope_scaling"):
        refuse_lost_settings({**lost, "text_config": text} if "text_config" in lost else text, Path("folder"))


@pytest.mark.parametrize(
    ("name", "setting", "found", "expected"),
    [
        ("medgemma-27b", "head_dim", 256, 128),
        ("medgemma-27b-text", "query_pre_attn_scalar", 256, 168),
        ("medgemma-27b", "num_attention_heads", 8, 32),
    ],
)
def test_a_setting_left_to_the_class_default_is_refused(name: str, setting: str, found: int, expected: int) -> None:
    lost = without(CONFIGS[name], setting)
    with pytest.raises(ValueError, match=f"{setting} is {found}, expected {expected} in a Gemma 3 of width 5376"):
        refuse_lost_settings(lost, Path("folder"))


def test_4bs_own_settings_may_be_left_to_the_defaults() -> None:
    refuse_lost_settings(without(CONFIGS["medgemma-4b"], "head_dim", "query_pre_attn_scalar", "vocab_size"), Path("f"))


def test_a_factor_given_in_either_form_or_another_scaling_passes() -> None:
    new = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}
    assert global_rope_factor({"rope_parameters": new}) == 8.0
    assert global_rope_factor({"rope_scaling": {"type": "linear", "factor": 8.0}}) == 8.0
    assert global_rope_factor({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}) is None
    assert global_rope_factor({"rope_scaling": None}) == 1.0
    text = {**without(CONFIGS["medgemma-27b-text"], "rope_scaling"), "rope_parameters": new}
    refuse_lost_settings(text, Path("folder"))


def test_loading_refuses_before_any_weight_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(without(CONFIGS["medgemma-4b"], "rope_scaling")))
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ValueError, match="no rope_scaling"):
        read_checkpoint(transformers.Gemma3ForConditionalGeneration, tmp_path)


def test_the_rope_factor_moves_the_logits(tmp_path: Path) -> None:
    """Why it is refused: the weights load either way, and the answers are others."""
    model = checkpoints.text_only()
    folder = checkpoints.write(model, tmp_path, lambda name: None if name == "lm_head.weight" else name)
    right = read_checkpoint(transformers.Gemma3ForCausalLM, folder, dtype=torch.float32)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(config))
    wrong = read_checkpoint(transformers.Gemma3ForCausalLM, folder, dtype=torch.float32)
    assert (checkpoints.outputs(right) - checkpoints.outputs(wrong)).abs().max() > 0.1


# SigLIP's special ids


def test_clips_special_ids_become_siglips(tmp_path: Path) -> None:
    model = checkpoints.siglip()
    folder = checkpoints.write(model, tmp_path, lambda name: name)
    config = json.loads((folder / "config.json").read_text())
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        config["text_config"].pop(name)  # left to transformers' defaults, which are CLIP's
    (folder / "config.json").write_text(json.dumps(config))
    theirs = transformers.SiglipConfig.from_pretrained(folder).text_config
    assert (theirs.bos_token_id, theirs.eos_token_id) == (49_406, 49_407)  # the trap is still there
    for text in (
        load_config(transformers.SiglipModel, folder).text_config,
        load_strictly(transformers.SiglipModel, folder, dtype=torch.float32).config.text_config,
    ):
        assert (text.pad_token_id, text.bos_token_id, text.eos_token_id) == (1, 1, 1)


def test_ids_inside_the_vocabulary_are_left_alone(tmp_path: Path) -> None:
    model = checkpoints.siglip()
    model.config.text_config.bos_token_id = 7
    model.config.text_config.eos_token_id = 5
    folder = checkpoints.write(model, tmp_path, lambda name: name)
    text = load_config(transformers.SiglipModel, folder).text_config
    assert (text.pad_token_id, text.bos_token_id, text.eos_token_id) == (1, 7, 5)
