"""Deflated and compressed files: what they claim is checked before anything is unfolded."""

import io
import struct
import zlib

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from medsiglip.imaging import ImageError
from medsiglip.imaging.dicom.codestream import coded_size
from medsiglip.imaging.dicom.instance import has_dicom_preamble, parses_as_dicom, read_header
from tests.medsiglip.imaging.dicom_writer import decode, dicom_bytes, written


def refusal(data, policy="voi"):
    with pytest.raises(ImageError, match="; ") as caught:
        decode(data, policy)
    return caught.value.reason


# Transfer syntaxes


def test_deflated():
    stored = np.arange(60, dtype=np.uint8).reshape(6, 10)
    data = dicom_bytes(stored, DeflatedExplicitVRLittleEndian)
    (frame,) = decode(data)
    np.testing.assert_array_equal(frame.pixels, stored)
    assert frame.tags.transfer_syntax_uid == DeflatedExplicitVRLittleEndian
    assert read_header(data, "").rows == 6


def deflated(data_set: bytes) -> bytes:
    """A deflated file with this (inflated) data set."""
    data = dicom_bytes(np.zeros((6, 10), np.uint8), DeflatedExplicitVRLittleEndian)
    length = int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return data[: 144 + length] + packer.compress(data_set) + packer.flush()


def inflated(data: bytes) -> bytes:
    start = 144 + int.from_bytes(data[140:144], "little")
    return zlib.decompress(data[start:], -zlib.MAX_WBITS)


def test_a_deflated_bomb_is_refused_before_it_is_inflated():
    import tracemalloc

    header = inflated(dicom_bytes(np.zeros((6, 10), np.uint8), DeflatedExplicitVRLittleEndian))
    bomb = deflated(header + bytes(2**27))
    assert len(bomb) < 2**18
    tracemalloc.start()
    reason = refusal(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason.startswith("a deflated file that unfolds to more than 83") and "the tags call for 60; " in reason
    assert peak < 2**26


def test_a_deflated_file_that_claims_too_much():
    header = inflated(dicom_bytes(np.zeros((6, 10), np.uint8), DeflatedExplicitVRLittleEndian))
    rows, columns = struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, 6), struct.pack("<HH2sHH", 0x28, 0x11, b"US", 2, 10)
    assert header.count(rows) == header.count(columns) == 1
    huge = header.replace(rows, rows[:-2] + b"\xff\xff").replace(columns, columns[:-2] + b"\xff\xff")
    assert refusal(deflated(huge)).startswith(f"a deflated file of {65535 * 65535} bytes of pixel data, more than")


def test_a_damaged_deflated_file():
    data = dicom_bytes(np.zeros((6, 10), np.uint8), DeflatedExplicitVRLittleEndian)
    start = 144 + int.from_bytes(data[140:144], "little")
    assert "damaged" in refusal(data[:start] + b"\xff" * 100)


def encapsulated(syntax, codestream, **attributes):
    dataset = dcmread(io.BytesIO(dicom_bytes(np.zeros((8, 8), np.uint8), **attributes)))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].is_undefined_length = True
    return written(dataset)


def coded(name, size, mode="L", **options):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new(mode, size, 77).save(buffer, name, **options)
    return buffer.getvalue()


def coded_array(stored):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG2000", no_jp2=True)
    return buffer.getvalue()


FORMATS = [
    ("JPEG", JPEGBaseline8Bit, {}),
    ("JPEG2000", JPEG2000Lossless, {"no_jp2": True}),
    ("JPEG2000", JPEG2000Lossless, {}),
]


@pytest.mark.parametrize(("name", "syntax", "options"), FORMATS)
def test_a_compressed_frame_larger_than_the_tags_say_is_refused_unread(monkeypatch, name, syntax, options):
    from pydicom.pixels.decoders.base import DecodeRunner

    (frame,) = decode(encapsulated(syntax, coded(name, (8, 8), **options)))
    assert np.abs(frame.pixels.astype(int) - 77).max() <= 1
    monkeypatch.setattr(DecodeRunner, "iter_decode", lambda _: pytest.fail("was decoded"))
    larger = encapsulated(syntax, coded(name, (3000, 2000), **options))
    expected = "a compressed frame of 2000 x 3000 x 1 values where the tags say 8 x 8 x 1; export the image again"
    assert refusal(larger) == expected


@pytest.mark.parametrize(
    ("name", "syntax", "position"),
    [("JPEG", JPEGBaseline8Bit, b"\xff\xc0\x00\x0b"), ("JPEG2000", JPEG2000Lossless, b"\x00\x01\x07")],
)
def test_a_compressed_frame_of_too_many_bits_is_refused_unread(name, syntax, position):
    # JPEG: SOF0, length 11, precision; JPEG 2000: Csiz 1, Ssiz 7 (8 bits, unsigned)
    codestream = coded(name, (8, 8), **({"no_jp2": True} if name == "JPEG2000" else {}))
    assert codestream.count(position) == 1
    deep = position + b"\x44" if name == "JPEG" else position[:-1] + b"\x43"
    start = codestream.index(position)
    codestream = codestream[:start] + deep + codestream[start + len(deep) :]
    assert refusal(encapsulated(syntax, codestream)) == (
        "a compressed frame of 68 bits where the tags allocate 8; export the image again"
    )


@pytest.mark.parametrize(("name", "_syntax", "options"), FORMATS)
@pytest.mark.parametrize(("mode", "samples"), [("L", 1), ("RGB", 3)])
def test_coded_size(name, _syntax, options, mode, samples):
    assert coded_size(coded(name, (321, 123), mode, **options)) == (123, 321, samples, 8)


@pytest.mark.parametrize(
    "codestream", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\x4f\xff\x51\x00", b"\xff\xd8" + b"\xff" * 50, b"RLE" * 40]
)
def test_coded_size_of_damage_is_unknown(codestream):
    assert coded_size(codestream) is None


# What is no DICOM, and what would take for ever


def test_parses_as_dicom():
    stored = np.zeros((300, 300), np.uint16)
    assert parses_as_dicom(dicom_bytes(stored, preamble=False))
    assert parses_as_dicom(dicom_bytes(stored, ExplicitVRBigEndian, preamble=False))
    for other in (
        b"",
        b"\x08\x00",
        b"\x08\x00" * 5000,
        b"BM" + bytes(100),
        b"\x89PNG",
        bytes(2**20),
        b"\x02\x00" * 99999,
    ):
        assert not parses_as_dicom(other)
        assert not has_dicom_preamble(other)


def test_a_file_without_preamble_begins_with_group_2_or_8():
    size = struct.pack("<HH2sHHHH2sHH", 0x28, 0x10, b"US", 2, 5, 0x28, 0x11, b"US", 2, 5)
    class_uid = struct.pack("<HH2sH", 8, 0x16, b"UI", 6) + b"1.2.3\0"
    assert parses_as_dicom(class_uid + size)
    assert not parses_as_dicom(size)


def test_millions_of_empty_elements_end_at_once(monkeypatch):
    from pydicom import filereader

    elements = []
    generator = filereader.data_element_generator

    def counted(*args, **options):
        for element in generator(*args, **options):
            elements.append(1)
            yield element

    monkeypatch.setattr(filereader, "data_element_generator", counted)
    data = dicom_bytes(np.zeros((2, 2), np.uint8))
    assert len(decode(data + bytes(8 * 300_000))) == 1  # zeros behind the end
    filler = struct.pack("<HH2sH", 0x0008, 0x0005, b"CS", 0)
    start = 144 + int.from_bytes(data[140:144], "little")
    assert "damaged" in refusal(data[:start] + filler * 300_000)
    assert "damaged" in refusal(data[:132] + struct.pack("<HH2sH", 0x0002, 0x0100, b"UI", 0) * 300_000)
    assert "damaged" in refusal(data[:start] + bytes(8 * 300_000))
    assert len(elements) < 110_000


def test_eight_bits_coded_in_cells_of_sixteen():  # the codec gives uint8; stored values are uint16 all the same
    stored = np.arange(10, 74, dtype=np.uint16).reshape(8, 8)
    # as uint8 the padding value 300 would wrap to 44, which is a pixel
    attributes = {"BitsStored": 8, "PixelPaddingValue": 300}
    data = encapsulated(JPEG2000Lossless, coded_array(stored.astype(np.uint8)), BitsAllocated=16, **attributes)
    (frame,) = decode(data, "full-range")
    native = decode(dicom_bytes(stored, **attributes), "full-range")[0]
    assert frame.policy == native.policy == "full-range" and frame.pixels[4, 2] == 138  # 34 / 63 * 255 = 137.6
    np.testing.assert_array_equal(frame.pixels, native.pixels)


def test_one_bit_a_pixel_in_compressed_form():
    data = encapsulated(JPEGBaseline8Bit, coded("JPEG", (8, 8)), BitsAllocated=1, BitsStored=1)
    assert refusal(data).startswith("one bit a pixel is not read in compressed form; ")
