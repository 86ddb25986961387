"""A volume: voxels in the patient, and the pictures that a model is shown of it.

S is slices, H is rows, W is columns. Positions are in the patient's LPS axes in millimetres.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..frame import NO_TAGS, Array, Finding, ImageError, TechnicalTags
from ..picture import Picture
from ..units import HU, UNPROVEN_FINDING
from . import geometry
from .presets import sample_slices
from .rendering import (
    SliceDisplay,
    SliceRenderer,
    ValueRange,
    all_alike,
    check_hu,
    choose_preset,
    slice_picture,
    warn_unless_axial,
    without_voi,
)

NOT_EVENLY_SPACED = ("gap", "uneven-spacing", "sideways-shift")
"""Kinds of findings of volumes that an affine does not describe, so that they cannot be resampled."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Slices on a grid in the patient, with no patient data."""

    voxels: Array
    """(S, H, W) int16 or float32, read-only, in `unit`."""
    unit: str
    """"HU", "HU, unproven", "stored" or "unknown"; see `units`."""
    affine_lps_mm: Array
    """(4, 4) float64: (slice, row, column, 1) to LPS mm; sheared when the gantry was tilted."""
    file: str
    """The series' folder, or its file."""
    sha256: str
    """Hex digest that depends on the slices' files alone, not on their names or order."""
    files: tuple[str, ...] = ()
    """The files of the slices, in slice order."""
    tags: TechnicalTags = NO_TAGS
    """Technical attributes of the first slice."""
    findings: tuple[Finding, ...] = ()
    """What a user should know: gaps, tilt, dropped images, ..."""
    displays: tuple[SliceDisplay, ...] = ()
    """One a slice, or none."""

    def __post_init__(self) -> None:
        voxels = self.voxels
        if voxels.dtype not in (np.int16, np.float32) or voxels.ndim != 3 or voxels.size == 0:
            got = f"got {voxels.dtype} of shape {voxels.shape}"
            raise ImageError(self.file, f"{got}, expected (S, H, W) int16 or float32; convert with .astype")
        object.__setattr__(self, "voxels", _read_only(np.ascontiguousarray(voxels)))
        object.__setattr__(self, "affine_lps_mm", _read_only(np.array(self.affine_lps_mm, np.float64)))

    @property
    def modality(self) -> str | None:
        """DICOM Modality such as "CT"; None for other formats."""
        return self.tags.modality

    @property
    def values_hu(self) -> Array:
        """(S, H, W) Hounsfield units.

        Raises:
            ImageError: the voxels are not known to be Hounsfield units; `as_hu` declares it.

        Warns:
            UserWarning: a CT whose file does not say so; its findings do.
        """
        check_hu(self.unit, self.file)
        return self.voxels

    @property
    def affine_ras_mm(self) -> Array:
        """(4, 4) float64: (slice, row, column, 1) to RAS mm, NIfTI's axes."""
        return np.asarray(geometry.LPS_TO_RAS @ self.affine_lps_mm)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distances between centres of neighbouring slices, rows and columns."""
        return geometry.spacing_mm(self.affine_lps_mm)

    @property
    def orientation(self) -> str:
        """How slices cut the patient: "axial", "coronal", "sagittal" or "oblique"."""
        return geometry.orientation(self.affine_lps_mm)

    @property
    def axis_codes(self) -> str:
        """Where slice, row and column index grow towards, such as "SPL" for superior, posterior, left."""
        return geometry.axis_codes(self.affine_lps_mm)

    def as_hu(self) -> Volume:
        """Declare that the voxels are Hounsfield units, which NIfTI cannot say, nor a CT without a rescale.

        Raises:
            ImageError: the file says that it is no CT.
        """
        if self.modality not in (None, "CT"):
            raise ImageError(self.file, f"a {self.modality} volume has no Hounsfield units; use the preset min-max")
        findings = tuple(finding for finding in self.findings if finding.kind != UNPROVEN_FINDING.kind)
        return replace(self, unit=HU, findings=findings)

    def pictures(
        self, preset: str | None = None, budget: int | None = None, sampling: str = "even"
    ) -> Iterator[Picture]:
        """Show slices one by one, each rendered when its turn comes.

        Args:
            preset: a key of `presets.CT_WINDOWS` for volumes in HU; "min-max" of the whole volume; "voi" for each
                slice's own window or VOI LUT, or min-max where it has none. None: a decoder's `default_view`.
            budget: slices that are shown at most; None: all.
            sampling: how `presets.sample_slices` chooses them.

        Returns:
            Pictures whose `frame` is the slice's index and whose `policy` is "ct-" and the preset, "min-max" or "voi".

        Raises:
            ImageError: a CT preset for a volume that is not in HU.
            ValueError: an unknown preset or sampling, or a budget below 1.

        Warns:
            UserWarning: the volume is not axial, which MedGemma has not seen in training.
        """
        preset = choose_preset(preset, self.unit, self.file)
        warn_unless_axial(self.affine_lps_mm, preset, self.file)
        renderer = SliceRenderer.of(preset, self.displays, self.tags)
        num_slices = len(self.voxels)
        indices = range(num_slices) if budget is None else sample_slices(num_slices, budget, sampling)
        return self._pictures(indices, renderer)

    def _pictures(self, indices: Sequence[int], renderer: SliceRenderer) -> Iterator[Picture]:
        values_range = ValueRange()
        if renderer.needs_range(indices):
            for index, values in enumerate(self.voxels):
                values_range = renderer.widened(values_range, values, index)
        for index in indices:
            rendered = renderer.render(self.voxels[index], index, values_range)
            yield slice_picture(rendered, index, self.affine_lps_mm, self.file, self.sha256, self.tags, self.findings)

    def reoriented(self, axis_codes: str) -> Volume:
        """Flip and swap axes, without interpolation.

        Args:
            axis_codes: where slice, row and column index shall grow towards, such as "SPL" for axial slices from feet
                to head, or "AIR".

        Returns:
            The same voxels in another order, by MONAI's Orientation; windows that differ between slices are dropped.

        Raises:
            ValueError: not three such letters.
        """
        if sorted(_AXES.get(code, code) for code in axis_codes) != ["AP", "IS", "LR"]:
            example = "one letter of each of L/R, A/P and S/I, such as 'SPL'"
            raise ValueError(f"got axis codes {axis_codes!r}, expected {example}")
        from monai.transforms import Orientation

        turned = Orientation(axcodes=axis_codes, labels=_MONAI_LABELS)(self._meta_tensor())
        return self._from_meta_tensor(turned, f"reoriented {axis_codes}")

    def resampled(self, spacing_mm: tuple[float, float, float]) -> Volume:
        """Interpolate linearly to another spacing, on a grid without shear.

        Args:
            spacing_mm: between slices, rows and columns.

        Returns:
            The volume by MONAI's Spacing (linear, voxels beyond the border repeat it), rounded if it was integer.

        Raises:
            ImageError: gaps, uneven spacing or shifted slices, so that the voxels are on no grid.
            ValueError: a spacing that is not above 0.
        """
        self._check_evenly_spaced()
        if len(spacing_mm) != 3 or not all(0 < value < np.inf for value in spacing_mm):
            raise ValueError(f"got spacing_mm {spacing_mm}, expected three lengths above 0: slice, row and column")
        from monai.transforms import Spacing

        spacing = Spacing(pixdim=spacing_mm, mode="bilinear", padding_mode="border")
        return self._from_meta_tensor(spacing(self._meta_tensor()), f"resampled {spacing_mm}")

    def _check_evenly_spaced(self) -> None:
        for finding in self.findings:
            if finding.kind in NOT_EVENLY_SPACED:
                reason = f"cannot be resampled: {finding.text}; add the missing slices or use the slices as they are"
                raise ImageError(self.file, reason)

    def _meta_tensor(self) -> Any:
        """(1, S, H, W) with the RAS affine, as MONAI's transforms take it."""
        import torch
        from monai.data import MetaTensor

        with warnings.catch_warnings():  # torch warns that the array is read-only; the transforms do not write to it
            warnings.simplefilter("ignore")
            voxels = torch.from_numpy(self.voxels[None])
        return MetaTensor(voxels, affine=torch.from_numpy(self.affine_ras_mm.copy()))

    def _from_meta_tensor(self, tensor: Any, what: str) -> Volume:
        voxels = tensor[0].numpy()
        if self.voxels.dtype == np.int16 and voxels.dtype != np.int16:
            voxels = np.rint(voxels)
        displays = self.displays
        if displays:
            displays = (displays[0] if all_alike(displays) else without_voi(displays),) * len(voxels)
        return replace(
            self,
            voxels=np.ascontiguousarray(voxels.astype(self.voxels.dtype, copy=False)),
            affine_lps_mm=geometry.LPS_TO_RAS @ tensor.affine.numpy().astype(np.float64),
            sha256=hashlib.sha256(f"{self.sha256} {what}".encode()).hexdigest(),
            displays=displays,
        )


_AXES = {"L": "LR", "R": "LR", "A": "AP", "P": "AP", "I": "IS", "S": "IS"}
_MONAI_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


def _read_only(values: Array) -> Array:
    locked = values.view()
    locked.flags.writeable = False
    return locked
