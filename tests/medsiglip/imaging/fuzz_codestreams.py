"""Lies inside a compressed frame: JPEG, JPEG-LS and JPEG 2000 markers, the RLE header."""

from __future__ import annotations

import random
import struct
from typing import NamedTuple

from tests.medsiglip.imaging.fuzz_numbers import UNSIGNED_16, UNSIGNED_32, near


class Told(NamedTuple):
    name: str
    agreeing: dict[str, int]
    """DICOM attributes that would agree with the lie."""


def lie_in_codestream(rng: random.Random, data: bytes) -> tuple[Told, bytes]:
    """One lie, whatever the stream is."""
    if data[:2] == b"\xff\xd8":
        return _jpeg_lie(rng, data)
    if data[:4] == b"\xff\x4f\xff\x51":
        return _jpeg_2000_lie(rng, data)
    return _rle_lie(rng, data)


# JPEG and JPEG-LS. Source: ITU-T T.81 B.1.1, T.87 C.1.1

_WITHOUT_LENGTH = {0xD8, 0xD9, 0x01, *range(0xD0, 0xD8)}
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_DHT, _DQT, _DRI, _SOS, _LSE = 0xC4, 0xDB, 0xDD, 0xDA, 0xF8


class Segment(NamedTuple):
    marker: int
    start: int
    """Of the bytes after the length."""
    stop: int


def jpeg_segments(data: bytes) -> list[Segment]:
    """The marker segments up to the first scan."""
    segments, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _WITHOUT_LENGTH or marker == 0xFF:
            place += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        segments.append(Segment(marker, place + 4, place + 2 + length))
        if marker == _SOS:
            break
        place += 2 + length
    return segments


def _jpeg_lie(rng: random.Random, data: bytes) -> tuple[Told, bytes]:
    segments = jpeg_segments(data)
    if not segments:
        return Told("no segments", {}), data
    frame = next((segment for segment in segments if segment.marker in _FRAME_HEADERS), None)
    if frame is not None and rng.random() < 0.5:
        return _frame_header_lie(rng, data, frame)
    segment = rng.choice([s for s in segments if s.marker in (_DHT, _DQT, _DRI, _SOS, _LSE)] or segments)
    changed = bytearray(data)
    kind = rng.choice(("content", "content", "length", "marker", "gone", "doubled"))
    if kind == "content" and segment.stop > segment.start:
        for _ in range(rng.choice((1, 4))):
            changed[min(rng.randrange(segment.start, segment.stop), len(data) - 1)] = rng.choice(
                (0, 1, 17, 0xFF, rng.randrange(256))
            )
    elif kind == "length":
        struct.pack_into(">H", changed, segment.start - 2, rng.choice((0, 1, 2, 3, 255, 65535)))
    elif kind == "marker":
        changed[segment.start - 3] = rng.choice(
            sorted(_FRAME_HEADERS | {_DHT, _DQT, _DRI, _SOS, _LSE, 0xD9, 0xE1, 0xFE})
        )
    elif kind == "gone":
        del changed[segment.start - 4 : segment.stop]
    else:
        changed[segment.stop : segment.stop] = data[segment.start - 4 : segment.stop] * rng.choice((1, 40))
    return Told(f"JPEG {segment.marker:02x} {kind}", {}), bytes(changed)


def _frame_header_lie(rng: random.Random, data: bytes, frame: Segment) -> tuple[Told, bytes]:
    changed = bytearray(data)
    kind = rng.choice(("precision", "height", "width", "height", "width", "components", "sampling", "process"))
    if kind in ("height", "width"):
        place = frame.start + (1 if kind == "height" else 3)
        value = rng.choice((rng.choice(UNSIGNED_16), near(rng, int.from_bytes(data[place : place + 2], "big"), 65535)))
        struct.pack_into(">H", changed, place, value)
        return Told(f"JPEG {kind}={value}", {"Rows" if kind == "height" else "Columns": value}), bytes(changed)
    place = {"precision": frame.start, "components": frame.start + 5, "process": frame.start - 3}.get(
        kind, frame.start + 7
    )
    value = (
        rng.choice(sorted(_FRAME_HEADERS))
        if kind == "process"
        else rng.choice((0, 1, 2, 3, 4, 8, 12, 16, 17, 0x22, 0x44, 255))
    )
    if place < len(changed):
        changed[place] = value
    return Told(f"JPEG {kind}={value}", {"BitsStored": value} if kind == "precision" else {}), bytes(changed)


# JPEG 2000. Source: ITU-T T.800 A.5.1, A.6.1

_SIZ = {  # field: offset after the marker, format
    "Rsiz": (4, ">H"),
    "Xsiz": (6, ">I"),
    "Ysiz": (10, ">I"),
    "XOsiz": (14, ">I"),
    "YOsiz": (18, ">I"),
    "XTsiz": (22, ">I"),
    "YTsiz": (26, ">I"),
    "XTOsiz": (30, ">I"),
    "YTOsiz": (34, ">I"),
    "Csiz": (38, ">H"),
    "Ssiz": (40, ">B"),
    "XRsiz": (41, ">B"),
    "YRsiz": (42, ">B"),
}
_COD = {
    "Scod": 4,
    "progression": 5,
    "layers": 6,
    "transform": 8,
    "levels": 9,
    "block width": 10,
    "block height": 11,
    "style": 12,
}


def _jpeg_2000_lie(rng: random.Random, data: bytes) -> tuple[Told, bytes]:
    changed = bytearray(data)
    cod = data.find(b"\xff\x52")
    if cod > 0 and rng.random() < 0.3:
        name = rng.choice(list(_COD))
        changed[cod + _COD[name]] = value = rng.choice((0, 1, 5, 10, 32, 33, 64, 127, 255))
        return Told(f"JPEG 2000 {name}={value}", {}), bytes(changed)
    if rng.random() < 0.2:  # tile-part header: index, length, part, number of parts
        place = data.find(b"\xff\x90")
        name, offset, form = rng.choice(
            (("tile", 4, ">H"), ("tile length", 6, ">I"), ("part", 10, ">B"), ("parts", 11, ">B"))
        )
        value = rng.choice((0, 1, 12, 255))
        if place > 0:
            struct.pack_into(form, changed, place + offset, value)
        return Told(f"JPEG 2000 {name}={value}", {}), bytes(changed)
    name = rng.choice(list(_SIZ))
    offset, form = _SIZ[name]
    old = struct.unpack_from(form, data, 2 + offset)[0]
    limit = 256 ** struct.calcsize(form) - 1
    value = min(limit, rng.choice((rng.choice(UNSIGNED_32), near(rng, old, limit))))
    struct.pack_into(form, changed, 2 + offset, value)
    agreeing = {"Xsiz": {"Columns": value}, "Ysiz": {"Rows": value}, "Csiz": {"SamplesPerPixel": value}}.get(name, {})
    return Told(f"JPEG 2000 {name}={value}", {k: min(v, 65535) for k, v in agreeing.items()}), bytes(changed)


# RLE. Source: DICOM PS3.5 G.5


def _rle_lie(rng: random.Random, data: bytes) -> tuple[Told, bytes]:
    changed = bytearray(data.ljust(64, b"\0"))
    place = rng.choice((0, 0, 4, 8, 12, 60))
    value = rng.choice((*UNSIGNED_32, len(data), len(data) - 1, 15, 16))
    struct.pack_into("<I", changed, place, value & 0xFFFFFFFF)
    return Told(f"RLE header {place // 4}={value}", {}), bytes(changed)
