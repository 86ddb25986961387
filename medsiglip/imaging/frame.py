"""One decoded frame: eight-bit pixels, technical tags, how stored values became eight bits, and what is refused.

H is rows, W is columns, F is frames. Positions and directions are in the patient's LPS axes (left, posterior,
superior) in millimetres.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

STORED = "stored"
"""Policy: the file's own eight-bit values, untouched."""
VOI = "voi"
"""Policy: the file's own window or VOI LUT."""
FULL_RANGE = "full-range"
"""Policy: the smallest valid value of the file becomes 0, the largest 255."""
PERCENTILE = "percentile"
"""Policy: the 0.5th percentile of the file's valid values becomes 0, the 99.5th 255."""

MAX_VALUES = 2**30
"""Largest rows * columns * samples * frames that is decoded; more is refused before memory is taken."""
MAX_FRAME_VALUES = 2**27
"""Largest rows * columns * samples of one DICOM frame; more is refused before memory is taken."""


class ImageError(ValueError):
    """A picture that cannot be read: one clear line `FILE: reason; what to do`.

    Attributes:
        file: the name as the user gave it; "" for bytes and arrays in memory.
        reason: what is wrong and what to do; never a tag value that could name a patient.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file = file
        self.reason = reason

    def __str__(self) -> str:
        return f"{printable(self.file) or 'picture in memory'}: {self.reason}"


def printable(name: str) -> str:
    """A file's name on one line, its control characters escaped: names inside archives may hold terminal commands."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


class Plane(NamedTuple):
    """Where a slice lies in the patient, LPS. Source: DICOM PS3.3 C.7.6.2.1.1."""

    position_mm: tuple[float, float, float]
    """Centre of the first pixel."""
    row_direction: tuple[float, float, float]
    """Unit vector along a row, from the first column to the last."""
    column_direction: tuple[float, float, float]
    """Unit vector along a column, from the first row to the last."""


@dataclass(frozen=True)
class TechnicalTags:
    """The DICOM attributes that cross the imaging boundary: numbers, and codes from closed lists.

    A code that is on no list is left out (None), so that no free text, and nothing that names a patient, can pass.
    """

    modality: str | None = None
    """Modality (0008,0060), such as "CT"."""
    body_part: str | None = None
    """Body Part Examined (0018,0015), such as "CHEST"; a defined term of PS3.16 Annex L."""
    view_position: str | None = None
    """View Position (0018,5101), such as "PA"."""
    laterality: str | None = None
    """Image Laterality (0020,0062), else Laterality (0020,0060): "R", "L", "U" or "B"."""
    photometric_interpretation: str | None = None
    """Photometric Interpretation (0028,0004)."""
    bits_stored: int | None = None
    """Bits Stored (0028,0101)."""
    transfer_syntax_uid: str | None = None
    """Transfer Syntax UID (0002,0010)."""
    spacing_mm: tuple[float, float] | None = None
    """Pixel Spacing (0028,0030), else Imager Pixel Spacing (0018,1164): between rows, between columns."""
    slice_thickness_mm: float | None = None
    """Slice Thickness (0018,0050)."""
    plane: Plane | None = None
    """Image Position and Orientation (Patient), (0020,0032) and (0020,0037)."""


NO_TAGS = TechnicalTags()
"""The tags of a picture that is no DICOM instance."""


class Finding(NamedTuple):
    """Something about a picture, a series or a volume that its user should know."""

    kind: str
    """A short name such as "gap", for programs."""
    text: str
    """One line for people; no patient data."""
    files: tuple[str, ...] = ()
    """The files concerned, as the user named them."""


class Notes:
    """Findings of pictures and volumes as lines for the person who asked; what many files share is said once."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, None]] = {}  # by text, in the order in which they came

    def add(self, file: str, findings: Iterable[Finding]) -> None:
        """What was found about one picture or volume."""
        for finding in findings:
            self._files.setdefault(finding.text, {})[file] = None

    def lines(self) -> list[str]:
        """One line a finding: the first file it is about, how many more, and the text."""
        return [f"{_named(list(files))}: {text}" for text, files in self._files.items()]


def _named(files: list[str]) -> str:
    first = printable(files[0]) or "picture in memory"
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more"


class DecodedFrame(NamedTuple):
    """One frame as a decoder hands it to `open`."""

    pixels: Array
    """(H, W) grey or (H, W, 3) RGB, uint8."""
    policy: str
    """The policy that was used, which may differ from the one asked for."""
    tags: TechnicalTags = NO_TAGS
    """Empty for formats other than DICOM."""
    findings: tuple[Finding, ...] = ()
    """What a user should know: tags that contradict the pixels, repairs, ..."""


def stretch_to_uint8(values: Array, low: float, high: float) -> Array:
    """Map `low`..`high` linearly to 0..255, rounded; anything not finite becomes 0.

    Args:
        values: any shape, integer or float, any unit.
        low: becomes 0, with everything below.
        high: becomes 255, with everything above. When it is not above `low` the result is all 0.

    Returns:
        Same shape, uint8.
    """
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float64) - low) * 255.0 / (high - low)
    return round_to_uint8(np.where(np.isfinite(scaled), scaled, 0.0))


def round_to_uint8(values: Array) -> Array:
    """Round to the nearest integer, halves up, and clip to 0..255; shape kept, uint8."""
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def as_rgb(pixels: Array) -> Array:
    """(H, W) grey or (H, W, 3) to (H, W, 3); grey is seen three times, not copied."""
    return np.broadcast_to(pixels[:, :, None], (*pixels.shape, 3)) if pixels.ndim == 2 else pixels


def is_grey_plane(pixels: Array) -> bool:
    """Whether (H, W, 3) pixels are one plane seen three times, as `as_rgb` makes them."""
    return pixels.ndim == 3 and pixels.strides[2] == 0


def check_size(num_values: int, what: str, file: str, limit: int | None = None) -> None:
    """Refuse a decompression bomb before any memory is taken.

    Args:
        num_values: rows * columns * samples * frames.
        what: the size in words, for the message.
        file: name for the message.
        limit: `MAX_VALUES` when None.

    Raises:
        ImageError: `num_values` is above the limit.
    """
    limit = MAX_VALUES if limit is None else limit
    if num_values > limit:
        advice = "split it into smaller files or save a smaller copy"
        raise ImageError(file, f"{what} is {num_values} values, more than the limit of {limit}; {advice}")
