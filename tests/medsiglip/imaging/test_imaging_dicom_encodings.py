"""Every way pixels can lie in a file: bits, signs, planes, palettes, colour models, transfer syntaxes, bombs."""

import io

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    RLELossless,
)

from medsiglip.imaging import ImageError
from medsiglip.imaging.dicom.instance import decode_values
from medsiglip.imaging.dicom.palette import expand_segments
from medsiglip.imaging.dicom.pixels import _plugins
from tests.medsiglip.imaging.dicom_writer import changed, decode, dicom_bytes, grey, palette, read, written

RGB = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}


def values(stored, **attributes):
    (found,) = decode_values(dicom_bytes(stored, **attributes), "")
    return found.tolist()


def refusal(data, policy="voi"):
    with pytest.raises(ImageError, match="; ") as caught:
        decode(data, policy)
    return caught.value.reason


# Bits


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_whole_types(dtype):
    info = np.iinfo(dtype)
    stored = np.array([[info.min, -1 % (info.max + 1), 0, 1, info.max]], np.int64).astype(dtype)
    assert values(stored) == stored.tolist()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_signed_values_of_12_bits(syntax):
    # -1 in 12 bits is 0xFFF, -2048 is 0x800; the upper four bits may be anything
    stored = np.array([[0x0FFF, 0x0800, 0x07FF, 0xFFFF, 0xA001]], np.uint16)
    (found,) = decode_values(dicom_bytes(stored, syntax, BitsStored=12, PixelRepresentation=1), "")
    assert found.tolist() == [[-1, -2048, 2047, -1, 1]]


def test_overlay_bits_above_the_stored_ones_are_no_pixels():
    stored = np.array([[0x0123, 0x1123, 0xF123]], np.uint16)  # overlays in bits 12 to 15
    assert values(stored, BitsStored=12) == [[0x123] * 3]


def test_high_bit_at_the_top_of_the_cell():
    stored = np.array([[0x1230, 0xFFF0, 0x800F]], np.uint16)  # value in bits 4 to 15, an overlay in bit 0
    assert values(stored, BitsStored=12, HighBit=15) == [[0x123, 0xFFF, 0x800]]
    assert values(stored, BitsStored=12, HighBit=15, PixelRepresentation=1) == [[0x123, -1, -2048]]


def test_high_bit_in_the_middle():
    stored = np.array([[0x0248, 0xC003]], np.uint16)  # bits 2 to 11
    assert values(stored, BitsStored=10, HighBit=11) == [[0x92, 0]]


@pytest.mark.parametrize("high_bit", [3, 16, 200])
def test_an_impossible_high_bit_is_taken_for_the_usual_one(high_bit):
    assert values(np.array([[0xF123]], np.uint16), BitsStored=12, HighBit=high_bit) == [[0x123]]


def test_high_bit_in_rle():
    stored = np.array([[0x1230, 0xFFF0], [0x0, 0x8000]], np.uint16)
    dataset = dcmread(io.BytesIO(dicom_bytes(stored)))
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.BitsStored, dataset.HighBit = 12, 15
    (found,) = decode_values(written(dataset), "")
    assert found.tolist() == [[0x123, 0xFFF], [0, 0x800]]


def test_thirty_two_bits():
    stored = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    assert grey(stored, "full-range") == [[0, 127, 255]]  # trunc(32767.5) / 257
    assert grey(stored.astype(np.int32)) == [[255, 0, 255]]  # 0, -2**31, -1
    assert values(np.array([[-(2**31), 70000]], np.int32)) == [[-(2.0**31), 70000.0]]
    assert grey(stored, WindowCenter=2.0**31, WindowWidth=2.0**32, VOILUTFunction="LINEAR_EXACT") == [[0, 128, 255]]


def test_one_bit_a_pixel():
    # 2 frames of 3 x 3: 18 bits, the first pixel in the lowest bit; frame 2 begins in the middle of byte 2
    bits = [1, 0, 0, 0, 1, 0, 0, 0, 1] + [0, 1, 0, 1, 0, 1, 0, 1, 0]
    packed = np.packbits(bits, bitorder="little")
    data = dicom_bytes(np.zeros((2, 3, 3), np.uint8), NumberOfFrames=2, BitsAllocated=1, BitsStored=1)
    data = changed(data, lambda dataset: setattr(dataset, "PixelData", packed.tobytes() + b"\0"))
    frames = decode(data)
    assert [frame.pixels.ravel().tolist() for frame in frames] == [
        [255 * bit for bit in part] for part in (bits[:9], bits[9:])
    ]


def float_bytes(stored, **attributes):
    keyword = {4: "FloatPixelData", 8: "DoubleFloatPixelData"}[stored.dtype.itemsize]

    def make_float(dataset):
        del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
        dataset.BitsAllocated = stored.dtype.itemsize * 8
        setattr(dataset, keyword, stored.tobytes())
        for name, value in attributes.items():
            setattr(dataset, name, value)

    return changed(dicom_bytes(np.zeros(stored.shape, np.uint16)), make_float)


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_float_pixels(dtype):
    stored = np.array([[-1.5, 0.0, 1.0, 2.5, np.nan, np.inf]], dtype)
    (frame,) = decode(float_bytes(stored))
    assert (frame.pixels.tolist(), frame.policy) == ([[0, 96, 159, 255, 0, 0]], "full-range")  # /4*255: 95.6, 159.4
    (frame,) = decode(float_bytes(stored, PhotometricInterpretation="MONOCHROME1", WindowCenter=0.5, WindowWidth=5))
    assert frame.pixels.tolist() == [[223, 127, 64, 0, 0, 0]]  # LINEAR: x / 4 + 0.5, inverted; not finite: black
    (found,) = decode_values(float_bytes(stored), "")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, stored.astype(np.float32))


def test_float_padding():
    stored = np.array([[-9.0, 0.0, 1.0]], "<f4")
    (frame,) = decode(float_bytes(stored, FloatPixelPaddingValue=-9.0))
    assert frame.pixels.tolist() == [[0, 0, 255]]


# Frames


@pytest.mark.parametrize("number", [None, 0, 1])
def test_surplus_pixel_data_is_no_further_frame(number):
    data = dicom_bytes(np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.uint8))
    data = changed(data, lambda dataset: setattr(dataset, "Rows", 2))
    if number is not None:
        data = changed(data, lambda dataset: setattr(dataset, "NumberOfFrames", number))
    assert [frame.pixels.tolist() for frame in decode(data)] == [[[1, 2], [3, 4]]]


def test_too_few_compressed_frames():
    dataset = dcmread(io.BytesIO(dicom_bytes(np.arange(18, dtype=np.uint8).reshape(2, 3, 3), NumberOfFrames=2)))
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    assert len(decode(written(dataset))) == 2
    dataset.NumberOfFrames = 3
    assert "cannot be decoded" in refusal(written(dataset))


def test_a_frame_that_one_plugin_fails_at_goes_to_the_next(monkeypatch):
    from pydicom.pixels.decoders import RLELosslessDecoder
    from pydicom.pixels.decoders.base import DecodeRunner

    stored = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    dataset = dcmread(io.BytesIO(dicom_bytes(stored, NumberOfFrames=3)))
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    assert _plugins(RLELosslessDecoder) == ["pylibjpeg", "pydicom"]
    failing, calls = RLELosslessDecoder._available["pylibjpeg"], []

    def fail_from_the_second_on(source: bytes, runner: DecodeRunner) -> bytearray:
        calls.append(1)
        if len(calls) > 1:
            raise ValueError
        return failing(source, runner)

    monkeypatch.setitem(RLELosslessDecoder._available, "pylibjpeg", fail_from_the_second_on)
    frames = decode(written(dataset))
    np.testing.assert_array_equal([frame.pixels for frame in frames], stored)
    assert len(calls) > 1


# Colour


@pytest.mark.parametrize("frames", [1, 2])
def test_planar_configuration_1(frames):
    stored = np.arange(frames * 18, dtype=np.uint8).reshape(frames, 3, 2, 3)  # planes of 2 x 3
    attributes = {**RGB, "PlanarConfiguration": 1, "Rows": 2, "Columns": 3, "NumberOfFrames": frames}
    decoded = read(stored, **attributes)
    np.testing.assert_array_equal([frame.pixels for frame in decoded], stored.transpose(0, 2, 3, 1))


def test_a_missing_planar_configuration_is_0():
    stored = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    attributes = {**RGB, "PlanarConfiguration": None}
    data = changed(dicom_bytes(stored, **RGB), lambda dataset: delattr(dataset, "PlanarConfiguration"))
    assert "PlanarConfiguration" in attributes and "PlanarConfiguration" not in dcmread(io.BytesIO(data))
    np.testing.assert_array_equal(decode(data)[0].pixels, stored)


def test_native_ybr_full_422_of_two_frames():  # pydicom's iter_array expands the first one only
    # Y1 Y2 CB CR: two pixels share a colour; grey 10 and 20, then red (76, 85, 255) twice
    frame = [10, 20, 128, 128, 76, 76, 85, 255]
    attributes = {**RGB, "PhotometricInterpretation": "YBR_FULL_422", "Rows": 1, "Columns": 4, "NumberOfFrames": 2}
    decoded = read(np.array([frame, frame], np.uint8).reshape(2, 1, 8), **attributes)
    expected = [[10, 10, 10], [20, 20, 20], [254, 0, 0], [254, 0, 0]]
    assert [np.abs(found.pixels[0].astype(int) - expected).max() <= 1 for found in decoded] == [True, True]


@pytest.mark.parametrize("photometric", ["YBR_ICT", "YBR_RCT"])
def test_jpeg_2000_colour_outside_jpeg_2000(photometric):
    data = dicom_bytes(np.zeros((2, 2, 3), np.uint8), **{**RGB, "PhotometricInterpretation": photometric})
    assert refusal(data).startswith(f"{photometric} outside JPEG 2000 has no meaning; ")


def test_ybr_of_more_than_8_bits():
    data = dicom_bytes(np.zeros((2, 2, 3), np.uint16), **{**RGB, "PhotometricInterpretation": "YBR_FULL"})
    assert refusal(data).startswith("YBR_FULL of 16 bits is not read; ")


@pytest.mark.parametrize("photometric", ["YBR_PARTIAL_420", "YBR_PARTIAL_422", "ARGB", "CMYK", "HSV"])
def test_what_nothing_here_decodes_is_refused_by_name(photometric):
    data = dicom_bytes(np.zeros((2, 2, 3), np.uint8), **{**RGB, "PhotometricInterpretation": photometric})
    assert refusal(data).startswith(f"Photometric Interpretation {photometric} with 3 samples a pixel is not read; ")


def test_full_range_of_deep_colour():
    stored = np.array([[[100, 600, 1100], [350, 100, 100]]], np.uint16)
    (frame,) = read(stored, "full-range", **RGB)
    assert (frame.pixels.tolist(), frame.policy) == ([[[0, 128, 255], [64, 0, 0]]], "full-range")


# Palettes


@pytest.mark.parametrize("representation", [b"SS", b"US"])  # -2 as US is 65534
def test_palette_with_a_negative_first_value(representation):
    stored = np.array([[-5, -2, -1, 0, 7]], np.int16)
    data = dicom_bytes(stored, **palette(8, [10, 20, 30], [1, 2, 3], [0, 0, 9], first=-2))
    assert data.count(b"SS\x06\x00\x03\x00\xfe\xff") == 3
    (frame,) = decode(data.replace(b"SS\x06\x00\x03\x00", representation + b"\x06\x00\x03\x00"))
    first, second, last = [10, 1, 0], [20, 2, 0], [30, 3, 9]
    assert frame.pixels.tolist() == [[first, first, second, last, last]]


def test_palette_of_a_dark_frame_is_scaled_by_its_table():  # not by the colours that the frame happens to use
    tables = palette(16, [0, 200, 65535], [0, 200, 65535], [0, 200, 65535])
    (frame,) = read(np.array([[0, 1]], np.uint8), **tables)
    assert frame.pixels.max() == 1


@pytest.mark.parametrize(("bits", "width"), [(16, "<u2"), (8, "u1")])
def test_segmented_palette(bits, width):
    # discrete 3 entries, linear 4 entries up to 60, indirect: once more the discrete segment at offset 0
    segments = [0, 3, 5, 6, 20, 1, 4, 60]
    indirect = [2, 1, 0, 0] if bits == 16 else [2, 1, 0, 0, 0, 0]
    data = np.array(segments + indirect, width).tobytes()
    expected = [5, 6, 20, 30, 40, 50, 60, 5, 6, 20]
    attributes = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [10, 0, bits]
        attributes[f"Segmented{colour}PaletteColorLookupTableData"] = data
    (frame,) = read(np.arange(10, dtype=np.uint8)[None], **attributes)
    assert frame.pixels[0].tolist() == [[entry] * 3 for entry in expected]


def test_an_indirect_segment_at_an_offset_in_bytes():
    words = np.array([0, 1, 7, 1, 2, 11, 2, 1, 6, 0], np.uint16)  # byte 6 is the linear segment
    assert expand_segments(words) == [7, 9, 11, 11, 11]


@pytest.mark.parametrize(
    "words",
    [
        [1, 4, 60],  # linear with nothing before it
        [2, 1, 0, 0],  # indirect with nothing before it
        [3, 1, 0],
        [0, 1, 5, 2, 9, 6, 0],  # refers to itself
        [0, 1, 5] + [1, 65535, 9] * 3,  # too long
    ],
)
def test_damaged_segments(words):
    with pytest.raises(ValueError):
        expand_segments(np.array(words, np.uint16))


def test_a_palette_without_tables():
    attributes = palette(8, [0], [0], [0])
    attributes.pop("BluePaletteColorLookupTableData")
    assert "group 0028" in refusal(dicom_bytes(np.zeros((2, 2), np.uint8), **attributes))
