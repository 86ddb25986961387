"""Where the voxels of a NIfTI file lie: its sform, else its qform, else its spacing, repaired as the standard says.

A header that a program wrote carelessly (pixdim[0] of 0, a quaternion that is no unit one, a negative spacing) has one
reading in the standard and its reference reader, which is taken here. What is taken for want of anything better is
named in a finding. Axes are (column, row, slice) and RAS, as NIfTI has them.

Source: nifti1.h, methods 1 to 3; nifti_quatern_to_mat44 and nifti_convert_nhdr2nim of the reference library,
nifti1_io.c; nibabel for spacings of 0 or below and for method 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..frame import Array, Finding

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

_LAST_CODE = 5  # NIFTI_XFORM_TEMPLATE_OTHER
_SMALLEST_MM, _LARGEST_MM = 1e-9, 1e9  # of a voxel
_LEAST_SQUARE = 1e-7  # of the quaternion's real part, below which the reference reader normalises the other three
_UNIT_ERROR = 1e-3  # of a quaternion's square, beyond rounding
_RIGHT_ANGLE_ERROR = 1e-2  # cosine
_FARTHEST_APART = 0.1  # of a voxel, where sform and qform are the same


class NiftiAffine(NamedTuple):
    """What `nifti_affine` found."""

    ras: Array
    """(4, 4) float64: (column, row, slice, 1) to RAS in the header's unit of length."""
    findings: tuple[Finding, ...]
    """Repairs, and that the file does not say."""


def nifti_affine(header: Nifti1Header) -> NiftiAffine:
    """The sform (method 3), else the qform (method 2), else the spacing alone (method 1)."""
    sform = _sform(header) if int(header["sform_code"]) > 0 else None
    qform = _qform(header) if int(header["qform_code"]) > 0 else None
    findings: list[Finding] = []
    for name, given in (("sform", sform), ("qform", qform)):
        if given is not None and not _is_usable(given.ras):
            text = f"the {name} is no affine (damaged header); another orientation is used"
            findings.append(Finding("damaged-affine", text))
        elif given is not None:
            differing = _disagreement(given.ras, qform.ras, header) if name == "sform" and qform is not None else []
            return NiftiAffine(given.ras, (*findings, *given.findings, *_code_findings(header, name), *differing))
    return NiftiAffine(*_spacing_alone(header, findings))


def analyze_affine(header: Nifti1Header) -> NiftiAffine:
    """Of an Analyze 7.5 header, which has neither sform nor qform: the spacing alone."""
    return NiftiAffine(*_spacing_alone(header, []))


def _sform(header: Nifti1Header) -> NiftiAffine:
    affine = np.eye(4)
    affine[:3] = [np.array(header[name], np.float64) for name in ("srow_x", "srow_y", "srow_z")]
    findings = list(_shear_findings(affine)) if _is_usable(affine) else []
    if (np.array(header["pixdim"][1:4], np.float64) < 0).any():
        text = "a spacing (pixdim) is negative; the sform, which has its own, is used"
        findings.append(Finding("repaired-header", text))
    return NiftiAffine(affine, tuple(findings))


def _code_findings(header: Nifti1Header, name: str) -> tuple[Finding, ...]:
    if int(header[f"{name}_code"]) <= _LAST_CODE:
        return ()
    return (Finding("repaired-header", f"{name}_code is none of NIfTI's; the {name} is used, as the standard has it"),)


def _shear_findings(affine: Array) -> tuple[Finding, ...]:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine <= _RIGHT_ANGLE_ERROR:
        return ()
    text = (
        f"the sform is sheared: its axes are {np.degrees(np.arccos(min(cosine, 1.0))):.1f} degrees apart at the least"
    )
    return (Finding("sheared-affine", text),)


def _qform(header: Nifti1Header) -> NiftiAffine:
    quaternion, repaired = _unit_quaternion([float(header[f"quatern_{part}"]) for part in "bcd"])
    spacing, findings = _spacing(header)
    qfac = float(header["pixdim"][0])
    if qfac not in (-1.0, 0.0, 1.0):
        sign = "-1" if qfac < 0 else "1"
        findings.append(Finding("repaired-header", f"pixdim[0] is neither 1 nor -1; {sign} is taken"))
    affine = np.eye(4)
    affine[:3, :3] = _rotation(quaternion) * spacing * (1.0, 1.0, -1.0 if qfac < 0 else 1.0)
    affine[:3, 3] = [float(header[f"qoffset_{axis}"]) for axis in "xyz"]
    return NiftiAffine(affine, (*repaired, *findings))


def _unit_quaternion(imaginary: list[float]) -> tuple[Array, tuple[Finding, ...]]:
    """(a, b, c, d) of length 1; nifti_quatern_to_mat44, which takes what is no number for 0."""
    bcd = np.array(imaginary)
    finite = np.isfinite(bcd)
    bcd[~finite] = 0.0
    square = float(bcd @ bcd)
    findings = []
    if not finite.all():
        findings.append(Finding("repaired-header", "a part of the quaternion is not a finite number; 0 is taken"))
    if square > 1.0 + _UNIT_ERROR:
        findings.append(Finding("repaired-header", "the quaternion is longer than 1; it is normalised"))
    if 1.0 - square < _LEAST_SQUARE:  # a turn by 180 degrees
        return np.array([0.0, *(bcd / np.sqrt(square))]), tuple(findings)
    return np.array([np.sqrt(1.0 - square), *bcd]), tuple(findings)


def _rotation(quaternion: Array) -> Array:
    a, b, c, d = quaternion
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )


def _spacing(header: Nifti1Header) -> tuple[Array, list[Finding]]:
    """Lengths above 0: of a negative one its size, 1 for what is no length, as nibabel repairs them."""
    given = np.array(header["pixdim"][1:4], np.float64)
    usable = np.isfinite(given) & (given != 0)
    spacing = np.where(usable, np.abs(given), 1.0)
    findings = []
    if (given[usable] < 0).any():
        findings.append(Finding("repaired-header", "a spacing (pixdim) is negative; its size is taken"))
    if not usable.all() and int(header["dim"][0]) >= 3:
        findings.append(Finding("repaired-header", "a spacing (pixdim) is 0 or no number; 1 is taken"))
    return spacing, findings


def _spacing_alone(header: Nifti1Header, findings: list[Finding]) -> tuple[Array, tuple[Finding, ...]]:
    """Columns to the left, rows to anterior, slices to superior, as nibabel takes Analyze files; nothing says so."""
    spacing, repaired = _spacing(header)
    spacing = np.where((spacing > _SMALLEST_MM) & (spacing < _LARGEST_MM), spacing, 1.0)
    text = "the file does not say how it lies in the patient; axes are taken to run towards left, anterior, superior"
    unknown = Finding("no-orientation", f"{text}, so that left and right may be exchanged")
    return np.diag([-spacing[0], spacing[1], spacing[2], 1.0]), (*findings, *repaired, unknown)


def _disagreement(sform: Array, qform: Array, header: Nifti1Header) -> list[Finding]:
    """Readers choose differently: ITK takes the qform where its code is the scanner's and the sform's is an atlas's."""
    if not _is_usable(qform):
        return []
    far = np.array([max(int(length) - 1, 1) for length in header["dim"][1:4]])
    apart = np.abs((sform - qform)[:3, :3] * far).sum(axis=1) + np.abs((sform - qform)[:3, 3])
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if apart.max() <= _FARTHEST_APART * lengths.min():
        return []
    cosines = (sform[:3, :3] / lengths) * (qform[:3, :3] / np.linalg.norm(qform[:3, :3], axis=0))
    angle_deg = float(np.degrees(np.arccos(np.clip(cosines.sum(axis=0).min(), -1.0, 1.0))))
    text = f"the file's sform and qform differ (by {angle_deg:.0f} degrees); the sform is used, as the standard has it"
    return [Finding("sform-qform", text)]


def _is_usable(affine: Array) -> bool:
    """Finite and invertible, with voxels of a size that can be."""
    if not np.isfinite(affine).all():
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    return bool(lengths.min() > _SMALLEST_MM and lengths.max() < _LARGEST_MM and volume > 1e-6 * np.prod(lengths))
