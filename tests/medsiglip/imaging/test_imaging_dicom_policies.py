"""Pixel policies by name, against values worked out by hand and against independent transcriptions."""

import io

import numpy as np
import pytest
from pydicom import Sequence, dcmread
from pydicom.pixels import apply_modality_lut

from medsiglip.imaging import ImageError
from medsiglip.imaging.dicom.instance import decode_dicom, decode_values
from medsiglip.imaging.dicom.value_range import ValueCounts, percentile
from medsiglip.imaging.volumes.presets import ct_rgb
from tests.medsiglip.imaging.dicom_writer import decode, dicom_bytes, grey, group, lut, palette, read


def google_radiograph(dataset):
    """Google's serving container on a radiograph, step by step, and then round(v / 257).

    Source: Google-Health/medgemma, python/data_accessors/local_file_handlers/generic_dicom_handler.py
    (`_norm_cxr_imaging`) and data_processing/image_utils.py (`shift_to_unsigned`, `rescale_dynamic_range`).
    """
    stored = dataset.pixel_array
    values = apply_modality_lut(stored, dataset)
    if values.dtype == np.float64:
        values = values.astype(stored.dtype)
    if values.dtype != np.uint8:
        if values.dtype.kind != "u":
            unsigned = np.uint8 if values.dtype == np.int8 else np.uint16
            values = (values.astype(np.int64) - int(values.min())).astype(unsigned)
        top = np.iinfo(values.dtype).max
        values = np.interp(values, (values.min(), values.max()), (0, top)).astype(values.dtype)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = np.iinfo(values.dtype).max - values
    return values if values.dtype == np.uint8 else np.round(values / 257).astype(np.uint8)


random = np.random.default_rng(3)
RADIOGRAPHS = {
    "12 bits": (random.integers(37, 3988, (40, 50)).astype(np.uint16), {"BitsStored": 12}),
    "12 bits, MONOCHROME1": (
        random.integers(37, 3988, (40, 50)).astype(np.uint16),
        {"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"},
    ),
    "signed": (random.integers(-3000, 9000, (40, 50)).astype(np.int16), {}),
    "signed, MONOCHROME1": (
        random.integers(-32768, 32768, (40, 50)).astype(np.int16),
        {"PhotometricInterpretation": "MONOCHROME1"},
    ),
    "rescaled": (
        random.integers(0, 4096, (40, 50)).astype(np.uint16),
        {"BitsStored": 12, "RescaleSlope": 0.37, "RescaleIntercept": 5.5},
    ),
    "rescaled below 0": (
        random.integers(0, 4096, (40, 50)).astype(np.int16),
        {"RescaleSlope": 0.7, "RescaleIntercept": -1024.5},
    ),
    "modality LUT of 16 bits": (
        random.integers(0, 300, (40, 50)).astype(np.uint16),
        {"ModalityLUTSequence": lut(10, [n * n % 60000 for n in range(280)], 16)},
    ),
    "modality LUT of 8 bits": (
        random.integers(0, 250, (40, 50)).astype(np.uint8),
        {"ModalityLUTSequence": lut(10, [n // 2 for n in range(200)], 8)},
    ),
    "8 bits": (random.integers(20, 200, (40, 50)).astype(np.uint8), {}),
    "8 bits, MONOCHROME1": (
        random.integers(20, 200, (40, 50)).astype(np.uint8),
        {"PhotometricInterpretation": "MONOCHROME1"},
    ),
    "8 bits, rescaled": (
        random.integers(20, 200, (40, 50)).astype(np.uint8),
        {"RescaleSlope": 1.21, "RescaleIntercept": 3},
    ),
    "8 bits, signed, MONOCHROME1": (
        random.integers(-100, 90, (40, 50)).astype(np.int8),
        {"PhotometricInterpretation": "MONOCHROME1"},
    ),
    "a window, which is ignored": (
        random.integers(0, 65536, (40, 50)).astype(np.uint16),
        {"WindowCenter": 50, "WindowWidth": 100},
    ),
}


@pytest.mark.parametrize("name", RADIOGRAPHS)
def test_full_range_is_what_googles_container_does(name):
    stored, attributes = RADIOGRAPHS[name]
    data = dicom_bytes(stored, Modality="CR", **attributes)
    (frame,) = decode(data, "full-range")
    np.testing.assert_array_equal(frame.pixels, google_radiograph(dcmread(io.BytesIO(data))))


@pytest.mark.kit
@pytest.mark.parametrize(
    "name", ["RG1_J2KI", "MG1_J2KI", "XA1_J2KI", "CXR_SIIM_JPEGbaseline_MONO2", "CXR_SIIM_fakeMONO1", "MR1_J2KI"]
)
def test_full_range_of_real_films_is_what_googles_container_does(kit, name):
    path = kit / "dicom-real" / "images" / f"{name}.dcm"
    (frame,) = decode_dicom(path.read_bytes(), "full-range", path.name)
    np.testing.assert_array_equal(frame.pixels, google_radiograph(dcmread(path)))


# full-range by hand


def test_full_range_by_hand():
    # trunc((x - 100) / 1000 * 65535): 0, 16383 (of .75), 32767 (of .5), 65535; / 257: 0, 63.75, 127.498, 255
    stored = np.array([[100, 350, 600, 1100]], np.uint16)
    assert grey(stored, "full-range") == [[0, 64, 127, 255]]
    # inverted: 65535, 49152, 32768, 0; / 257: 255, 191.25, 127.502, 0
    assert grey(stored, "full-range", PhotometricInterpretation="MONOCHROME1") == [[255, 191, 128, 0]]


def test_full_range_of_a_small_range_keeps_its_fractions():  # PET in SUV; the container would leave three greys
    stored = np.array([[0, 1, 2, 3, 4]], np.uint16)
    assert grey(stored, "full-range", RescaleSlope=0.5, RescaleIntercept=0) == [[0, 64, 127, 191, 255]]


def test_full_range_does_not_wrap_below_0():  # the container's cast of -1000 to uint16 makes air white
    stored = np.array([[0, 1000, 2000]], np.uint16)
    assert grey(stored, "full-range", RescaleSlope=1, RescaleIntercept=-1000) == [[0, 127, 255]]


def test_full_range_of_8_bits_rescaled_beyond_8_bits_is_stretched():  # the container's cast wraps 500 to 244
    # 200, 400, 500: (400 - 200) / 300 * 65535 = 43690, / 257 = 170
    assert grey(np.array([[100, 200, 250]], np.uint8), "full-range", RescaleSlope=2, RescaleIntercept=0) == [
        [0, 170, 255]
    ]


def test_full_range_of_a_mask():  # 1 bit in 8: the container leaves it all but black
    assert grey(np.array([[0, 1]], np.uint8), "full-range", BitsStored=1) == [[0, 255]]


def test_full_range_without_one_valid_value_is_black():
    assert grey(np.full((2, 2), 7, np.uint16), "full-range", PixelPaddingValue=7) == [[0, 0], [0, 0]]


# percentile


def test_percentile_by_hand():
    # 0..1000 in 1001 values: the 0.5th percentile is 5, the 99.5th 995; (500 - 5) / 990 * 255 = 127.5
    stored = np.arange(1001, dtype=np.uint16).reshape(7, 143)
    (frame,) = read(stored, "percentile")
    pixels = frame.pixels.ravel()
    assert frame.policy == "percentile"
    assert (pixels[:6] == 0).all() and (pixels[995:] == 255).all()
    assert (pixels[500], pixels[200], pixels[994]) == (128, 50, 255)  # 127.5, 50.23, 254.74
    assert pixels[993] == 254  # 254.48


def test_percentile_leaves_padding_out_and_counts_all_frames():
    stored = np.full((2, 1, 1001), 4000, np.uint16)
    stored[0, 0, :] = np.arange(1001)
    stored[1, 0, :500] = 65535
    frames = read(stored, "percentile", NumberOfFrames=2, PixelPaddingValue=65535)
    low, high = np.percentile([*range(1001), *[4000] * 501], [0.5, 99.5])
    assert high == 4000
    expected = np.floor(np.clip((stored - low) / (high - low), 0, 1) * 255 + 0.5)
    expected[stored == 65535] = 0
    np.testing.assert_array_equal([frame.pixels for frame in frames], expected)


def test_percentile_is_inverted_for_monochrome1():
    stored = np.arange(1001, dtype=np.uint16).reshape(7, 143)
    (plain,), (inverted,) = (
        read(stored, "percentile"),
        read(stored, "percentile", PhotometricInterpretation="MONOCHROME1"),
    )
    np.testing.assert_array_equal(inverted.pixels, 255 - plain.pixels)


def test_percentiles_that_coincide_fall_back_to_the_full_range():
    stored = np.zeros((40, 40), np.uint16)
    stored[0, 0] = 1000
    (frame,) = read(stored, "percentile")
    assert frame.policy == "full-range" and frame.pixels[0, 0] == 255 and frame.pixels[1:].max() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("percent", [0, 0.5, 37.3, 50, 99.5, 100])
def test_percentile_of_counts_is_numpys(dtype, percent):
    values = np.random.default_rng(5).integers(0, 90, 777).astype(dtype) * dtype(1)
    found = ValueCounts(*np.unique(values, return_counts=True))
    assert percentile(found, percent) == pytest.approx(np.percentile(values.astype(float), percent), abs=1e-9)


# several windows


WINDOWS = {"WindowCenter": [50, 500], "WindowWidth": [101, 1001]}


def test_the_second_window_by_name():
    stored = np.array([[0, 50, 100, 500, 1000]], np.uint16)
    (first,), (named,), (second,) = (read(stored, policy, **WINDOWS) for policy in ("voi", "voi:1", "voi:2"))
    assert first.pixels.tolist() == named.pixels.tolist() == [[1, 129, 255, 255, 255]]  # (x - 49.5) / 100 + 0.5
    assert second.pixels.tolist() == [[0, 13, 26, 128, 255]]  # (x - 499.5) / 1000 + 0.5: .1275, 12.9, 25.6, 127.6
    assert (first.policy, named.policy, second.policy) == ("voi", "voi:1", "voi:2")


def test_a_window_the_file_does_not_have():
    with pytest.raises(ImageError, match="has 2 windows and VOI LUTs, the policy voi:3 asks for number 3; "):
        read(np.array([[0, 1]], np.uint16), "voi:3", **WINDOWS)
    with pytest.raises(ImageError, match="has 0 windows and VOI LUTs, the policy voi:1 asks"):
        read(np.array([[0, 1]], np.uint16), "voi:1")


def test_a_window_of_no_width_is_refused_by_number_and_passed_over_by_voi():
    attributes = {"WindowCenter": [50, 500], "WindowWidth": [0, 1001]}
    stored = np.array([[0, 500, 1000]], np.uint16)
    with pytest.raises(ImageError, match="window 1 of 2 cannot be used"):
        read(stored, "voi:1", **attributes)
    assert grey(stored, **attributes) == [[0, 128, 255]]


def test_voi_luts_count_before_windows():
    attributes = {"VOILUTSequence": lut(0, [255, 0], 8), "WindowCenter": 1, "WindowWidth": 2}
    stored = np.array([[0, 1]], np.uint16)
    assert grey(stored, "voi:1", **attributes) == [[255, 0]]
    assert grey(stored, "voi:2", **attributes) == [[0, 255]]  # (x - 0.5) / 1 + 0.5


def test_a_window_asked_for_by_number_is_shown_even_if_white():
    stored = np.array([[1000, 2000]], np.uint16)
    (frame,) = read(stored, "voi:1", WindowCenter=40, WindowWidth=80)
    assert frame.pixels.tolist() == [[255, 255]] and frame.policy == "voi:1"


@pytest.mark.parametrize("policy", ["", "vio", "voi:", "voi:0", "voi:-1", "voi:x", "ct", "VOI"])
def test_unknown_policies(policy):
    with pytest.raises(ValueError, match="use one of voi, full-range, percentile, report, ct-report, "):
        decode(dicom_bytes(np.zeros((2, 2), np.uint8)), policy)


# CT


@pytest.mark.parametrize("preset", ["report", "medgemma-1.5", "google-container"])
@pytest.mark.filterwarnings("ignore:the preset google-container")
def test_ct_presets(preset):
    stored = np.random.default_rng(1).integers(0, 4096, (300, 300)).astype(np.uint16)
    ct = {"BitsStored": 12, "RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
    (frame,) = read(stored, f"ct-{preset}", WindowCenter=1, WindowWidth=9, **ct)
    np.testing.assert_array_equal(frame.pixels, ct_rgb(stored.astype(int) - 1024, preset))
    assert frame.policy == f"ct-{preset}"


def test_ct_preset_by_hand():
    stored = np.array([[0, 1024, 1064, 1184, 2048, 63536]], np.uint16)
    attributes = {"RescaleSlope": 1, "RescaleIntercept": -1024, "PixelPaddingValue": 63536}
    (frame,) = read(stored, "ct-medgemma-1.5", **attributes)
    # -1024, 0, 40, 160, 1024 HU: (hu + 1024) / 2048, (hu + 135) / 350, hu / 80
    expected = [[0, 0, 0], [128, 98, 0], [132, 128, 128], [147, 215, 255], [255, 255, 255], [0, 0, 0]]
    assert frame.pixels.tolist() == [expected]


@pytest.mark.parametrize(
    ("attributes", "what"),
    [
        ({"Modality": "MR"}, "MR, MONOCHROME2, no unit"),
        ({"RescaleType": "US"}, "CT, MONOCHROME2, US"),
        ({"Modality": "DOE JOHN"}, "of an unknown modality, MONOCHROME2, no unit"),
    ],
)
def test_ct_presets_are_for_ct(attributes, what):
    with pytest.raises(ImageError, match=f"the policy ct-report is for CT in Hounsfield units, this is {what}; "):
        read(np.zeros((2, 2), np.int16), "ct-report", **attributes)


def test_ct_presets_are_for_grey():
    with pytest.raises(ImageError, match="this is CT, PALETTE COLOR"):
        read(np.zeros((2, 2), np.uint8), "ct-report", **palette(8, [0], [0], [0]))


# functional groups


def test_each_frame_has_its_own_window_and_the_first_ones_where_it_has_none():
    stored = np.array([[[0, 60]]] * 3, np.uint16)
    window = {"WindowCenter": 100, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"}
    wide = {**window, "WindowWidth": 400}
    groups = Sequence([group(FrameVOILUTSequence=window), group(FrameVOILUTSequence=wide), group()])
    frames = read(stored, NumberOfFrames=3, PerFrameFunctionalGroupsSequence=groups)
    # (x - 100) / 200 + 0.5: 0, 76.5; (x - 100) / 400 + 0.5: 63.75, 102
    assert [frame.pixels[0].tolist() for frame in frames] == [[0, 77], [64, 102], [0, 77]]


def test_the_range_is_of_rescaled_values_of_all_frames():
    stored = np.array([[[0, 100]], [[0, 100]]], np.uint16)
    rescales = [{"RescaleSlope": slope, "RescaleIntercept": 0} for slope in (1, 4)]
    groups = Sequence([group(PixelValueTransformationSequence=rescale) for rescale in rescales])
    frames = read(stored, "full-range", NumberOfFrames=2, PerFrameFunctionalGroupsSequence=groups)
    assert [frame.pixels[0].tolist() for frame in frames] == [[0, 64], [0, 255]]  # 100 and 400 of 0..400


# modality values


def values(stored, **attributes):
    return list(decode_values(dicom_bytes(stored, **attributes), ""))


def test_hounsfield_units_are_int16():
    (hu,) = values(np.array([[0, 1024, 4095]], np.uint16), BitsStored=12, RescaleSlope=1, RescaleIntercept=-1024)
    assert hu.dtype == np.int16 and hu.tolist() == [[-1024, 0, 3071]]


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "expected"),
    [
        (np.array([[0, 65535]], np.uint16), 1, -1024, [[-1024.0, 64511.0]]),
        (np.array([[-3, 4]], np.int16), 0.5, 0.25, [[-1.25, 2.25]]),
        (np.array([[-32768, 4]], np.int16), 1, -1, [[-32769.0, 3.0]]),
    ],
)
def test_what_does_not_fit_int16_is_float32(stored, slope, intercept, expected):
    (found,) = values(stored, RescaleSlope=slope, RescaleIntercept=intercept)
    assert found.dtype == np.float32 and found.tolist() == expected


def test_modality_values_are_neither_inverted_nor_windowed_nor_blackened():
    attributes = {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 1, "WindowWidth": 2}
    (found,) = values(np.array([[-2000, 5]], np.int16), PixelPaddingValue=-2000, **attributes)
    assert found.dtype == np.int16 and found.tolist() == [[-2000, 5]]


def test_modality_values_of_a_table():
    (found,) = values(np.array([[0, 1, 2]], np.uint8), ModalityLUTSequence=lut(0, [7, 3000, 60000], 16))
    assert found.dtype == np.float32 and found.tolist() == [[7.0, 3000.0, 60000.0]]


def test_modality_values_of_colour_are_refused():
    with pytest.raises(ImageError, match="no modality values"):
        values(np.zeros((2, 2), np.uint8), **palette(8, [0], [0], [0]))
