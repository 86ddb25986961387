"""Grey frames of one DICOM instance under the policies "voi", "full-range", "percentile" and the CT windows.

Stored values → modality LUT or rescale → VOI LUT or window → inversion of MONOCHROME1 → 0..255; pixel padding and
values that are not finite are black at the end. H rows, W columns.

Source: DICOM PS3.3 C.7.5.1.1.2, C.7.6.16, C.11.1, C.11.2; PS3.4 N.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..frame import FULL_RANGE, PERCENTILE, STORED, VOI, Array, Finding, ImageError, round_to_uint8, stretch_to_uint8
from ..units import HU_UNPROVEN, UNPROVEN_FINDING, proven
from .header import ct_codes
from .lut import (
    IDENTITY,
    LookupTable,
    ModalityTransform,
    VoiTransform,
    apply_voi,
    modality_transform,
    modality_values,
    voi_transforms,
    whole_values,
)
from .padding import Padding, padding_mask, read_padding
from .pixels import FrameSource, num_frames
from .policies import CT_POLICIES, window_number
from .tag_findings import is_inverted
from .tone import Tone, Toned, ToneOf, tone_frames
from .value_range import ValueCounts, count_values, percentile

if TYPE_CHECKING:
    from pydicom import Dataset

    from ..volumes.presets import CtWindows

PERCENTILES = (0.5, 99.5)
"""What becomes 0 and what 255 under the policy "percentile"."""

_MAX_UINT16 = 65535


class Rendered(NamedTuple):
    """One frame in eight bits."""

    pixels: Array
    """(H, W) grey or (H, W, 3) RGB, uint8."""
    policy: str
    """The policy that was used."""
    findings: tuple[Finding, ...] = ()
    """What its values show to a user who should know."""


class _Transforms(NamedTuple):
    modality: ModalityTransform
    voi: VoiTransform | None


class _File(NamedTuple):
    dataset: Dataset
    frames: FrameSource
    padding: Padding | None
    inverted: bool


def render_grey(dataset: Dataset, frames: FrameSource, policy: str, file: str) -> Iterator[Rendered]:
    """Render MONOCHROME1 and MONOCHROME2 frames one at a time.

    Args:
        dataset: a parsed and checked file.
        frames: its (H, W) stored values.
        policy: see `dicom.decode_dicom`.
        file: name for messages.

    Raises:
        ImageError: a CT policy for something else, or a window that the file does not have.
    """
    lowest = _Lowest(read_padding(dataset)) if ct_codes(dataset).unit == HU_UNPROVEN else None
    watched = frames if lowest is None else lowest.watching(frames)
    source = _File(dataset, watched, read_padding(dataset), is_inverted(dataset))
    wanted = window_number(policy)
    if policy in CT_POLICIES:
        rendered = _ct_frames(source, policy)
    elif wanted is None:
        rendered = _ranged_frames(source, policy)
    else:
        rendered = _voi_frames(source, wanted, policy, file)
    for frame in rendered:
        unproven = lowest is not None and proven(HU_UNPROVEN, lowest.value) == HU_UNPROVEN
        yield frame._replace(findings=(UNPROVEN_FINDING,)) if unproven else frame


class _Lowest:
    """The smallest stored value that is no padding, of the frames that have been decoded so far."""

    def __init__(self, padding: Padding | None) -> None:
        self.value = math.inf
        self._padding = padding

    def watching(self, frames: FrameSource) -> FrameSource:
        def watched() -> Iterator[Array]:
            for stored in frames():
                mask = padding_mask(stored, self._padding)
                valid = stored if mask is None else stored[~mask]
                self.value = min(self.value, float(valid.min(initial=0)))
                yield stored

        return watched


# Transforms and tones of each frame


def _transforms_of(dataset: Dataset, wanted: int | None) -> Callable[[int], _Transforms]:
    """Each frame's modality and VOI transform; a frame without a VOI transform takes the first frame's."""
    first = _transforms(dataset, 0, wanted)
    if not dataset.get("PerFrameFunctionalGroupsSequence"):
        return lambda _: first

    def transforms(number: int) -> _Transforms:
        own = _transforms(dataset, number, wanted)
        return own._replace(voi=first.voi) if own.voi is None else own

    return transforms


def _transforms(dataset: Dataset, number: int, wanted: int | None) -> _Transforms:
    modality = modality_transform(dataset, number)
    if wanted is None:
        return _Transforms(modality, None)
    listed = voi_transforms(dataset, number, modality)
    if wanted == 0:
        return _Transforms(modality, next((voi for voi in listed if voi is not None), None))
    return _Transforms(modality, listed[wanted - 1] if wanted <= len(listed) else None)


def _tone_of(transforms_of: Callable[[int], _Transforms], build: Callable[[_Transforms], Tone]) -> ToneOf:
    last: list[tuple[_Transforms, Tone]] = []

    def tone_of(number: int) -> Tone:
        current = transforms_of(number)
        if not last or not _same(last[0][0], current):
            last[:] = [(current, build(current))]
        return last[0][1]

    return tone_of


def _same(one: _Transforms, other: _Transforms) -> bool:
    pairs = zip(one, other, strict=True)
    return all(
        a is b or (not isinstance(a, LookupTable) and not isinstance(b, LookupTable) and a == b) for a, b in pairs
    )


def _finish(grey: Array, stored: Array, source: _File) -> Array:
    """Invert MONOCHROME1, which follows the VOI transform, then blacken padding and what is not finite."""
    return _blacken(255 - grey if source.inverted else grey, stored, source.padding)


def _blacken(pixels: Array, stored: Array, padding: Padding | None) -> Array:
    mask = padding_mask(stored, padding)
    if mask is not None:
        pixels[mask] = 0
    if stored.dtype.kind == "f":
        pixels[~np.isfinite(stored)] = 0
    return pixels


# VOI


def _voi_frames(source: _File, wanted: int, policy: str, file: str) -> Iterator[Rendered]:
    transforms_of = _transforms_of(source.dataset, wanted)
    if transforms_of(0).voi is None:
        if wanted:
            raise ImageError(file, _missing_window(source.dataset, wanted))
        yield from _ranged_frames(source, policy)
        return

    def build(transforms: _Transforms) -> Tone:
        modality, voi = transforms
        assert voi is not None
        return lambda stored: _finish(round_to_uint8(apply_voi(voi, modality_values(stored, modality))), stored, source)

    tone_of = _tone_of(transforms_of, build)
    toned = tone_frames(source.frames(), tone_of)
    first = next(toned)
    if wanted == 0 and _is_white(first, source.padding):
        yield from _white_or_ranged(source, tone_of, policy)
        return
    yield Rendered(first.pixels, policy)
    for frame in toned:
        yield Rendered(frame.pixels, policy)


def _missing_window(dataset: Dataset, wanted: int) -> str:
    listed = voi_transforms(dataset, 0, modality_transform(dataset, 0))
    if wanted <= len(listed):
        return f"window {wanted} of {len(listed)} cannot be used (damaged or of no width); use another or {FULL_RANGE}"
    known = f"{len(listed)} windows and VOI LUTs" if len(listed) != 1 else "one window or VOI LUT"
    return f"the file has {known}, the policy {VOI}:{wanted} asks for number {wanted}; use {VOI} or {FULL_RANGE}"


def _white_or_ranged(source: _File, tone_of: ToneOf, policy: str) -> Iterator[Rendered]:
    """A first frame of nothing but white may be what it is; a whole file of it has a window that does not fit."""
    if all(_is_white(frame, source.padding) for frame in tone_frames(source.frames(), tone_of)):
        yield from _ranged_frames(source, FULL_RANGE)
        return
    for frame in tone_frames(source.frames(), tone_of):
        yield Rendered(frame.pixels, policy)


def _is_white(frame: Toned, padding: Padding | None) -> bool:
    for pixels, stored in zip(frame.pixels, frame.stored, strict=True):  # a row at a time: most end at the first
        mask = padding_mask(stored, padding)
        if not (pixels == 255 if mask is None else (pixels == 255) | mask).all():
            return False
    return True


# The file's own range


def _ranged_frames(source: _File, policy: str) -> Iterator[Rendered]:
    """Percentiles if asked for and there is something between them, else the full range."""
    transforms_of = _transforms_of(source.dataset, None)
    if policy != PERCENTILE and _is_eight_bit(source.dataset, transforms_of):
        tone_of, used = _tone_of(transforms_of, lambda _: _eight_bit_tone(source)), STORED
    else:
        tone_of, used = _range_tone_of(source, transforms_of, policy)
    for frame in tone_frames(source.frames(), tone_of):
        yield Rendered(frame.pixels, used)


def _range_tone_of(source: _File, transforms_of: Callable[[int], _Transforms], policy: str) -> tuple[ToneOf, str]:
    def modality_of(number: int) -> ModalityTransform:
        return transforms_of(number).modality

    found = count_values(source.frames(), modality_of, source.padding, ends_only=policy != PERCENTILE)
    if policy == PERCENTILE and len(found.values):
        low, high = (percentile(found, percent) for percent in PERCENTILES)
        if high > low:
            return _tone_of(transforms_of, lambda transforms: _stretch_tone(source, transforms, low, high)), PERCENTILE
    return _tone_of(transforms_of, lambda transforms: _full_range_tone(source, transforms, found)), FULL_RANGE


def _is_eight_bit(dataset: Dataset, transforms_of: Callable[[int], _Transforms]) -> bool:
    if "PixelData" not in dataset or (dataset.BitsAllocated, dataset.BitsStored, dataset.PixelRepresentation) != (
        8,
        8,
        0,
    ):
        return False
    return all(transforms_of(number).modality == IDENTITY for number in range(num_frames(dataset)))


def _eight_bit_tone(source: _File) -> Tone:
    return lambda stored: _finish(stored.copy(), stored, source)


def _stretch_tone(source: _File, transforms: _Transforms, low: float, high: float) -> Tone:
    modality = transforms.modality
    return lambda stored: _finish(stretch_to_uint8(modality_values(stored, modality), low, high), stored, source)


def _full_range_tone(source: _File, transforms: _Transforms, found: ValueCounts) -> Tone:
    """What Google's serving container does to radiographs, see `dicom.decode_dicom`.

    Modality values are cut to whole numbers, which leaves less than 256 greys of a range smaller than that; such
    a range is not cut here. Unsigned eight-bit ones are kept, signed ones stretched to 0..255, all others to
    0..65535, cut and inverted, then rounded to eight bits.

    Source: the serving container of Google-Health/medgemma, python/data_accessors.
    """
    low, high = (float(found.values[0]), float(found.values[-1])) if len(found.values) else (0.0, 0.0)
    modality = transforms.modality
    cut = np.trunc if high - low >= 255 else np.asarray
    low, high = float(cut(low)), float(cut(high))

    def tone(stored: Array) -> Array:
        values = cut(modality_values(stored, modality))
        if _stays_eight_bit(source.dataset, modality, low, high):
            return _finish(np.clip(values, 0, 255).astype(np.uint8), stored, source)
        if not high > low:
            return np.zeros(stored.shape, np.uint8)
        brightest = 255 if stored.dtype == np.int8 and not isinstance(modality, LookupTable) else _MAX_UINT16
        stretched = np.trunc(np.nan_to_num(np.interp(values, (low, high), (0, brightest))))
        if source.inverted:
            stretched = brightest - stretched
        return _blacken(np.rint(stretched * (255 / brightest)).astype(np.uint8), stored, source.padding)

    return tone


def _stays_eight_bit(dataset: Dataset, modality: ModalityTransform, low: float, high: float) -> bool:
    """Whether modality values are of the type uint8 in the container, and fit it."""
    if isinstance(modality, LookupTable):
        return modality.top == 255
    as_stored = "PixelData" in dataset and (dataset.BitsAllocated, dataset.BitsStored) == (8, 8)
    return as_stored and not dataset.PixelRepresentation and low >= 0 and high <= 255


# CT windows


def _ct_frames(source: _File, policy: str) -> Iterator[Rendered]:
    from ..volumes.presets import CT_WINDOWS

    windows = CT_WINDOWS[policy.removeprefix("ct-")]

    def build(transforms: _Transforms) -> Tone:
        tone = _CtTone(transforms.modality, windows, source.padding)
        return tone.__call__ if isinstance(transforms.modality, LookupTable) else tone

    for frame in tone_frames(source.frames(), _tone_of(_transforms_of(source.dataset, None), build)):
        yield Rendered(frame.pixels, policy)


@dataclass(frozen=True)
class _CtTone:
    """A tone whose table serves all files of a series, unless its modality transform is a table itself."""

    modality: ModalityTransform
    windows: CtWindows
    padding: Padding | None

    def __call__(self, stored: Array) -> Array:
        from ..volumes.presets import apply_hu_windows

        hu = whole_values(stored, self.modality)
        rgb = apply_hu_windows(hu.reshape(1, -1), self.windows).reshape(*stored.shape, 3)
        return _blacken(rgb, stored, self.padding)
