"""DICOM originals as elements that can be replaced one by one.

Values are written as raw bytes: pydicom's writer would refuse most of the lies. Source: DICOM PS3.5 7.1, 7.5, A.4.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tests.medsiglip.imaging import fuzz_dicom_originals as made

ORIGINALS: dict[str, Callable[[], list[Any]]] = {
    "dicom-implicit": lambda: made.native("1.2.840.10008.1.2"),
    "dicom-explicit": lambda: made.native("1.2.840.10008.1.2.1"),
    "dicom-big-endian": lambda: made.native("1.2.840.10008.1.2.2"),
    "dicom-deflated": lambda: made.native("1.2.840.10008.1.2.1.99"),
    "dicom-rle": lambda: made.bundled("MR_small_RLE", "SC_rgb_rle_16bit", "SC_rgb_rle_2frame"),
    "dicom-jpeg": lambda: [*made.bundled("SC_rgb_small_odd_jpeg", "SC_rgb_dcmtk_+eb+cy+np"), made.jpeg_frames()],
    "dicom-jpeg-lossless": lambda: made.bundled("SC_rgb_jpeg_gdcm"),
    "dicom-jpeg-ls": lambda: made.bundled(
        "MR_small_jpeg_ls_lossless", "JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "SC_rgb_jls_lossy_line"
    ),
    "dicom-jpeg-2000": lambda: made.bundled("MR_small_jp2klossless", "693_J2KI", "JPEG2000"),
    "dicom-multi-frame": lambda: [*made.bundled("rtdose"), made.enhanced(4)],
    "dicom-palette": made.palettes,
    "dicom-colour": lambda: [*made.colours(), *made.bundled("SC_ybr_full_422_uncompressed")],
}
"""Format: its valid data sets."""

_LONG_LENGTH = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010


@dataclass
class Parts:
    """A data set taken apart."""

    syntax: str
    meta: dict[int, bytes]
    """Encoded elements of group 2, without its length."""
    elements: dict[int, bytes]
    """Encoded elements of the data set, native pixel data among them."""
    fragments: list[bytes] = field(default_factory=list)
    """Of encapsulated pixel data, without the offset table."""
    offsets: list[int] = field(default_factory=list)
    """Basic Offset Table."""
    numbers: dict[str, int] = field(default_factory=dict)
    """The true Rows, Columns, BitsAllocated, ..."""
    preamble: bytes = bytes(128) + b"DICM"
    tail: bytes = b""

    @property
    def implicit(self) -> bool:
        return self.syntax == "1.2.840.10008.1.2"

    @property
    def big_endian(self) -> bool:
        return self.syntax == "1.2.840.10008.1.2.2"

    @property
    def order(self) -> str:
        return ">" if self.big_endian else "<"


@cache
def originals(format: str) -> list[Parts]:
    return [take_apart(dataset) for dataset in ORIGINALS[format]()]


def take_apart(dataset: Any) -> Parts:
    """Encode every element by itself, with the fuzz identity in the patient's tags."""
    from pydicom.encaps import generate_fragments, parse_basic_offsets
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import correct_ambiguous_vr, write_data_element

    made.plant_identity(dataset)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    parts = Parts(syntax, {}, {})
    dataset = correct_ambiguous_vr(dataset, not parts.big_endian)

    def encoded(item: Any, implicit: bool, little: bool) -> bytes:
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = implicit, little
        write_data_element(buffer, item)
        return bytes(buffer.getvalue())

    for item in dataset.file_meta:
        if item.tag != 0x00020000:
            parts.meta[int(item.tag)] = encoded(item, False, True)
    for item in dataset:
        if item.tag == PIXEL_DATA and dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            parts.offsets = list(parse_basic_offsets(item.value))
            parts.fragments = list(generate_fragments(item.value))[1:]
        else:
            parts.elements[int(item.tag)] = encoded(item, parts.implicit, not parts.big_endian)
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel"):
        parts.numbers[keyword] = int(dataset[keyword].value)
    return parts


def assemble(parts: Parts) -> bytes:
    """The file."""
    meta = b"".join(data for _, data in sorted(parts.meta.items()))
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    body = b"".join(data for _, data in sorted(parts.elements.items()))
    if parts.fragments or parts.offsets:
        body += encapsulated(parts)
    body += parts.tail
    if parts.syntax == "1.2.840.10008.1.2.1.99":
        deflate = zlib.compressobj(wbits=-15)
        body = deflate.compress(body) + deflate.flush()
    return parts.preamble + length + meta + body


def encapsulated(parts: Parts) -> bytes:
    items = [struct.pack(f"<{len(parts.offsets)}I", *parts.offsets), *parts.fragments]
    head = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, UNDEFINED)
    body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    return head + body + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def element(parts: Parts, tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """An element with whatever value and length one likes."""
    length = len(value) if length is None else length
    head = struct.pack(parts.order + "HH", tag >> 16, tag & 0xFFFF)
    if parts.implicit:
        return head + struct.pack("<I", length) + value
    if vr in _LONG_LENGTH:
        return head + vr.encode() + struct.pack(parts.order + "HI", 0, length) + value
    return head + vr.encode() + struct.pack(parts.order + "H", length & 0xFFFF) + value


def put(parts: Parts, keyword: str, vr: str, value: bytes, length: int | None = None) -> None:
    tag = made.tag_of(keyword)
    parts.elements[tag] = element(parts, tag, vr, value, length)


def put_text(parts: Parts, keyword: str, vr: str, text: str) -> None:
    value = text.encode()
    put(parts, keyword, vr, value + b" " * (len(value) % 2))


def put_words(parts: Parts, keyword: str, vr: str, *values: int) -> None:
    put(parts, keyword, vr, struct.pack(f"{parts.order}{len(values)}H", *(value & 0xFFFF for value in values)))
