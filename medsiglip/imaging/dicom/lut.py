"""DICOM's grey transforms: stored values → modality LUT or rescale → VOI LUT or window.

Lookups and windows are written out here because pydicom's `apply_modality_lut`, `apply_voi_lut` and
`apply_color_lut` fail on modality tables of 12-bit entries, wrap around on tables of more than 256 8-bit
entries, and change Bits Stored into an output range of their own. F frames, H rows, W columns.

Source: DICOM PS3.3 C.11.1, C.11.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .picture import Array

if TYPE_CHECKING:
    from pydicom import Dataset


class LookupTable(NamedTuple):
    """A LUT item. Source: PS3.3 C.11.1.1 and C.11.2.1.1."""

    first: int
    """The input value of the first entry; may be negative."""
    entries: Array
    """(n,) uint8 or uint16."""
    top: int
    """The largest possible entry, 2 ** bits - 1."""


class Rescale(NamedTuple):
    """output = slope * stored + intercept. Source: PS3.3 C.11.1.1.2."""

    slope: float
    intercept: float


class Window(NamedTuple):
    """Window Center, Window Width and VOI LUT Function, in units of the modality LUT's output."""

    center: float
    width: float
    function: str


# Modality transform


def modality_values(stored: Array, modality: list[Rescale | LookupTable]) -> Iterator[Array]:
    """Each frame's (H, W) values in modality units, one at a time to spare memory."""
    for frame, transform in zip(stored, modality, strict=True):
        if isinstance(transform, LookupTable):
            yield look_up(transform, frame)
        elif transform == Rescale(1.0, 0.0):
            yield frame
        else:
            yield frame * transform.slope + transform.intercept


def modality_transform(dataset: Dataset, frame: int) -> Rescale | LookupTable:
    """The frame's Modality LUT Sequence or rescale; identity without either. Source: PS3.3 C.11.1."""
    if dataset.get("ModalityLUTSequence"):
        signed = bool(dataset.PixelRepresentation)
        return _lookup_table_item(dataset.ModalityLUTSequence[0], dataset, signed)
    holder = _frame_macro(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = holder.get("RescaleSlope"), holder.get("RescaleIntercept")
    return Rescale(1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))


def _frame_macro(dataset: Dataset, frame: int, keyword: str) -> Dataset:
    """Where a frame keeps a macro's attributes: its own functional group, the shared one, or the dataset.

    Source: PS3.3 C.7.6.16.
    """
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in [*per_frame[frame : frame + 1], *shared[:1]]:
        if groups.get(keyword):
            return groups[keyword].value[0]
    return dataset


# VOI transform


def voi_transform(dataset: Dataset, stored: Array, modality: Rescale | LookupTable) -> Window | LookupTable | None:
    """The first VOI LUT, else the first window, else None; the first frame's serves all frames."""
    if dataset.get("VOILUTSequence"):
        item = dataset.VOILUTSequence[0]
        if "LUTDescriptor" in item and "LUTData" in item:
            return _lookup_table_item(item, dataset, _may_be_negative(stored, modality))
    holder = _frame_macro(dataset, 0, "FrameVOILUTSequence")
    center, width = _first_number(holder.get("WindowCenter")), _first_number(holder.get("WindowWidth"))
    function = str(holder.get("VOILUTFunction") or "LINEAR").strip().upper()
    smallest_width = 1.0 if function == "LINEAR" else np.nextafter(0.0, 1.0)
    if center is None or width is None or width < smallest_width:
        return None
    return Window(center, width, function) if function in ("LINEAR", "LINEAR_EXACT", "SIGMOID") else None


def _may_be_negative(stored: Array, modality: Rescale | LookupTable) -> bool:
    if isinstance(modality, LookupTable):
        return False
    return float(stored.min()) * modality.slope + modality.intercept < 0


def _first_number(value: Any) -> float | None:
    from pydicom.multival import MultiValue

    first = value[0] if isinstance(value, MultiValue) and value else value
    return None if first in (None, "") or isinstance(first, MultiValue) else float(first)


def apply_voi(voi: Window | LookupTable, values: Array) -> Array:
    """Map modality values to 0..255, not rounded; float64."""
    if isinstance(voi, LookupTable):
        return look_up(voi, values) * 255.0 / voi.top
    return apply_window(values, voi)


def apply_window(values: Array, window: Window) -> Array:
    """Apply a window with the output range 0..255.

    Args:
        values: any shape, modality units (for CT, HU).
        window: width at least 1 for LINEAR, above 0 for LINEAR_EXACT and SIGMOID.

    Returns:
        Same shape, float64 in 0..255, not rounded; NaN becomes 0.

    Source: PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT).
    """
    center, width, function = window
    if function == "SIGMOID":
        exponent = np.clip(-4.0 * (values - center) / width, -700.0, 700.0)
        return np.nan_to_num(255.0 / (1.0 + np.exp(exponent)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    if width == 0:  # LINEAR of width 1 is a threshold
        return np.where(values > center, 255.0, 0.0)
    return np.nan_to_num(np.clip(((values - center) / width + 0.5) * 255.0, 0.0, 255.0))


# Lookup tables


def _lookup_table_item(item: Dataset, dataset: Dataset, signed: bool) -> LookupTable:
    return lookup_table(list(item.LUTDescriptor), item.LUTData, dataset.original_encoding[1], signed=signed)


def lookup_table(descriptor: list[int], data: Any, little_endian: bool, *, signed: bool) -> LookupTable:
    """Read a LUT whose data may be words (US) or bytes (OW), with 8-bit entries one or two to the word.

    Args:
        descriptor: number of entries (0 is 65536), first input value mapped, bits of an entry.
        data: LUT Data or Palette Color Lookup Table Data.
        little_endian: byte order of bytes.
        signed: whether inputs may be negative, so that a first value above 32767 is a negative one.
    """
    num_entries = (int(descriptor[0]) & 0xFFFF) or 2**16
    first, bits = int(descriptor[1]), int(descriptor[2])
    order = "<" if little_endian else ">"
    raw = data if isinstance(data, bytes) else np.atleast_1d(np.asarray(data, order + "u2")).tobytes()
    packed = bits <= 8 and len(raw) < 2 * num_entries
    entries = np.frombuffer(raw, np.uint8 if packed else order + "u2")[:num_entries].astype(np.uint16)
    if signed and first >= 2**15:
        first -= 2**16
    return LookupTable(first, entries, max(2**bits - 1, int(entries.max()), 1))


def look_up(table: LookupTable, values: Array) -> Array:
    """Entries for values; below the first and beyond the last input the end entries hold."""
    index = np.rint(np.nan_to_num(values)).astype(np.int64) - table.first
    entries: Array = table.entries[np.clip(index, 0, len(table.entries) - 1)]
    return entries
