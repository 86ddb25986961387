"""What happens to a stored grey value under each policy, and which transforms each frame of a file has.

A tone takes stored values of any shape to uint8, each value by itself; `tone.tone_frames` makes a table of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..frame import Array, round_to_uint8, stretch_to_uint8
from .lut import (
    LookupTable,
    ModalityTransform,
    VoiTransform,
    apply_voi,
    modality_transform,
    modality_values,
    voi_transforms,
    whole_values,
)
from .padding import Padding, padding_mask
from .tone import Tone

if TYPE_CHECKING:
    from pydicom import Dataset

    from ..volumes.presets import CtWindows

_MAX_UINT16 = 65535


class Transforms(NamedTuple):
    """What a frame's stored values go through."""

    modality: ModalityTransform
    voi: VoiTransform | None


class FrameTransforms:
    """Each frame's modality and VOI transform; a frame without a VOI transform takes the first frame's.

    Args:
        dataset: a parsed and checked file.
        wanted: number of the window or VOI LUT from 1, 0 for the first that can be used, None for none.
    """

    def __init__(self, dataset: Dataset, wanted: int | None) -> None:
        self._dataset, self._wanted = dataset, wanted
        self._first = self._read(0)

    def of(self, number: int) -> Transforms:
        """The transforms of frame `number`, from 0."""
        if not self._dataset.get("PerFrameFunctionalGroupsSequence"):
            return self._first
        own = self._read(number)
        return own._replace(voi=self._first.voi) if own.voi is None else own

    def _read(self, number: int) -> Transforms:
        modality = modality_transform(self._dataset, number)
        if self._wanted is None:
            return Transforms(modality, None)
        listed = voi_transforms(self._dataset, number, modality)
        if self._wanted == 0:
            return Transforms(modality, next((voi for voi in listed if voi is not None), None))
        return Transforms(modality, listed[self._wanted - 1] if self._wanted <= len(listed) else None)


class FrameTones:
    """The tone of frame 0, 1, ...: the same object as long as its transforms stay.

    Args:
        transforms: of the frames.
        build: makes the tone of transforms.
    """

    def __init__(self, transforms: FrameTransforms, build: Callable[[Transforms], Tone]) -> None:
        self._transforms, self._build = transforms, build
        self._last: tuple[Transforms, Tone] | None = None

    def __call__(self, number: int) -> Tone:
        """The tone of frame `number`."""
        current = self._transforms.of(number)
        if self._last is None or not _same(self._last[0], current):
            self._last = current, self._build(current)
        return self._last[1]


def _same(one: Transforms, other: Transforms) -> bool:
    pairs = zip(one, other, strict=True)
    return all(
        a is b or (not isinstance(a, LookupTable) and not isinstance(b, LookupTable) and a == b) for a, b in pairs
    )


@dataclass(frozen=True)
class Ending:
    """What is done to a file's grey at the end: MONOCHROME1 is inverted, padding and what is not finite is black."""

    padding: Padding | None
    inverted: bool

    def finished(self, grey: Array, stored: Array) -> Array:
        """Invert if asked for, which follows the VOI transform, then blacken."""
        return self.blackened(255 - grey if self.inverted else grey, stored)

    def blackened(self, pixels: Array, stored: Array) -> Array:
        """`pixels` itself, black where `stored` is padding or not finite."""
        mask = padding_mask(stored, self.padding)
        if mask is not None:
            pixels[mask] = 0
        if stored.dtype.kind == "f":
            pixels[~np.isfinite(stored)] = 0
        return pixels


@dataclass(frozen=True)
class VoiTone:
    """Policy "voi": the file's window or VOI LUT."""

    modality: ModalityTransform
    voi: VoiTransform
    ending: Ending

    def __call__(self, stored: Array) -> Array:
        """Stored values to uint8."""
        values = apply_voi(self.voi, modality_values(stored, self.modality))
        return self.ending.finished(round_to_uint8(values), stored)


@dataclass(frozen=True)
class EightBitTone:
    """Policy "stored": eight bits that mean what they are."""

    ending: Ending

    def __call__(self, stored: Array) -> Array:
        """Stored values to uint8."""
        return self.ending.finished(stored.copy(), stored)


@dataclass(frozen=True)
class StretchTone:
    """Policy "percentile": modality values from `low` to `high` become 0 to 255."""

    modality: ModalityTransform
    low: float
    high: float
    ending: Ending

    def __call__(self, stored: Array) -> Array:
        """Stored values to uint8."""
        values = modality_values(stored, self.modality)
        return self.ending.finished(stretch_to_uint8(values, self.low, self.high), stored)


@dataclass(frozen=True)
class FullRangeTone:
    """Policy "full-range": what Google's serving container does to radiographs, see `dicom.decode_dicom`.

    Modality values are cut to whole numbers, which leaves less than 256 greys of a range smaller than that; such
    a range is not cut here. Unsigned eight-bit ones are kept, signed ones stretched to 0..255, all others to
    0..65535, cut and inverted, then rounded to eight bits.

    Source: the serving container of Google-Health/medgemma, python/data_accessors.
    """

    modality: ModalityTransform
    low: float
    high: float
    """Smallest and largest modality value of the file."""
    is_uint8: bool
    """The stored values are unsigned, of eight bits."""
    ending: Ending

    def __call__(self, stored: Array) -> Array:
        """Stored values to uint8."""
        cut = np.trunc if self.high - self.low >= 255 else np.asarray
        low, high = float(cut(self.low)), float(cut(self.high))
        values = cut(modality_values(stored, self.modality))
        if self._stays_eight_bit(low, high):
            return self.ending.finished(np.clip(values, 0, 255).astype(np.uint8), stored)
        if not high > low:
            return np.zeros(stored.shape, np.uint8)
        brightest = 255 if stored.dtype == np.int8 and not isinstance(self.modality, LookupTable) else _MAX_UINT16
        stretched = np.trunc(np.nan_to_num(np.interp(values, (low, high), (0, brightest))))
        if self.ending.inverted:
            stretched = brightest - stretched
        return self.ending.blackened(np.rint(stretched * (255 / brightest)).astype(np.uint8), stored)

    def _stays_eight_bit(self, low: float, high: float) -> bool:
        """Whether modality values are of the type uint8 in the container, and fit it."""
        if isinstance(self.modality, LookupTable):
            return self.modality.top == 255
        return self.is_uint8 and low >= 0 and high <= 255


@dataclass(frozen=True)
class CtTone:
    """Policy "ct-...": three windows in HU as RGB; its table serves all files of a series."""

    modality: ModalityTransform
    windows: CtWindows
    padding: Padding | None

    @property
    def serves_other_files(self) -> bool:
        """Whether the table is worth keeping: not where the modality transform is a table of one file."""
        return not isinstance(self.modality, LookupTable)

    def __call__(self, stored: Array) -> Array:
        """Stored values to (..., 3) uint8."""
        from ..volumes.presets import apply_hu_windows

        hu = whole_values(stored, self.modality)
        rgb = apply_hu_windows(hu.reshape(1, -1), self.windows).reshape(*stored.shape, 3)
        return Ending(self.padding, inverted=False).blackened(rgb, stored)
