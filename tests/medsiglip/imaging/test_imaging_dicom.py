"""Expected values are worked out by hand from PS3.3 C.11.1 and C.11.2.1.2, with the output range 0..255."""

import struct

import numpy as np
import pytest
from pydicom import Dataset, Sequence
from pydicom.pixels import apply_voi_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medsiglip.imaging.dicom.lut import Window, apply_window
from tests.medsiglip.imaging.dicom_writer import decode, dicom_bytes, grey, group, lut, palette, read

# Windows


def test_twelve_bit_linear_window():
    # y = ((x - 2047.5) / 4095 + 0.5) * 255: 0 -> 0, 1024 -> 63.77, 2048 -> 127.53, 4095 -> 255
    stored = np.array([[0, 1024, 2048, 4095]], np.uint16)
    assert grey(stored, BitsStored=12, WindowCenter=2048, WindowWidth=4096) == [[0, 64, 128, 255]]


def test_signed_ct_with_rescale_and_window():
    # HU = stored - 1024; window 40/400: ((HU - 39.5) / 399 + 0.5) * 255
    stored = np.array([[0, 824, 864, 1064, 1264, 3000]], np.int16)  # -1024, -200, -160, 40, 240, 1976 HU
    expected = [[0, 0, 0, 128, 255, 255]]  # 40 HU: (0.5 / 399 + 0.5) * 255 = 127.82
    window = {"WindowCenter": 40, "WindowWidth": 400}
    assert grey(stored, RescaleSlope=1, RescaleIntercept=-1024, **window) == expected
    # the same window on stored values instead of HU would give another picture
    assert grey(stored, **window) != expected


def test_rescale_slope_is_applied():
    # 0.5 * x - 10 with window 0/11 LINEAR: ((v + 0.5) / 10 + 0.5) * 255
    stored = np.array([[10, 20, 24, 40]], np.uint16)  # -5, 0, 2, 10
    attributes = {"RescaleSlope": 0.5, "RescaleIntercept": -10, "WindowCenter": 0, "WindowWidth": 11}
    assert grey(stored, **attributes) == [[13, 140, 191, 255]]  # 12.75, 140.25, 191.25


def test_first_of_several_windows():
    stored = np.array([[0, 50, 100]], np.uint16)
    attributes = {"WindowCenter": [50, 5000], "WindowWidth": [101, 10], "VOILUTFunction": "LINEAR"}
    assert grey(stored, **attributes) == [[1, 129, 255]]  # (x - 49.5) / 100 + 0.5: 1.275, 128.775, 255


def test_linear_exact_window():
    # ((x - 50) / 100 + 0.5) * 255
    attributes = {"WindowCenter": 50, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}
    assert grey(np.array([[0, 50, 75, 100]], np.uint16), **attributes) == [[0, 128, 191, 255]]


def test_sigmoid_window():
    # 255 / (1 + exp(-4 (x - 50) / 100)): 0 -> 30.4, 50 -> 127.5, 75 -> 186.4, 100 -> 224.6
    attributes = {"WindowCenter": 50, "WindowWidth": 100, "VOILUTFunction": "SIGMOID"}
    assert grey(np.array([[0, 50, 75, 100]], np.uint16), **attributes) == [[30, 128, 186, 225]]


def test_window_of_width_one_is_a_threshold():
    stored = np.array([[9, 10, 11]], np.uint16)
    assert grey(stored, WindowCenter=10, WindowWidth=1) == [[0, 255, 255]]  # threshold at 9.5


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_agrees_with_pydicom_scaled_to_255(function):
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.PixelRepresentation = "MONOCHROME2", 12, 0
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 700.0, 901.0, function
    values = np.arange(4096)
    theirs = apply_voi_lut(values, dataset) * (255 / 4095)
    np.testing.assert_allclose(apply_window(values, Window(700.0, 901.0, function)), theirs, atol=1e-9)


@pytest.mark.parametrize("width", [0, -5])
def test_impossible_width_falls_back_to_the_full_range(width):
    (picture,) = read(np.array([[10, 20, 30]], np.uint16), WindowCenter=5, WindowWidth=width)
    assert picture.pixels.tolist() == [[0, 127, 255]]
    assert picture.policy == "full-range"


def test_window_that_leaves_only_white_falls_back_to_the_full_range():
    (picture,) = read(np.array([[1000, 2000, 3000]], np.uint16), WindowCenter=40, WindowWidth=80)
    assert picture.pixels.tolist() == [[0, 127, 255]]
    assert picture.policy == "full-range"


def test_window_above_all_values_stays_black():  # a CT slice of air is black, not noise
    (picture,) = read(np.array([[0, 1, 2]], np.uint16), WindowCenter=1000, WindowWidth=80)
    assert picture.pixels.max() == 0
    assert picture.policy == "voi"


# Lookup tables


def test_voi_lut_sequence_scales_by_its_bits():
    # first 10, 3 entries of 12 bits: below -> first, beyond -> last; 4095 -> 255, 2048 -> 127.5
    stored = np.array([[0, 10, 11, 12, 500]], np.uint16)
    assert grey(stored, VOILUTSequence=lut(10, [0, 2048, 4095], 12)) == [[0, 0, 128, 255, 255]]


def test_voi_lut_of_eight_bit_entries_with_more_than_256_of_them():  # pydicom 3.0.2 wraps the index here
    stored = np.array([[0, 300, 511]], np.uint16)
    entries = [i // 2 for i in range(512)]
    assert grey(stored, VOILUTSequence=lut(0, entries, 8)) == [[0, 150, 255]]


def test_voi_lut_with_a_negative_first_value_after_rescale():
    stored = np.array([[0, 1, 2]], np.uint16)  # -2, -1, 0
    sequence = lut(65534, [10, 20, 255], 8)  # 65534 as US is -2
    assert grey(stored, RescaleSlope=1, RescaleIntercept=-2, VOILUTSequence=sequence) == [[10, 20, 255]]


def test_voi_lut_data_as_bytes():
    stored = np.array([[0, 1, 2]], np.uint8)
    item = Dataset()
    item.LUTDescriptor = [3, 0, 16]
    item.add_new("LUTData", "OW", struct.pack("<3H", 65535, 0, 32768))
    assert grey(stored, VOILUTSequence=Sequence([item])) == [[255, 0, 128]]


def test_modality_lut_sequence_comes_before_the_window():
    # stored 0, 1, 2 -> 0, 3000, 4095 (12 bits, which pydicom's apply_modality_lut refuses)
    stored = np.array([[0, 1, 2]], np.uint8)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    assert grey(stored, ModalityLUTSequence=lut(0, [0, 3000, 4095], 12), **window) == [[0, 187, 255]]


# Full range, padding, inversion


def test_no_voi_stretches_the_full_range():
    (picture,) = read(np.array([[100, 200, 300]], np.uint16))
    assert picture.pixels.tolist() == [[0, 127, 255]]
    assert picture.policy == "full-range"


def test_policy_full_range_ignores_the_window():
    stored = np.array([[0, 1000, 4000]], np.uint16)
    (picture,) = read(stored, "full-range", WindowCenter=40, WindowWidth=80)
    assert picture.pixels.tolist() == [[0, 64, 255]]
    assert picture.policy == "full-range"


def test_eight_bit_without_voi_is_stored_as_is():
    (picture,) = read(np.array([[7, 100, 200]], np.uint8))
    assert (picture.pixels.tolist(), picture.policy) == ([[7, 100, 200]], "stored")
    assert grey(np.array([[7, 100, 193]], np.uint8), "full-range") == [[7, 100, 193]]


def test_constant_picture_is_black():
    assert grey(np.full((2, 2), 300, np.uint16)) == [[0, 0], [0, 0]]
    assert grey(np.full((2, 2), 300, np.uint16), PhotometricInterpretation="MONOCHROME1") == [[0, 0], [0, 0]]


def test_monochrome1_is_inverted_after_the_window():
    stored = np.array([[0, 1024, 4095]], np.uint16)
    attributes = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
    assert grey(stored, PhotometricInterpretation="MONOCHROME1", **attributes) == [[255, 191, 0]]
    # a window off centre tells inversion after the VOI from inversion before it
    narrow = {"BitsStored": 12, "WindowCenter": 500, "WindowWidth": 1001}
    expected = [[255, 0, 0]]  # ((x - 499.5) / 1000 + 0.5): 0 -> 0.1, 1024 and 4095 -> 255
    assert grey(stored, PhotometricInterpretation="MONOCHROME1", **narrow) == expected


def test_monochrome1_in_eight_bits():
    assert grey(np.array([[0, 5, 255]], np.uint8), PhotometricInterpretation="MONOCHROME1") == [[255, 250, 0]]


def test_padding_is_left_out_of_the_range_and_black():
    stored = np.array([[-2000, 0, 100, 200]], np.int16)
    assert grey(stored, PixelPaddingValue=-2000) == [[0, 0, 127, 255]]
    assert grey(stored) == [[0, 232, 243, 255]]  # without the tag -2000 takes most of the range


def test_padding_stays_black_in_monochrome1():
    stored = np.array([[0, 100, 200]], np.uint16)
    attributes = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}
    assert grey(stored, **attributes) == [[0, 255, 0]]
    assert grey(stored, WindowCenter=100, WindowWidth=201, **attributes) == [[0, 127, 0]]


def test_padding_range():
    stored = np.array([[0, 5, 10, 60, 110]], np.uint16)
    assert grey(stored, PixelPaddingValue=0, PixelPaddingRangeLimit=5) == [[0, 0, 0, 127, 255]]


def test_padding_written_as_unsigned_for_signed_pixels():
    data = dicom_bytes(np.array([[-2000, 0, 200]], np.int16), PixelPaddingValue=-2000)
    signed, unsigned = b"SS\x02\x00" + struct.pack("<h", -2000), b"US\x02\x00" + struct.pack("<H", 63536)
    assert data.count(signed) == 1
    (picture,) = decode(data.replace(signed, unsigned))
    assert picture.pixels.tolist() == [[0, 0, 255]]


def test_frames_share_one_range():
    stored = np.array([[[0, 100]], [[100, 200]]], np.uint16)
    pictures = read(stored, NumberOfFrames=2)
    assert [picture.pixels.tolist() for picture in pictures] == [[[0, 127]], [[127, 255]]]


def test_rescale_and_window_in_functional_groups():
    shared = group(FrameVOILUTSequence={"WindowCenter": 100, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"})
    slopes = [group(PixelValueTransformationSequence={"RescaleSlope": n, "RescaleIntercept": 0}) for n in (1, 2)]
    groups = {
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(slopes),
    }
    pictures = read(np.array([[[0, 60]], [[0, 60]]], np.uint16), NumberOfFrames=2, **groups)
    assert [picture.pixels[0].tolist() for picture in pictures] == [[0, 77], [0, 153]]  # 76.5
    assert pictures[0].policy == "voi"


def test_garbage_above_bits_stored_is_ignored():
    stored = np.array([[0, 0xF000 | 2048, 4095]], np.uint16)
    assert grey(stored, BitsStored=12) == [[0, 128, 255]]


# Colour


def test_rgb_eight_bit_is_stored_as_is():
    stored = np.array([[[1, 2, 3], [250, 128, 0]]], np.uint8)
    attributes = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    (picture,) = read(stored, **attributes)
    assert picture.pixels.tolist() == stored.tolist()
    assert picture.policy == "stored"


def test_rgb_sixteen_bit_is_scaled_by_bits_stored():
    stored = np.array([[[0, 32768, 65535], [257, 514, 771]]], np.uint16)
    attributes = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    (picture,) = read(stored, **attributes)
    assert picture.pixels.tolist() == [[[0, 128, 255], [1, 2, 3]]]


def test_ybr_full_becomes_rgb():
    # PS3.3 C.7.6.3.1.2: pure red is Y 76, CB 85, CR 255
    attributes = {"PhotometricInterpretation": "YBR_FULL", "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    (picture,) = read(np.array([[[76, 85, 255], [255, 128, 128]]], np.uint8), **attributes)
    assert np.abs(picture.pixels.astype(int) - [[[255, 0, 0], [255, 255, 255]]]).max() <= 1


def test_palette_of_sixteen_bit_entries():
    (picture,) = read(np.array([[0, 1, 9]], np.uint8), **palette(16, [0, 65535], [32768, 0], [257, 514]))
    assert picture.pixels.tolist() == [[[0, 128, 1], [255, 0, 2], [255, 0, 2]]]


def test_palette_of_sixteen_bit_entries_that_hold_eight_bit_values():
    (picture,) = read(np.array([[0, 1]], np.uint8), **palette(16, [0, 255], [128, 0], [1, 2]))
    assert picture.pixels.tolist() == [[[0, 128, 1], [255, 0, 2]]]


def test_palette_of_eight_bit_entries_with_more_than_256_of_them():  # pydicom 3.0.2 wraps the index here
    ramp = [i // 4 for i in range(1024)]
    (picture,) = read(np.array([[0, 600, 1023]], np.uint16), **palette(8, ramp, ramp, ramp[::-1]))
    assert picture.pixels.tolist() == [[[0, 0, 255], [150, 150, 105], [255, 255, 0]]]


# Encodings


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("preamble", [True, False])
def test_native_encodings_with_and_without_preamble(syntax, preamble):
    data = dicom_bytes(np.array([[0, 100, 200]], np.uint16), syntax, preamble=preamble)
    assert (data[128:132] == b"DICM") == preamble
    (picture,) = decode(data)
    assert picture.pixels.tolist() == [[0, 127, 255]]
    assert picture.tags.modality == "CT"
