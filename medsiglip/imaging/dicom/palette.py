"""PALETTE COLOR: stored indices → red, green and blue tables → RGB uint8.

Source: DICOM PS3.3 C.7.6.3.1.5, C.7.6.3.1.6 and, for segmented tables, C.7.9.2. n entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..frame import Array, stretch_to_uint8
from .lut import LookupTable, look_up, lookup_table

if TYPE_CHECKING:
    from pydicom import Dataset

_COLOURS = ("Red", "Green", "Blue")
_MAX_ENTRIES = 2**16


class Palette(NamedTuple):
    """Three tables and the table value that is shown as 255."""

    tables: tuple[LookupTable, LookupTable, LookupTable]
    brightest: int


def read_palette(dataset: Dataset) -> Palette:
    """Read the Palette Color Lookup Table module.

    Raises:
        ValueError, AttributeError, KeyError: missing or damaged tables.
    """
    red, green, blue = (_table(dataset, colour) for colour in _COLOURS)
    bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
    # Tables of 16-bit entries that hold only 8-bit values exist; scaling those would leave a black picture.
    largest = max(int(table.entries.max()) for table in (red, green, blue))
    return Palette((red, green, blue), 65535 if bits == 16 and largest > 255 else 255)


def apply_palette(palette: Palette, indices: Array) -> Array:
    """Look indices up.

    Args:
        palette: of `read_palette`.
        indices: any shape, stored values.

    Returns:
        (..., 3) uint8 RGB.
    """
    colours = np.stack([look_up(table, indices) for table in palette.tables], axis=-1)
    return stretch_to_uint8(colours, 0, palette.brightest)


def _table(dataset: Dataset, colour: str) -> LookupTable:
    descriptor = list(dataset[f"{colour}PaletteColorLookupTableDescriptor"].value)
    little_endian, signed = dataset.original_encoding[1], bool(dataset.PixelRepresentation)
    plain = f"{colour}PaletteColorLookupTableData"
    if plain in dataset:
        return lookup_table(descriptor, dataset[plain].value, little_endian, signed=signed)
    segmented = dataset[f"Segmented{plain}"].value
    entries = expand_segments(_segment_words(segmented, int(descriptor[2]), little_endian))
    return lookup_table(descriptor, entries, little_endian, signed=signed)


def _segment_words(data: bytes, bits: int, little_endian: bool) -> Array:
    if bits <= 8:
        return np.frombuffer(data, np.uint8)
    return np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little_endian else ">u2")


def expand_segments(words: Array) -> list[int]:
    """Write a segmented table out in full.

    Args:
        words: (n,) uint8 or uint16: segments of an opcode (0 discrete, 1 linear, 2 indirect), a length and their
            content. The offset of an indirect segment counts bytes, low word (or low byte) first.

    Returns:
        The entries.

    Raises:
        ValueError: an unknown opcode, a segment that refers to none before it, or more than 65536 entries.
    """
    entries: list[int] = []
    position = 0
    while position + 1 < len(words):
        position = _expand_segment(words, position, entries)
    return entries


def _expand_segment(words: Array, position: int, entries: list[int], *, depth: int = 0) -> int:
    """Append one segment to the entries; returns where the next begins."""
    opcode, length, content = int(words[position]), int(words[position + 1]), position + 2
    if opcode == 0:
        entries.extend(int(word) for word in words[content : content + length])
        position = content + length
    elif opcode == 1 and entries:
        ramp = np.linspace(entries[-1], int(words[content]), length + 1)[1:]
        entries.extend(int(value) for value in np.floor(ramp + 0.5))
        position = content + 1
    elif opcode == 2 and entries and depth == 0:
        width = words.dtype.itemsize
        digits = words[content : content + 4 // width]
        source = sum(int(digit) << (8 * width * power) for power, digit in enumerate(digits)) // width
        for _ in range(length):
            source = _expand_segment(words, source, entries, depth=1)
        position = content + 4 // width
    else:
        raise ValueError("a segment that cannot stand there")
    if len(entries) > _MAX_ENTRIES:
        raise ValueError("more entries than a table may have")
    return position
