"""MetaImage files (.mha, or .mhd beside its .raw or .zraw), ITK's own format, to volumes.

A header of lines "Key = Value" is followed by the voxels, or names the file that holds them. Axes are (column, row,
slice) and LPS, as ITK reads them. S is slices, H is rows, W is columns.

Source: the MetaIO documentation (itk.org/Wiki/ITK/MetaIO/Documentation) and ITK's MetaImageIO.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from io import BytesIO
from typing import NamedTuple

import numpy as np

from ..frame import Array, Finding, ImageError
from .nifti import Sibling
from .select import Selection
from .voxels import VolumeValues, VoxelLayout, check_layout, choose_volume, read_turned

_FIRST_LINE = re.compile(rb"\s*(ObjectType|ObjectSubType|Comment|NDims)\s*=", re.IGNORECASE)
_DATA_FILE = re.compile(rb"^\s*ElementDataFile\s*=[ \t]*([^\r\n]*)(\r\n|\n|\r|$)", re.IGNORECASE | re.MULTILINE)
_MAX_HEADER_BYTES = 2**16
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_DAMAGED = "damaged MetaImage header"


class _Header(NamedTuple):
    values: dict[str, str]  # by key in small letters
    data_file: str
    end: int  # where the voxels of a LOCAL file begin


def is_metaimage(data: bytes) -> bool:
    """Whether bytes begin as a MetaImage header; the first 64 KiB are looked at."""
    return bool(_FIRST_LINE.match(data[:80]) and _DATA_FILE.search(data[:_MAX_HEADER_BYTES]))


def is_colour_metaimage(data: bytes) -> bool:
    """Whether the header, which `is_metaimage` has seen, is of RGB or RGBA voxels."""
    values = _header(data, "").values
    return _is_colour(values.get("elementtype", ""), values.get("elementnumberofchannels", "1"))


def decode_metaimage(data: bytes, file: str, select: Selection = (), sibling: Sibling | None = None) -> VolumeValues:
    """Decode the bytes of one MetaImage file.

    Args:
        data: the whole .mha or .mhd.
        file: name for messages.
        select: which time point of several, by "time".
        sibling: reads the file that a .mhd names; None where there is no folder.

    Returns:
        As `nifti.decode_nifti`.

    Raises:
        ImageError: damaged, truncated, several volumes and none chosen, text or vectors for voxels, or too large.
    """
    header = _header(data, file)
    layout = _layout(header, select, file)
    affine, findings = _affine_lps_mm(header.values, file)
    raw, digest = _voxel_bytes(data, header, file, sibling)
    start = _start(header, raw, layout, file)
    if _truth(header.values, "compresseddata"):
        raw, start = _inflated(raw[start:], layout, file), 0
    layout = layout._replace(offset=start)
    values = read_turned(BytesIO(raw), layout, affine, digest, file)
    return values._replace(findings=(*findings, *values.findings))


def _header(data: bytes, file: str) -> _Header:
    last = _DATA_FILE.search(data[:_MAX_HEADER_BYTES])
    if last is None:
        raise ImageError(file, f"{_DAMAGED}: ElementDataFile is missing; copy or export the file again")
    lines = data[: last.start()].decode("latin-1").splitlines()
    pairs = (line.partition("=") for line in lines)
    values = {key.strip().lower(): value.strip() for key, equals, value in pairs if equals}
    return _Header(values, last.group(1).decode("latin-1").strip(), last.end())


def _layout(header: _Header, select: Selection, file: str) -> VoxelLayout:
    values = header.values
    sizes = [int(size) for size in _numbers(values, "dimsize", file)]
    if not 2 <= len(sizes) <= 4 or min(sizes) < 1 or values.get("ndims", "") != str(len(sizes)):
        raise ImageError(file, f"{_DAMAGED}: NDims and DimSize are no size; copy or export the file again")
    element, channels = values.get("elementtype", ""), values.get("elementnumberofchannels", "1")
    if element not in _TYPES:
        raise ImageError(file, "MetaImage voxels of an unknown ElementType are not read; save them as MET_SHORT")
    if channels != "1" and not _is_colour(element, channels):
        reason = "voxels of several channels that are no RGB of 8 bits are not read; save one channel a file"
        raise ImageError(file, reason)
    if _truth(values, "binarydata", default=True) is False:
        raise ImageError(file, "MetaImage voxels written as text are not read; save them with BinaryData = True")
    columns, rows, slices, times = (*sizes, 1, 1)[:4]
    big = _truth(values, "binarydatabyteordermsb") or _truth(values, "elementbyteordermsb")
    dtype = np.dtype(_TYPES[element]).newbyteorder(">" if big else "<")
    chosen = choose_volume(times, 1, select, file)
    layout = VoxelLayout((slices, rows, columns), dtype, int(channels), 0, times, chosen)
    check_layout(layout, file)
    return layout


def _is_colour(element: str, channels: str) -> bool:
    return element == "MET_UCHAR" and channels in ("3", "4")


def _affine_lps_mm(values: dict[str, str], file: str) -> tuple[Array, list[Finding]]:
    num_axes = len(_numbers(values, "dimsize", file))
    spacing = np.ones(3)
    given = _first_of(values, ("elementspacing", "elementsize"), num_axes, file)
    spacing[: min(num_axes, 3)] = 1.0 if given is None else np.abs(given[:3])
    directions = np.eye(3)
    matrix = _first_of(values, ("transformmatrix", "rotation", "orientation"), num_axes**2, file)
    if matrix is not None and num_axes >= 3:
        directions = matrix.reshape(num_axes, num_axes)[:3, :3].T  # one axis a row
    origin = np.zeros(3)
    position = _first_of(values, ("offset", "position", "origin"), num_axes, file)
    if position is not None:
        origin[: min(num_axes, 3)] = position[:3]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * spacing, origin
    if not (np.isfinite(affine).all() and spacing.min() > 0 and abs(np.linalg.det(directions)) > 1e-6):
        raise ImageError(file, f"{_DAMAGED}: spacing or directions are none; export the file again")
    findings = []
    if matrix is None:
        text = "the file does not say how it lies in the patient; axes are taken to run towards left, posterior, "
        findings.append(Finding("no-orientation", f"{text}superior, so that left and right may be exchanged"))
    if given is None:
        findings.append(Finding("no-spacing", "the file does not say how large its voxels are; 1 mm is taken"))
    return affine[:, [2, 1, 0, 3]], findings


def _first_of(values: dict[str, str], keys: tuple[str, ...], count: int, file: str) -> Array | None:
    for key in keys:
        if key in values:
            numbers = _numbers(values, key, file)
            if len(numbers) != count:
                raise ImageError(file, f"{_DAMAGED}: {key} has not {count} numbers; export the file again")
            return np.array(numbers)
    return None


def _numbers(values: dict[str, str], key: str, file: str) -> list[float]:
    try:
        numbers = [float(part) for part in values.get(key, "").split()]
    except ValueError:
        raise ImageError(file, f"{_DAMAGED}: {key} is no number; copy or export the file again") from None
    if not all(abs(number) < 2**53 for number in numbers):  # false for NaN
        raise ImageError(file, f"{_DAMAGED}: {key} is no number that can be; copy or export the file again")
    return numbers


def _truth(values: dict[str, str], key: str, *, default: bool = False) -> bool:
    return values[key].lower() in ("true", "1", "t") if key in values else default


class _Voxels(NamedTuple):
    data: bytes
    digest: str  # of all files


def _voxel_bytes(data: bytes, header: _Header, file: str, sibling: Sibling | None) -> _Voxels:
    name = header.data_file
    if name.upper() == "LOCAL":
        return _Voxels(data[header.end :], hashlib.sha256(data).hexdigest())
    if not name or name.upper().startswith("LIST") or "%" in name or "/" in name or "\\" in name:
        reason = "its ElementDataFile is no file of the same folder; save the volume as one .mha, or as .mhd and .raw"
        raise ImageError(file, reason)
    if sibling is None:
        raise ImageError(file, "its voxels are in a second file; give the path of the .mhd, beside its .raw or .zraw")
    try:
        raw = sibling(name)
    except ImageError:
        reason = "its voxels, the file that ElementDataFile names, cannot be read; put it beside the .mhd"
        raise ImageError(file, reason) from None
    return _Voxels(raw, hashlib.sha256(data + raw).hexdigest())


def _start(header: _Header, raw: bytes, layout: VoxelLayout, file: str) -> int:
    """Behind HeaderSize bytes, or, where it is -1, so that the voxels end with the file."""
    (size,) = _numbers(header.values, "headersize", file) if header.values.get("headersize") else (0,)
    start = len(raw) - layout.volume_bytes * layout.num_volumes if size == -1 else int(size)
    if start < 0 or start > len(raw):
        raise ImageError(file, "HeaderSize is no place in the file of voxels (truncated?); copy the file again")
    return start


def _inflated(raw: bytes, layout: VoxelLayout, file: str) -> bytes:
    """No further than the header claims."""
    try:
        return zlib.decompressobj().decompress(raw, layout.volume_bytes * layout.num_volumes)
    except zlib.error:
        raise ImageError(file, "damaged or truncated compressed voxels; copy the file again") from None
