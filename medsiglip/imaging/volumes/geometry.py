"""Where the voxels of a volume lie: pure functions on affines that map (slice, row, column, 1) to LPS millimetres.

LPS are the patient's left, posterior and superior, DICOM's axes; NIfTI's are RAS (right, anterior, superior).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..frame import Array, Plane

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""(4, 4): LPS to RAS, and back."""

OBLIQUE_COSINE = 0.8
"""A slice's normal within acos(0.8) = 37 degrees of an axis names the slice after it; beyond, it is oblique. Head CT
with the gantry tilted by 20 degrees is axial in this sense, as it is to a radiologist."""


def spacing_mm(affine: Array) -> tuple[float, float, float]:
    """Distances between the centres of neighbouring voxels along slice, row and column index, in mm."""
    slice_mm, row_mm, column_mm = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return slice_mm, row_mm, column_mm


def slice_plane(affine: Array, index: int) -> Plane:
    """Where slice `index` lies. Source: DICOM PS3.3 C.7.6.2.1.1."""
    position = affine @ [index, 0.0, 0.0, 1.0]
    return Plane(_vector(position[:3]), _unit(affine[:3, 2]), _unit(affine[:3, 1]))


def slice_normal(affine: Array) -> Array:
    """(3,) unit vector across a slice: along a row crossed with down a column."""
    return plane_normal(slice_plane(affine, 0))


def plane_normal(plane: Plane) -> Array:
    """(3,) unit vector across the slice: row direction x column direction."""
    normal = np.cross(plane.row_direction, plane.column_direction)
    return np.asarray(normal / np.linalg.norm(normal))


def orientation(affine: Array) -> str:
    """How slices cut the patient: "axial", "coronal", "sagittal" or "oblique"."""
    cosines = np.abs(slice_normal(affine))
    axis = int(np.argmax(cosines))
    return ("sagittal", "coronal", "axial")[axis] if cosines[axis] > OBLIQUE_COSINE else "oblique"


def axis_codes(affine: Array) -> str:
    """Where slice, row and column index grow towards: three letters of L/R, A/P and S/I, such as "SPL"."""
    from nibabel.orientations import aff2axcodes

    return "".join(aff2axcodes(LPS_TO_RAS @ affine))


def display_codes(affine: Array) -> str:
    """Axis codes of the same slices as a radiologist looks at them.

    Axial slices have the patient's left at the right and posterior below; coronal ones left at the right and inferior
    below; sagittal ones posterior at the right and inferior below. Slices follow row direction x column direction.
    """
    return {"S": "SPL", "A": "PIL", "R": "RIP"}[_AXIS_OF[axis_codes(affine)[0]]]


class Turn(NamedTuple):
    """Flips and swaps of axes that take a volume to other axis codes."""

    change: Array
    """(3, 2) as nibabel has it: for each axis its new place and 1, or -1 to flip it."""

    def values(self, values: Array) -> Array:
        """The same voxels in the new order; a view."""
        from nibabel.orientations import apply_orientation

        return np.asarray(apply_orientation(values, self.change))

    def affine(self, affine: Array, shape: tuple[int, ...]) -> Array:
        """The affine of voxels that had `affine` and `shape`."""
        from nibabel.orientations import inv_ornt_aff

        return np.asarray(affine @ inv_ornt_aff(self.change, shape))

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of voxels that had `shape`."""
        return tuple(self.values(np.broadcast_to(np.int16(0), shape)).shape)

    def back(self) -> Turn:
        """The turn that undoes this one."""
        places = self.change[:, 0].astype(int)
        undo = np.empty_like(self.change)
        undo[places] = np.stack([np.arange(3), self.change[:, 1]], axis=1)
        return Turn(undo)


def turn_to(codes: str, affine: Array) -> Turn:
    """How slice, row and column index come to grow towards `codes`; nothing is interpolated."""
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    return Turn(np.asarray(ornt_transform(io_orientation(LPS_TO_RAS @ affine), axcodes2ornt(codes))))


_AXIS_OF = {"S": "S", "I": "S", "A": "A", "P": "A", "R": "R", "L": "R"}


def _unit(vector: Array) -> tuple[float, float, float]:
    return _vector(vector / np.linalg.norm(vector))


def _vector(values: Array) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z
