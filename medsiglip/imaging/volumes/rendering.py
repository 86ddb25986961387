"""How slices of a volume become pictures: the preset that applies, its range, and one slice at a time.

H is rows, W is columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..dicom.lut import LookupTable, VoiTransform, apply_voi
from ..frame import VOI, Array, ImageError, TechnicalTags, as_rgb, round_to_uint8
from ..picture import Picture
from . import geometry
from .presets import CT_WINDOWS, CtWindows, apply_hu_windows, ct_windows, min_max_grey

HU = "HU"
"""Unit of CT: Hounsfield units."""
STORED = "stored"
"""Unit of MR, PET and other volumes: the values after rescale, whatever they mean."""
UNKNOWN = "unknown"
"""Unit of files that do not say what they hold, such as NIfTI."""

MIN_MAX = "min-max"
"""Preset and policy: the whole volume's smallest value becomes 0, the largest 255."""

VOLUME_PRESETS = (*CT_WINDOWS, MIN_MAX, VOI)
"""What a volume may be shown with."""


class SliceDisplay(NamedTuple):
    """What a slice's own header says about showing it, in units of the voxels."""

    voi: VoiTransform | None = None
    """Its window or VOI LUT, the first of several."""
    padding: float | None = None
    """Value of voxels outside the picture; shown black."""


NO_DISPLAY = SliceDisplay()


def all_alike(displays: Sequence[SliceDisplay]) -> bool:
    """Whether there are displays and all slices are shown alike."""
    return len({_comparable(display) for display in displays}) == 1


def _comparable(display: SliceDisplay) -> tuple[object, ...]:
    voi = display.voi
    table = (voi.first, voi.top, voi.entries.tobytes()) if isinstance(voi, LookupTable) else voi
    return table, display.padding


class ValueRange(NamedTuple):
    """Smallest and largest value of a volume; `low` is above `high` when there is none."""

    low: float = np.inf
    high: float = -np.inf


class RenderedSlice(NamedTuple):
    """One slice as a picture sees it."""

    pixels: Array
    """(H, W) grey or (H, W, 3) RGB, uint8."""
    policy: str
    """How values became uint8: "ct-" and the CT preset, "min-max" or "voi"."""


def choose_preset(preset: str | None, unit: str, file: str) -> str:
    """The preset asked for, or the unit's own, once it is known to apply.

    Raises:
        ImageError: a CT preset for values that are not in HU.
        ValueError: an unknown preset.
    """
    if preset is None:
        return "report" if unit == HU else MIN_MAX
    if preset not in VOLUME_PRESETS:
        raise ValueError(f"unknown volume preset {preset!r}; use one of {', '.join(VOLUME_PRESETS)}")
    if preset in CT_WINDOWS:
        check_hu(unit, file)
    return preset


def check_hu(unit: str, file: str) -> None:
    """Refuse values that are not known to be Hounsfield units.

    Raises:
        ImageError: says what to do instead.
    """
    if unit == UNKNOWN:
        advice = "declare a CT with Volume.as_hu(), or use the preset min-max"
        raise ImageError(file, f"the file does not say that its values are Hounsfield units; {advice}")
    if unit != HU:
        raise ImageError(file, "the values are not Hounsfield units; use the preset min-max or voi")


def warn_unless_axial(affine_lps_mm: Array, preset: str, file: str) -> None:
    """Warn before a model is shown slices of a kind it was not trained on. Source: the MedGemma 1.5 report, 2.3.1."""
    found = geometry.orientation(affine_lps_mm)
    if found != "axial" and preset != VOI:
        text = f"{file or 'volume in memory'}: the slices are {found}, but MedGemma was trained on axial ones"
        warnings.warn(f"{text}; Volume.reoriented('SPL') gives axial slices", UserWarning, stacklevel=3)


@dataclass(frozen=True)
class SliceRenderer:
    """Renders the slices of one volume, each on its own."""

    preset: str
    """One of `VOLUME_PRESETS`, as chosen by `choose_preset`."""
    displays: tuple[SliceDisplay, ...]
    """One a slice, or none."""
    inverted: bool
    """Whether small grey values are bright, as in MONOCHROME1; Hounsfield windows do not ask."""
    windows: CtWindows | None
    """Of a CT preset."""

    @classmethod
    def of(cls, preset: str, displays: tuple[SliceDisplay, ...], tags: TechnicalTags) -> SliceRenderer:
        """Look everything up once; warns when the preset is for parity only."""
        windows = ct_windows(preset) if preset in CT_WINDOWS else None
        return cls(preset, displays, tags.photometric_interpretation == "MONOCHROME1", windows)

    def needs_range(self, indices: Iterable[int]) -> bool:
        """Whether showing these slices takes the range of the whole volume."""
        without_window = self.preset == VOI and any(self.display(index).voi is None for index in indices)
        return self.preset == MIN_MAX or without_window

    def widened(self, values_range: ValueRange, values: Array, index: int) -> ValueRange:
        """The range with (H, W) values of slice `index` taken in; padding and what is not finite is left out."""
        padding = self.display(index).padding
        if padding is not None or values.dtype.kind == "f":
            values = values[np.isfinite(values) & (values != padding)]
        if values.size == 0:
            return values_range
        return ValueRange(min(values_range.low, float(values.min())), max(values_range.high, float(values.max())))

    def render(self, values: Array, index: int, values_range: ValueRange | None) -> RenderedSlice:
        """Show one slice.

        Args:
            values: (H, W) in the volume's unit.
            index: of the slice.
            values_range: of the whole volume, where `needs_range` asks for it.
        """
        rendered = self._unpadded(values, self.display(index).voi, values_range)
        padding = self.display(index).padding
        if padding is not None:
            rendered.pixels[values == padding] = 0
        if values.dtype.kind == "f":
            rendered.pixels[np.isnan(values)] = 0
        return rendered

    def display(self, index: int) -> SliceDisplay:
        """The header of slice `index`, as far as it is known."""
        return self.displays[index] if self.displays else NO_DISPLAY

    def _unpadded(self, values: Array, voi: VoiTransform | None, values_range: ValueRange | None) -> RenderedSlice:
        if self.windows is not None:
            return RenderedSlice(apply_hu_windows(values, self.windows), f"ct-{self.preset}")
        if self.preset == VOI and voi is not None:
            grey = round_to_uint8(apply_voi(voi, values))
            return RenderedSlice(255 - grey if self.inverted else grey, VOI)
        low, high = values_range or ValueRange()
        grey = min_max_grey(values, low, high)
        return RenderedSlice(255 - grey if self.inverted and high > low else grey, MIN_MAX)


def slice_picture(
    rendered: RenderedSlice, index: int, affine_lps_mm: Array, file: str, sha256: str, tags: TechnicalTags
) -> Picture:
    """The picture of slice `index`, with the volume's identity and the slice's own plane."""
    own_tags = slice_tags(tags, affine_lps_mm, index)
    return Picture(as_rgb(rendered.pixels), file, index, sha256, rendered.policy, own_tags)


def slice_tags(tags: TechnicalTags, affine_lps_mm: Array, index: int) -> TechnicalTags:
    """A volume's tags with the plane and spacing of slice `index`."""
    _, row_mm, column_mm = geometry.spacing_mm(affine_lps_mm)
    return replace(tags, plane=geometry.slice_plane(affine_lps_mm, index), spacing_mm=(row_mm, column_mm))
