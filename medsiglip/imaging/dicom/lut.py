"""DICOM's grey transforms: stored values → modality LUT or rescale → VOI LUT or window.

Lookups and windows are written out here because pydicom's `apply_modality_lut`, `apply_voi_lut` and
`apply_color_lut` fail on modality tables of 12-bit entries, wrap around on tables of more than 256 8-bit
entries, and change Bits Stored into an output range of their own. F frames, H rows, W columns.

Source: DICOM PS3.3 C.11.1, C.11.2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..frame import Array
from .parse import checked_number, frame_macro, numbers, text

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


IDENTITY = Rescale(1.0, 0.0)
WINDOW_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")

ModalityTransform = Rescale | LookupTable
VoiTransform = Window | LookupTable


class Voi(NamedTuple):
    """A VOI transform, or that there is none, in a form that crosses a pipe: at most one of the two is there."""

    window: Window | None = None
    table: LookupTable | None = None

    @property
    def transform(self) -> VoiTransform | None:
        """The one that is there."""
        return self.window or self.table


# Modality transform


def modality_transform(dataset: Dataset, frame: int) -> ModalityTransform:
    """The frame's Modality LUT Sequence or rescale; identity without either.

    Raises:
        DamagedTag: a slope or intercept that is no finite number.

    Source: PS3.3 C.11.1.
    """
    if dataset.get("ModalityLUTSequence"):
        signed = bool(dataset.PixelRepresentation)
        return _lookup_table_item(dataset.ModalityLUTSequence[0], dataset, signed)
    return rescale_of(dataset, frame)


def rescale_of(dataset: Dataset, frame: int) -> Rescale:
    """The frame's Rescale Slope and Intercept, 1 and 0 without them.

    A slope of 0, which has no meaning, is taken for 1, as GDCM does (and with it ITK); see `findings`.

    Raises:
        DamagedTag: one of them is there and is no number.
    """
    holder = frame_macro(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = checked_number(holder, "RescaleSlope"), checked_number(holder, "RescaleIntercept")
    return Rescale(slope or 1.0, intercept or 0.0)


def modality_values(stored: Array, modality: ModalityTransform) -> Array:
    """Values in modality units (for CT, HU).

    Args:
        stored: any shape, integer or float.
        modality: one frame's transform.

    Returns:
        Same shape: the LUT's entries, the stored values themselves under identity, else float64.
    """
    if isinstance(modality, LookupTable):
        return look_up(modality, stored)
    return stored if modality == IDENTITY else stored * modality.slope + modality.intercept


def whole_values(stored: Array, modality: ModalityTransform) -> Array:
    """`modality_values`, as integers where a rescale of integers gives nothing else: those take the faster ways."""
    few_bits = stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2
    if isinstance(modality, LookupTable) or not few_bits or not all(map(_is_whole, modality)):
        return modality_values(stored, modality)
    return stored.astype(np.int64) * int(modality.slope) + int(modality.intercept)


def _is_whole(part: float) -> bool:
    return abs(part) < 2**31 and part.is_integer()


# VOI transform


def voi_transforms(dataset: Dataset, frame: int, modality: ModalityTransform) -> list[VoiTransform | None]:
    """All VOI LUTs and then all windows of a frame, in the file's order; None for one that cannot be used.

    Source: PS3.3 C.11.2, C.7.6.16.2.10.
    """
    items = _voi_items(dataset)
    signed = _may_be_negative(dataset, modality)
    tables = (_lookup_table_item(item, dataset, signed) for item in items)
    return [*(table._replace(top=2 ** entry_bits(table) - 1) for table in tables), *_windows(dataset, frame)]


def entry_bits(table: LookupTable) -> int:
    """Bits of a VOI LUT's entries: as declared, unless these need more, or leave the upper half of the range unused.

    Descriptors of Agfa and others say 16 bits of tables whose entries have 12, which would make a film nearly black.
    """
    declared, needed = table.top.bit_length(), int(table.entries.max()).bit_length()
    return max(needed, 1) if declared > 8 else declared


def _voi_items(dataset: Dataset) -> list[Dataset]:
    return [item for item in dataset.get("VOILUTSequence") or [] if "LUTDescriptor" in item and "LUTData" in item]


def declared_bits(dataset: Dataset) -> list[int]:
    """What the descriptors of the VOI LUTs say, in the order of `voi_transforms`."""
    return [int(item.LUTDescriptor[2]) for item in _voi_items(dataset)]


def _windows(dataset: Dataset, frame: int) -> list[Window | None]:
    holder = frame_macro(dataset, frame, "FrameVOILUTSequence")
    centers, widths = numbers(holder, "WindowCenter"), numbers(holder, "WindowWidth")
    function = window_function(text(holder, "VOILUTFunction"))
    return [usable_window(center, width, function) for center, width in zip(centers, widths, strict=False)]


def window_function(code: str) -> str:
    """VOI LUT Function (0028,1056), LINEAR where it is absent."""
    return code.strip().upper() or "LINEAR"


def usable_window(center: float, width: float, function: str) -> Window | None:
    """A window; None if it is damaged or of no width."""
    smallest_width = 1.0 if function == "LINEAR" else np.nextafter(0.0, 1.0)
    usable = math.isfinite(center) and math.isfinite(width) and width >= smallest_width
    return Window(center, width, function) if usable and function in WINDOW_FUNCTIONS else None


def _may_be_negative(dataset: Dataset, modality: ModalityTransform) -> bool:
    """Whether the type of the stored values and the rescale allow negative modality values."""
    if isinstance(modality, LookupTable):
        return False
    bits = int(dataset.get("BitsStored") or 16)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.get("PixelRepresentation") else (0, 2**bits - 1)
    return bool(min(low * modality.slope, high * modality.slope) + modality.intercept < 0)


def apply_voi(voi: VoiTransform, values: Array) -> Array:
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
    first, bits = int(descriptor[1]), min(max(int(descriptor[2]), 0), 16)  # a damaged number may be billions
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
