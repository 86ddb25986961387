import json
import shutil

import numpy as np
import pytest

from medsiglip.checkpoints.folders import resolve_model
from medsiglip.checkpoints.identity import fingerprint
from medsiglip.encoder import MedSigLIP

NORM = "vision_model.post_layernorm.weight"


def load(folder):
    return MedSigLIP.from_pretrained(folder, device="cpu")


# Tensors


def test_an_untouched_copy_loads(edited, encoder, arrays):
    np.testing.assert_array_equal(load(edited()).encode_images(arrays), encoder.encode_images(arrays))


@pytest.mark.parametrize("name", [NORM, "logit_bias", "text_model.embeddings.token_embedding.weight"])
def test_a_missing_tensor_is_named(edited, name):
    with pytest.raises(ValueError, match=rf"1 missing keys: {name}; .*fetch both again"):
        load(edited(lambda tensors: tensors.pop(name)))


def test_an_unexpected_tensor_is_named(edited):
    with pytest.raises(ValueError, match="1 unexpected keys: vision_model.extra; .*fetch both again"):
        load(edited(lambda tensors: tensors.update({"vision_model.extra": np.zeros(3, np.float32)})))


def test_a_mis_shaped_tensor_is_named_with_its_shapes(edited):
    with pytest.raises(ValueError, match=rf"1 mismatched keys: {NORM} \(got \(3,\), expected \(16,\)\)"):
        load(edited(lambda tensors: tensors.update({NORM: np.zeros(3, np.float32)})))


def test_many_missing_tensors_are_cut_to_four_names(edited):
    def without_text_tower(tensors):
        for name in [name for name in tensors if name.startswith("text_model.")]:
            del tensors[name]

    with pytest.raises(
        ValueError, match=r"\d\d missing keys: text_model\S+, \S+, \S+, \S+ …; the weights do not belong"
    ) as caught:
        load(edited(without_text_tower))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("num_bytes", [0, 1000, -100])
def test_a_cut_weight_file_is_refused(edited, num_bytes):
    folder = edited()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=f"{folder}/model.safetensors: weights do not load .*; fetch them again"):
        load(folder)


# Files of a checkpoint


def test_pickled_weights_are_refused(edited):
    folder = edited()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no .safetensors weights there; pickled weights are never loaded"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "no config.json there; give the folder that save_pretrained wrote"),
        ("preprocessor_config.json", "no preprocessor_config.json; the right pixels cannot be known"),
    ],
)
def test_a_missing_file_is_named(edited, name, message):
    folder = edited()
    (folder / name).unlink()
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text", ["{", "[]", "\0"])
def test_a_damaged_json_file_is_named(edited, name, text):
    folder = edited()
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{folder / name}: .*fetch the checkpoint again"):
        load(folder)


def test_a_preprocessor_without_resampling_is_refused(edited):
    path = edited() / "preprocessor_config.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "resample": 0}))
    with pytest.raises(ValueError, match="resample 0 is not supported; give a policy by name"):
        load(path.parent)
    del facts["resample"]
    path.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="does not say resample"):
        load(path.parent)


def test_a_checkpoint_of_another_kind_is_refused_before_its_weights_are_read(edited):
    folder = edited()
    (folder / "config.json").write_text('{"model_type": "gemma3"}')
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="model_type 'gemma3', expected 'siglip'"):
        load(folder)


# Names of models


def test_nano_without_its_weights_says_so(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match=f"model {tmp_path}: no config.json there"):
        resolve_model("nano", tmp_path)
    shutil.copy(tiny_folder / "config.json", tmp_path)
    with pytest.raises(ValueError, match=f"model {tmp_path}: no .safetensors weights there"):
        resolve_model("nano", tmp_path)
    assert resolve_model("nano", tiny_folder) == tiny_folder


def test_a_hub_id_that_is_not_here_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="nobody/nothing: not on this machine and the Hub cannot be reached") as caught:
        resolve_model("nobody/nothing")
    assert "give a local folder or 'nano'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_something_else_is_no_model(tmp_path):
    with pytest.raises(ValueError, match="model no such model: no such folder and not a Hub id; give 'nano'"):
        resolve_model("no such model")
    with pytest.raises(ValueError, match="no config.json there"):
        resolve_model(tmp_path)


def test_fingerprint_follows_the_weights_and_not_the_place(edited, encoder):
    same = edited()
    assert fingerprint(same) == encoder.fingerprint
    weights = same / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint(same) != encoder.fingerprint
