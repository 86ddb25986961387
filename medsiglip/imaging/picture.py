"""A picture: RGB pixels, where they came from and how they became eight bits. H is rows, W is columns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .frame import NO_TAGS, STORED, Array, Finding, ImageError, TechnicalTags, as_rgb, is_grey_plane
from .raster import decode_pil_image

if TYPE_CHECKING:
    import PIL.Image


class Square(NamedTuple):
    """What makes a picture the square an encoder takes."""

    size_px: int
    """Its side."""
    policy: str
    """One of `RESIZE_POLICIES`."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture (or one frame of a file) as RGB, with no patient data."""

    pixels: Array
    """(H, W, 3) uint8 RGB, read-only; of a grey picture, one (H, W) plane seen three times."""
    file: str
    """Name as the user gave it; "" for pictures made in memory."""
    frame: int
    """0 for single-frame files."""
    sha256: str
    """Hex digest of the file's bytes, or of shape and pixels for pictures made in memory."""
    policy: str
    """How stored values became uint8: "stored", "voi", "full-range", ..."""
    tags: TechnicalTags = NO_TAGS
    """Technical DICOM attributes; empty for other formats."""
    square: Square | None = None
    """What has resized it already; None for a picture of the file's own size."""
    findings: tuple[Finding, ...] = ()
    """What a user should know: tags that contradict the pixels, why a slice is in no volume, ..."""

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            got = f"got {pixels.dtype} of shape {pixels.shape}"
            raise ImageError(self.file, f"{got}, expected (H, W, 3) uint8; use Picture.from_array or open_images")
        locked = (pixels if is_grey_plane(pixels) else np.ascontiguousarray(pixels)).view()
        locked.flags.writeable = False
        object.__setattr__(self, "pixels", locked)

    @property
    def modality(self) -> str | None:
        """DICOM Modality such as "CT"; None for other formats."""
        return self.tags.modality

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
        return _in_memory(as_rgb(pixels.copy()), file, STORED)

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
        decoded = decode_pil_image(image, file)
        return _in_memory(as_rgb(decoded.pixels), file, decoded.policy)


def _in_memory(pixels: Array, file: str, policy: str) -> Picture:
    # The shape is hashed too: a 2x8 and an 8x2 black picture have the same bytes but are not the same.
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    return Picture(pixels, file, 0, digest, policy)
