"""GGUF of a whole model and of an adapter, read back tensor by tensor with the `gguf` package's own reader."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as pieces_of
from transformers import AutoTokenizer, Gemma3TextConfig
from typer.testing import CliRunner

from medgemma.checkpoints.adapters.merge import merge
from medgemma.checkpoints.gguf.adapter import adapter_to_gguf
from medgemma.checkpoints.gguf.model import add_decoder, convert_to_gguf
from medgemma.checkpoints.gguf.vocabulary import vocabulary_of
from medgemma.checkpoints.gguf.writing import planned
from medgemma.cli import app
from medgemma.nano import NANO_FOLDER
from medsiglip.checkpoints.safetensors_files import StoredTensor
from medsiglip.nano import NANO_FOLDER as ENCODER_FOLDER
from tests import checkpoints
from tests.hub_shapes import linked
from tests.nano import needs_nano

PEFT = Path(__file__).parents[1] / "peft"
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_feedforward_layernorm": "post_ffw_norm",
}
TOWER = {
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
OTHERS = {
    "language_model.model.embed_tokens.weight": "token_embd.weight",
    "language_model.model.norm.weight": "output_norm.weight",
    "vision_tower.vision_model.embeddings.patch_embedding.weight": "v.patch_embd.weight",
    "vision_tower.vision_model.embeddings.patch_embedding.bias": "v.patch_embd.bias",
    "vision_tower.vision_model.embeddings.position_embedding.weight": "v.position_embd.weight",
    "vision_tower.vision_model.post_layernorm.weight": "v.post_ln.weight",
    "vision_tower.vision_model.post_layernorm.bias": "v.post_ln.bias",
    "multi_modal_projector.mm_input_projection_weight": "mm.input_projection.weight",
    "multi_modal_projector.mm_soft_emb_norm.weight": "mm.soft_emb_norm.weight",
}
ONE_MORE = ("norm.weight", "layernorm.weight")
"""Ends of the decoder's names whose values GGUF holds one more of."""


def in_gguf(key: str) -> str:
    """llama.cpp's name of a Hub tensor."""
    if key in OTHERS:
        return OTHERS[key]
    before, _, rest = key.partition("layers.")
    number, _, name = rest.partition(".")
    module, _, kind = name.rpartition(".")
    part, names = ("v.blk", TOWER) if before.startswith("vision") else ("blk", LAYER)
    return f"{part}.{number}.{names[module]}.{kind}"


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys and tensors of a file."""
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}, {t.name: t for t in reader.tensors}


def values(tensor: Any) -> np.ndarray:
    return gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(tensor.shape)[::-1])


@pytest.fixture(scope="module")
def nano_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "nano"
    convert_to_gguf(NANO_FOLDER, out)
    return out


@needs_nano
@pytest.mark.parametrize("dtype", [None, "float32", "float16", "q8_0"])
def test_every_tensor_comes_back(dtype: str | None, nano_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" if dtype else nano_gguf
    if dtype:
        convert_to_gguf(NANO_FOLDER, out, dtype=dtype)
    found = read(out / "model.gguf")[1] | read(out / "mmproj.gguf")[1]
    stored = load_file(NANO_FOLDER / "model.safetensors")
    assert found.keys() == {in_gguf(key) for key in stored}
    for key, tensor in stored.items():
        ours, wanted = found[in_gguf(key)], tensor.float()
        if key.startswith("language_model") and key.endswith(ONE_MORE) or "soft_emb_norm" in key:
            wanted = wanted + 1
        kind = {None: "BF16", "float32": "F32", "float16": "F16", "q8_0": "Q8_0"}[dtype]
        if wanted.ndim != 2 or ".embeddings." in key:
            kind = "F32"
        elif "projection" in key and kind != "F32":
            kind = "F16"
        assert ours.tensor_type.name == kind, key
        difference = np.abs(values(ours) - wanted.numpy())
        if kind == "Q8_0":  # 32 values share a step: 1/127 of their largest, rounded to float16
            largest = np.abs(wanted.numpy()).reshape(-1, 32).max(1)
            assert (difference.reshape(-1, 32).max(1) <= largest / 127 * (0.5 + 127 * 2**-11)).all(), key
        else:
            assert difference.max() <= (2**-11 * np.abs(wanted.numpy()).max() if kind == "F16" else 0), key


@needs_nano
def test_the_keys_are_the_configs(nano_gguf: Path) -> None:
    keys, _ = read(nano_gguf / "model.gguf")
    expected = {
        "general.architecture": "gemma3", "gemma3.block_count": 6, "gemma3.context_length": 2048,
        "gemma3.embedding_length": 256, "gemma3.feed_forward_length": 512, "gemma3.attention.head_count": 4,
        "gemma3.attention.head_count_kv": 2, "gemma3.attention.key_length": 64, "gemma3.attention.value_length": 64,
        "gemma3.attention.sliding_window": 128, "gemma3.rope.freq_base": 1e6, "gemma3.rope.freq_base_swa": 1e4,
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.eot_token_id": 6, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False, "general.file_type": int(gguf.LlamaFileType.MOSTLY_BF16),
    }  # fmt: skip
    assert {name: keys[name] for name in expected} == expected
    assert keys["gemma3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert keys["tokenizer.chat_template"] == (NANO_FOLDER / "chat_template.jinja").read_text()
    assert "gemma3.rope.scaling.factor" not in keys and "gemma3.attention.sliding_window_pattern" not in keys
    sight, _ = read(nano_gguf / "mmproj.gguf")
    expected = {
        "general.architecture": "clip", "general.type": "mmproj", "clip.projector_type": "gemma3",
        "clip.has_vision_encoder": True, "clip.use_gelu": True, "clip.vision.image_size": 112,
        "clip.vision.patch_size": 14, "clip.vision.embedding_length": 192, "clip.vision.feed_forward_length": 768,
        "clip.vision.block_count": 6, "clip.vision.attention.head_count": 3, "clip.vision.projection_dim": 256,
        "clip.vision.projector.scale_factor": 2, "clip.vision.image_mean": [0.5] * 3,
        "clip.vision.image_std": [0.5] * 3,
    }  # fmt: skip
    assert {name: sight[name] for name in expected} == expected


def sentencepiece_of(keys: dict[str, Any]) -> SentencePieceProcessor:
    """The file's pieces, scores and types in the library whose merging llama.cpp repeats."""
    model = pieces_of.ModelProto()
    model.trainer_spec.model_type, model.trainer_spec.byte_fallback = model.trainer_spec.BPE, True
    model.normalizer_spec.add_dummy_prefix = model.normalizer_spec.remove_extra_whitespaces = False
    listed = (keys[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    for text, score, kind in zip(*listed, strict=True):
        model.pieces.add(piece=text.replace(" ", "▁") if kind == 4 else text, score=score, type=kind)
    return SentencePieceProcessor(model_proto=model.SerializeToString())


TEXTS = (
    "Is there a pneumothorax? The 54-year-old's left lung is clear; no effusion (2019).",
    "  two  spaces\n\n\nthree lines\tand a tab, naïve café, 肺, 🫁 and a trailing blank ",
    'Pneumonoultramicroscopicsilicovolcanoconiosis of 0.5×10⁻³ mm — "thin" slices/series [SLICE 12]',
)


@needs_nano
def test_texts_have_the_same_tokens(nano_gguf: Path, repository: Path) -> None:
    ours = sentencepiece_of(read(nano_gguf / "model.gguf")[0])
    tokenizer = AutoTokenizer.from_pretrained(NANO_FOLDER)
    for text in [*TEXTS, (repository / "LICENSE").read_text(), (repository / "docs" / "house.md").read_text()]:
        assert ours.EncodeAsIds(text) == tokenizer(text, add_special_tokens=False).input_ids


@needs_nano
@pytest.mark.slow
def test_the_hubs_vocabulary(shapes: Callable[[str], Path]) -> None:
    """262,208 rows; runs of newlines and blanks are tokens, thinking markers are text, turn markers are not."""
    folder = shapes("hub")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = vocabulary_of(json.loads(tokenizer.backend_tokenizer.to_str()), 262_208, folder)
    tokens, types = found.tokens, found.types
    assert len(tokens) == len(types) == len(found.scores) == 262_208
    assert types[105] == types[106] == gguf.TokenType.CONTROL
    assert types[107] == types[138] == gguf.TokenType.USER_DEFINED and tokens[138] == b"  "
    assert types[tokens.index(b"<unused94>")] == gguf.TokenType.USER_DEFINED
    assert types[262_145] == gguf.TokenType.UNUSED
    names = ("tokens", "scores", "token_type")
    lists = ([token.decode() for token in tokens], found.scores, types)
    ours = sentencepiece_of({f"tokenizer.ggml.{name}": one for name, one in zip(names, lists, strict=True)})
    for text in TEXTS:
        text = text.replace("  ", " ")  # no merge of nano's makes a run of blanks, Gemma's do
        assert ours.EncodeAsIds(text) == tokenizer(text, add_special_tokens=False).input_ids


def of_the_decoder(adapter: Path, out: Path) -> Path:
    """An adapter without what it changes in the tower."""
    out.mkdir()
    config = json.loads((adapter / "adapter_config.json").read_text())
    targets = config["target_modules"]
    config["target_modules"] = targets if isinstance(targets, str) else [name for name in targets if name != "fc1"]
    (out / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(adapter / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "vision_tower" not in name}
    save_file(kept, out / "adapter_model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.filterwarnings("ignore:.*taken as one of the decoder alone")
@pytest.mark.parametrize("name", ["one-layer", "expression", "patterns"])
def test_an_adapters_update_is_what_a_merge_adds(name: str, tmp_path: Path) -> None:
    """lora_b · lora_a · alpha / rank, as llama.cpp adds it; "patterns" has ranks and scales of its own."""
    adapter = of_the_decoder(PEFT / name, tmp_path / "adapter")
    [written] = adapter_to_gguf(PEFT / "base", adapter, tmp_path / "out")
    keys, found = read(written.path)
    assert (keys["general.architecture"], keys["general.type"], keys["adapter.type"]) == ("gemma3", "adapter", "lora")
    merge(PEFT / "base", adapter, tmp_path / "merged", dtype="float32")
    before, after = (load_file(f / "model.safetensors") for f in (PEFT / "base", tmp_path / "merged"))
    changed = [key for key in after if not torch.equal(before[key].float(), after[key])]
    assert len(found) == written.tensors == 2 * len(changed)
    for key in changed:
        a, b = (values(found[f"{in_gguf(key)}.lora_{part}"]) for part in "ab")
        made = torch.from_numpy(b @ a * keys["adapter.lora.alpha"] / b.shape[1])
        torch.testing.assert_close(made, after[key] - before[key].float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("all-linear", "changes vision_tower.*decoder's layers only.*`medgemma merge`"),
        ("head-and-embeddings", "brings language_model.*whole; llama.cpp replaces no weights"),
    ],
)
def test_what_llama_cpp_cannot_add_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        adapter_to_gguf(PEFT / "base", PEFT / name, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*taken as one of the decoder alone")
def test_weight_decomposition_is_refused(tmp_path: Path) -> None:
    adapter = of_the_decoder(PEFT / "dora", tmp_path / "adapter")
    with pytest.raises(ValueError, match="trained with DoRA, which llama.cpp does not know"):
        adapter_to_gguf(PEFT / "base", adapter, tmp_path / "out")


def test_a_setting_without_a_key_is_refused(tmp_path: Path) -> None:
    source = checkpoints.write(checkpoints.multimodal(), tmp_path / "source")
    with pytest.raises(ValueError, match="query_pre_attn_scalar is 12; llama.cpp takes it to be 8"):
        convert_to_gguf(source, tmp_path / "out")
    with pytest.raises(ValueError, match="of type siglip; GGUF is written of decoders"):
        convert_to_gguf(ENCODER_FOLDER, tmp_path / "out")
    with pytest.raises(ValueError, match="GGUF is written as float32, bfloat16, float16, q8_0"):
        convert_to_gguf(source, tmp_path / "out", dtype="int4")


RELEASED = {
    "4b": {"hidden_size": 2560, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
           "num_hidden_layers": 34, "intermediate_size": 10240, "query_pre_attn_scalar": 256},
    "27b": {"hidden_size": 5376, "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128,
            "num_hidden_layers": 62, "intermediate_size": 21504, "query_pre_attn_scalar": 168},
}  # fmt: skip


@pytest.mark.parametrize("size", RELEASED)
def test_the_released_sizes_can_be_said(size: str) -> None:
    """27B's attention scale is one that llama.cpp knows by its 62 layers."""
    rope = {"rope_type": "linear", "factor": 8.0}
    config = Gemma3TextConfig(**RELEASED[size], rope_scaling=rope, max_position_embeddings=131_072)
    writer = gguf.GGUFWriter(None, "gemma3")
    add_decoder(writer, config, Path(size))
    keys = {name: value.value for name, value in writer.kv_data[0].items()}
    assert keys["gemma3.rope.scaling.factor"] == 8.0 and keys["gemma3.rope.freq_base"] == 1e6
    assert keys["gemma3.rope.freq_base_swa"] == 1e4 and "gemma3.attention.sliding_window_pattern" not in keys
    config.query_pre_attn_scalar += 1
    with pytest.raises(ValueError, match="query_pre_attn_scalar"):
        add_decoder(gguf.GGUFWriter(None, "gemma3"), config, Path(size))


@needs_nano
@pytest.mark.parametrize(
    ("key", "value", "dtype", "message"),
    [
        (
            "multi_modal_projector.mm_soft_emb_norm.weight",
            float("nan"),
            None,
            "NaN or infinity in multi_modal_projector",
        ),
        (
            "language_model.model.layers.3.mlp.up_proj.weight",
            70_000.0,
            "float16",
            "overflows float16; give --dtype bfloat16",
        ),
    ],
)
def test_nothing_is_left_half_written(key: str, value: float, dtype: str | None, message: str, tmp_path: Path) -> None:
    source = linked(NANO_FOLDER, tmp_path / "source")
    tensors = load_file(NANO_FOLDER / "model.safetensors")
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[-1] = value
    (source / "model.safetensors").unlink()
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        convert_to_gguf(source, tmp_path / "out", dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@needs_nano
def test_scaled_rope_other_layers_and_a_tokenizer_of_another_kind(tmp_path: Path) -> None:
    source = linked(NANO_FOLDER, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    text = config["text_config"]
    text["layer_types"] = ["full_attention", *["sliding_attention"] * 5]
    text["rope_parameters"]["full_attention"] = {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}
    text["final_logit_softcapping"] = 30.0
    (source / "config.json").write_text(json.dumps(config))
    convert_to_gguf(source, tmp_path / "out")
    keys, _ = read(tmp_path / "out" / "model.gguf")
    assert (keys["gemma3.rope.scaling.type"], keys["gemma3.rope.scaling.factor"]) == ("linear", 8.0)
    assert keys["gemma3.attention.sliding_window_pattern"] == [False, *[True] * 5]
    assert keys["gemma3.final_logit_softcapping"] == 30.0
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer["model"]["byte_fallback"] = False
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="tokenizer is of another kind than Gemma's"):
        vocabulary_of(tokenizer, 3072, source)


def test_rows_that_q8_0_cannot_divide_are_float16() -> None:
    """fc2 of the released tower has rows of 4,304 values, no multiple of 32."""
    stored = StoredTensor("fc2", Path("model.safetensors"), "BF16", (1152, 4304))
    assert planned(stored, "v.blk.0.ffn_down.weight", "Q8_0", {}).kind == gguf.GGMLQuantizationType.F16
    even = stored._replace(shape=(4304, 1152))
    assert planned(even, "v.blk.0.ffn_up.weight", "Q8_0", {}).kind == gguf.GGMLQuantizationType.Q8_0


@needs_nano
def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["convert", "nano", str(out), "--to", "gguf", "--dtype", "q8_0", "--quiet"])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out / 'model.gguf'}\t80 tensors\n{out / 'mmproj.gguf'}\t103 tensors\n"
    for options, message in (
        (["convert", str(PEFT / "one-layer"), str(out), "--to", "gguf"], "say with --base what it was trained on"),
        (["convert", "nano", str(out), "--to", "onnx"], "--to onnx: give hub or gguf"),
        (["convert", "nano", str(out), "--to", "gguf"], "holds files already; give a new folder, or --overwrite"),
        (["convert", "nano", str(out), "--to", "gguf", "--shard-size", "1MB"], "--shard-size is for the Hub's layout"),
    ):
        result = CliRunner().invoke(app, options)
        assert result.exit_code != 0 and message in str(result.exception or result.output), result.output
