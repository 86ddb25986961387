"""Pixel padding: stored values that mean "no picture here". Source: DICOM PS3.3 C.7.5.1.1.2."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..frame import Array
from .parse import number

if TYPE_CHECKING:
    from pydicom import Dataset


class Padding(NamedTuple):
    """The range of padding, both ends included, as written in the file."""

    first: float
    last: float


def read_padding(dataset: Dataset) -> Padding | None:
    """Pixel Padding Value and Range Limit of the kind of pixel data there is; None without a value."""
    prefixes = {"FloatPixelData": "Float", "DoubleFloatPixelData": "DoubleFloat"}
    prefix = next((prefix for keyword, prefix in prefixes.items() if keyword in dataset), "")
    value, limit = (number(dataset, f"{prefix}PixelPadding{end}") for end in ("Value", "RangeLimit"))
    return None if value is None else Padding(value, value if limit is None else limit)


def stored_padding(padding: Padding, dtype: np.dtype[np.generic]) -> Padding:
    """The ends of the range as stored values, the smaller first; wrapped: -2000 is often written as 63536."""
    if dtype.kind == "f":
        first, last = sorted(padding)
    else:
        first, last = sorted(float(np.array(int(end)).astype(dtype)) for end in padding)
    return Padding(first, last)


def padding_mask(stored: Array, padding: Padding | None) -> Array | None:
    """True where stored values are padding; None when there can be none.

    Args:
        stored: any shape, integer or float.
        padding: of `read_padding`.

    Returns:
        Same shape, bool.
    """
    if padding is None:
        return None
    first, last = stored_padding(padding, stored.dtype)
    if stored.dtype.kind != "f":
        first, last = int(first), int(last)  # compared in the stored type, which is faster
    return np.asarray(stored == first) if first == last else np.asarray((stored >= first) & (stored <= last))
