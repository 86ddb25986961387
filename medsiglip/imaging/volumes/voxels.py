"""Voxels of a file that holds a whole volume, inflated, scaled and turned slice by slice; see `nifti`, `metaimage`.

S is slices, H is rows, W is columns.
"""

from __future__ import annotations

import gzip
from typing import IO, Any, NamedTuple

import numpy as np

from ..frame import Array, Finding, ImageError
from ..units import UNKNOWN
from .geometry import LPS_TO_RAS, Turn, display_codes, turn_to
from .select import Selection, choice_of
from .volume import Volume

MAX_VOXEL_BYTES = 2**30
"""Largest voxel data of one volume that is read; more is refused before memory is taken."""

_MAX_SLICES = 2**15 - 1  # NIfTI-1's own
_MAX_BEHIND = 2**20  # bytes after the voxels of a gzip file, most often none
_MAX_ALL_BYTES = 2**33  # of all volumes of a file
_INT16 = np.iinfo(np.int16)


class VolumeValues(NamedTuple):
    """What the bytes of a volume's file hold."""

    values: Array
    """(S, H, W) int16 where that is exact, else float32; or (S, H, W, 3) uint8 RGB."""
    affine_lps_mm: Array
    """(4, 4) float64: (slice, row, column, 1) to LPS mm."""
    findings: tuple[Finding, ...]
    """Missing orientation, repaired headers, values that are not finite."""
    sha256: str
    """Hex digest of the file's bytes."""

    @property
    def is_colour(self) -> bool:
        """Whether its slices are pictures, not grey values."""
        return self.values.ndim == 4


class VoxelLayout(NamedTuple):
    """How the voxels lie in the inflated file."""

    shape: tuple[int, int, int]
    """(S, H, W)."""
    dtype: np.dtype[Any]
    """Of one sample, in the file's byte order."""
    samples: int
    """1 for grey, 3 for RGB, 4 for RGBA; a voxel's samples lie together."""
    offset: int
    """Of the first volume."""
    num_volumes: int
    """In the file, one after the other."""
    chosen: int
    """Which of these, from 0."""
    slope: float = 1.0
    """value = slope * stored + intercept."""
    intercept: float = 0.0

    @property
    def plane_bytes(self) -> int:
        """Bytes of one slice."""
        return self.shape[1] * self.shape[2] * self.samples * self.dtype.itemsize

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume."""
        return self.shape[0] * self.plane_bytes


def grey_volume(values: VolumeValues, file: str) -> Volume:
    """A volume of what was decoded; its unit is "unknown" until `Volume.as_hu` declares it."""
    files = (file,) if file else ()
    return Volume(values.values, UNKNOWN, values.affine_lps_mm, file, values.sha256, files, findings=values.findings)


def choose_volume(num_times: int, num_channels: int, select: Selection, file: str) -> int:
    """Which of a file's volumes to read, from 0; time points lie together, channels after one another.

    Raises:
        ImageError: several volumes and none chosen, or one that is not there.
    """
    try:
        chosen = {
            "time": choice_of(select, "time", num_times, alone=0),
            "channel": choice_of(select, "channel", num_channels, alone=0),
        }
    except ValueError as error:
        raise ImageError(file, str(error)) from None
    if None not in chosen.values():
        return (chosen["channel"] or 0) * num_times + (chosen["time"] or 0)
    counts = {"time": num_times, "channel": num_channels}
    names = {"time": "time points", "channel": "channels"}
    held = " x ".join(f"{counts[key]} {names[key]}" for key in counts if counts[key] > 1)
    num_volumes = num_times * num_channels
    ranges = " and ".join(f"{key}=1 to {key}={counts[key]}" for key in counts if counts[key] > 1)
    options = " ".join(f"--select {key}=1" for key in counts if counts[key] > 1)
    python = ", ".join(f'"{key}": 1' for key in counts if counts[key] > 1)
    what = f"holds {num_volumes} volumes ({held}), and one is read; choose it by {ranges}"
    raise ImageError(file, f"{what}: {options}, or select={{{python}}} in Python")


def check_layout(layout: VoxelLayout, file: str) -> None:
    """Refuse sizes that no volume here may have, before memory is taken.

    Raises:
        ImageError: more slices or bytes than the limits.
    """
    if layout.shape[0] > _MAX_SLICES:
        raise ImageError(file, f"{layout.shape[0]} slices, more than the limit of {_MAX_SLICES}; cut the volume")
    if layout.volume_bytes > MAX_VOXEL_BYTES:
        what = f"{' x '.join(map(str, layout.shape[::-1]))} voxels are {layout.volume_bytes} bytes"
        advice = "cut or resample the volume"
        raise ImageError(file, f"{what}, more than the limit of {MAX_VOXEL_BYTES}; {advice}")
    if layout.volume_bytes * layout.num_volumes > _MAX_ALL_BYTES:
        what = f"{layout.num_volumes} volumes of {layout.volume_bytes} bytes"
        raise ImageError(file, f"{what}, more than the limit of {_MAX_ALL_BYTES} bytes a file; split the file")


def read_turned(stream: IO[bytes], layout: VoxelLayout, affine: Array, digest: str, file: str) -> VolumeValues:
    """Read one volume, each slice as a radiologist looks at it (see `geometry.display_codes`).

    Args:
        stream: the inflated file.
        layout: what to read of it, once `check_layout` has seen it.
        affine: (4, 4): (slice, row, column, 1) to LPS mm, as stored.
        digest: of the file's bytes.
        file: name for messages.

    Raises:
        ImageError: fewer bytes than the layout needs, or many more in a gzip file.
    """
    turn = turn_to(display_codes(affine), affine)
    stream.seek(layout.offset + layout.chosen * layout.volume_bytes)
    values = _read_colour(stream, layout, turn, file) if layout.samples > 1 else _read_grey(stream, layout, turn, file)
    _read_to_the_end(stream, (layout.num_volumes - layout.chosen - 1) * layout.volume_bytes, file)
    return VolumeValues(values, turn.affine(affine, layout.shape), tuple(_value_findings(values)), digest)


def lps_of_ras(affine: Array, mm_per_unit: float) -> Array:
    """The RAS affine of (column, row, slice) in LPS mm for (slice, row, column) indices."""
    scale = np.diag([mm_per_unit, mm_per_unit, mm_per_unit, 1.0])
    return np.asarray((LPS_TO_RAS @ scale @ affine)[:, [2, 1, 0, 3]])


def _read_grey(stream: IO[bytes], layout: VoxelLayout, turn: Turn, file: str) -> Array:
    """The volume is in memory once, whatever its type in the file.

    Returns:
        (S, H, W) turned; int16 as long as every slice allows it, else float32.
    """
    values = np.empty(turn.shape(layout.shape), np.int16)
    as_stored = turn.back().values(values)  # a view
    for index in range(layout.shape[0]):
        plane = _rescaled(_read_plane(stream, layout, index, file)[:, :, 0], layout)
        if values.dtype == np.int16 and not _fits_int16(plane):
            values = values.astype(np.float32)
            as_stored = turn.back().values(values)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is counted
            as_stored[index] = plane
    return values


def _read_colour(stream: IO[bytes], layout: VoxelLayout, turn: Turn, file: str) -> Array:
    """(S, H, W, 3) uint8 turned; what is transparent lies over black, as in other pictures."""
    values = np.empty((*turn.shape(layout.shape), 3), np.uint8)
    as_stored = turn.back().values(values)
    for index in range(layout.shape[0]):
        plane = _read_plane(stream, layout, index, file)
        alpha = plane[:, :, 3:] / 255.0 if layout.samples == 4 else 1.0
        as_stored[index] = np.floor(plane[:, :, :3] * alpha + 0.5)
    return values


def _read_plane(stream: IO[bytes], layout: VoxelLayout, index: int, file: str) -> Array:
    """(H, W, samples)."""
    data = stream.read(layout.plane_bytes)
    if len(data) < layout.plane_bytes:
        found, needed = index * layout.plane_bytes + len(data), layout.volume_bytes
        raise ImageError(file, f"truncated: {found} of {needed} bytes of voxels; copy the file again")
    return np.frombuffer(data, layout.dtype).reshape(*layout.shape[1:], layout.samples)


def _read_to_the_end(stream: IO[bytes], num_bytes: int, file: str) -> None:
    """Have gzip compare its checksum, which it does at its end; the volumes behind the chosen one come first."""
    if not isinstance(stream, gzip.GzipFile):
        return
    while num_bytes > 0 and (skipped := len(stream.read(min(num_bytes, _MAX_BEHIND)))):
        num_bytes -= skipped
    if len(stream.read(_MAX_BEHIND)) == _MAX_BEHIND:
        raise ImageError(file, "more data than its header says (damaged header?); copy or export the file again")


def _rescaled(plane: Array, layout: VoxelLayout) -> Array:
    if (layout.slope, layout.intercept) == (1.0, 0.0):
        return plane
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(plane.astype(np.float64) * layout.slope + layout.intercept)


def _fits_int16(plane: Array) -> bool:
    """Whether int16 holds every value exactly."""
    with np.errstate(invalid="ignore"):
        in_range = bool(plane.min() >= _INT16.min and plane.max() <= _INT16.max)  # false for NaN
        return in_range and (plane.dtype.kind in "iu" or bool((plane == np.rint(plane)).all()))


def _value_findings(values: Array) -> list[Finding]:
    not_finite = 0 if values.dtype.kind != "f" else sum(int((~np.isfinite(plane)).sum()) for plane in values)
    text = f"{not_finite} voxels are not finite numbers; NaN is shown black"
    return [Finding("not-finite", text)] if not_finite else []
