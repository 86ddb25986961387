"""`medgemma info`: the released models' figures from configs and headers alone, and what is missing or wrong."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import pytest
import transformers

from medgemma.checkpoints.info import inspect
from medgemma.checkpoints.layouts import CLASSES, hub_key_of
from medgemma.checkpoints.reference import CONFIGS
from medsiglip.checkpoints.layout import expected_tensors
from tests import checkpoints
from tests.medgemma.conftest import Command


def hollow(folder: Path, config: Mapping[str, Any], shards: int = 2) -> Path:
    """A released model's folder with true headers and sparse files: 8.6 GB that take no disk."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    model_class = getattr(transformers, CLASSES[config["model_type"]])
    settings = model_class.config_class.from_dict(json.loads(json.dumps(config)))
    expected = expected_tensors(model_class, settings, hub_key_of(config["model_type"]))
    shapes = {name: shape for name, (_, shape) in expected.items()}
    weight_map = {}
    for i in range(shards):
        file = folder / f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(shapes.items())[i::shards])
        hollow_file(file, part)
        weight_map.update(dict.fromkeys(part, file.name))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def hollow_file(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + end)


def test_medgemma_4b(tmp_path: Path) -> None:
    folder = hollow(tmp_path / "4b", CONFIGS["medgemma-4b"])
    for name in ("tokenizer.json", "chat_template.jinja", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    found = inspect(str(folder))
    assert found.model_class == "Gemma3ForConditionalGeneration"
    assert (found.parameters, found.tensors, found.weight_files) == (4_300_079_472, 883, 2)
    assert found.parameters_by_part["vision tower"] == 416_866_032
    assert found.parameters_by_part["projector"] == 2_950_272
    assert found.parameters_by_dtype == {"BF16": 4_300_079_472}
    assert found.weight_bytes == 8_600_158_944
    assert (found.layout, found.image_size_px) == ("hub", 896)
    decoder = found.decoder
    assert decoder is not None
    assert (decoder.layers_local, decoder.layers_global, decoder.sliding_window) == (29, 5, 1024)
    assert (decoder.context_tokens, decoder.image_tokens) == (131_072, 256)
    # key and value of 4 heads of 256 in 2 bytes: 4,096 bytes a layer
    assert decoder.kv_cache_bytes_per_token == 34 * 4096
    assert decoder.kv_cache_bytes_per_token_past_window == 5 * 4096
    assert found.files_missing == () and found.problems == ()


def test_medgemma_27b_text_and_medsiglip(tmp_path: Path) -> None:
    text = inspect(str(hollow(tmp_path / "text", CONFIGS["medgemma-27b-text"], shards=11)))
    assert (text.model_class, text.parameters, text.weight_files) == ("Gemma3ForCausalLM", 27_009_346_304, 11)
    assert text.decoder is not None and text.decoder.image_tokens is None and text.image_size_px is None
    assert (text.decoder.layers_local, text.decoder.layers_global) == (52, 10)
    assert text.decoder.kv_cache_bytes_per_token == 62 * 2 * 16 * 128 * 2
    siglip = inspect(str(hollow(tmp_path / "siglip", CONFIGS["medsiglip-448"])))
    assert (siglip.model_class, siglip.parameters) == ("SiglipModel", 878_300_338)
    assert siglip.decoder is None and siglip.image_size_px == 448
    assert [what.split(" (")[0] for what in siglip.files_missing] == ["tokenizer", "image processor"]


@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
def test_the_layout_is_named(layout: str, tmp_path: Path) -> None:
    found = inspect(str(checkpoints.write(checkpoints.multimodal(), tmp_path, checkpoints.LAYOUTS[layout], shards=2)))
    assert found.layout == layout
    expected = sum(p.numel() for p in checkpoints.multimodal().parameters())
    assert found.parameters - expected in (0, found.parameters_by_part.get("output head"))


def test_towers_alone_and_mixed_layouts(tmp_path: Path) -> None:
    from transformers import SiglipVisionModel

    SiglipVisionModel(checkpoints.siglip().config.vision_config).save_pretrained(tmp_path / "vision")
    assert inspect(str(tmp_path / "vision")).layout == "transformers 5, without the outer prefix"

    def mixed(name: str) -> str | None:
        return checkpoints.hub(name) if ".layers.0." in name else checkpoints.newer_file(name)

    folder = checkpoints.write(checkpoints.multimodal(), tmp_path / "mixed", mixed)
    assert inspect(str(folder)).layout == "hub and transformers 5, saved"


def test_missing_files_and_lost_settings_are_told(tmp_path: Path) -> None:
    config = {k: v for k, v in CONFIGS["medgemma-27b-text"].items() if k != "rope_scaling"}
    folder = hollow(tmp_path / "27b", config)
    found = inspect(str(folder))
    assert [what.split(" (")[0] for what in found.files_missing] == ["tokenizer", "chat template"]
    assert len(found.problems) == 1 and "no rope_scaling" in found.problems[0]
    (folder / "tokenizer_config.json").write_text("{}")
    assert len(inspect(str(folder)).files_missing) == 2


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.jinja",
        "chat_template.json",
        "tokenizer_config.json",
        "processor_config.json",
        "additional_chat_templates/default.jinja",
    ],
)
def test_a_chat_template_is_found_wherever_it_is(name: str, tmp_path: Path) -> None:
    folder = hollow(tmp_path / "27b", CONFIGS["medgemma-27b-text"])
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text('{"chat_template": "x"}')
    assert [what.split(" (")[0] for what in inspect(str(folder)).files_missing] == ["tokenizer"]


def test_pixels_within_the_processor_are_found(tmp_path: Path) -> None:
    folder = hollow(tmp_path / "siglip", CONFIGS["medsiglip-448"])
    (folder / "processor_config.json").write_text('{"image_seq_length": 256}')  # transformers 4: no pixels in it
    assert any("image processor" in what for what in inspect(str(folder)).files_missing)
    (folder / "processor_config.json").write_text('{"image_processor": {"resample": 2}}')
    assert not any("image processor" in what for what in inspect(str(folder)).files_missing)


def test_a_cut_shard_and_strange_names_are_refused(tmp_path: Path) -> None:
    folder = hollow(tmp_path / "4b", CONFIGS["medgemma-4b"])
    shard = folder / "model-00002-of-00002.safetensors"
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 1)
    with pytest.raises(ValueError, match=f"{shard}: weights do not load"):
        inspect(str(folder))
    strange = checkpoints.write(checkpoints.multimodal(), tmp_path / "strange", lambda name: f"net.{name}")
    with pytest.raises(ValueError, match="unexpected keys: net.*a layout that is not known"):
        inspect(str(strange))


def test_a_hub_id_that_is_not_here_is_not_fetched() -> None:
    with pytest.raises(ValueError, match="nobody/nothing: not on this machine; fetch it with `hf download"):
        inspect("nobody/nothing")


# The command


def test_info_as_json_and_text_without_torch(command: Command, tmp_path: Path) -> None:
    folder = hollow(tmp_path / "4b", CONFIGS["medgemma-4b"])
    done = command("info", folder, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(asdict(inspect(str(folder)))))
    text = command("info", folder)
    assert "parameters\t4,300,079,472" in text.stdout and "29 local (window 1,024), 5 global" in text.stdout
    program = (
        "import sys\nfrom medgemma.checkpoints.info import inspect\n"
        "inspect(sys.argv[1])\nassert 'torch' not in sys.modules"
    )
    alone = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=60)
    assert alone.returncode == 0, alone.stderr


def test_info_check_compares_every_tensor(command: Command, tmp_path: Path) -> None:
    folder = hollow(tmp_path / "4b", CONFIGS["medgemma-4b"])
    assert command("info", folder, "--check").returncode == 0
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 10_241
    (folder / "config.json").write_text(json.dumps(config))
    assert command("info", folder).returncode == 0
    done = command("info", folder, "--check")
    assert done.returncode == 1 and "102 mismatched keys: language_model.model.layers.0.mlp" in done.stderr
    assert done.stderr.count("\n") == 1


def test_info_exits_1_where_the_model_would_be_refused(command: Command, tmp_path: Path) -> None:
    config = {k: v for k, v in CONFIGS["medgemma-27b-text"].items() if k != "query_pre_attn_scalar"}
    done = command("info", hollow(tmp_path / "27b", config))
    assert done.returncode == 1
    assert "query_pre_attn_scalar is 256, expected 168" in done.stderr and "27,009,346,304" in done.stdout
