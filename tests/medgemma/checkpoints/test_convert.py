"""Any layout comes out in the Hub's, whole or not at all, one tensor in memory at a time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from medgemma.checkpoints.convert import convert
from medgemma.checkpoints.layouts import read_checkpoint, save_in_hub_layout, write_config
from medsiglip.checkpoints.safetensors_files import stored_tensors
from tests import checkpoints


@pytest.fixture(scope="module")
def model() -> Any:
    return checkpoints.multimodal()


def in_plain_transformers(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Any:
    loaded, report = getattr(transformers, name).from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return loaded.eval()


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
def test_every_layout_becomes_the_hubs(model: Any, layout: str, shards: int, tmp_path: Path) -> None:
    source = checkpoints.write(model, tmp_path / "source", checkpoints.LAYOUTS[layout], shards)
    convert(source, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    wanted = {checkpoints.hub(name): t for name, t in model.state_dict().items() if checkpoints.hub(name)}
    assert stored.keys() == wanted.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in wanted.items())
    loaded = in_plain_transformers(tmp_path / "out", "Gemma3ForConditionalGeneration")
    torch.testing.assert_close(checkpoints.outputs(loaded), checkpoints.outputs(model), rtol=0, atol=1e-5)


def test_text_only_and_siglip(tmp_path: Path) -> None:
    for make in (checkpoints.text_only, checkpoints.siglip):
        model = make()
        source = checkpoints.write(model, tmp_path / f"{make.__name__} source", lambda name: name)
        convert(source, tmp_path / make.__name__)
        loaded = in_plain_transformers(tmp_path / make.__name__, type(model).__name__)
        torch.testing.assert_close(checkpoints.outputs(loaded), checkpoints.outputs(model), rtol=0, atol=1e-5)
        assert "lm_head.weight" not in stored_tensors(tmp_path / make.__name__)


def test_a_tower_alone_gets_its_outer_prefix_back(tmp_path: Path) -> None:
    from transformers import SiglipVisionModel

    tower = checkpoints.lively(SiglipVisionModel(checkpoints.siglip().config.vision_config), 2)
    tower.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out")
    assert all(name.startswith("vision_model.") for name in stored_tensors(tmp_path / "out"))
    loaded = in_plain_transformers(tmp_path / "out", "SiglipVisionModel")
    torch.testing.assert_close(checkpoints.outputs(loaded), checkpoints.outputs(tower), rtol=0, atol=1e-5)


def test_saving_and_converting_write_the_same(model: Any, tmp_path: Path) -> None:
    save_in_hub_layout(model, tmp_path / "saved", torch.bfloat16)
    convert(checkpoints.write(model, tmp_path / "source"), tmp_path / "out", dtype="bfloat16")
    files = ("model.safetensors", "config.json")
    saved, converted = ([(tmp_path / folder / name).read_bytes() for name in files] for folder in ("saved", "out"))
    assert saved == converted


def test_dtype_and_shards(model: Any, tmp_path: Path) -> None:
    source = checkpoints.write(model, tmp_path / "source")
    convert(source, tmp_path / "out", dtype="bfloat16", max_shard_bytes=10_000)
    stored = stored_tensors(tmp_path / "out")
    assert len({tensor.file for tensor in stored.values()}) > 2
    assert {tensor.dtype for tensor in stored.values()} == {"BF16"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = in_plain_transformers(tmp_path / "out", "Gemma3ForConditionalGeneration", "auto")  # type: ignore[arg-type]
    assert loaded.dtype == torch.bfloat16
    half = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    assert all(torch.equal(tensor, half[name]) for name, tensor in loaded.state_dict().items())
    with pytest.raises(ValueError, match="dtype 'float16': choose float32 or bfloat16"):
        convert(source, tmp_path / "half", dtype="float16")


def test_what_lies_beside_the_weights_goes_with_them_and_nothing_else(model: Any, tmp_path: Path) -> None:
    source = checkpoints.write(model, tmp_path / "source")
    beside = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json")
    for name in (*beside, "processor_config.json", "generation_config.json", "spiece.model"):
        (source / name).write_text(f"{{}} {name}")
    for name in ("pytorch_model.bin", "training_args.bin", "measurements.json", "optimizer.pt"):
        (source / name).write_text("not to be copied")
    convert(source, tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {*beside, "processor_config.json", "generation_config.json", "spiece.model", "config.json",
                     "model.safetensors"}  # fmt: skip
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{} tokenizer.json"


def test_pixels_that_transformers_5_saved_get_the_file_that_4_reads(model: Any, tmp_path: Path) -> None:
    source, pixels = checkpoints.write(model, tmp_path / "source"), {"resample": 2, "size": {"height": 28}}
    (source / "processor_config.json").write_text(json.dumps({"image_processor": pixels, "image_seq_length": 4}))
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "rag.jinja").write_text("x")
    convert(source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text()) == pixels
    assert (tmp_path / "out" / "additional_chat_templates" / "rag.jinja").read_text() == "x"
    (source / "processor_config.json").write_text(json.dumps({"image_seq_length": 4}))
    convert(source, tmp_path / "none")
    assert not (tmp_path / "none" / "preprocessor_config.json").exists()


# config.json


def test_the_rope_settings_are_said_in_both_versions_words(model: Any, tmp_path: Path) -> None:
    convert(checkpoints.write(model, tmp_path / "source"), tmp_path / "out")
    text = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert text["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}  # 4.57 reads these
    assert (text["rope_theta"], text["rope_local_base_freq"]) == (1_000_000.0, 10_000.0)
    assert text["rope_parameters"]["full_attention"]["factor"] == 8.0  # 5 reads this
    reread = transformers.AutoConfig.from_pretrained(tmp_path / "out").text_config.rope_parameters
    assert reread == model.config.text_config.rope_parameters


def test_other_thetas_and_no_scaling(tmp_path: Path) -> None:
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    write_config(tmp_path, {"model_type": "gemma3_text", "rope_parameters": rope})
    text = json.loads((tmp_path / "config.json").read_text())
    assert (text["rope_scaling"], text["rope_theta"], text["rope_local_base_freq"]) == (None, 5e5, 2e4)
    assert transformers.AutoConfig.from_pretrained(tmp_path).rope_parameters == rope


def test_older_words_are_left_as_they_are(tmp_path: Path) -> None:
    older = {"model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "rope_theta": 1e6}
    write_config(tmp_path, older)
    assert json.loads((tmp_path / "config.json").read_text()) == older


def test_clips_ids_are_not_written(tmp_path: Path) -> None:
    write_config(tmp_path, {"model_type": "siglip", "text_config": {"model_type": "siglip_text_model"}})
    text = json.loads((tmp_path / "config.json").read_text())["text_config"]
    assert (text["pad_token_id"], text["bos_token_id"], text["eos_token_id"]) == (1, 1, 1)


def test_a_dtype_is_changed_wherever_it_is_said(tmp_path: Path) -> None:
    parts = {"text_config": {"torch_dtype": "float32"}, "vision_config": {"dtype": "float32"}}
    write_config(tmp_path, {"model_type": "gemma3", "torch_dtype": "float32", **parts}, "BF16")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert config["text_config"] == {"torch_dtype": "bfloat16"} and config["vision_config"] == {"dtype": "bfloat16"}


# Whole or not at all


def test_a_damaged_source_leaves_nothing_behind(model: Any, tmp_path: Path) -> None:
    source = checkpoints.write(model, tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["language_model.model.norm.weight"][0] = float("nan")  # seen when its turn comes, after others were written
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ValueError, match="NaN or infinity in language_model.model.norm.weight"):
        convert(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_that_is_there(model: Any, tmp_path: Path) -> None:
    source = checkpoints.write(model, tmp_path / "source")
    out = tmp_path / "out"
    out.mkdir()
    convert(source, out)  # empty: fine
    (out / "old.txt").write_text("old")
    with pytest.raises(ValueError, match=f"{out}: holds files already; give a new folder, or --overwrite"):
        convert(source, out)
    assert (out / "old.txt").exists()
    convert(source, out, overwrite=True)
    assert not (out / "old.txt").exists() and (out / "model.safetensors").exists()
    with pytest.raises(ValueError, match="is where the weights are read from"):
        convert(source, tmp_path / "out" / ".." / "source", overwrite=True)
    with pytest.raises(ValueError, match="a file; give a new folder"):
        convert(source, source / "config.json", overwrite=True)


def test_quantised_weights_are_refused(model: Any, tmp_path: Path) -> None:
    source = checkpoints.write(model, tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["language_model.model.norm.weight"] = tensors["language_model.model.norm.weight"].to(torch.int8)
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"norm.weight is stored as I8\), and floats are needed here"):
        convert(source, tmp_path / "out")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_memory_stays_at_a_tensor(tmp_path: Path) -> None:
    """55 MB of weights in tensors of 4 MB: less than a third of it is ever held outside the mapped file."""
    from transformers import Gemma3TextConfig

    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4, "vocab_size": 2000}
    config = Gemma3TextConfig(**{**checkpoints.TEXT, **sizes})
    model = transformers.Gemma3ForCausalLM(config)
    checkpoints.write(model, tmp_path / "source", lambda name: None if name == "lm_head.weight" else name)
    source_bytes = (tmp_path / "source" / "model.safetensors").stat().st_size
    assert source_bytes > 50e6
    program = """
import sys
from pathlib import Path
from medgemma.checkpoints.convert import convert
def anonymous():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon:")) * 1024
peak = [0]
def watch(tensors):
    peak[0] = max(peak[0], anonymous())
from medgemma.checkpoints.layouts import matched_folder
matched_folder(Path(sys.argv[1]))  # imports are not the model
before = anonymous()
convert(Path(sys.argv[1]), Path(sys.argv[2]), dtype="bfloat16", advance=watch)
sys.stdout.write(str(peak[0] - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "source"), str(tmp_path / "out")],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert int(done.stdout) < source_bytes / 3


def test_reading_back_what_was_converted(model: Any, tmp_path: Path) -> None:
    convert(checkpoints.write(model, tmp_path / "source", checkpoints.newer_file), tmp_path / "out")
    loaded = read_checkpoint(transformers.Gemma3ForConditionalGeneration, tmp_path / "out", dtype=torch.float32)
    torch.testing.assert_close(checkpoints.outputs(loaded), checkpoints.outputs(model), rtol=0, atol=1e-5)
