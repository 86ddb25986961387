"""NIfTI-1, NIfTI-2 and Analyze 7.5 files to volumes, gzip or not; no claim of a header is believed unchecked.

NIfTI stores (column, row, slice) in Fortran order with a RAS affine, which read backwards is (slice, row, column) in C
order. Rows and columns then often run towards anterior and right, a picture turned by 180 degrees to a radiologist and
to a model; slices are flipped, without interpolation, to how they are looked at. NIfTI carries no modality and no unit.
S is slices, H is rows, W is columns.

Source: the NIfTI-1 and NIfTI-2 definitions (nifti1.h, nifti2.h, nifti.nimh.nih.gov).
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, NamedTuple, TypeAlias, cast

import numpy as np

from ..frame import ImageError
from .nifti_affine import analyze_affine, nifti_affine
from .select import Selection
from .voxels import VolumeValues, VoxelLayout, check_layout, choose_volume, lps_of_ras, read_turned

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

Sibling: TypeAlias = Callable[[str], bytes]
"""Gives the bytes of another file of the same folder, by its name; raises ImageError."""

_GZIP = b"\x1f\x8b"
_HEADER_BYTES = {348: 348, 540: 540}  # NIfTI-1 and -2, by sizeof_hdr
_SINGLE_FILE = {348: (344, b"n+1\0"), 540: (4, b"n+2\0")}  # where the magic is
_PAIR = {348: b"ni1\0", 540: b"ni2\0"}
_ANALYZE = b"\0\0\0\0"
_MAX_OFFSET = 2**24  # header extensions; the largest known are a few MiB of XML
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown, metre, millimetre, micron
_DTYPES = {  # by datatype code
    2: np.uint8, 4: np.int16, 8: np.int32, 16: np.float32, 64: np.float64,
    256: np.int8, 512: np.uint16, 768: np.uint32, 1024: np.int64, 1280: np.uint64,
}  # fmt: skip
_COLOUR_SAMPLES = {128: 3, 2304: 4}
_REFUSED_TYPES = {
    1: "binary", 32: "complex64", 1536: "float128", 1792: "complex128", 2048: "complex256"
}  # fmt: skip


def is_nifti(data: bytes) -> bool:
    """Whether bytes begin as a NIfTI or Analyze header, gzip or not; a few bytes are looked at."""
    header = _first_bytes(data)
    size = _header_size(header)
    if size not in _SINGLE_FILE:
        return False
    magic = _magic(header, size)
    return magic in (_SINGLE_FILE[size][1], _PAIR[size]) or (size == 348 and magic == _ANALYZE)


def is_colour_nifti(data: bytes) -> bool:
    """Whether the header, which `is_nifti` has seen, is of RGB or RGBA voxels."""
    header = _first_bytes(data)
    start = 70 if _header_size(header) == 348 else 12
    return any(int.from_bytes(header[start : start + 2], order) in _COLOUR_SAMPLES for order in ("little", "big"))


def decode_nifti(data: bytes, file: str, select: Selection = (), sibling: Sibling | None = None) -> VolumeValues:
    """Decode the bytes of one NIfTI file.

    Args:
        data: the whole .nii, .nii.gz or .hdr.
        file: name for messages, and of the .hdr whose .img is read.
        select: which volume of several, by "time" and "channel".
        sibling: reads the .img; None where there is no folder.

    Returns:
        Values after scl_slope and scl_inter, the file's last axis first, each slice as a radiologist looks at it (see
        `geometry.display_codes`); the affine of the sform, else of the qform, else of the spacing alone.

    Raises:
        ImageError: not NIfTI, damaged, truncated, several volumes and none chosen, complex values, or more than
            `voxels.MAX_VOXEL_BYTES`.
    """
    try:
        with _opened(data) as stream:
            header = _header(stream, file)
            layout = _layout(header, select, file)
            affine = analyze_affine(header.nifti) if header.kind == "analyze" else nifti_affine(header.nifti)
            unit = 0 if header.kind == "analyze" else int(header.nifti["xyzt_units"]) & 7
            if unit not in _MM_PER_UNIT:
                reason = f"damaged header: spatial unit {unit} is none of NIfTI's; export the file again"
                raise ImageError(file, reason)
            placed = lps_of_ras(affine.ras, _MM_PER_UNIT[unit])
            if header.kind == "single":
                values = read_turned(stream, layout, placed, hashlib.sha256(data).hexdigest(), file)
            else:
                image = _image_of_pair(file, sibling)
                digest = hashlib.sha256(data + image).hexdigest()
                with _opened(image) as voxels:
                    values = read_turned(voxels, layout, placed, digest, file)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ImageError(file, "damaged or truncated gzip data; copy the file again") from None
    return values._replace(findings=(*affine.findings, *values.findings))


# Header


class _Header(NamedTuple):
    nifti: Nifti1Header
    kind: str  # "single", "pair" or "analyze"


def _first_bytes(data: bytes) -> bytes:
    try:
        with _opened(data) as file:
            return file.read(540)
    except (OSError, EOFError, zlib.error):
        return b""


def _opened(data: bytes) -> IO[bytes]:
    """Inflates only what is read, so that a bomb stays folded."""
    stream: IO[bytes] = BytesIO(data)
    return cast("IO[bytes]", gzip.GzipFile(fileobj=stream)) if data[:2] == _GZIP else stream


def _header_size(header: bytes) -> int:
    """sizeof_hdr in either byte order; 0 if it is neither size."""
    for order in ("little", "big"):
        size = int.from_bytes(header[:4], order)
        if size in _HEADER_BYTES and len(header) >= size:
            return size
    return 0


def _magic(header: bytes, size: int) -> bytes:
    start = _SINGLE_FILE[size][0]
    return header[start : start + 4]


def _header(stream: IO[bytes], file: str) -> _Header:
    """The header, read by nibabel without its checks, which repair some fields in silence."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    first = stream.read(540)
    size = _header_size(first)
    if not size:
        raise ImageError(file, "no NIfTI header (damaged or truncated?); copy the file again")
    magic = _magic(first, size)
    kind = "single" if magic == _SINGLE_FILE[size][1] else "pair" if magic == _PAIR[size] else "analyze"
    if kind == "analyze" and (magic != _ANALYZE or size != 348):
        raise ImageError(file, "no NIfTI header (its magic is damaged); copy or export the file again")
    return _Header((Nifti1Header if size == 348 else Nifti2Header)(first[:size], check=False), kind)


def _image_of_pair(file: str, sibling: Sibling | None) -> bytes:
    """The voxels of a header that has them in a second file."""
    name = PurePath(file.replace("\\", "/")).name
    stem, packed = (name[:-3], ".gz") if name.lower().endswith(".gz") else (name, "")
    image = f"{stem[:-4]}{'.IMG' if stem.endswith('.HDR') else '.img'}{packed}"
    if not stem.lower().endswith(".hdr"):
        raise ImageError(file, "a header whose voxels are in a second file; name the pair X.hdr and X.img")
    if sibling is None:
        raise ImageError(file, "its voxels are in a second file; give the path of the .hdr, beside its .img")
    try:
        return sibling(image)
    except ImageError:
        reason = f"its voxels, {image}, cannot be read; put the .img beside the .hdr"
        raise ImageError(file, reason) from None


def _layout(header: _Header, select: Selection, file: str) -> VoxelLayout:
    """Shape, type and place of the voxels, once they are known to make sense."""
    nifti = header.nifti
    dim = [int(value) for value in nifti["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise ImageError(file, "damaged header: a dimension is below 1; copy or export the file again")
    lengths = [*dim[1 : dim[0] + 1], *[1] * 7][:7]
    code = int(nifti["datatype"])
    if code not in _DTYPES and code not in _COLOUR_SAMPLES:
        what = _REFUSED_TYPES.get(code, "an unknown type")
        raise ImageError(file, f"voxels of {what} (datatype {code}) are not read; save them as int16 or float32")
    dtype = np.dtype(_DTYPES.get(code, np.uint8)).newbyteorder(nifti.endianness)
    num_channels = int(np.prod([float(length) for length in lengths[4:]]))
    num_volumes = lengths[3] * num_channels
    slope, intercept = _scaling(nifti)
    layout = VoxelLayout(
        (lengths[2], lengths[1], lengths[0]), dtype, _COLOUR_SAMPLES.get(code, 1), _offset(header, file), num_volumes,
        choose_volume(lengths[3], num_channels, select, file), slope, intercept,
    )  # fmt: skip
    check_layout(layout, file)
    return layout


class _Scaling(NamedTuple):
    slope: float
    intercept: float


def _scaling(header: Nifti1Header) -> _Scaling:
    """A slope of 0, or anything that is not finite, means that there is none."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    usable = slope != 0 and np.isfinite(slope) and np.isfinite(intercept)
    return _Scaling(slope, intercept) if usable else _Scaling(1.0, 0.0)


def _offset(header: _Header, file: str) -> int:
    """Where the voxels begin; 0 is used for right behind the header, and is the beginning of an .img."""
    first = int(header.nifti["sizeof_hdr"]) + 4 if header.kind == "single" else 0
    offset = float(header.nifti["vox_offset"])
    if offset == 0:
        return first
    if not first <= offset <= _MAX_OFFSET or offset != int(offset):
        raise ImageError(file, "damaged header: vox_offset is no place in the file; copy or export the file again")
    return int(offset)
