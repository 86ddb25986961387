"""TIFF: small valid files, and files whose directories lie. Source: TIFF 6.0, section 2."""

from __future__ import annotations

import io
import random
import struct
from typing import Any, NamedTuple

import numpy as np

from tests.medsiglip.imaging.fuzz_numbers import UNSIGNED_16, UNSIGNED_32, near

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # of a value, by type
_INTEGERS = {1: "B", 3: "H", 4: "I"}
# fmt: off
_PICTURE_TAGS = (
    254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339, 347,
    530, 32997, 32998,
)
# fmt: on


def originals(format: str) -> list[bytes]:
    from PIL import Image

    rng = np.random.default_rng(12)
    grey = rng.integers(0, 256, (20, 24)).astype(np.uint8)
    deep = rng.integers(0, 4096, (20, 24)).astype(np.uint16)
    rgb = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
    palette = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE)
    files = [
        written(grey, rowsperstrip=5),
        written(deep, rowsperstrip=5),
        written(deep, tile=(16, 16)),
        written(deep, compression="zlib", predictor=True),
        written(rgb, photometric="rgb", tile=(16, 16), compression="zlib"),
        written(rgb.astype(np.uint16) * 257, photometric="rgb", planarconfig="contig"),
        written(np.moveaxis(rgb.astype(np.uint16), 2, 0), photometric="rgb", planarconfig="separate"),
        written(np.stack([deep, deep]), photometric="minisblack"),
        written(np.stack([grey, grey]), photometric="minisblack", byteorder=">"),
        written(deep.astype(np.float32), byteorder=">"),
        written(deep, bigtiff=True),
    ]
    images = [
        Image.fromarray(grey),
        Image.fromarray(deep),
        Image.fromarray(rgb),
        palette,
        Image.fromarray(grey).convert("1"),
    ]
    for image, compression in zip(images, ("tiff_lzw", "tiff_lzw", "jpeg", "packbits", "group4"), strict=True):
        buffer = io.BytesIO()
        image.save(buffer, "TIFF", compression=compression)
        files.append(buffer.getvalue())
    return files


def written(values: Any, **options: Any) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


class Entry(NamedTuple):
    place: int
    tag: int
    type: int
    count: int
    value_place: int


class Directory(NamedTuple):
    start: int
    entries: list[Entry]
    next_place: int
    """Of the offset of the next directory."""


def directories(data: bytes) -> list[Directory]:
    """Of a classic TIFF; none of a BigTIFF."""
    order = _order(data)
    found: list[Directory] = []
    if struct.unpack_from(order + "H", data, 2)[0] != 42:
        return found
    start = struct.unpack_from(order + "I", data, 4)[0]
    while start and start + 2 <= len(data) and start not in [directory.start for directory in found]:
        number = struct.unpack_from(order + "H", data, start)[0]
        if number == 0 or start + 6 + 12 * number > len(data):
            break
        entries = [_entry(data, order, start + 2 + 12 * i) for i in range(number)]
        found.append(Directory(start, entries, start + 2 + 12 * number))
        start = struct.unpack_from(order + "I", data, found[-1].next_place)[0]
    return found


def _entry(data: bytes, order: str, place: int) -> Entry:
    tag, type_, count = struct.unpack_from(order + "HHI", data, place)
    inside = _SIZES.get(type_, 1) * count <= 4
    return Entry(place, tag, type_, count, place + 8 if inside else struct.unpack_from(order + "I", data, place + 8)[0])


def _order(data: bytes) -> str:
    return ">" if data[:2] == b"MM" else "<"


def lie(rng: random.Random, original: bytes) -> tuple[str, bytes]:
    data, done = bytearray(original), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        done.append(_one_lie(rng, data))
    return ", ".join(done), bytes(data)


def _one_lie(rng: random.Random, data: bytearray) -> str:
    found, order = directories(bytes(data)), _order(data)
    if not found:
        return _big_tiff_lie(rng, data)
    directory = rng.choice(found)
    kind = rng.choice(("value", "value", "value", "value", "count", "type", "tag", "offset", "next", "number", "first"))
    entry = rng.choice([e for e in directory.entries if e.tag in _PICTURE_TAGS] or directory.entries)
    if kind == "value":
        return _value_lie(rng, data, entry, order)
    value = rng.choice(UNSIGNED_32)
    if kind == "next":
        value = rng.choice((value, directory.start, found[0].start, found[-1].start, 8, len(data) - 2))
        struct.pack_into(order + "I", data, directory.next_place, value)
    elif kind == "first":
        struct.pack_into(order + "I", data, 4, rng.choice((value, len(data) - 2, len(data) - 20)))
    elif kind in ("count", "offset"):
        struct.pack_into(order + "I", data, entry.place + (4 if kind == "count" else 8), value)
    else:
        place = {"type": entry.place + 2, "tag": entry.place, "number": directory.start}[kind]
        value = rng.choice((*UNSIGNED_16, *_PICTURE_TAGS, *range(1, 19)))
        struct.pack_into(order + "H", data, place, value)
    return f"tag {entry.tag} {kind}={value}"


def _value_lie(rng: random.Random, data: bytearray, entry: Entry, order: str) -> str:
    form = _INTEGERS.get(entry.type)
    if form is None or entry.count == 0 or entry.value_place + struct.calcsize(form) > len(data):
        return f"tag {entry.tag} kept"
    place = entry.value_place + struct.calcsize(form) * rng.choice((0, rng.randrange(entry.count)))
    if place + struct.calcsize(form) > len(data):
        return f"tag {entry.tag} kept"
    limit = 256 ** struct.calcsize(form) - 1
    old = struct.unpack_from(order + form, data, place)[0]
    compressions = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 34712, 34925, 50000, 65000)
    choices = (
        compressions if entry.tag == 259 else (*UNSIGNED_32, *UNSIGNED_16, *range(10), near(rng, old, limit), len(data))
    )
    value = rng.choice(choices) & limit
    struct.pack_into(order + form, data, place, value)
    return f"tag {entry.tag}={value}"


def _big_tiff_lie(rng: random.Random, data: bytearray) -> str:
    place = rng.randrange(0, min(len(data) - 8, 400), 2)
    value = rng.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1))
    struct.pack_into("<Q", data, place, value)
    return f"BigTIFF {place}={value}"
