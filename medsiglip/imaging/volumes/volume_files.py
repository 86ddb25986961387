"""Files that hold a whole volume: NIfTI, Analyze and MetaImage, by their content."""

from __future__ import annotations

from .metaimage import decode_metaimage, is_colour_metaimage, is_metaimage
from .nifti import Sibling, decode_nifti, is_colour_nifti, is_nifti
from .select import Selection
from .voxels import VolumeValues


def is_volume_file(data: bytes) -> bool:
    """Whether the first bytes are those of such a file."""
    return is_nifti(data) or is_metaimage(data)


def is_colour_volume_file(data: bytes) -> bool:
    """Whether such a file holds colour pictures, which are no grey volume."""
    return is_colour_metaimage(data) if is_metaimage(data) else is_colour_nifti(data)


def decode_volume_file(data: bytes, file: str, select: Selection = (), sibling: Sibling | None = None) -> VolumeValues:
    """Decode such a file; see `nifti.decode_nifti`."""
    decode = decode_metaimage if is_metaimage(data) else decode_nifti
    return decode(data, file, select, sibling)
