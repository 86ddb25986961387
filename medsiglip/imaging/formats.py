"""The bytes of one file to frames, whatever its format: DICOM, volumes (NIfTI, MetaImage) and raster pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .dicom.policies import CT_POLICIES, REPORT
from .frame import STORED, VOI, DecodedFrame, ImageError, is_grey_plane
from .units import HU
from .video import video_reason
from .volumes.select import Selection
from .volumes.voxels import VolumeValues, grey_volume
from .zips import NESTED, is_zip

if TYPE_CHECKING:
    from .volumes.nifti import Sibling

_KNOWN_FORMATS = "DICOM, NIfTI, MetaImage, PNG, JPEG, TIFF, BMP, WebP or GIF"
_UNKNOWN = f"not a picture in a format read here; give {_KNOWN_FORMATS}"


def decode_bytes(
    data: bytes, file: str, policy: str, *, select: Selection = (), sibling: Sibling | None = None
) -> Iterator[DecodedFrame]:
    """Decode the bytes of one file in this process, by content: DICOM may have any extension.

    Args:
        data: the whole file.
        file: name for messages.
        policy: see `open_images`.
        select: which volume of a file that holds several.
        sibling: reads another file of the same folder, for headers whose voxels are in a second one.

    Returns:
        Frames, or the slices of a NIfTI or MetaImage volume, one by one.

    Raises:
        ImageError: while iterating; truncated, damaged, too large, or not a picture.
    """
    from .dicom.instance import decode_dicom
    from .raster import decode_raster
    from .volumes.volume_files import decode_volume_file

    match format_of(data):
        case "dicom":
            yield from decode_dicom(data, policy, file)
        case "raster":
            yield from decode_raster(data, file)
        case "volume":
            yield from _slice_frames(decode_volume_file(data, file, select, sibling), file, policy)
        case _:
            raise ImageError(file, _not_a_picture(data))


def format_of(data: bytes) -> str:
    """What a file is by its content: "dicom", "volume" (NIfTI, MetaImage), "raster" or "unknown".

    A TIFF may hide in a DICOM preamble.
    """
    from .dicom.instance import has_dicom_preamble, parses_as_dicom
    from .raster import is_raster
    from .volumes.volume_files import is_volume_file

    if has_dicom_preamble(data):
        return "dicom"
    if is_volume_file(data):
        return "volume"
    if is_raster(data):
        return "raster"
    return "dicom" if parses_as_dicom(data) else "unknown"


def _not_a_picture(data: bytes) -> str:
    if not data:
        return "the file is empty; copy it again"
    return NESTED if is_zip(data) else video_reason(data) or _UNKNOWN


def _slice_frames(values: VolumeValues, file: str, policy: str) -> Iterator[DecodedFrame]:
    if values.is_colour:
        if policy in CT_POLICIES:
            raise ImageError(file, f"the policy {policy} is for CT in Hounsfield units, this is colour; use {VOI}")
        for pixels in values.values:
            yield DecodedFrame(pixels, STORED, findings=values.findings)
        return
    volume = grey_volume(values, file)
    if policy == REPORT:
        policy = CT_POLICIES[0] if volume.unit == HU else VOI
    windows = policy.startswith("ct-")  # asking for a CT's windows says that it is one
    for picture in volume.as_hu().pictures(policy.removeprefix("ct-")) if windows else volume.pictures():
        pixels = picture.pixels[:, :, 0] if is_grey_plane(picture.pixels) else picture.pixels
        yield DecodedFrame(pixels, picture.policy, picture.tags, picture.findings)
