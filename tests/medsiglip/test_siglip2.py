"""SigLIP 2: SigLIP's network with Gemma's tokenizer, and no spiece.model. The oracle is plain transformers."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, SiglipConfig, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from medsiglip.encoder import MedSigLIP
from medsiglip.zero_shot import ZeroShotClassifier
from tests import tiny

TEXTS = ["Is there a pneumothorax?", "lung", "A chest X-ray of a 54 year old patient."]
AS_GOOGLES = {
    "tokenizer_class": "GemmaTokenizer",
    "processor_class": "SiglipProcessor",
    "add_bos_token": False,
    "add_eos_token": True,
    "padding_side": "right",
    "model_input_names": ["input_ids"],
    "pad_token": "<pad>",
    "eos_token": "<eos>",
    "bos_token": "<bos>",
    "unk_token": "<unk>",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip2")
    tokenizer = tiny.gemma_tokenizer(folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        vision_config={**tower, "image_size": 28, "patch_size": 14},
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 64,
            "projection_size": 16,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
    )
    torch.manual_seed(0)
    tiny.lively(SiglipModel(config)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 28, "width": 28}, resample=2).save_pretrained(folder)
    for path in folder.glob("chat_template*"):
        path.unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(AS_GOOGLES))
    return folder


@pytest.mark.parametrize(
    "settings",
    [{}, {"tokenizer_class": "Siglip2Tokenizer"}, {"model_input_names": ["input_ids", "attention_mask"]}],
    ids=["as Google's", "as transformers'", "with a mask"],
)
def test_labels_and_pictures_are_transformers(folder, tmp_path, settings, arrays):
    """Its processor's own words for "padding": as its zero-shot pipeline calls it."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "tokenizer_config.json").write_text(json.dumps({**AS_GOOGLES, **settings}))
    ours = MedSigLIP.from_pretrained(copy, device="cpu")
    stock, processor = SiglipModel.from_pretrained(copy).eval(), AutoProcessor.from_pretrained(copy)
    texts = processor(text=TEXTS, padding="max_length", max_length=64, return_tensors="pt")
    assert set(texts) == set(settings.get("model_input_names", ["input_ids"]))
    values = SiglipImageProcessorPil.from_pretrained(copy)(list(arrays), return_tensors="pt").pixel_values
    with torch.inference_mode():
        expected = stock(**texts, pixel_values=values)
    np.testing.assert_allclose(ours.encode_texts(TEXTS), expected.text_embeds, atol=1e-5)
    found = ZeroShotClassifier(ours, TEXTS).classify(list(arrays))
    np.testing.assert_allclose(found.probabilities, expected.logits_per_image.softmax(1), atol=1e-4)
    assert np.ptp(found.probabilities) > 0.01


def test_pictures_need_no_tokenizer(folder, tmp_path, arrays):
    copy = shutil.copytree(folder, tmp_path / "copy")
    expected = MedSigLIP.from_pretrained(copy, device="cpu").encode_images(arrays)
    (copy / "tokenizer.json").unlink()
    encoder = MedSigLIP.from_pretrained(copy, device="cpu")
    np.testing.assert_array_equal(encoder.encode_images(arrays), expected)
    with pytest.raises(ValueError, match="no spiece.model nor tokenizer.json there; fetch the tokenizer's files too"):
        encoder.encode_texts("lung")
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="its tokenizer does not load"):
        MedSigLIP.from_pretrained(copy, device="cpu").encode_texts("lung")


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["vocab_size"] = 300
    tensors = load_file(copy / "model.safetensors")
    name = "text_model.embeddings.token_embedding.weight"
    save_file({**tensors, name: tensors[name][:300].clone()}, copy / "model.safetensors", {"format": "pt"})
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="its tokenizer gives the id 3.., and its text tower knows 300 tokens"):
        MedSigLIP.from_pretrained(copy, device="cpu").encode_texts(TEXTS)


def test_naflex_is_refused_with_what_to_take(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "siglip2"}))
    with pytest.raises(ValueError, match="a SigLIP 2 with NaFlex .* towers of one fixed size alone are supported"):
        MedSigLIP.from_pretrained(copy)
