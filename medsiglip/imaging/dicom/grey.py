"""Grey frames of one DICOM instance under the policies "voi", "full-range", "percentile" and the CT windows.

Stored values → modality LUT or rescale → VOI LUT or window → inversion of MONOCHROME1 → 0..255; pixel padding and
values that are not finite are black at the end. H rows, W columns.

Source: DICOM PS3.3 C.7.5.1.1.2, C.7.6.16, C.11.1, C.11.2; PS3.4 N.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..frame import FULL_RANGE, PERCENTILE, STORED, VOI, Array, Finding, ImageError
from ..units import HU_UNPROVEN, UNPROVEN_FINDING, proven
from .grey_tones import (
    CtTone,
    EightBitTone,
    Ending,
    FrameTones,
    FrameTransforms,
    FullRangeTone,
    StretchTone,
    Transforms,
    VoiTone,
)
from .header import ct_codes
from .lut import IDENTITY, modality_transform, voi_transforms
from .padding import Padding, padding_mask, read_padding
from .pixels import FrameSource, num_frames
from .policies import CT_POLICIES, window_number
from .tag_findings import is_inverted
from .tone import Tone, Toned, ToneOf, tone_frames
from .value_range import count_values, percentile

if TYPE_CHECKING:
    from pydicom import Dataset

PERCENTILES = (0.5, 99.5)
"""What becomes 0 and what 255 under the policy "percentile"."""


class Rendered(NamedTuple):
    """One frame in eight bits."""

    pixels: Array
    """(H, W) grey or (H, W, 3) RGB, uint8."""
    policy: str
    """The policy that was used."""
    findings: tuple[Finding, ...] = ()
    """What its values show to a user who should know."""


class _File(NamedTuple):
    dataset: Dataset
    frames: FrameSource
    ending: Ending


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
    watched = frames if lowest is None else partial(lowest.watch, frames)
    source = _File(dataset, watched, Ending(read_padding(dataset), is_inverted(dataset)))
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

    def watch(self, frames: FrameSource) -> Iterator[Array]:
        """The same frames, each looked at as it goes by."""
        for stored in frames():
            mask = padding_mask(stored, self._padding)
            valid = stored if mask is None else stored[~mask]
            self.value = min(self.value, float(valid.min(initial=0)))
            yield stored


# VOI


def _voi_frames(source: _File, wanted: int, policy: str, file: str) -> Iterator[Rendered]:
    transforms = FrameTransforms(source.dataset, wanted)
    if transforms.of(0).voi is None:
        if wanted:
            raise ImageError(file, _missing_window(source.dataset, wanted))
        yield from _ranged_frames(source, policy)
        return
    tone_of = FrameTones(transforms, lambda found: _voi_tone(found, source.ending))
    toned = tone_frames(source.frames(), tone_of)
    first = next(toned)
    if wanted == 0 and _is_white(first, source.ending.padding):
        yield from _white_or_ranged(source, tone_of, policy)
        return
    yield Rendered(first.pixels, policy)
    for frame in toned:
        yield Rendered(frame.pixels, policy)


def _voi_tone(transforms: Transforms, ending: Ending) -> VoiTone:
    assert transforms.voi is not None, "a frame without a VOI transform takes the first frame's"
    return VoiTone(transforms.modality, transforms.voi, ending)


def _missing_window(dataset: Dataset, wanted: int) -> str:
    listed = voi_transforms(dataset, 0, modality_transform(dataset, 0))
    if wanted <= len(listed):
        return f"window {wanted} of {len(listed)} cannot be used (damaged or of no width); use another or {FULL_RANGE}"
    known = f"{len(listed)} windows and VOI LUTs" if len(listed) != 1 else "one window or VOI LUT"
    return f"the file has {known}, the policy {VOI}:{wanted} asks for number {wanted}; use {VOI} or {FULL_RANGE}"


def _white_or_ranged(source: _File, tone_of: ToneOf, policy: str) -> Iterator[Rendered]:
    """A first frame of nothing but white may be what it is; a whole file of it has a window that does not fit."""
    if all(_is_white(frame, source.ending.padding) for frame in tone_frames(source.frames(), tone_of)):
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
    transforms, ending = FrameTransforms(source.dataset, None), source.ending
    if policy != PERCENTILE and _is_eight_bit(source.dataset, transforms):
        yield from _toned(source, transforms, lambda _: EightBitTone(ending), STORED)
        return
    ends_only = policy != PERCENTILE
    found = count_values(source.frames(), lambda i: transforms.of(i).modality, ending.padding, ends_only=ends_only)
    if policy == PERCENTILE and len(found.values):
        low, high = (percentile(found, percent) for percent in PERCENTILES)
        if high > low:
            yield from _toned(source, transforms, lambda t: StretchTone(t.modality, low, high, ending), PERCENTILE)
            return
    ends = (float(found.values[0]), float(found.values[-1])) if len(found.values) else (0.0, 0.0)
    is_uint8 = _is_uint8(source.dataset)
    yield from _toned(source, transforms, lambda t: FullRangeTone(t.modality, *ends, is_uint8, ending), FULL_RANGE)


def _toned(
    source: _File, transforms: FrameTransforms, build: Callable[[Transforms], Tone], policy: str
) -> Iterator[Rendered]:
    for frame in tone_frames(source.frames(), FrameTones(transforms, build)):
        yield Rendered(frame.pixels, policy)


def _is_eight_bit(dataset: Dataset, transforms: FrameTransforms) -> bool:
    frames = range(num_frames(dataset))
    return _is_uint8(dataset) and all(transforms.of(number).modality == IDENTITY for number in frames)


def _is_uint8(dataset: Dataset) -> bool:
    stored = "PixelData" in dataset and (dataset.BitsAllocated, dataset.BitsStored) == (8, 8)
    return stored and not dataset.PixelRepresentation


# CT windows


def _ct_frames(source: _File, policy: str) -> Iterator[Rendered]:
    from ..volumes.presets import CT_WINDOWS

    windows, padding = CT_WINDOWS[policy.removeprefix("ct-")], source.ending.padding
    transforms = FrameTransforms(source.dataset, None)
    yield from _toned(source, transforms, lambda t: CtTone(t.modality, windows, padding), policy)
