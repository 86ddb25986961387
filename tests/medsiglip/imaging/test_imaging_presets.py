"""Expected values are worked out by hand, or by independent transcriptions of the published recipes."""

import warnings
from fractions import Fraction

import numpy as np
import pytest

from medsiglip.imaging.volumes.presets import CT_WINDOWS, apply_hu_windows, ct_rgb, min_max_grey, sample_slices

EVERY_INT16 = np.arange(-(2**15), 2**15).astype(np.int16).reshape(256, 256)


def notebook_rgb(values_hu, ranges):
    """What Google's CT notebook does, written from its description: float32, clip, scale, round."""
    channels = []
    for low, high in ranges:
        channel = np.clip(values_hu, low, high).astype(np.float32)
        channel -= low
        channel /= high - low
        channel *= 255.0
        channels.append(channel)
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def container_rgb(values_hu):
    """What the container's accurate window does: interpolation between the window's ends, on rounded HU."""
    values = np.rint(values_hu).astype(np.int32)
    channels = []
    for center, width in ((0, 2048), (175, 80), (40, 80)):
        low, high = center - width / 2, center + width / 2
        channels.append(np.round(np.interp(np.clip(values, low, high), (low, high), (0, 255))).astype(np.uint8))
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize(
    ("preset", "ranges"),
    [
        ("report", [(-1225, 1025), (-135, 215), (0, 80)]),
        ("medgemma-1.5", [(-1024, 1024), (-135, 215), (0, 80)]),
    ],
)
def test_every_int16_is_what_the_notebook_makes_of_it(preset, ranges):
    np.testing.assert_array_equal(ct_rgb(EVERY_INT16, preset), notebook_rgb(EVERY_INT16, ranges))


def test_every_int16_is_what_the_container_makes_of_it():
    with pytest.warns(UserWarning, match="fault of Google's serving container"):
        ours = ct_rgb(EVERY_INT16, "google-container")
    np.testing.assert_array_equal(ours, container_rgb(EVERY_INT16))
    assert ours[EVERY_INT16 == 40].tolist() == [[132, 0, 128]]  # soft tissue has no green left


def test_the_windows_of_the_report_are_its_widths_and_centres():
    centres = [((low + high) / 2, high - low) for low, high in CT_WINDOWS["report"]]
    assert centres == [(-100, 2250), (40, 350), (40, 80)]


def test_known_values_by_hand():
    # 0 HU: 1225 / 2250 * 255 = 138.83; 135 / 350 * 255 = 98.36; 0. 40 HU: 143.37; 127.5 → even 128; 127.5 → 128.
    hu = np.array([[-2000, 0, 40, 3000]], np.int16)
    expected = [[[0, 0, 0], [139, 98, 0], [143, 128, 128], [255, 255, 255]]]
    assert ct_rgb(hu, "report").tolist() == expected


@pytest.mark.parametrize("preset", ["report", "medgemma-1.5"])
def test_rounding_is_that_of_exact_fractions(preset):
    for channel, (low, high) in enumerate(CT_WINDOWS[preset]):
        hu = np.arange(int(low), int(high) + 1)
        exact = [round(Fraction((int(value) - int(low)) * 255, int(high) - int(low))) for value in hu]
        assert ct_rgb(hu[None], preset)[0, :, channel].tolist() == exact


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64])
def test_other_types_give_the_same_pixels(dtype):
    limits = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else np.iinfo(np.int32)
    hu = np.clip(np.linspace(-1300, 1300, 512).round(), max(limits.min, -1300), min(limits.max, 1300)).reshape(16, 32)
    hu = np.vstack([hu, np.full((1, 32), min(limits.max, 2**40))])
    as_int16 = np.clip(hu, -32768, 32767).astype(np.int16)
    np.testing.assert_array_equal(ct_rgb(hu.astype(dtype), "report"), ct_rgb(as_int16, "report"))


def test_fractions_of_a_hounsfield_unit_count():
    # 0.5 HU in the 0..80 window is 1.59 and so 2; 0.1 HU is 0.32 and so 0
    assert ct_rgb(np.array([[0.5, 0.1]], np.float32), "report")[0, :, 2].tolist() == [2, 0]


def test_what_is_not_finite_is_black_or_clipped():
    assert ct_rgb(np.array([[np.nan, np.inf, -np.inf]]), "report")[0, :, 0].tolist() == [0, 255, 0]


def test_volumes_keep_their_leading_axes():
    volume = EVERY_INT16.reshape(4, 2, 64, 128)
    rgb = ct_rgb(volume, "report")
    assert rgb.shape == (4, 2, 64, 128, 3)
    np.testing.assert_array_equal(rgb[3, 1], ct_rgb(volume[3, 1], "report"))
    turned = volume.transpose(1, 0, 3, 2)  # not contiguous
    np.testing.assert_array_equal(ct_rgb(turned, "report")[1, 3], rgb[3, 1].transpose(1, 0, 2))


def test_an_unknown_preset_and_a_bare_number_are_refused():
    with pytest.raises(ValueError, match="'lung'; use one of report, medgemma-1.5, google-container"):
        ct_rgb(EVERY_INT16, "lung")
    with pytest.raises(ValueError, match=r"expected \(\.\.\., H, W\)"):
        ct_rgb(np.zeros(3, np.int16), "report")


def test_only_the_faulty_preset_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ct_rgb(EVERY_INT16, "report")
        apply_hu_windows(EVERY_INT16, CT_WINDOWS["google-container"])
        with pytest.raises(UserWarning, match="reproduce that container"):
            ct_rgb(EVERY_INT16, "google-container")


def test_min_max_grey_by_hand():
    # (v - 10) / 90 * 255: 55 → 127.5, even 128; 20 → 28.33
    values = np.array([[10, 100, 55, 20, 0, 200]], np.int16)
    assert min_max_grey(values, 10, 100).tolist() == [[0, 255, 128, 28, 0, 255]]
    not_finite = np.array([[np.nan, np.inf, -np.inf, 55]], np.float32)
    assert min_max_grey(not_finite, 10, 100).tolist() == [[0, 255, 0, 128]]


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
def test_min_max_grey_is_what_the_container_does(dtype):
    volume = np.random.default_rng(3).integers(0, 4096, (5, 16, 16)).astype(dtype)
    as_float = volume.astype(np.float64)
    container = np.round((as_float - as_float.min()) / (as_float.max() - as_float.min()) * 255).astype(np.uint8)
    np.testing.assert_array_equal(min_max_grey(volume, volume.min(), volume.max()), container)


def test_min_max_grey_of_every_int16():
    as_float = EVERY_INT16.astype(np.float64)
    for low, high in ((-32768, 32767), (-1024, 3071), (0, 7)):
        expected = np.round(np.clip((as_float - low) / (high - low) * 255, 0, 255)).astype(np.uint8)
        np.testing.assert_array_equal(min_max_grey(EVERY_INT16, low, high), expected)


def test_a_constant_volume_is_black():
    assert not min_max_grey(np.full((2, 3), 7), 7, 7).any()


@pytest.mark.parametrize(
    ("num_slices", "budget", "expected"),
    [
        (0, 3, []),
        (3, 3, [0, 1, 2]),
        (2, 85, [0, 1]),
        (4, 3, [0, 2, 3]),  # centres at 0.67, 2, 3.33
        (9, 3, [1, 4, 7]),
        (10, 4, [1, 3, 6, 8]),  # 1.25, 3.75, 6.25, 8.75
        (10, 1, [5]),
    ],
)
def test_even_sampling_by_hand(num_slices, budget, expected):
    assert sample_slices(num_slices, budget) == expected


@pytest.mark.parametrize(
    ("num_slices", "budget", "expected"),
    [
        (4, 4, [0, 1, 2, 3]),
        (6, 2, [2, 5]),  # 2.5 goes to the even 2, and 5
        (8, 2, [4, 7]),  # 3.5 goes to the even 4, and 7
        (10, 3, [3, 6, 9]),
        (10, 4, [2, 4, 7, 9]),  # 2.25, 4.5, 6.75, 9
    ],
)
def test_google_sampling_by_hand(num_slices, budget, expected):
    assert sample_slices(num_slices, budget, "google") == expected


def test_googles_indices_of_a_171_slice_volume():
    # round(i / 85 * 170) = 2i: slices 2, 4, ..., 170, and never slice 0
    assert sample_slices(171, how="google") == list(range(2, 171, 2))


@pytest.mark.parametrize("how", ["even", "google"])
@pytest.mark.parametrize("num_slices", [86, 87, 100, 169, 300, 1001])
def test_samples_are_distinct_and_ascending(how, num_slices):
    chosen = sample_slices(num_slices, 85, how)
    assert len(chosen) == 85
    assert chosen == sorted(set(chosen))
    assert 0 <= chosen[0] <= chosen[-1] < num_slices


def test_even_sampling_is_symmetric_for_odd_parts():
    assert sample_slices(255, 85) == list(range(1, 255, 3))


def test_bad_sampling_is_refused():
    with pytest.raises(ValueError, match="'random'; use one of even, google"):
        sample_slices(10, 5, "random")
    with pytest.raises(ValueError, match="budget is 0, expected at least 1"):
        sample_slices(10, 0)
