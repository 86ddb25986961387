"""A tone is what happens to a stored value on its way to eight bits; for 8 and 16 bits it becomes a table.

A film of 14 million pixels holds at most 65536 different values: working the tone out for each of these and
looking the pixels up takes a fraction of the time and memory. H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..frame import Array

Tone = Callable[[Array], Array]
"""Stored values of any shape to uint8: the same shape (grey) or with a last axis of 3 (RGB); each value by itself.

One that has `serves_other_files` true, and can be hashed, keeps its table from file to file, as for a series' slices.
"""

ToneOf = Callable[[int], Tone]
"""The tone of frame 0, 1, ...; the same object as long as nothing changes."""

_BLOCK_VALUES = 2**18  # worked on at a time: little memory, and it fits the cache


class Toned(NamedTuple):
    """One frame before and after."""

    stored: Array
    """(H, W) integer or float."""
    pixels: Array
    """(H, W) or (H, W, 3) uint8."""


def tone_frames(frames: Iterable[Array], tone_of: ToneOf) -> Iterator[Toned]:
    """Give each frame its tone, keeping the table of a tone that stays.

    Args:
        frames: (H, W) stored values each.
        tone_of: the tone of each.
    """
    tone, table = None, None
    for number, stored in enumerate(frames):
        previous, tone = tone, tone_of(number)
        if tone is not previous:
            table = None
        elif table is None and has_table(stored.dtype):  # worth it from the second frame on
            table = _table(stored.dtype, tone)
        yield Toned(stored, apply_tone(stored, tone, table))


def apply_tone(stored: Array, tone: Tone, table: Array | None = None) -> Array:
    """Give one frame its tone.

    Args:
        stored: (H, W) integer or float.
        tone: what happens to a value.
        table: of `tone_table` for this tone and the dtype of `stored`, if there is one.

    Returns:
        (H, W) or (H, W, 3) uint8; the same with and without a table.
    """
    if table is None and has_table(stored.dtype) and stored.size >= _num_values(stored.dtype):
        table = _table(stored.dtype, tone)
    if table is None:
        return _in_blocks(stored, tone)
    index = stored.view(f"u{stored.dtype.itemsize}")
    if table.ndim == 1:
        return _in_blocks(index, lambda rows: np.take(table, rows))
    words = _as_words(table)
    return _in_blocks(index, lambda rows: _as_bytes(np.take(words, rows)))


def has_table(dtype: np.dtype[np.generic]) -> bool:
    """Whether a table of all values of a type is small enough."""
    return dtype.kind in "iu" and dtype.itemsize <= 2


def tone_table(dtype: np.dtype[np.generic], tone: Tone) -> Array:
    """The tone of every value of an 8- or 16-bit integer type, in the order of its unsigned twin."""
    return tone(np.arange(_num_values(dtype), dtype=f"u{dtype.itemsize}").view(dtype))


def _table(dtype: np.dtype[np.generic], tone: Tone) -> Array:
    return _kept_table(dtype, tone) if getattr(tone, "serves_other_files", False) else tone_table(dtype, tone)


@lru_cache(maxsize=2)
def _kept_table(dtype: np.dtype[np.generic], tone: Tone) -> Array:
    return tone_table(dtype, tone)


def _as_words(table: Array) -> Array:
    """(n, 3) uint8 to (n,) uint32: looking up one word is several times as fast as looking up three bytes."""
    padded = np.zeros((len(table), 4), np.uint8)
    _copy_channels(table, padded)
    return padded.view(np.uint32)[:, 0]


def _as_bytes(words: Array) -> Array:
    """The inverse of `_as_words` for (H, W) entries: (H, W, 3) uint8, a view."""
    return words.view(np.uint8).reshape(*words.shape, 4)[..., :3]


def _copy_channels(source: Array, target: Array) -> None:
    """Copy three channels one by one, which numpy does in long runs, where a pixel at a time takes thrice as long."""
    for channel in range(3):
        target[..., channel] = source[..., channel]


def _num_values(dtype: np.dtype[np.generic]) -> int:
    return int(2 ** (8 * dtype.itemsize))


def _in_blocks(values: Array, tone: Tone) -> Array:
    """Some rows at a time, so that 64-bit intermediates never lie in memory for a whole film."""
    step = max(_BLOCK_VALUES // values.shape[1], 1)
    first = tone(values[:step])
    pixels = np.empty(values.shape + first.shape[2:], np.uint8)
    for row in range(0, len(values), step):
        toned = tone(values[row : row + step]) if row else first
        if toned.ndim == 3:
            _copy_channels(toned, pixels[row : row + step])
        else:
            pixels[row : row + step] = toned
    return pixels
