"""What a turn holds: volumes slice by slice, labelled studies, crops; each in the order of Google's notebooks."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medgemma import MedGemma
from medgemma.prompts.chat import render
from medgemma.prompts.content import (
    VolumeView,
    comparison_parts,
    open_study,
    pictures_of,
    study_parts,
    user_turn,
    volume_parts,
)
from medgemma.prompts.pan_and_scan import PanAndScan, crops
from medsiglip.imaging import CT_WINDOWS, ImageError, Picture, Volume
from tests import tiny

AXIAL = np.diag([5.0, 0.5, 0.5, 1.0])[[2, 1, 0, 3]]  # slice index to z, row to y, column to x


def volume(slices: int, unit: str = "HU", affine: np.ndarray = AXIAL) -> Volume:
    """Slice s, row r, column c hold 10 s + r - c."""
    s, r, c = np.mgrid[:slices, :6, :8]
    return Volume((10 * s + r - c).astype(np.int16), unit, affine, "ct", "0" * 64)


def ct_by_hand(values: np.ndarray, preset: str) -> np.ndarray:
    channels = [np.clip((values - low) / (high - low), 0, 1) * 255 for low, high in CT_WINDOWS[preset]]
    return np.rint(np.stack(channels, -1)).astype(np.uint8)


def test_a_ct_is_each_slice_followed_by_its_number() -> None:
    parts = volume_parts(volume(3))
    assert [p if isinstance(p, str) else p.frame for p in parts] == [0, "SLICE 1", 1, "SLICE 2", 2, "SLICE 3"]
    for picture in pictures_of(parts):
        expected = ct_by_hand(volume(3).voxels[picture.frame].astype(float), "medgemma-1.5")
        assert picture.policy == "ct-medgemma-1.5" and np.array_equal(picture.pixels, expected)


def test_a_single_slice_has_no_number() -> None:
    assert [type(p) for p in volume_parts(volume(1))] == [Picture]


def test_eighty_five_slices_as_in_the_notebook() -> None:
    """The k-th is slice round(k / 85 * (n - 1)), so that the first one is never shown."""
    parts = volume_parts(volume(200))
    assert [p.frame for p in pictures_of(parts)] == [round(k / 85 * 199) for k in range(1, 86)]
    assert parts[-1] == "SLICE 85" and len(parts) == 170
    assert len(pictures_of(volume_parts(volume(85)))) == 85
    frames = [p.frame for p in pictures_of(volume_parts(volume(10), VolumeView(budget=2, sampling="even")))]
    assert frames == [2, 7]


def test_an_mr_is_stretched_over_the_whole_volume() -> None:
    mr = volume(3, "stored")
    for picture in pictures_of(volume_parts(mr)):
        low, high = mr.voxels.min(), mr.voxels.max()
        grey = np.rint((mr.voxels[picture.frame] - low) / (high - low) * 255).astype(np.uint8)
        assert picture.policy == "min-max"
        assert np.array_equal(picture.pixels, np.repeat(grey[:, :, None], 3, 2))


def test_a_named_preset_is_used_and_declares_what_a_nifti_holds() -> None:
    assert pictures_of(volume_parts(volume(2), VolumeView("report")))[0].policy == "ct-report"
    unknown = volume(2, "unknown")
    with pytest.warns(UserWarning, match="does not say what it holds .* ask for the preset medgemma-1.5"):
        assert pictures_of(volume_parts(unknown))[0].policy == "min-max"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pictures_of(volume_parts(unknown, VolumeView("medgemma-1.5")))[0].policy == "ct-medgemma-1.5"
    with pytest.raises(ImageError, match="not Hounsfield units"):
        volume_parts(volume(2, "stored"), VolumeView("report"))
    with pytest.raises(ValueError, match="unknown volume preset 'lung'"):
        volume_parts(volume(2), VolumeView("lung"))
    with pytest.raises(ValueError, match="slice budget is 0"):
        volume_parts(volume(2), VolumeView(budget=0))


def test_slices_that_are_not_axial_are_warned_of() -> None:
    coronal = AXIAL[[0, 2, 1, 3]]
    with pytest.warns(UserWarning, match="the slices are coronal, but MedGemma was trained on axial ones"):
        volume_parts(volume(2, affine=coronal))


def test_a_prior_and_a_current_study_have_labels(images: list[Any]) -> None:
    prior, current = (Picture.from_pil(image) for image in images[:2])
    turn = user_turn([*comparison_parts([prior], [current]), "What has changed?"])
    assert turn.pictures == (prior, current)
    assert [part.get("text", part["type"]) for part in turn.message["content"]] == [
        "Prior image:", "image", "Current image:", "image", "What has changed?"]  # fmt: skip


def test_studies_mix_pictures_and_volumes(images: list[Any]) -> None:
    film = Picture.from_pil(images[0])
    parts = study_parts([film, volume(2)])
    assert parts[0] is film and parts[2::2] == ["SLICE 1", "SLICE 2"]


def test_the_number_follows_its_slice_in_the_prompt(gemma: MedGemma) -> None:
    """And a prompt with the number first is another prompt: the fault is seen in the ids."""
    parts = volume_parts(volume(2))
    turn = user_turn(["Look at the CT.", *parts, "Is there a lesion?"])
    ids = render(gemma.tokenizer, gemma.image_tokens, [turn.message]).input_ids
    shape = gemma.image_tokens
    image = shape.expanded()
    text = (
        f"<bos><start_of_turn>user\nLook at the CT.{image}SLICE 1{image}SLICE 2Is there a lesion?"
        "<end_of_turn>\n<start_of_turn>model\n"
    )
    assert list(ids) == gemma.tokenizer(text, add_special_tokens=False).input_ids
    swapped = [parts[1], parts[0], parts[3], parts[2]]
    wrong = user_turn(["Look at the CT.", *swapped, "Is there a lesion?"])
    assert render(gemma.tokenizer, shape, [wrong.message]).input_ids != ids


def test_a_volumes_prompt_is_the_processors(gemma: MedGemma, processor: Any) -> None:
    turn = user_turn(["Look at the CT.", *volume_parts(volume(3)), "Is there a lesion?"])
    left = iter(turn.pictures)
    content = [
        {"type": "image", "image": Image.fromarray(next(left).pixels)} if part["type"] == "image" else part
        for part in turn.message["content"]
    ]
    stock = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    prompt = render(gemma.tokenizer, gemma.image_tokens, [turn.message])
    assert list(prompt.input_ids) == stock["input_ids"][0].tolist()
    values = gemma.preprocessing.pixel_values([gemma.preprocessing.resized(p) for p in turn.pictures])
    assert np.abs(values.numpy() - stock["pixel_values"].numpy()).max() < 1e-6


@pytest.mark.kit
def test_a_real_nifti_ct_is_slices_within_the_budget(kit: Path, gemma: MedGemma) -> None:
    files = sorted((kit / "wsi-nifti-real" / "images").rglob("*.nii*"))
    assert files
    for file in files:
        (item,) = open_study(str(file))
        assert isinstance(item, Volume)
        parts = volume_parts(item, VolumeView("medgemma-1.5", budget=5))
        pictures = pictures_of(parts)
        assert len(pictures) == min(5, len(item.voxels)) and parts[1::2] == [
            f"SLICE {k}" for k in range(1, len(pictures) + 1)
        ]
        assert {p.policy for p in pictures} == {"ct-medgemma-1.5"}


# Pan and scan


def picture_of(height: int, width: int, seed: int = 0) -> Picture:
    return Picture.from_array(tiny.picture_array(seed, height, width))


SIZES = [(300, 300), (300, 359), (300, 360), (300, 800), (800, 300), (256, 2000), (255, 2000), (600, 700), (500, 601),
         (2000, 700), (400, 511), (512, 1023), (257, 900), (1024, 300), (100, 400),
         (400, 1000)]  # fmt: skip  # 2.5 times as wide: half is rounded up


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_crops_are_transformers_own(height: int, width: int) -> None:
    from transformers import Gemma3ImageProcessorPil

    picture = picture_of(height, width)
    stock = Gemma3ImageProcessorPil().pan_and_scan(picture.pixels.transpose(2, 0, 1), 256, 4, 1.2)
    ours = crops(picture, PanAndScan())
    assert len(ours) == len(stock)
    for crop, theirs in zip(ours, stock, strict=True):
        assert np.array_equal(crop.pixels, theirs.transpose(1, 2, 0))
    assert len({p.sha256 for p in [picture, *ours]}) == 1 + len(ours)


@pytest.mark.parametrize(("smallest", "most", "ratio"), [(64, 3, 1.5), (10, 8, 1.0), (300, 2, 1.2)])
def test_other_rules_are_transformers_own(smallest: int, most: int, ratio: float) -> None:
    from transformers import Gemma3ImageProcessorPil

    for height, width in [*SIZES, (64, 640)]:
        picture = picture_of(height, width)
        stock = Gemma3ImageProcessorPil().pan_and_scan(picture.pixels.transpose(2, 0, 1), smallest, most, ratio)
        ours = crops(picture, PanAndScan(smallest, most, ratio))
        assert [c.pixels.shape[:2] for c in ours] == [c.shape[1:] for c in stock]


def test_a_prompt_with_crops_is_the_processors(gemma: MedGemma, processor: Any) -> None:
    """Ids, slots and pixel values, for a picture that is cropped between two that are not."""
    pictures = [picture_of(300, 300, 1), picture_of(300, 800, 2), picture_of(70, 90, 3)]
    turn = user_turn([*pictures, "Compare."], PanAndScan())
    prompt = render(gemma.tokenizer, gemma.image_tokens, [turn.message])
    content = [
        *({"type": "image", "image": Image.fromarray(p.pixels)} for p in pictures),
        {"type": "text", "text": "Compare."},
    ]
    stock = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt", do_pan_and_scan=True,
    )  # fmt: skip
    assert list(prompt.input_ids) == stock["input_ids"][0].tolist()
    assert list(prompt.token_type_ids) == stock["token_type_ids"][0].tolist()
    assert prompt.num_images == len(turn.pictures) == 6
    values = gemma.preprocessing.pixel_values([gemma.preprocessing.resized(p) for p in turn.pictures])
    assert np.abs(values.numpy() - stock["pixel_values"].numpy()).max() < 1e-6
    whole = render(gemma.tokenizer, gemma.image_tokens, [user_turn([*pictures, "Compare."]).message])
    assert whole.num_images == 3  # off unless asked for


def test_pan_and_scan_refuses_what_it_cannot_crop() -> None:
    from medsiglip.imaging import Square

    with pytest.raises(ValueError, match="as it was opened"):
        crops(replace(picture_of(56, 56), square=Square(56, "huggingface")), PanAndScan())
    with pytest.raises(ValueError, match="max_crops is 1, expected at least 2"):
        PanAndScan(max_crops=1)
    with pytest.raises(ValueError, match="min_ratio is 0.5, expected at least 1"):
        PanAndScan(min_ratio=0.5)
