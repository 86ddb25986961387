"""Patches, other sizes, attention by heads, int8, text normalisers and CT views, each beside plain transformers."""

import numpy as np
import pydicom.data
import pytest
import torch
from torch import nn

from medsiglip.encoder import MedSigLIP
from medsiglip.imaging import read_pictures
from medsiglip.network import attention
from medsiglip.network.int8 import Int8Linear
from medsiglip.network.text import normalised
from tests.nano import needs_nano


@pytest.fixture(scope="module")
def plain(tiny_folder):
    from transformers import SiglipModel

    return SiglipModel.from_pretrained(tiny_folder, dtype=torch.float32).eval()


def values_of(encoder, arrays):
    from medsiglip.imaging import Picture

    pictures = [Picture.from_array(array) for array in arrays]
    return encoder.preprocessing.pixel_values([encoder.preprocessing.resized(picture) for picture in pictures])


# Patches and sizes


def test_patches_are_the_tower_s_tokens_in_rows(encoder, plain, arrays):
    found = encoder.encode_patches(arrays, batch_size=4)
    with torch.inference_mode():
        tokens = plain.vision_model(values_of(encoder, arrays)).last_hidden_state
    assert found.shape == (9, 2, 2, 16) and found.dtype == np.float32
    np.testing.assert_allclose(found, tokens.reshape(9, 2, 2, 16), atol=1e-5)
    assert encoder.encode_patches([]).shape == (0, 2, 2, 16)


@pytest.mark.parametrize("size_px", [56, 42])
def test_another_size_is_transformers_own_interpolation(tiny_folder, plain, arrays, size_px):
    large = MedSigLIP.from_pretrained(tiny_folder, device="cpu", size_px=size_px)
    with torch.inference_mode():
        theirs = plain.get_image_features(values_of(large, arrays), interpolate_pos_encoding=True).pooler_output
    theirs = theirs / theirs.norm(dim=-1, keepdim=True)
    np.testing.assert_allclose(large.encode_images(arrays), theirs, atol=1e-5)
    assert large.encode_patches(arrays).shape[1:3] == (size_px // 14,) * 2


def test_another_size_another_text_and_int8_are_other_identities(tiny_folder, encoder):
    changes = ({"size_px": 56}, {"text_normaliser": "report"}, {"dtype": "int8"})
    found = {MedSigLIP.from_pretrained(tiny_folder, device="cpu", **change).identity for change in changes}
    assert len(found | {encoder.identity}) == 4
    assert MedSigLIP.from_pretrained(tiny_folder, device="cpu", size_px=28).identity == encoder.identity


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(tiny_folder):
    with pytest.raises(ValueError, match="size 50 px is no multiple of the patch of 14 px; give one that is"):
        MedSigLIP.from_pretrained(tiny_folder, device="cpu", size_px=50)


# Attention


def test_one_head_after_the_other_is_softmax_attention():
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 17, 8, generator=random) for _ in range(3))
    expected = nn.functional.scaled_dot_product_attention(query, key, value, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(attention.one_head_after_the_other(query, key, value, 0.3), expected)
    wrong = attention.one_head_after_the_other(query, key, value, 0.5)
    assert (wrong - expected).abs().max() > 0.01


def test_it_is_used_in_bfloat16_over_many_positions_alone(tiny_folder, arrays, monkeypatch):
    used, original = [], attention.one_head_after_the_other
    monkeypatch.setattr(
        attention, "one_head_after_the_other", lambda q, k, v, s: used.append(q.shape[2]) or original(q, k, v, s)
    )
    sizes = {"small": 28, "large": 14 * 16}
    vectors = {}
    for name, size_px in sizes.items():
        for dtype in ("float32", "bfloat16"):
            model = MedSigLIP.from_pretrained(tiny_folder, device="cpu", dtype=dtype, size_px=size_px)
            vectors[name, dtype] = model.encode_images(arrays)
    assert used == [256, 256]  # two layers of one model
    cosine = (vectors["large", "float32"] * vectors["large", "bfloat16"]).sum(axis=1)
    assert cosine.min() > 0.99


def test_gradients_go_through_transformers_own_attention(tiny_folder):
    model = MedSigLIP.from_pretrained(tiny_folder, device="cpu").model
    model.get_image_features(torch.randn(1, 3, 28, 28)).pooler_output.sum().backward()
    assert model.vision_model.embeddings.patch_embedding.weight.grad.abs().sum() > 0


# Eight bits


def test_an_int8_layer_is_the_float_one_within_its_rounding():
    torch.manual_seed(0)
    linear, x = nn.Linear(96, 128), torch.randn(5, 7, 96)
    found, expected = Int8Linear(linear)(x), linear(x)
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert ((found - expected).norm() / expected.norm()).item() < 0.02
    assert Int8Linear(nn.Linear(96, 64, bias=False))(x.bfloat16()).dtype == torch.bfloat16


def test_an_int8_product_by_hand():
    """Weights 127 and -127 of scale 1/127, a row of scale 2/127: 2 · 1 · 1 - 1 · 1 = 1, exactly but for 64/127."""
    linear = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, -1.0]]))
    assert Int8Linear(linear)(torch.tensor([[2.0, 1.0]])).item() == pytest.approx(2 - 64 * 2 / 127, abs=1e-6)


@needs_nano
def test_nano_in_int8_stays_near_itself():
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (112, 112, 3), np.uint8) // (1 + i) for i in range(4)]
    own, small = (MedSigLIP.from_pretrained("nano", device="cpu", dtype=dtype) for dtype in ("float32", "int8"))
    layers = [m for m in small.model.modules() if isinstance(m, Int8Linear)]
    assert len(layers) == 6 * (6 + 4) and small.dtype_name == "int8"
    assert (own.encode_images(pictures) * small.encode_images(pictures)).sum(axis=1).min() > 0.99
    assert (own.encode_texts(["a chest X-ray"]) * small.encode_texts(["a chest X-ray"])).sum() > 0.99


# Texts


def test_the_report_s_normaliser_by_hand():
    texts = ["SCC/SCCIS", "O/E - Ecchymoses present", " No  acute_cardiopulmonary process. "]
    assert normalised(texts, "huggingface") == texts
    assert normalised(texts, "report") == ["sccsccis", "oe ecchymoses present", "no acute cardiopulmonary process"]
    with pytest.raises(ValueError, match="nothing is left of the text '--'"):
        normalised(["--"], "report")
    with pytest.raises(ValueError, match="text normaliser 'none' is unknown; choose one of huggingface, report"):
        normalised([], "none")


@pytest.mark.kit
def test_the_normalisers_differ_where_the_real_fast_tokenizer_keeps_marks(shapes):
    from transformers import SiglipTokenizer

    tokenizer = SiglipTokenizer.from_pretrained(shapes("medsiglip hub"))
    texts = ["mild pulmonary edema", "no acute_cardiopulmonary process"]
    plain, report = (tokenizer(normalised(texts, name))["input_ids"] for name in ("huggingface", "report"))
    assert plain[0] == report[0] and plain[1] != report[1]


# CT


CT, MR = (pydicom.data.get_testdata_file(f"{name}_small.dcm", download=False) for name in ("CT", "MR"))


def test_the_report_s_view_is_three_windows_of_a_ct_and_voi_of_all_else():
    from pathlib import Path

    for file, same in ((CT, "ct-report"), (MR, "voi")):
        (found,), (expected,) = (read_pictures(Path(file), policy) for policy in ("report", same))
        assert found.policy == expected.policy
        np.testing.assert_array_equal(found.pixels, expected.pixels)


def test_ct_is_shown_as_the_encoder_s_training_showed_it(tiny_folder, monkeypatch):
    grey = MedSigLIP.from_pretrained(tiny_folder, device="cpu")
    assert grey.pixel_policy == "voi"
    vision = grey.model.config.vision_config
    monkeypatch.setattr(vision, "hidden_size", 1152)
    assert grey.pixel_policy == "voi"  # a general SigLIP So400m at another size
    monkeypatch.setitem(grey.__dict__, "_checkpoint_px", 448)
    assert grey.pixel_policy == "report"


def test_int8_is_for_a_cpu():
    from medsiglip.encoder import _computed_in

    with pytest.raises(ValueError, match="dtype 'int8' is for a CPU, and the device is cuda; choose bfloat16 there"):
        _computed_in("int8", "cuda")
