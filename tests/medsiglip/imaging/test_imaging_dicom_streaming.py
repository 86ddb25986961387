"""Frames come one by one, tables change nothing, and little memory is taken."""

import tracemalloc

import numpy as np
import pytest
from pydicom import Sequence

from medsiglip.imaging.dicom.instance import decode_dicom
from medsiglip.imaging.dicom.tone import _in_blocks, apply_tone, tone_table
from tests.medsiglip.imaging.dicom_writer import decode, dicom_bytes, group, lut, read

# tables


TONES = {
    "window": {"WindowCenter": 100.25, "WindowWidth": 333.5},
    "exact": {"WindowCenter": 100.25, "WindowWidth": 333.5, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {"WindowCenter": 100.25, "WindowWidth": 333.5, "VOILUTFunction": "SIGMOID"},
    "voi lut": {"VOILUTSequence": lut(20, [n * 13 % 4096 for n in range(900)], 12)},
    "modality lut": {"ModalityLUTSequence": lut(20, [n * 13 % 4096 for n in range(900)], 12)},
    "inverted": {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 10, "WindowWidth": 900},
    "padded": {"PixelPaddingValue": 5, "PixelPaddingRangeLimit": 50},
    "rescaled": {"RescaleSlope": 0.123, "RescaleIntercept": -4.5},
}


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("policy", ["voi", "full-range", "percentile", "ct-report"])
@pytest.mark.parametrize("name", TONES)
def test_table_and_direct_way_agree(name, policy, dtype, monkeypatch):
    info = np.iinfo(dtype)
    stored = np.random.default_rng(2).integers(info.min, info.max, (300, 300), endpoint=True).astype(dtype)
    data = dicom_bytes(stored, **TONES[name])
    tables = []
    monkeypatch.setattr(
        "medsiglip.imaging.dicom.tone.tone_table", lambda dtype, tone: tables.append(tone) or tone_table(dtype, tone)
    )
    (by_table,) = decode(data, policy)
    assert tables
    monkeypatch.setattr("medsiglip.imaging.dicom.tone.has_table", lambda _: False)
    (direct,) = decode(data, policy)
    np.testing.assert_array_equal(by_table.pixels, direct.pixels)
    assert len(tables) == 1


def test_blocks_do_not_show():
    stored = np.arange(7 * 100_000, dtype=np.int32).reshape(7, 100_000)
    np.testing.assert_array_equal(_in_blocks(stored, lambda values: (values % 251).astype(np.uint8)), stored % 251)


def test_a_table_of_signed_values_is_in_the_order_of_the_unsigned():
    table = tone_table(np.dtype(np.int8), lambda values: (values.astype(int) + 128).astype(np.uint8))
    assert (table[0], table[127], table[128], table[255]) == (128, 255, 0, 127)
    stored = np.arange(-128, 128, dtype=np.int8).reshape(16, 16)
    np.testing.assert_array_equal(apply_tone(stored, lambda _: 1 / 0, table).ravel(), np.arange(256))


# streaming


def test_frames_are_decoded_one_by_one(monkeypatch):
    from pydicom.pixels.decoders.base import Decoder

    decoded = []
    as_array = Decoder.as_array
    monkeypatch.setattr(Decoder, "as_array", lambda *args, **kw: decoded.append(kw["index"]) or as_array(*args, **kw))
    stored = np.arange(5 * 6, dtype=np.uint16).reshape(5, 2, 3)
    frames = decode_dicom(dicom_bytes(stored, NumberOfFrames=5, WindowCenter=9, WindowWidth=30), "voi", "")
    next(frames)
    assert decoded == [0]
    next(frames)
    assert decoded == [0, 1]
    decoded.clear()
    list(decode_dicom(dicom_bytes(stored, NumberOfFrames=5), "full-range", ""))
    assert decoded == [0, 1, 2, 3, 4] * 2  # once for the range


@pytest.mark.parametrize("policy", ["voi", "full-range", "percentile"])
def test_a_single_frame_is_decoded_once(monkeypatch, policy):
    from pydicom.pixels.decoders.base import Decoder

    decoded = []
    as_array = Decoder.as_array
    monkeypatch.setattr(Decoder, "as_array", lambda *args, **kw: decoded.append(1) or as_array(*args, **kw))
    read(np.arange(6, dtype=np.uint16).reshape(2, 3), policy, WindowCenter=-90, WindowWidth=30)  # white
    assert decoded == [1]


@pytest.mark.parametrize("policy", ["voi", "full-range", "percentile"])
def test_many_frames_never_lie_in_memory_together(policy):
    stored = np.random.default_rng(4).integers(0, 4096, (60, 256, 256)).astype(np.uint16)
    data = dicom_bytes(stored, NumberOfFrames=60, BitsStored=12, WindowCenter=2000, WindowWidth=4000)
    next(decode_dicom(data, policy, ""))  # imports
    tracemalloc.start()
    for _ in decode_dicom(data, policy, ""):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    frame = stored[0].nbytes
    assert peak < stored.nbytes + 40 * frame  # pydicom's own copy of the pixel data, tables, a few frames


def test_a_film_needs_little_more_memory_than_stored_values_and_picture():
    stored = np.random.default_rng(4).integers(0, 4096, (3000, 2000)).astype(np.uint16)
    data = dicom_bytes(stored, BitsStored=12, WindowCenter=2000, WindowWidth=4000)
    next(decode_dicom(data, "voi", ""))
    tracemalloc.start()
    for _ in decode_dicom(data, "voi", ""):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * (stored.nbytes + stored.size)


def test_a_white_first_frame_of_a_fitting_window_stays():
    stored = np.array([[[4000, 4000]], [[0, 4000]]], np.uint16)
    frames = read(stored, NumberOfFrames=2, WindowCenter=2000, WindowWidth=4000)
    assert [frame.pixels.tolist() for frame in frames] == [[[255, 255]], [[0, 255]]]
    assert {frame.policy for frame in frames} == {"voi"}


def test_white_beside_padding_falls_back_to_the_full_range():
    stored = np.array([[0, 1000, 2000]], np.uint16)
    (frame,) = read(stored, PixelPaddingValue=0, WindowCenter=40, WindowWidth=80)
    assert (frame.pixels.tolist(), frame.policy) == ([[0, 0, 255]], "full-range")


def test_a_table_serves_only_frames_of_the_same_transforms():
    stored = np.array([[[0, 60]]] * 5, np.uint16)
    window = {"WindowCenter": 100, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"}
    slopes = (1, 1, 2, 2, 1)
    groups = [
        group(
            FrameVOILUTSequence=window,
            PixelValueTransformationSequence={"RescaleSlope": slope, "RescaleIntercept": 0},
        )
        for slope in slopes
    ]
    frames = read(stored, NumberOfFrames=5, PerFrameFunctionalGroupsSequence=Sequence(groups))
    # x / 200: 60 -> 76.5, 120 -> 153
    assert [frame.pixels[0].tolist() for frame in frames] == [[0, {1: 77, 2: 153}[slope]] for slope in slopes]
