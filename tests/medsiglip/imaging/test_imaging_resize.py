import importlib
import io
import json
import math

import numpy as np
import pytest

from medsiglip.imaging import RESIZE_POLICIES, resize
from medsiglip.imaging.frame import as_rgb, is_grey_plane
from tests.interop.make_tensorflow_resize_values import VALUES, pattern, sampled, sha256

module = importlib.import_module("medsiglip.imaging.resize")  # the package's `resize` is the function


def noise(height, width):
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


SHAPES = [(64, 64), (33, 70), (100, 41), (5, 9), (448, 448), (700, 512)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("policy", "resample"), [("huggingface", 2), ("huggingface-bicubic", 3)])
def test_huggingface_equals_transformers(shape, policy, resample):
    from PIL import Image
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    pixels, side = noise(*shape), 56
    processor = SiglipImageProcessorPil(
        size={"height": side, "width": side}, resample=resample, do_rescale=False, do_normalize=False
    )
    theirs = np.asarray(processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0])  # (3, S, S)
    np.testing.assert_array_equal(resize(pixels, side, policy), theirs.transpose(1, 2, 0))


def slow_report(pixels, side):
    """Pixel by pixel: zero-pad to a square, sample at half-pixel centres, edge values repeat."""
    height, width, _ = pixels.shape
    square = max(height, width)
    top, left = (square - height) // 2, (square - width) // 2

    def value(row, column, channel):
        row, column = min(max(row, 0), square - 1) - top, min(max(column, 0), square - 1) - left
        return float(pixels[row, column, channel]) if 0 <= row < height and 0 <= column < width else 0.0

    out = np.empty((side, side, 3))
    for y in range(side):
        for x in range(side):
            in_y, in_x = (y + 0.5) * square / side - 0.5, (x + 0.5) * square / side - 0.5
            row, column = math.floor(in_y), math.floor(in_x)
            dy, dx = in_y - row, in_x - column
            for c in range(3):
                above = value(row, column, c) * (1 - dx) + value(row, column + 1, c) * dx
                below = value(row + 1, column, c) * (1 - dx) + value(row + 1, column + 1, c) * dx
                out[y, x, c] = above * (1 - dy) + below * dy
    return out


@pytest.mark.parametrize(("shape", "side"), [((7, 7), 11), ((20, 13), 8), ((9, 31), 16), ((1, 1), 4), ((40, 40), 40)])
def test_report_equals_a_slow_implementation(shape, side):
    pixels = noise(*shape)
    # cut, not rounded; 1e-4: float32 and float64 may lie on either side of a whole number
    cut_off = slow_report(pixels, side) - resize(pixels, side, "report")
    assert cut_off.min() >= -1e-4 and cut_off.max() < 1 + 1e-4


def line(*values):
    return np.repeat(np.array(values, np.uint8)[None, :, None], 3, axis=2)


def test_report_enlarging_two_to_four_by_hand():
    pixels = np.concatenate([line(0, 100), line(200, 40)])
    # positions -0.25, 0.25, 0.75, 1.25, so weights of the second value: 0, 1/4, 3/4, 1
    expected = [[0, 25, 75, 100], [50, 58, 76, 85], [150, 126, 78, 55], [200, 160, 80, 40]]
    # row 1: 0 * .75 + 200 * .25 = 50, 25 * .75 + 160 * .25 = 58.75, 75 * .75 + 80 * .25 = 76.25, 85
    # row 2: 150, 25 * .25 + 160 * .75 = 126.25, 75 * .25 + 80 * .75 = 78.75, 55; fractions are cut off
    assert resize(pixels, 4, "report")[:, :, 0].tolist() == expected


def test_report_shrinks_without_antialiasing():
    pixels = np.repeat(line(0, 200, 0, 0, 0, 0, 0, 0), 8, axis=0)
    # 8 -> 2: positions 1.5 and 5.5: only the two nearest of four columns count: (200 + 0) / 2
    assert resize(pixels, 2, "report")[:, :, 0].tolist() == [[100, 0], [100, 0]]
    assert resize(pixels, 2, "huggingface")[0, 0, 0] not in (
        0,
        100,
    )  # the antialiased filter sees all columns


def test_report_four_to_two_is_the_mean_of_pairs():
    pixels = np.repeat(line(0, 100, 40, 60), 4, axis=0)  # positions 0.5 and 2.5
    assert resize(pixels, 2, "report")[:, :, 0].tolist() == [[50, 50], [50, 50]]


def test_report_pads_to_a_square_and_huggingface_squashes():
    pixels = np.full((10, 20, 3), 200, np.uint8)
    padded = resize(pixels, 20, "report")
    assert padded[:5].max() == 0 and padded[15:].max() == 0 and padded[5:15].min() == 200
    assert resize(pixels, 20, "huggingface").min() == 200


@pytest.mark.parametrize("policy", RESIZE_POLICIES)
def test_shape_and_dtype(policy):
    resized = resize(noise(30, 50), 17, policy)
    assert resized.shape == (17, 17, 3) and resized.dtype == np.uint8


TENSORFLOW = json.loads(VALUES.read_text())["cases"]


@pytest.mark.parametrize("case", TENSORFLOW, ids=lambda c: "{height}x{width}x{channels} to {size_px}".format(**c))
def test_report_equals_tensorflow_bit_for_bit(case):
    pixels = pattern(case["height"], case["width"], case["channels"])
    planes = pixels[:, :, 0] if case["channels"] == 1 else pixels
    ours = module._resize_padded_tensorflow(planes, case["size_px"])
    assert ours.dtype == np.float32
    assert sampled(ours) == case["sample"]
    assert sha256(ours) == case["sha256"]


def test_the_stored_values_see_another_order_of_operations():
    case = next(c for c in TENSORFLOW if (c["height"], c["size_px"]) == (1030, 448))
    pixels = pattern(case["height"], case["width"], case["channels"])
    rows_last = module._resize_padded_tensorflow(pixels.transpose(1, 0, 2), case["size_px"]).transpose(1, 0, 2)
    np.testing.assert_allclose(
        rows_last.ravel()[: 10**4], module._resize_padded_tensorflow(pixels, 448).ravel()[: 10**4], atol=1e-3
    )
    assert sha256(rows_last) != case["sha256"]


def test_report_is_cut_as_numpy_and_tensorflow_cast():
    pixels = line(0, 3)  # padded to 2 x 2 with a black row below; positions -0.25, 0.25, 0.75, 1.25
    # columns: 0, 0.75, 2.25, 3; rows: 1, 3/4, 1/4, 0 of it
    assert resize(pixels, 4, "report")[:, :, 0].tolist() == [[0, 0, 2, 3], [0, 0, 1, 2], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_container_pads_with_the_larger_half_of_an_odd_margin_below_and_to_the_right():
    wide = np.full((5, 8, 3), 200, np.uint8)
    expected = [0, 200, 200, 200, 200, 200, 0, 0]  # a margin of 3 is 1 above and 2 below
    for policy in ("container-medsiglip", "report"):
        assert resize(wide, 8, policy)[:, 4, 0].tolist() == expected
        assert resize(wide.transpose(1, 0, 2), 8, policy)[4, :, 0].tolist() == expected


def test_container_of_whole_jpeg_blocks_by_hand():
    pixels = np.full((16, 48, 3), 200, np.uint8)
    # The DC value of a flat block is 8 * (200 - 128) = 576, a multiple of its quantiser at quality 95, which is 2.
    padded = resize(pixels, 48, "container")
    assert padded[:, 24, 0].tolist() == [0] * 16 + [200] * 16 + [0] * 16
    assert (padded[16:32] == 200).all()


def test_container_goes_through_the_colours_of_jpeg():
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8), (16, 16, 3))
    # Y 76.2, Cb 85.0, Cr 255.5 become 76, 85, 255; back: 76 + 1.402 * 127 = 254.05, 0.1, -0.2
    assert np.unique(resize(red, 16, "container").reshape(-1, 3), axis=0).tolist() == [[254, 0, 0]]


def test_container_halves_the_resolution_of_colour():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, 0::2, 0] = 255
    stripes[:, 1::2, 2] = 255
    jpeg = resize(stripes, 32, "container").astype(int)
    # One chroma for both stripes: Cb 42 and Cr 53 above the middle, so red - blue = 1.402 * 53 - 1.772 * 42 = 0
    assert np.abs(jpeg[:, :, 0] - jpeg[:, :, 2]).max() <= 4
    assert jpeg[:, 0::2].mean() - jpeg[:, 1::2].mean() > 30  # luma keeps its columns: 76 and 29


@pytest.mark.parametrize("shape", SHAPES)
def test_container_is_jpeg_95_then_the_huggingface_processor(shape):
    from PIL import Image

    pixels = noise(*shape)
    side = max(shape)
    square = Image.new("RGB", (side, side))
    square.paste(Image.fromarray(pixels), ((side - shape[1]) // 2, (side - shape[0]) // 2))
    jpeg = io.BytesIO()
    square.save(jpeg, "JPEG", quality=95)
    np.testing.assert_array_equal(
        resize(pixels, 56, "container"), resize(np.asarray(Image.open(jpeg)), 56, "huggingface")
    )
    np.testing.assert_array_equal(
        resize(pixels, 56, "container-medsiglip"), resize(np.asarray(square), 56, "huggingface-bicubic")
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_container_medsiglip_is_what_transformers_makes_of_the_floats_that_the_container_hands_it(shape):
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    pixels = noise(*shape)
    side = max(shape)
    square = np.zeros((side, side, 3), np.float32)
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    square[top : top + shape[0], left : left + shape[1]] = pixels.astype(np.float32) / 255
    processor = SiglipImageProcessorPil(size={"height": 56, "width": 56}, do_rescale=False)
    theirs = processor.preprocess([square], data_format="channels_first", input_data_format="channels_last")
    values = np.asarray(theirs["pixel_values"][0]).transpose(1, 2, 0)
    ours = resize(pixels, 56, "container-medsiglip").astype(np.float64) / 255 * 2 - 1
    np.testing.assert_allclose(values, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [16, 57, 300])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("policy", RESIZE_POLICIES)
def test_a_grey_plane_gives_what_its_three_copies_give(policy, shape, side):
    plane = noise(*shape)[:, :, 0]
    resized = resize(as_rgb(plane), side, policy)
    assert is_grey_plane(resized)
    np.testing.assert_array_equal(resized, resize(np.repeat(plane[:, :, None], 3, axis=2), side, policy))


def test_report_of_a_strip_takes_no_padded_copy():
    strip = np.full((1, 2**16), 255, np.uint8)
    resized = resize(as_rgb(strip), 32, "report")  # the square would be 4 GiB
    assert resized.shape == (32, 32, 3)


def test_refusals():
    with pytest.raises(ValueError, match="unknown resize policy 'area'; use one of huggingface, "):
        resize(noise(4, 4), 4, "area")
    with pytest.raises(ValueError, match="float64 of shape .*expected"):
        resize(noise(4, 4) / 255, 4, "report")
    with pytest.raises(ValueError, match="size_px is 0"):
        resize(noise(4, 4), 0, "report")


@pytest.mark.parametrize("policy", ["container", "container-medsiglip"])
def test_a_strip_whose_square_is_a_bomb_is_refused(policy):
    strip = as_rgb(np.zeros((2, 40_000), np.uint8))
    with pytest.raises(ValueError, match="2 x 40000 pixels padded to a square of 40000 are too many; crop it, or use "):
        resize(strip, 32, policy)
