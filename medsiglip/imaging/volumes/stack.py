"""The geometry of a sorted stack of slices: its affine, and what is irregular about it.

S is slices. Positions are in the patient's LPS axes in millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..frame import Array, Finding, Plane
from . import geometry

SAME_POSITION_MM = 0.01
"""Slices this close along their normal are at one position."""
GAP_STEPS = 1.5
"""A step of this many median steps has slices missing in it."""
UNEVEN_SHARE = 0.01
"""Steps that differ from the median by more than this share of it, and by more than `SAME_POSITION_MM`, are uneven."""
TILT_DEG = 0.1
"""Slices stacked along a direction this far from their normal were taken with a tilted gantry."""
SIDEWAYS_MM = 0.1
"""Slices this far beside the line through the first and last are shifted."""


class StackGeometry(NamedTuple):
    """What `measure_stack` found."""

    affine_lps_mm: Array
    """(4, 4) float64: (slice, row, column, 1) to LPS mm."""
    findings: tuple[Finding, ...]


def projections_mm(planes: Sequence[Plane]) -> Array:
    """(S,) distances of the slices' first pixels along the first slice's normal.

    Source: DICOM PS3.3 C.7.6.2.1.1; neither Instance Number nor one coordinate alone orders slices.
    """
    positions = np.array([plane.position_mm for plane in planes])
    return np.asarray(positions @ geometry.plane_normal(planes[0]))


def mostly_even(projections: Array) -> bool:
    """Whether at least four of five steps between sorted positions are the median step."""
    steps = np.diff(np.sort(projections))
    return bool(steps.size == 0 or np.mean(np.abs(steps - _median(steps)) <= _tolerance(steps)) >= 0.8)


def measure_stack(
    planes: Sequence[Plane], spacing_mm: tuple[float, float], slice_thickness_mm: float | None
) -> StackGeometry:
    """Fit an affine to slices that are sorted by their projection.

    Args:
        planes: two or more, parallel, at positions further apart than `SAME_POSITION_MM`.
        spacing_mm: between rows and between columns.
        slice_thickness_mm: None if unknown.

    Returns:
        The affine, which with gaps or uneven steps has the median step; and the findings.
    """
    normal = geometry.plane_normal(planes[0])
    positions = np.array([plane.position_mm for plane in planes])
    steps = np.diff(positions @ normal)
    step = _step_vector(positions, normal, steps)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = np.array(planes[0].column_direction) * spacing_mm[0]
    affine[:3, 2] = np.array(planes[0].row_direction) * spacing_mm[1]
    affine[:3, 3] = positions[0]
    findings = [
        *_step_findings(steps),
        *_tilt_findings(step, normal),
        *_shift_findings(positions, step, normal),
        *_overlap_findings(steps, slice_thickness_mm),
        *_orientation_findings(affine),
    ]
    return StackGeometry(affine, tuple(findings))


def _tolerance(steps: Array) -> float:
    return max(UNEVEN_SHARE * _median(steps), SAME_POSITION_MM)


def _median(steps: Array) -> float:
    """The lower of the two in the middle, so that it is a step that occurs."""
    return float(np.sort(steps)[(len(steps) - 1) // 2])


def _step_vector(positions: Array, normal: Array, steps: Array) -> Array:
    """From one slice to the next: the mean step, or the median one where steps differ."""
    across = positions[-1] - positions[0]
    if np.ptp(steps) <= _tolerance(steps):
        return np.asarray(across / len(steps))
    return np.asarray(across * (_median(steps) / (across @ normal)))


def _step_findings(steps: Array) -> list[Finding]:
    median = _median(steps)
    gaps = steps[steps >= GAP_STEPS * median]
    others = steps[steps < GAP_STEPS * median]
    findings = []
    if gaps.size:
        missing = int(np.sum(np.rint(gaps / median) - 1))
        where = f"{gaps.size} {'gap' if gaps.size == 1 else 'gaps'} of up to {gaps.max():.4g} mm"
        text = f"slices are missing, about {missing}: {where}, where the median step is {median:.4g} mm"
        findings.append(Finding("gap", text))
    if others.size and np.abs(others - median).max() > _tolerance(steps):
        text = f"steps between slices vary from {others.min():.4g} to {others.max():.4g} mm (median {median:.4g} mm)"
        findings.append(Finding("uneven-spacing", text))
    return findings


def _tilt_findings(step: Array, normal: Array) -> list[Finding]:
    sideways = np.linalg.norm(step - (step @ normal) * normal)  # arctan keeps what arccos loses near 0
    tilt_deg = float(np.degrees(np.arctan2(sideways, step @ normal)))
    if tilt_deg <= TILT_DEG:
        return []
    text = f"slices are stacked {tilt_deg:.1f} degrees off their normal (gantry tilt); the affine is sheared"
    return [Finding("gantry-tilt", text)]


def _shift_findings(positions: Array, step: Array, normal: Array) -> list[Finding]:
    along = ((positions - positions[0]) @ normal) / (step @ normal)
    beside = np.linalg.norm(positions - positions[0] - along[:, None] * step, axis=1)
    if beside.max() <= SIDEWAYS_MM:
        return []
    text = f"slices are shifted sideways by up to {beside.max():.4g} mm from the line through the first and last"
    return [Finding("sideways-shift", text)]


def _overlap_findings(steps: Array, slice_thickness_mm: float | None) -> list[Finding]:
    median = _median(steps)
    if slice_thickness_mm is None or slice_thickness_mm <= median + _tolerance(steps):
        return []
    text = f"slices {slice_thickness_mm:.4g} mm thick overlap: the step is {median:.4g} mm"
    return [Finding("overlapping", text)]


def _orientation_findings(affine: Array) -> list[Finding]:
    found = geometry.orientation(affine)
    return [] if found == "axial" else [Finding("not-axial", f"slices are {found}")]
