"""Damaged and lying files: pictures or one clear line, never anything else.

    MEDGEMMA_FUZZ=1000 pytest tests/medsiglip/imaging/test_imaging_fuzz.py -k inputs     the long run, inputs a format

`benchmarks/fuzz.py` records such a run.
"""

import gzip
import hashlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import pytest

from medsiglip.imaging import DecoderPool, FileProblem, ImageError, Picture, Source, open_series
from medsiglip.imaging.listing import list_archive
from tests.medsiglip.imaging import fuzz_dicom, fuzz_raster, fuzz_series, fuzz_tiff, fuzz_volumes, fuzz_zip
from tests.medsiglip.imaging.fuzz_codestreams import jpeg_segments
from tests.medsiglip.imaging.fuzz_inputs import FORMATS, mutations, originals
from tests.medsiglip.imaging.fuzz_run import LIMITS, faults_of, peak_memory_mib, run
from tests.personal_data import FUZZ_IDENTITY

INPUTS = int(os.environ.get("MEDGEMMA_FUZZ", 30))
SEED = int(os.environ.get("MEDGEMMA_FUZZ_SEED", 0))


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with DecoderPool(1, LIMITS) as pool:
        yield pool


# The inputs


@pytest.mark.parametrize("format", FORMATS)
def test_originals_are_valid(format: str, pool: DecoderPool) -> None:
    for data in originals(format):
        files = list_archive(data).files if format in ("zip", "dicom-series") else [Source("original", data=data)]
        for result in pool.pictures([file for file in files if not file.name.endswith(".txt")]):
            assert isinstance(result, list) and not list(faults_of(result)), result


def test_the_original_series_is_one_volume(pool: DecoderPool) -> None:
    (series,) = open_series(list_archive(*originals("dicom-series")).files, pool)
    assert series.shape == (fuzz_series.NUM_SLICES, 20, 24)


@pytest.mark.parametrize("format", FORMATS)
def test_inputs_are_the_same_every_time(format: str) -> None:
    def digest(count: int, seed: int) -> list[str]:
        return [hashlib.sha256(item.data).hexdigest() for item in mutations(format, count, seed)]

    first = digest(24, SEED)
    assert digest(12, SEED) == first[:12]
    assert len(set(first)) > 18, "the inputs repeat themselves"
    assert len(set(first) & set(digest(24, SEED + 1))) < 6
    assert len(set(first) & {hashlib.sha256(data).hexdigest() for data in originals(format)}) < 6


def test_every_dicom_original_names_the_planted_patient() -> None:
    for format in fuzz_dicom.ORIGINALS:
        for parts in fuzz_dicom.originals(format):
            held = b"".join(parts.elements.values())
            assert all(value.encode() in held for value in FUZZ_IDENTITY.values()), format


# What comes out


@pytest.mark.parametrize("format", FORMATS)
def test_inputs_give_pictures_or_one_clear_line(format: str, pool: DecoderPool) -> None:
    outcome = run(mutations(format, INPUTS, SEED), pool)
    assert not outcome.faults, "\n".join(outcome.faults[:20])
    assert outcome.inputs == INPUTS and outcome.pictures + outcome.refused == INPUTS


def test_faults_are_seen() -> None:
    good = Picture.from_array(np.zeros((2, 2), np.uint8))
    clear = ImageError("a.dcm", "truncated: 3 of 4 bytes of pixel data; copy the file again")
    assert not [*faults_of([good]), *faults_of(clear)]
    name = FUZZ_IDENTITY["PatientName"]
    reasons = [
        "a reason without advice",
        "two\nlines; do this",
        "red \x1b[31m; do this",
        f"the picture of {name}; do this",
        f"the picture of {name.replace('^', ' ').lower()}; do this",
        f"born {FUZZ_IDENTITY['PatientBirthDate']}; do this",
        "decoding took longer than 2 s; copy the file again",
        "the decoder failed (KeyError; damaged file?); copy the file again",
        "x" * 500 + "; do this",
    ]
    for result in [[], ValueError("a reason; do this"), *map(unheard, reasons)]:
        assert list(faults_of(result)), "a fault was not seen"


def unheard(reason: str) -> ImageError:
    """An error made past its constructor, where the search for patient data listens."""
    error = ImageError.__new__(ImageError)
    error.file, error.reason = "a.dcm", reason
    return error


@pytest.mark.parametrize(("name", "shown"), [("a\nb.dcm", r"a\nb.dcm"), ("\x1b[2J\udc80.dcm", r"\x1b[2J\udc80.dcm")])
def test_control_characters_of_names_do_not_reach_the_terminal(name: str, shown: str) -> None:
    assert str(ImageError(name, "a reason; do this")) == f"{shown}: a reason; do this"
    assert str(FileProblem(name, "a reason; do this")) == f"{shown}: a reason; do this"
    assert str(ImageError("Röntgen/胸部.dcm", "a reason; do this")) == "Röntgen/胸部.dcm: a reason; do this"


# Bombs: files that claim far more than they hold, or hold far more than anyone wants


def dicom_claiming(syntax_format: str, **words: int) -> bytes:
    parts = deepcopy(fuzz_dicom.originals(syntax_format)[0])
    for keyword, value in words.items():
        fuzz_dicom.put_words(parts, keyword, "US", value)
    return fuzz_dicom.assemble(parts)


def dicom_with_frames(text: str) -> bytes:
    parts = deepcopy(fuzz_dicom.originals("dicom-multi-frame")[1])
    fuzz_dicom.put_text(parts, "NumberOfFrames", "IS", text)
    return fuzz_dicom.assemble(parts)


def jpeg_2000_claiming(size_px: int) -> bytes:
    """In DICOM whose Rows and Columns stay small."""
    parts = deepcopy(fuzz_dicom.originals("dicom-jpeg-2000")[0])
    stream = bytearray(parts.fragments[0])
    for offset in (8, 12, 24, 28):  # Xsiz, Ysiz, XTsiz, YTsiz
        struct.pack_into(">I", stream, offset, size_px)
    parts.fragments[0] = bytes(stream)
    return fuzz_dicom.assemble(parts)


def deflated_dicom_of_zeros(num_bytes: int) -> bytes:
    """Pixel data at the end of the data set; zeros are deflated once and the piece is repeated."""
    parts = deepcopy(fuzz_dicom.originals("dicom-deflated")[0])
    fuzz_dicom.put(parts, "PixelData", "OW", b"", num_bytes)
    parts.syntax = "1.2.840.10008.1.2.1"
    whole = fuzz_dicom.assemble(parts)
    start = whole.index(b"\x08\0")  # the first element after the meta header
    deflate = zlib.compressobj(9, wbits=-15)
    head = deflate.compress(whole[start:]) + deflate.flush(zlib.Z_FULL_FLUSH)
    piece = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return whole[:start] + head + piece * (num_bytes // 2**20) + deflate.flush()


def tiff_claiming(dtype: type, size_px: int) -> bytes:
    data = bytearray(fuzz_tiff.written(np.zeros((4, 4), dtype)))
    for entry in fuzz_tiff.directories(bytes(data))[0].entries:
        if entry.tag in (256, 257, 278):  # ImageWidth, ImageLength, RowsPerStrip
            struct.pack_into("<HHII", data, entry.place, entry.tag, 4, 1, size_px)
    return bytes(data)


def nifti_claiming(size: int) -> bytes:
    data = bytearray(fuzz_volumes.originals("nifti")[0])
    struct.pack_into("<4h", data, 40, 3, size, size, size)
    return bytes(data)


def nifti_2_claiming(size: int) -> bytes:
    data = bytearray(fuzz_volumes.originals("nifti")[5])
    struct.pack_into("<4q", data, 16, 3, size, size, 2)
    return bytes(data)


def jpeg_claiming(size_px: int) -> bytes:
    data = bytearray(fuzz_raster.originals("jpeg")[0])
    (frame,) = [segment for segment in jpeg_segments(bytes(data)) if segment.marker == 0xC0]
    struct.pack_into(">HH", data, frame.start + 1, size_px, size_px)
    return bytes(data)


def claiming(format: str, place: int, form: str, *values: int) -> bytes:
    data = bytearray(fuzz_raster.originals(format)[0])
    struct.pack_into(form, data, place, *values)
    return bytes(data)


ROW = np.zeros((1, 1, 1), np.uint8)
TOO_LARGE = {
    "a PNG of 100,000 x 100,000": lambda: fuzz_raster.png(ROW, 8, 0, (100_000, 100_000)),
    "a 16-bit PNG of 100,000 x 100,000": lambda: fuzz_raster.png(ROW, 16, 2, (100_000, 100_000)),
    "a JPEG of 65,500 x 65,500": lambda: jpeg_claiming(65_500),
    "a BMP of 100,000 x 100,000": lambda: claiming("bmp", 18, "<II", 100_000, 100_000),
    "a GIF of 65,535 x 65,535": lambda: claiming("gif", 6, "<HH", 65_535, 65_535),
    "an 8-bit TIFF of 100,000 x 100,000": lambda: tiff_claiming(np.uint8, 100_000),
    "a 16-bit TIFF of 100,000 x 100,000": lambda: tiff_claiming(np.uint16, 100_000),
    "a NIfTI of 32,000 x 32,000 x 32,000": lambda: nifti_claiming(32_000),
    "a NIfTI-2 of 100,000 x 100,000 x 2": lambda: nifti_2_claiming(100_000),
    "a packed NIfTI of 32,000 x 32,000 x 32,000": lambda: fuzz_volumes.packed(nifti_claiming(32_000)),
    "a DICOM of 65,535 x 65,535": lambda: dicom_claiming("dicom-explicit", Rows=65_535, Columns=65_535),
    "an RLE DICOM of 65,535 x 65,535": lambda: dicom_claiming("dicom-rle", Rows=65_535, Columns=65_535),
    "a JPEG 2000 DICOM of 65,535 x 65,535": lambda: dicom_claiming("dicom-jpeg-2000", Rows=65_535, Columns=65_535),
    "a DICOM of 2**31 - 1 frames": lambda: dicom_with_frames(str(2**31 - 1)),
    "a DICOM of 2**31 frames": lambda: dicom_with_frames(str(2**31)),
    "a DICOM of 10**17 frames": lambda: dicom_with_frames(str(10**17)),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_what_claims_too_much_is_refused_by_size_before_memory_is_taken(what: str, pool: DecoderPool) -> None:
    (before,) = pool.pictures([Source("small", data=originals("png")[0])])
    idle_mib = peak_memory_mib()
    (result,) = pool.pictures([Source("bomb", data=TOO_LARGE[what]())])
    assert isinstance(before, list) and isinstance(result, ImageError)
    assert re.search(r"more than the limit of \d+|exceeds limit of \d+|number that cannot be", result.reason), result
    assert not list(faults_of(result))
    assert 0 < peak_memory_mib() < idle_mib + 50


def test_a_table_of_two_billion_bits_is_no_hang(pool: DecoderPool) -> None:
    parts = deepcopy(fuzz_dicom.originals("dicom-palette")[0])
    fuzz_dicom.put(parts, "RedPaletteColorLookupTableDescriptor", "AT", struct.pack("<6H", 0, 256, 0, 0, 2**15, 0))
    (result,) = pool.pictures([Source("bits", data=fuzz_dicom.assemble(parts))])
    assert not list(faults_of(result)), result


def test_a_deflated_dicom_of_zeros_is_refused_by_size(pool: DecoderPool) -> None:
    (result,) = pool.pictures([Source("bomb", data=deflated_dicom_of_zeros(2**31))])
    assert isinstance(result, ImageError) and "more than" in result.reason and not list(faults_of(result)), result


def test_a_jpeg_2000_stream_larger_than_its_dicom_says_is_refused(pool: DecoderPool) -> None:
    (result,) = pool.pictures([Source("bomb", data=jpeg_2000_claiming(100_000))])
    assert isinstance(result, ImageError) and not list(faults_of(result)), result


def test_zeros_that_no_header_asks_for_are_not_unpacked(pool: DecoderPool) -> None:
    valid = fuzz_volumes.originals("nifti")[0]
    png = fuzz_raster.png_chunks(fuzz_raster.originals("png")[0])
    raw = zlib.decompress(b"".join(content for kind, content in png if kind == b"IDAT"))
    chunks = [(b"IDAT", zlib.compress(raw + bytes(2**28))) if kind == b"IDAT" else (kind, c) for kind, c in png]
    bombs = {
        "a packed NIfTI with zeros behind": gzip.compress(valid + bytes(2**28), 1, mtime=0),
        "a PNG with zeros behind": fuzz_raster.PNG_MAGIC
        + b"".join(fuzz_raster.png_chunk(kind, content) for kind, content in chunks),
    }
    list(pool.pictures([Source("small", data=valid)]))
    idle_mib = peak_memory_mib()
    for name, data in bombs.items():
        (result,) = pool.pictures([Source(name, data=data)])
        assert not list(faults_of(result)), result
        assert 0 < peak_memory_mib() < idle_mib + 100, "its memory was taken"


def test_a_zip_of_zips_is_not_unpacked() -> None:
    data = fuzz_zip.archive([("a.dcm", bytes(2**20))])
    for _ in range(20):
        data = fuzz_zip.archive([("inner.zip", data)])
    listed = list_archive(data)
    assert listed.files == [] and len(listed.problems) == 1
    assert "a zip inside a zip or folder is not opened; unpack it" in str(listed.problems[0])


def test_a_zip_in_disguise_is_not_unpacked(pool: DecoderPool) -> None:
    inner = fuzz_zip.archive([("a.dcm", bytes(2**20))])
    (file,) = list_archive(fuzz_zip.archive([("picture.png", inner)])).files
    (result,) = pool.pictures([file])
    assert isinstance(result, ImageError) and "a zip inside a zip or folder is not opened" in result.reason


def test_a_zip_of_zeros_is_refused_by_its_ratio() -> None:
    listed = list_archive(fuzz_zip.archive([("zeros.dcm", bytes(2**26))]))
    assert listed.files == []
    assert re.search(r"67108864 bytes packed into \d+, more than 1000 to 1; unpack", str(listed.problems[0]))


def test_a_member_that_claims_4_gib_is_refused() -> None:
    data = bytearray(fuzz_zip.archive([("a.png", originals("png")[0])], zipfile.ZIP_STORED))
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, 2**32 - 2)
    listed = list_archive(bytes(data))
    assert listed.files == [] and f"{2**32 - 2} bytes unpacked, more than the limit" in str(listed.problems[0])
