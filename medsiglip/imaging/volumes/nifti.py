"""NIfTI-1 and NIfTI-2 files to volumes, gzip or not; nothing a header claims is believed before it is checked.

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
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from ..frame import Array, ImageError
from .geometry import LPS_TO_RAS, Turn, display_codes, turn_to
from .rendering import UNKNOWN
from .volume import SeriesFinding, Volume

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

MAX_VOXEL_BYTES = 2**30
"""Largest voxel data that is read; more is refused before memory is taken."""

_GZIP = b"\x1f\x8b"
_HEADER_BYTES = {348: 348, 540: 540}  # NIfTI-1 and -2, by sizeof_hdr
_SINGLE_FILE = {348: (344, b"n+1\0"), 540: (4, b"n+2\0")}  # where the magic is
_PAIR = {348: b"ni1\0", 540: b"ni2\0"}
_MAX_SLICES = 2**15 - 1  # NIfTI-1's own
_MAX_BEHIND = 2**20  # bytes after the voxels of a gzip file, most often none
_MAX_OFFSET = 2**24  # header extensions; the largest known are a few MiB of XML
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown, metre, millimetre, micron
_DTYPES = {  # by datatype code
    2: np.uint8, 4: np.int16, 8: np.int32, 16: np.float32, 64: np.float64,
    256: np.int8, 512: np.uint16, 768: np.uint32, 1024: np.int64, 1280: np.uint64,
}  # fmt: skip
_REFUSED_TYPES = {
    1: "binary", 32: "complex64", 128: "RGB24 colour", 1536: "float128", 1792: "complex128", 2048: "complex256",
    2304: "RGBA32 colour",
}  # fmt: skip
_INT16 = np.iinfo(np.int16)


class NiftiValues(NamedTuple):
    """What `decode_nifti` found."""

    values: Array
    """(S, H, W) int16 where that is exact, else float32."""
    affine_lps_mm: Array
    """(4, 4) float64: (slice, row, column, 1) to LPS mm."""
    findings: tuple[SeriesFinding, ...]
    """Missing orientation, values that are not finite."""
    sha256: str
    """Hex digest of the file's bytes."""


def is_nifti(data: bytes) -> bool:
    """Whether bytes begin as a NIfTI file, gzip or not; a few bytes are looked at."""
    try:
        with _opened(data) as file:
            header = file.read(540)
    except (OSError, EOFError, zlib.error):
        return False
    size = _header_size(header)
    return size in _SINGLE_FILE and _magic(header, size) in (_SINGLE_FILE[size][1], _PAIR[size])


def decode_nifti(data: bytes, file: str) -> NiftiValues:
    """Decode the bytes of one NIfTI file.

    Args:
        data: the whole .nii or .nii.gz.
        file: name for messages.

    Returns:
        Values after scl_slope and scl_inter, the file's last axis first, each slice as a radiologist looks at it (see
        `geometry.display_codes`); the affine of the sform, else of the qform, else of the spacing alone.

    Raises:
        ImageError: not NIfTI, damaged, truncated, a pair of files, several volumes, colour or complex values, or more
            than `MAX_VOXEL_BYTES`.
    """
    try:
        with _opened(data) as stream:
            header = _header(stream, file)
            layout = _layout(header, file)
            affine, findings = _affine_lps_mm(header, file)
            turn = turn_to(display_codes(affine), affine)
            values = _read_values(stream, layout, turn, file)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ImageError(file, "damaged or truncated gzip data; copy the file again") from None
    findings += _value_findings(values)
    return NiftiValues(values, turn.affine(affine, layout.shape), tuple(findings), hashlib.sha256(data).hexdigest())


def nifti_volume(values: NiftiValues, file: str) -> Volume:
    """A volume of what was decoded; its unit is "unknown" until `Volume.as_hu` declares it."""
    files = (file,) if file else ()
    return Volume(values.values, UNKNOWN, values.affine_lps_mm, file, values.sha256, files, findings=values.findings)


# Header


class _Layout(NamedTuple):
    shape: tuple[int, int, int]  # (S, H, W)
    dtype: np.dtype[Any]
    offset: int  # of the voxels in the inflated file
    slope: float
    intercept: float


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


def _header(stream: IO[bytes], file: str) -> Nifti1Header:
    """The header, read by nibabel without its checks, which repair some fields in silence."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    first = stream.read(540)
    size = _header_size(first)
    if not size:
        raise ImageError(file, "no NIfTI header (damaged or truncated?); copy the file again")
    if _magic(first, size) != _SINGLE_FILE[size][1]:
        pair = "a pair of .hdr and .img files (or Analyze) is not read"
        raise ImageError(file, f"{pair}; convert it to one .nii.gz, for example with nibabel")
    kind = Nifti1Header if size == 348 else Nifti2Header
    return kind(first[:size], check=False)


def _layout(header: Nifti1Header, file: str) -> _Layout:
    """Shape, type and place of the voxels, once they are known to make sense."""
    dim = [int(value) for value in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise ImageError(file, "damaged header: a dimension is below 1; copy or export the file again")
    lengths = [*dim[1 : dim[0] + 1], 1, 1][: max(dim[0], 3)]
    num_volumes = int(np.prod([float(length) for length in lengths[3:]]))
    if num_volumes != 1:
        raise ImageError(file, f"holds {num_volumes} volumes (time points or channels); give one volume a file")
    code = int(header["datatype"])
    if code not in _DTYPES:
        what = _REFUSED_TYPES.get(code, "an unknown type")
        raise ImageError(file, f"voxels of {what} (datatype {code}) are not read; convert it to int16 or float32")
    dtype = np.dtype(_DTYPES[code]).newbyteorder(header.endianness)
    if lengths[2] > _MAX_SLICES:
        raise ImageError(file, f"{lengths[2]} slices, more than the limit of {_MAX_SLICES}; cut the volume")
    num_bytes = lengths[0] * lengths[1] * lengths[2] * dtype.itemsize
    if num_bytes > MAX_VOXEL_BYTES:
        what = f"{' x '.join(map(str, lengths[:3]))} voxels are {num_bytes} bytes"
        advice = "cut or resample the volume"
        raise ImageError(file, f"{what}, more than the limit of {MAX_VOXEL_BYTES}; {advice}")
    return _Layout((lengths[2], lengths[1], lengths[0]), dtype, _offset(header, file), *_scaling(header))


class _Scaling(NamedTuple):
    slope: float
    intercept: float


def _scaling(header: Nifti1Header) -> _Scaling:
    """A slope of 0, or anything that is not finite, means that there is none."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    usable = slope != 0 and np.isfinite(slope) and np.isfinite(intercept)
    return _Scaling(slope, intercept) if usable else _Scaling(1.0, 0.0)


def _offset(header: Nifti1Header, file: str) -> int:
    """Where the voxels begin; 0 is used for right behind the header."""
    offset, first = float(header["vox_offset"]), int(header["sizeof_hdr"]) + 4
    if offset == 0:
        return first
    if not first <= offset <= _MAX_OFFSET or offset != int(offset):
        raise ImageError(file, "damaged header: vox_offset is no place in the file; copy or export the file again")
    return int(offset)


# Values


def _read_values(stream: IO[bytes], layout: _Layout, turn: Turn, file: str) -> Array:
    """Inflate, scale and turn slice by slice: the volume is in memory once, whatever its type in the file.

    Returns:
        (S, H, W) turned; int16 as long as every slice allows it, else float32.
    """
    values = np.empty(turn.shape(layout.shape), np.int16)
    as_stored = turn.back().values(values)  # a view
    stream.seek(layout.offset)
    for index in range(layout.shape[0]):
        plane = _rescaled(_read_plane(stream, layout, index, file), layout)
        if values.dtype == np.int16 and not _fits_int16(plane):
            values = values.astype(np.float32)
            as_stored = turn.back().values(values)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is counted
            as_stored[index] = plane
    # Reading to the end has gzip compare its checksum.
    if isinstance(stream, gzip.GzipFile) and len(stream.read(_MAX_BEHIND)) == _MAX_BEHIND:
        raise ImageError(file, "more data than its header says (damaged header?); copy or export the file again")
    return values


def _read_plane(stream: IO[bytes], layout: _Layout, index: int, file: str) -> Array:
    rows, columns = layout.shape[1:]
    expected = rows * columns * layout.dtype.itemsize
    data = stream.read(expected)
    if len(data) < expected:
        found, needed = index * expected + len(data), layout.shape[0] * expected
        raise ImageError(file, f"truncated: {found} of {needed} bytes of voxels; copy the file again")
    return np.frombuffer(data, layout.dtype).reshape(rows, columns)


def _rescaled(plane: Array, layout: _Layout) -> Array:
    if (layout.slope, layout.intercept) == (1.0, 0.0):
        return plane
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(plane.astype(np.float64) * layout.slope + layout.intercept)


def _fits_int16(plane: Array) -> bool:
    """Whether int16 holds every value exactly."""
    with np.errstate(invalid="ignore"):
        in_range = bool(plane.min() >= _INT16.min and plane.max() <= _INT16.max)  # false for NaN
        return in_range and (plane.dtype.kind in "iu" or bool((plane == np.rint(plane)).all()))


def _value_findings(values: Array) -> list[SeriesFinding]:
    not_finite = 0 if values.dtype == np.int16 else sum(int((~np.isfinite(plane)).sum()) for plane in values)
    text = f"{not_finite} voxels are not finite numbers; NaN is shown black"
    return [SeriesFinding("not-finite", text)] if not_finite else []


# Geometry


def _affine_lps_mm(header: Nifti1Header, file: str) -> tuple[Array, list[SeriesFinding]]:
    """The file's RAS affine in LPS, for (slice, row, column) indices."""
    affine, findings = _affine_ras(header)
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MM_PER_UNIT:
        raise ImageError(file, f"damaged header: spatial unit {unit} is none of NIfTI's; export the file again")
    scale = np.diag([*[_MM_PER_UNIT[unit]] * 3, 1.0])
    return (LPS_TO_RAS @ scale @ affine)[:, [2, 1, 0, 3]], findings


def _affine_ras(header: Nifti1Header) -> tuple[Array, list[SeriesFinding]]:
    """Sform before qform before the spacing alone, the first that is usable."""
    from nibabel.spatialimages import HeaderDataError

    findings: list[SeriesFinding] = []
    for name, coded in (("sform", header.get_sform), ("qform", header.get_qform)):
        try:
            with np.errstate(invalid="ignore"):  # NaN
                affine, code = coded(coded=True)
        except (HeaderDataError, ValueError):
            affine, code = None, 1
        if code > 0 and affine is not None and _is_usable(affine):
            return np.array(affine, np.float64), findings
        if code > 0:
            text = f"the {name} is no affine (damaged header); another orientation is used"
            findings.append(SeriesFinding("damaged-affine", text))
    spacing = np.abs(np.nan_to_num(np.array(header["pixdim"][1:4], np.float64), posinf=0.0))
    text = "the file does not say how it lies in the patient; axes are taken to run towards right, anterior, superior"
    findings.append(SeriesFinding("no-orientation", text))
    return np.diag([*np.where((spacing > 1e-9) & (spacing < 1e9), spacing, 1.0), 1.0]), findings


def _is_usable(affine: Array) -> bool:
    """Finite and invertible, with voxels of a size that can be."""
    if not np.isfinite(affine).all():
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    return bool(lengths.min() > 1e-9 and lengths.max() < 1e9 and volume > 1e-6 * np.prod(lengths))
