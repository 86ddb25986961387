import dataclasses
import math
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipModel, SiglipTokenizer
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from medsiglip import encoder as encoder_module
from medsiglip.encoder import MedSigLIP, pick_device, pick_dtype, tokenize
from medsiglip.imaging import ImageError, open_images
from medsiglip.zero_shot import ZeroShotClassifier

TEXTS = ["Pneumothorax in the left apex.", "CT", "a histology slide, of adenocarcinoma", "mild edema " * 6]


@pytest.fixture(scope="module")
def reference(tiny_folder):
    """Plain transformers, loaded by itself."""
    return SimpleNamespace(
        model=SiglipModel.from_pretrained(tiny_folder).eval(),
        processor=SiglipImageProcessorPil.from_pretrained(tiny_folder),
        tokenizer=SiglipTokenizer.from_pretrained(tiny_folder),
    )


def outputs_of(reference, arrays, texts, padding="max_length"):
    """Transformers' image_embeds (N, D), text_embeds (T, D) and logits_per_image (N, T)."""
    images = [Image.fromarray(pixels) for pixels in arrays]
    pixel_values = reference.processor(images, return_tensors="pt").pixel_values
    ids = reference.tokenizer(texts, padding=padding, truncation=True, max_length=64, return_tensors="pt").input_ids
    with torch.inference_mode():
        return reference.model(input_ids=ids, pixel_values=pixel_values)


def assert_parity(encoder, expected, arrays, texts):
    images, labels = encoder.encode_images(arrays), encoder.encode_texts(texts)
    logits = encoder.logit_scale * images @ labels.T + encoder.logit_bias
    pairs = ((images, "image_embeds"), (labels, "text_embeds"), (logits, "logits_per_image"))
    for ours, name in pairs:
        theirs = getattr(expected, name)
        torch.testing.assert_close(torch.from_numpy(ours), theirs, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: n + m)


# Parity with plain transformers


def test_embeddings_and_logits_are_those_of_transformers(encoder, reference, arrays):
    assert_parity(encoder, outputs_of(reference, arrays, TEXTS), arrays, TEXTS)


def test_the_inputs_of_the_parity_test_can_tell_encoders_apart(reference, arrays):
    expected = outputs_of(reference, arrays, TEXTS)
    for vectors in (expected.image_embeds, expected.text_embeds):
        cosines = vectors @ vectors.T
        assert (cosines - torch.eye(len(vectors))).max() < 0.999


def test_pixel_values_are_those_of_transformers(encoder, reference, arrays):
    theirs = reference.processor([Image.fromarray(pixels) for pixels in arrays], return_tensors="pt").pixel_values
    pictures = list(open_images(arrays))
    ours = encoder.preprocessing.pixel_values([encoder.preprocessing.resized(picture) for picture in pictures])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_texts_padded_to_the_longest_give_other_scores(encoder, reference, arrays):
    texts = TEXTS[:3]  # the fourth fills nearly all 64 tokens, which would hide the fault
    right = outputs_of(reference, arrays, texts)
    wrong = outputs_of(reference, arrays, texts, padding="longest")
    assert (right.logits_per_image - wrong.logits_per_image).abs().max() > 0.05
    with pytest.raises(AssertionError, match="text_embeds"):
        assert_parity(encoder, wrong, arrays, texts)


def pad_to_longest(monkeypatch, encoder):
    def faulty(tokenizer, texts):
        return dict(tokenizer(list(texts), padding="longest", return_tensors="pt"))

    monkeypatch.setattr(encoder_module, "text_inputs", faulty)
    return encoder


def no_unit_length(monkeypatch, encoder):
    monkeypatch.setattr(encoder_module, "unit", lambda vectors: vectors.float().numpy())
    return encoder


def other_pixels(**changes):
    return lambda _, encoder: dataclasses.replace(
        encoder, preprocessing=dataclasses.replace(encoder.preprocessing, **changes)
    )


@pytest.mark.parametrize(
    ("plant", "seen_in"),
    [
        (pad_to_longest, "text_embeds"),
        (no_unit_length, "image_embeds"),
        (other_pixels(policy="huggingface-bicubic"), "image_embeds"),
        (other_pixels(policy="report"), "image_embeds"),
        (other_pixels(mean=(0.48, 0.46, 0.41)), "image_embeds"),
    ],
)
def test_parity_sees_planted_faults(encoder, reference, arrays, monkeypatch, plant, seen_in):
    expected = outputs_of(reference, arrays, TEXTS[:3])
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match=seen_in):
        assert_parity(plant(patch, encoder), expected, arrays, TEXTS[:3])
    assert_parity(encoder, expected, arrays, TEXTS[:3])


def test_texts_are_padded_to_64_and_longer_ones_refused(encoder):
    """63 tokens and the end token fit; nothing is cut."""
    either = [start + "a " * n for start in ("", "e") for n in range(1, 70)]
    texts = {len(encoder.tokenizer(text).input_ids): text for text in either}
    ids = tokenize(encoder.tokenizer, [texts[64], "ct"])
    assert ids.shape == (2, 64) and ids[0, -1] == encoder.tokenizer.eos_token_id
    assert (ids[1, 10:] == encoder.tokenizer.pad_token_id).all()
    too_long = texts[65]
    with pytest.raises(ValueError, match=r"text 2 of 3 \(.*\) is 65 tokens long, and the encoder reads 64; shorten it"):
        encoder.encode_texts(["ct", too_long, "ct"])
    with pytest.raises(ValueError, match=r"text 2 of 2 \(.*\) is 65 tokens long"):
        ZeroShotClassifier(encoder, ["ct", too_long])
    with pytest.raises(ValueError, match="the text is 65 tokens long"):
        encoder.encode_texts(too_long)


# Identities


def assert_singles_are_the_batch(encoder, arrays):
    singles = np.concatenate([encoder.encode_images([pixels]) for pixels in arrays])
    np.testing.assert_allclose(encoder.encode_images(arrays, batch_size=4), singles, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 9, 100])
def test_any_batch_size_gives_the_same_vectors_in_order(encoder, arrays, batch_size):
    singles = np.concatenate([encoder.encode_images([pixels]) for pixels in arrays])
    np.testing.assert_allclose(encoder.encode_images(arrays, batch_size=batch_size), singles, atol=1e-6)
    texts = np.concatenate([encoder.encode_texts([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode_texts(TEXTS, batch_size=batch_size), texts, atol=1e-6)


@pytest.mark.parametrize(
    "fault",
    [
        lambda right, resized: right(resized)[::-1],
        lambda right, resized: right(resized[:1] * len(resized)),
        lambda right, resized: right(resized) - right(resized).mean(axis=0) / 100,
    ],
    ids=["order turned", "first picture for all", "vectors depend on their batch"],
)
def test_batch_identity_sees_planted_faults(encoder, arrays, monkeypatch, fault):
    right = encoder._embed
    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(encoder, "_embed", lambda resized: fault(right, resized))
        assert_singles_are_the_batch(encoder, arrays)
    assert_singles_are_the_batch(encoder, arrays)


def test_streamed_is_whole_and_keeps_the_order(encoder, films):
    pictures = list(open_images(films))
    streamed = list(encoder.stream_images(iter(pictures), batch_size=4))
    assert [len(batch) for batch, _ in streamed] == [4, 4, 1]
    assert [p.file for batch, _ in streamed for p in batch] == [str(film) for film in films]
    np.testing.assert_allclose(
        np.concatenate([v for _, v in streamed]), encoder.encode_images(pictures, 100), atol=1e-6
    )


def test_paths_pictures_arrays_and_pil_images_are_the_same(encoder, films, arrays):
    expected = encoder.encode_images(arrays)
    for images in (films, [str(f) for f in films], open_images(films), [Image.open(film) for film in films]):
        np.testing.assert_array_equal(encoder.encode_images(images), expected)


@pytest.mark.parametrize("kind", ["path", "string", "picture", "array", "pil"])
def test_one_picture_may_be_given_by_itself(encoder, films, arrays, kind):
    one = {
        "path": films[1],
        "string": str(films[1]),
        "picture": next(open_images(films[1])),
        "array": arrays[1],
        "pil": Image.fromarray(arrays[1]),
    }[kind]
    np.testing.assert_array_equal(encoder.encode_images(one), encoder.encode_images([arrays[1]]))


def test_a_grey_array_is_one_picture_and_a_list_of_them_is_many(encoder, arrays):
    grey = arrays[1][:, :, 0]
    assert encoder.encode_images(grey).shape == (1, 16)
    assert encoder.encode_images([grey] * 5).shape == (5, 16)


def test_a_folder_is_all_its_files(encoder, films, arrays):
    np.testing.assert_array_equal(encoder.encode_images(films[0].parent), encoder.encode_images(arrays))


def test_one_text_may_be_given_by_itself(encoder):
    np.testing.assert_array_equal(encoder.encode_texts("nodule"), encoder.encode_texts(["nodule"]))


def test_every_frame_of_a_file_is_a_picture(encoder, tmp_path, arrays):
    pages = [Image.fromarray(pixels) for pixels in arrays[:3]]
    pages[0].save(tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    vectors = encoder.encode_images(tmp_path / "pages.tiff")
    np.testing.assert_allclose(vectors, encoder.encode_images(arrays[:3]), atol=1e-6)


def test_vectors_are_float32_of_length_one(encoder, arrays):
    for vectors in (encoder.encode_images(arrays), encoder.encode_texts(TEXTS)):
        assert vectors.dtype == np.float32
        assert vectors.shape[1] == encoder.embedding_width == 16
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_nothing_gives_no_vectors(encoder):
    assert encoder.encode_images([]).shape == encoder.encode_texts([]).shape == (0, 16)


def test_scale_and_bias_are_those_of_the_checkpoint(encoder):
    assert encoder.logit_scale == pytest.approx(np.exp(1.7), rel=1e-6)
    assert encoder.logit_bias == -2.5


def test_a_stream_may_be_left_early(encoder, films):
    stream = encoder.stream_images(open_images(films), batch_size=2)
    next(stream)
    stream.close()


def test_policy_by_name_is_used_and_kept(tiny_folder, encoder, arrays):
    report = MedSigLIP.from_pretrained(tiny_folder, device="cpu", policy="report")
    assert (encoder.preprocessing.policy, report.preprocessing.policy) == ("huggingface", "report")
    same, other = (encoder.encode_images([a]) - report.encode_images([a]) for a in (arrays[0], arrays[2]))
    assert abs(same).max() < 1e-6  # 28 by 28 pixels already: neither policy has anything to do
    assert abs(other).max() > 1e-3


def test_bfloat16_is_near_float32(tiny_folder, encoder, arrays):
    half = MedSigLIP.from_pretrained(tiny_folder, device="cpu", dtype="bfloat16")
    vectors = half.encode_images(arrays)
    assert vectors.dtype == np.float32
    assert (vectors * encoder.encode_images(arrays)).sum(axis=1).min() > 0.98


# Refusals


def test_a_bad_picture_stops_with_its_name(encoder, films):
    films[4].write_bytes(b"no picture")
    with pytest.raises(ImageError, match="film4.png: not a picture"):
        encoder.encode_images(films)


def test_an_array_of_another_kind_is_refused(encoder):
    with pytest.raises(ImageError, match=r"got float64 of shape \(8, 8, 3\)"):
        encoder.encode_images(np.zeros((8, 8, 3)))
    with pytest.raises(ImageError, match=r"got uint8 of shape \(8, 8, 4\)"):
        encoder.encode_images(np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(ImageError, match=r"got uint8 of shape \(5, 8, 8\)"):  # a stack could be either; a list is clear
        encoder.encode_images(np.zeros((5, 8, 8), np.uint8))


def test_unknown_policy_device_and_dtype_are_refused(tiny_folder):
    with pytest.raises(ValueError, match="'nearest' is unknown; choose one of huggingface"):
        MedSigLIP.from_pretrained(tiny_folder, policy="nearest")
    with pytest.raises(ValueError, match="'npu' is not on this machine; choose auto or "):
        pick_device("npu")
    with pytest.raises(ValueError, match="'float16': choose float32 or bfloat16"):
        pick_dtype("float16", "cpu")


def test_one_ahead_gives_the_same_items_and_the_error_in_its_place():
    from medsiglip.encoder import one_ahead

    def items():
        yield from ([1], [2, 3])
        raise ValueError("the third batch is bad")

    got = []
    with pytest.raises(ValueError, match="third batch"):
        for item in one_ahead(items()):
            got.append(item)
    assert got == [[1], [2, 3]]
    assert list(one_ahead(iter([[4], [5]]))) == [[4], [5]]


PAGE_FAULTS = """
import resource
import torch
from medsiglip import MedSigLIP

torch.set_num_threads(1)
network = MedSigLIP.from_pretrained("nano", device="cpu").model
pixels = torch.zeros(32, 3, 112, 112)
with torch.inference_mode():
    faults = []
    for turn in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        network.get_image_features(pixel_values=pixels)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[2:]))  # threads that start late may take a page or two more
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
@pytest.mark.parametrize(("kept", "low", "high"), [(True, 0, 1000), (False, 4000, math.inf)])
def test_batches_use_the_memory_of_batches_before(repository, kept, low, high):
    environment = {**os.environ, **({} if kept else {"MALLOC_TRIM_THRESHOLD_": str(2**17)})}
    done = subprocess.run(
        [sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True, cwd=repository, env=environment
    )
    assert low <= int(done.stdout) < high
