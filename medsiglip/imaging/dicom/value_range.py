"""Which modality values the frames of a file hold, counted without keeping the frames. H rows, W columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ..frame import Array
from .lut import ModalityTransform, modality_values
from .padding import Padding, padding_mask

_BLOCK_VALUES = 2**20


class ValueCounts(NamedTuple):
    """The distinct valid values of all frames: no padding, nothing that is not finite."""

    values: Array
    """(n,) ascending, modality units."""
    counts: Array
    """(n,) int64."""


def count_values(
    frames: Iterable[Array],
    modality_of: Callable[[int], ModalityTransform],
    padding: Padding | None,
    *,
    ends_only: bool = False,
) -> ValueCounts:
    """Count over all frames of a file.

    Args:
        frames: (H, W) stored values each.
        modality_of: the transform of frame 0, 1, ...
        padding: stored values that do not count.
        ends_only: the smallest and the largest value are enough, which spares memory for float pixels.

    Returns:
        What there is; empty when nothing is valid.
    """
    total = ValueCounts(np.empty(0), np.empty(0, np.int64))
    for number, stored in enumerate(frames):
        distinct, counts = _count_stored(stored)
        mask = padding_mask(distinct, padding)
        values = modality_values(distinct, modality_of(number))
        valid = np.isfinite(values) if mask is None else np.isfinite(values) & ~mask
        total = _merged(total, values[valid], counts[valid])
        if ends_only and len(total.values) > 2:
            total = ValueCounts(total.values[[0, -1]], total.counts[[0, -1]])
    return total


def percentile(found: ValueCounts, percent: float) -> float:
    """The value below which `percent` of the values lie, interpolated linearly between neighbours as numpy does.

    Args:
        found: not empty.
        percent: 0..100.
    """
    ends = np.cumsum(found.counts)
    position = percent / 100 * (int(ends[-1]) - 1)
    rank = int(position)
    lower = float(found.values[np.searchsorted(ends, rank, side="right")])
    upper = float(found.values[np.searchsorted(ends, min(rank + 1, int(ends[-1]) - 1), side="right")])
    return lower + (upper - lower) * (position - rank)


def _count_stored(stored: Array) -> tuple[Array, Array]:
    """Distinct stored values and how often each occurs."""
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        return np.unique(stored, return_counts=True)
    flat = stored.reshape(-1).view(f"u{stored.dtype.itemsize}")
    num_values = 2 ** (8 * stored.dtype.itemsize)
    counts = np.zeros(num_values, np.int64)
    for start in range(0, len(flat), _BLOCK_VALUES):  # bincount makes 64-bit copies
        counts += np.bincount(flat[start : start + _BLOCK_VALUES], minlength=num_values)
    present = np.flatnonzero(counts)
    return present.astype(flat.dtype).view(stored.dtype), counts[present]


def _merged(total: ValueCounts, values: Array, counts: Array) -> ValueCounts:
    both, position = np.unique(np.concatenate([total.values, values]), return_inverse=True)
    merged = np.zeros(len(both), np.int64)
    np.add.at(merged, position, np.concatenate([total.counts, counts]))
    return ValueCounts(both, merged)
