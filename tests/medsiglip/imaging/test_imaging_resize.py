import math

import numpy as np
import pytest

from medsiglip.imaging import RESIZE_POLICIES, resize


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
    # 0.501: float32 and float64 may round a tie to either side
    assert np.abs(resize(pixels, side, "report") - slow_report(pixels, side)).max() <= 0.501


def line(*values):
    return np.repeat(np.array(values, np.uint8)[None, :, None], 3, axis=2)


def test_report_enlarging_two_to_four_by_hand():
    pixels = np.concatenate([line(0, 100), line(200, 40)])
    # positions -0.25, 0.25, 0.75, 1.25, so weights of the second value: 0, 1/4, 3/4, 1
    expected = [[0, 25, 75, 100], [50, 59, 76, 85], [150, 126, 79, 55], [200, 160, 80, 40]]
    # row 1: 0 * .75 + 200 * .25 = 50, 25 * .75 + 160 * .25 = 58.75, 75 * .75 + 80 * .25 = 76.25, 85
    # row 2: 150, 25 * .25 + 160 * .75 = 126.25, 75 * .25 + 80 * .75 = 78.75, 55
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


def test_refusals():
    with pytest.raises(ValueError, match="unknown resize policy 'area'; use one of huggingface, "):
        resize(noise(4, 4), 4, "area")
    with pytest.raises(ValueError, match="float64 of shape .*expected"):
        resize(noise(4, 4) / 255, 4, "report")
    with pytest.raises(ValueError, match="size_px is 0"):
        resize(noise(4, 4), 0, "report")
