"""How slices of a volume become pictures: the preset that applies, its range, and one slice at a time.

H is rows, W is columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..dicom.lut import LookupTable, VoiTransform, apply_voi
from ..dicom.padding import Padding
from ..frame import VOI, Array, Finding, ImageError, TechnicalTags, as_rgb, round_to_uint8
from ..picture import Picture
from ..units import HU, HU_UNPROVEN, UNKNOWN, UNPROVEN_FINDING
from . import geometry
from .presets import CT_WINDOWS, CtWindows, apply_hu_windows, ct_windows, min_max_grey

if TYPE_CHECKING:
    from ..dicom.header import InstanceHeader

MIN_MAX = "min-max"
"""Preset and policy: the whole volume's smallest value becomes 0, the largest 255."""

VOLUME_PRESETS = (*CT_WINDOWS, MIN_MAX, VOI)
"""What a volume may be shown with."""


class SliceDisplay(NamedTuple):
    """What a slice's own header says about showing it, in units of the voxels."""

    voi: VoiTransform | None = None
    """Its window or VOI LUT, the first of several."""
    padding: Padding | None = None
    """Values of voxels outside the picture, both ends included; shown black."""
    inverted: bool = False
    """Whether small grey values are bright; Hounsfield windows do not ask."""


def all_alike(displays: Sequence[SliceDisplay]) -> bool:
    """Whether there are displays and all slices are shown alike."""
    return len({_comparable(display) for display in displays}) == 1


def _comparable(display: SliceDisplay) -> tuple[object, ...]:
    voi = display.voi
    table = (voi.first, voi.top, voi.entries.tobytes()) if isinstance(voi, LookupTable) else voi
    return table, display.padding, display.inverted


def is_padding(values: Array, padding: Padding) -> Array:
    """True where values lie in a range of padding; same shape, bool."""
    if padding.first == padding.last:
        return np.asarray(values == padding.first)
    return np.asarray((values >= padding.first) & (values <= padding.last))


def padding_in_unit(header: InstanceHeader) -> Padding | None:
    """The padding of a file's stored values as modality values; None without one, or where a table stands between."""
    if header.padding is None or header.has_modality_lut:
        return None
    first, last = sorted(end * header.rescale_slope + header.rescale_intercept for end in header.padding)
    return Padding(first, last)


def without_voi(displays: Sequence[SliceDisplay]) -> SliceDisplay:
    """What is left of displays whose windows differ between slices."""
    padding = displays[0].padding if len({display.padding for display in displays}) == 1 else None
    return SliceDisplay(None, padding, displays[0].inverted)


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


def default_view(model_type: str, unit: str) -> str:
    """How a volume is shown to a model unless another view is asked for.

    A decoder is shown a CT as MedGemma 1.5 was, the model that was trained on volumes, and all else by its smallest and
    largest value. An encoder takes slices one by one, each by its own window, as `classify` and `embed` read them.

    Args:
        model_type: config.json's, such as "gemma3" or "siglip".
        unit: of the volume.

    Returns:
        One of VOLUME_PRESETS.
    """
    if not model_type.startswith("gemma3"):
        return VOI
    return "medgemma-1.5" if unit == HU else MIN_MAX


def choose_preset(preset: str | None, unit: str, file: str) -> str:
    """The preset asked for, or a decoder's default view, once it is known to apply.

    Raises:
        ImageError: a CT preset for values that are not in HU.
        ValueError: an unknown preset.

    Warns:
        UserWarning: a CT preset for values that may not be in HU.
    """
    if preset is None:
        return default_view("gemma3", unit)
    if preset not in VOLUME_PRESETS:
        raise ValueError(f"unknown volume preset {preset!r}; use one of {', '.join(VOLUME_PRESETS)}")
    if preset in CT_WINDOWS:
        check_hu(unit, file)
    return preset


def check_hu(unit: str, file: str) -> None:
    """Refuse values that are not known to be Hounsfield units.

    Raises:
        ImageError: says what to do instead.

    Warns:
        UserWarning: a CT's own values, of which it is not known.
    """
    if unit == HU_UNPROVEN:
        warnings.warn(f"{file or 'volume in memory'}: {UNPROVEN_FINDING.text}", UserWarning, stacklevel=4)
        return
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
    """One a slice, or one for all."""
    windows: CtWindows | None
    """Of a CT preset."""

    @classmethod
    def of(cls, preset: str, displays: tuple[SliceDisplay, ...], tags: TechnicalTags) -> SliceRenderer:
        """Look everything up once; warns when the preset is for parity only."""
        windows = ct_windows(preset) if preset in CT_WINDOWS else None
        if not displays:  # of a volume made in memory
            displays = (SliceDisplay(inverted=tags.photometric_interpretation == "MONOCHROME1"),)
        return cls(preset, displays, windows)

    def needs_range(self, indices: Iterable[int]) -> bool:
        """Whether showing these slices takes the range of the whole volume."""
        without_window = self.preset == VOI and any(self.display(index).voi is None for index in indices)
        return self.preset == MIN_MAX or without_window

    def widened(self, values_range: ValueRange, values: Array, index: int) -> ValueRange:
        """The range with (H, W) values of slice `index` taken in; padding and what is not finite is left out."""
        padding = self.display(index).padding
        if padding is not None:
            values = values[~is_padding(values, padding)]
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
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
        display = self.display(index)
        rendered = self._unpadded(values, display, values_range)
        if display.padding is not None:
            rendered.pixels[is_padding(values, display.padding)] = 0
        if values.dtype.kind == "f":
            rendered.pixels[np.isnan(values)] = 0
        return rendered

    def display(self, index: int) -> SliceDisplay:
        """The header of slice `index`, as far as it is known."""
        return self.displays[index] if len(self.displays) > 1 else self.displays[0]

    def _unpadded(self, values: Array, display: SliceDisplay, values_range: ValueRange | None) -> RenderedSlice:
        if self.windows is not None:
            return RenderedSlice(apply_hu_windows(values, self.windows), f"ct-{self.preset}")
        if self.preset == VOI and display.voi is not None:
            grey = round_to_uint8(apply_voi(display.voi, values))
            return RenderedSlice(255 - grey if display.inverted else grey, VOI)
        low, high = values_range or ValueRange()
        grey = min_max_grey(values, low, high)
        return RenderedSlice(255 - grey if display.inverted and high > low else grey, MIN_MAX)


def slice_picture(
    rendered: RenderedSlice,
    index: int,
    affine_lps_mm: Array,
    file: str,
    sha256: str,
    tags: TechnicalTags,
    findings: tuple[Finding, ...] = (),
) -> Picture:
    """The picture of slice `index`, with the volume's identity and the slice's own plane."""
    own_tags = slice_tags(tags, affine_lps_mm, index)
    pixels = as_rgb(rendered.pixels)
    return Picture(pixels, file, index, sha256, rendered.policy, own_tags, findings=findings)


def slice_tags(tags: TechnicalTags, affine_lps_mm: Array, index: int) -> TechnicalTags:
    """A volume's tags with the plane and spacing of slice `index`."""
    _, row_mm, column_mm = geometry.spacing_mm(affine_lps_mm)
    return replace(tags, plane=geometry.slice_plane(affine_lps_mm, index), spacing_mm=(row_mm, column_mm))
