"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, read before a codec takes memory for it."""

from __future__ import annotations

from typing import NamedTuple

_J2K_START = b"\xff\x4f\xff\x51"  # SOC, SIZ
_COD = 0x52
_NOT_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)  # DHT, JPG, DAC
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))  # TEM, RSTn, SOI


class CodedSize(NamedTuple):
    """What a codestream's header claims."""

    rows: int
    columns: int
    samples: int
    bits: int
    """Of the first sample."""


def coded_size(codestream: bytes) -> CodedSize | None:
    """Read the size from the header.

    Args:
        codestream: one compressed frame.

    Returns:
        The size, or None for other formats (RLE), damaged headers and heights that come later (DNL).

    Source: ISO/IEC 10918-1 B.2, 14495-1 C.2.2, 15444-1 A.5.1.
    """
    if codestream[:2] == b"\xff\xd8":
        return _jpeg_size(codestream)
    start = codestream.find(_J2K_START, 0, 4096)  # past the boxes of a JP2 file, which DICOM forbids but files have
    return _j2k_size(codestream[start + 4 : start + 43]) if start >= 0 else None


def has_colour_transform(codestream: bytes) -> bool | None:
    """Whether a JPEG 2000 codestream says that its decoder turns components back to red, green and blue.

    Returns:
        None for other formats and damaged headers.

    Source: ISO/IEC 15444-1 A.6.1, the multiple component transformation of COD.
    """
    start = codestream.find(_J2K_START, 0, 4096)
    position = start + 2
    while start >= 0 and codestream[position : position + 1] == b"\xff" and position + 9 <= len(codestream):
        if codestream[position + 1] == _COD:
            return codestream[position + 8] != 0
        position += 2 + int.from_bytes(codestream[position + 2 : position + 4], "big")
    return None


def _j2k_size(header: bytes) -> CodedSize | None:
    if len(header) < 39:
        return None
    right, bottom, left, top = (int.from_bytes(header[at : at + 4], "big") for at in (4, 8, 12, 16))
    return CodedSize(bottom - top, right - left, int.from_bytes(header[36:38], "big"), (header[38] & 0x7F) + 1)


def _jpeg_size(codestream: bytes) -> CodedSize | None:
    position = 2
    while position + 10 <= len(codestream) and codestream[position] == 0xFF:
        marker = codestream[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif (0xC0 <= marker <= 0xCF and marker not in _NOT_FRAME_HEADERS) or marker == 0xF7:
            rows, columns = (int.from_bytes(codestream[at : at + 2], "big") for at in (position + 5, position + 7))
            size = CodedSize(rows, columns, codestream[position + 9], codestream[position + 4])
            return size if rows and columns else None
        else:
            position += 2 + int.from_bytes(codestream[position + 2 : position + 4], "big")
    return None
