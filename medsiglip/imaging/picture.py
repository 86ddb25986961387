"""What a decoded picture is: RGB pixels, where they came from and how they became eight bits.

H is rows, W is columns, F is frames.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import PIL.Image

Array = np.ndarray[Any, np.dtype[Any]]

STORED = "stored"
"""Policy: the file's own eight-bit values, untouched."""
VOI = "voi"
"""Policy: the file's own window or VOI LUT."""
FULL_RANGE = "full-range"
"""Policy: the smallest valid value of the file becomes 0, the largest 255."""

MAX_VALUES = 2**30
"""Largest rows * columns * samples * frames that is decoded; more is refused before memory is taken."""


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
        return f"{self.file or 'picture in memory'}: {self.reason}"


class DecodedFrames(NamedTuple):
    """What a decoder hands to `open`: the frames of one file."""

    frames: list[Array]
    """Each (H, W, 3) uint8 RGB."""
    policy: str
    """The policy that was used, which may differ from the one asked for."""
    modality: str | None
    """DICOM Modality (0008,0060); None for other formats."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture (or one frame of a file) as RGB, with no patient data."""

    pixels: Array
    """(H, W, 3) uint8 RGB, read-only."""
    file: str
    """Name as the user gave it; "" for pictures made in memory."""
    frame: int
    """0 for single-frame files."""
    sha256: str
    """Hex digest of the file's bytes, or of shape and pixels for pictures made in memory."""
    modality: str | None
    """DICOM Modality such as "CT"; None for other formats."""
    policy: str
    """How stored values became uint8: "stored", "voi" or "full-range"."""

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            got = f"got {pixels.dtype} of shape {pixels.shape}"
            raise ImageError(self.file, f"{got}, expected (H, W, 3) uint8; use Picture.from_array or open_images")
        locked = np.ascontiguousarray(pixels).view()
        locked.flags.writeable = False
        object.__setattr__(self, "pixels", locked)

    @classmethod
    def from_array(cls, pixels: Array, file: str = "") -> Picture:
        """Take an array that already is a picture.

        Args:
            pixels: (H, W) grey or (H, W, 3) RGB, uint8, 0..255; copied.
            file: a name for messages and results.

        Returns:
            The picture, policy "stored".

        Raises:
            ImageError: another dtype or shape; other depths must be scaled by someone who knows their range.
        """
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
            got = f"got {pixels.dtype} of shape {pixels.shape}, expected (H, W) or (H, W, 3) uint8"
            raise ImageError(file, f"{got}; scale the values to 0..255 and convert with .astype('uint8')")
        return _in_memory(rgb_from_grey(pixels) if pixels.ndim == 2 else pixels.copy(), file, STORED)

    @classmethod
    def from_pil(cls, image: PIL.Image.Image, file: str = "") -> Picture:
        """Take a PIL image in any mode, with the same rules as for a file (see `raster`).

        Args:
            image: any mode; its current frame is used and its EXIF orientation applied.
            file: a name for messages and results.

        Returns:
            The picture; policy "full-range" for the modes deeper than 8 bits, else "stored".

        Raises:
            ImageError: PIL cannot decode or convert it, or it is too large.
        """
        from .raster import decode_pil_image

        decoded = decode_pil_image(image, file)
        return _in_memory(decoded.frames[0], file, decoded.policy)


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


def rgb_from_grey(grey: Array) -> Array:
    """(H, W) uint8 to (H, W, 3) uint8 with three equal channels."""
    return np.repeat(grey[:, :, None], 3, axis=2)


def check_size(num_values: int, what: str, file: str) -> None:
    """Refuse a decompression bomb before any memory is taken.

    Args:
        num_values: rows * columns * samples * frames.
        what: the size in words, for the message.
        file: name for the message.

    Raises:
        ImageError: `num_values` is above `MAX_VALUES`.
    """
    if num_values > MAX_VALUES:
        advice = "split it into smaller files or save a smaller copy"
        raise ImageError(file, f"{what} is {num_values} values, more than the limit of {MAX_VALUES}; {advice}")


def _in_memory(pixels: Array, file: str, policy: str) -> Picture:
    # The shape is hashed too: a 2x8 and an 8x2 black picture have the same bytes but are not the same.
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    return Picture(pixels, file, 0, digest, None, policy)
