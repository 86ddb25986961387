"""Headers of DICOM instances to series: stacks of slices in the order in which they lie in the patient.

A stack is made of one series' CT, MR or PET images of one size, orientation and frame of reference. What is left out
of it is named in a finding, or comes out as a picture of its own; nothing is lost in silence.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..frame import Array, Plane, TechnicalTags
from .rendering import HU, STORED, SliceDisplay
from .stack import SAME_POSITION_MM, measure_stack, mostly_even, projections_mm
from .volume import SeriesFinding

if TYPE_CHECKING:
    from ..dicom.header import InstanceHeader
    from ..source import Source

STACKED_MODALITIES = ("CT", "MR", "PT")
"""Modalities whose instances are slices of a volume."""

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kinds, which begin so
_LOCALISERS = frozenset(["LOCALIZER", "SCOUT", "TOPOGRAM", "SCANOGRAM", "SURVEY", "CT_SOM5 TOP", "CT_SOM7 TOP"])
_GREY = ("MONOCHROME1", "MONOCHROME2")
_SCREEN_SAVE = "SCREEN SAVE"  # a dose report among the slices
_SAME_DIRECTION = 2e-3  # of each cosine
_SAME_SPACING = 1e-3  # of itself
_FARTHEST_MM = 1e5  # from the origin; beyond it a position is nonsense
_SHARED_POSITIONS = 0.5  # of the smaller acquisition; fewer are the seam of two that were meant to meet


class SeriesSlice(NamedTuple):
    """One slice, not yet read."""

    source: Source
    """The file it is in."""
    frame: int
    """0 for single-frame files."""
    header: InstanceHeader
    """Of the file."""
    plane: Plane
    """Where the slice lies."""
    order: int
    """Place of the file in what the user gave."""


@dataclass(frozen=True, eq=False)
class Series:
    """Slices of one stack, sorted along their normal (row direction x column direction), none of them read yet."""

    slices: tuple[SeriesSlice, ...]
    """Two or more."""
    affine_lps_mm: Array
    """(4, 4) float64: (slice, row, column, 1) to LPS mm; sheared when the gantry was tilted."""
    file: str
    """The folder of the slices, or their file; the first slice's file where a folder holds several series."""
    findings: tuple[SeriesFinding, ...] = ()
    """Gaps, tilt, dropped images, ..."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(S, H, W)."""
        header = self.slices[0].header
        return len(self.slices), header.rows, header.columns

    @property
    def tags(self) -> TechnicalTags:
        """Technical attributes of the first slice."""
        return self.slices[0].header.tags

    @property
    def unit(self) -> str:
        """Of the voxels, "HU" or "stored": CT is in HU unless Rescale Type says otherwise. Source: PS3.3 C.8.2.1."""
        header = self.slices[0].header
        return HU if header.tags.modality == "CT" and header.rescale_type in (None, "HU") else STORED

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the slices' files, in slice order, each once."""
        return tuple(dict.fromkeys(item.source.name for item in self.slices))

    @property
    def sha256(self) -> str:
        """Hex digest of the slices' files in slice order; the file's own where there is but one."""
        digests = list(dict.fromkeys(item.header.sha256 for item in self.slices))
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def displays(self) -> tuple[SliceDisplay, ...]:
        """Windows and padding of the slices."""
        return tuple(_display(item) for item in self.slices)


def group_series(headers: Sequence[tuple[Source, InstanceHeader]]) -> list[Series | Source]:
    """Stack the slices of each series; whatever is no slice stays a file of its own.

    Args:
        headers: files in the order in which they were given, with their headers.

    Returns:
        Series, each at the place of its first file, and single files. Images that a series drops (derived ones
        beside originals, copies, other acquisitions of the same positions) are named in its findings.
    """
    groups: dict[tuple[object, ...], list[SeriesSlice]] = defaultdict(list)
    for order, (source, header) in enumerate(headers):
        for item in _slices(source, header, order):
            groups[_group_key(item)].append(item)
    stacks = [stack for group in groups.values() if (stack := _stack(group))]
    series_at = {min(item.order for item in stack.slices): stack for stack in stacks}
    used = {item.order for stack in stacks for item in (*stack.slices, *stack.dropped)}
    names = Counter(_common_name(stack.slices) for stack in stacks)
    entries: list[Series | Source] = []
    for order, (source, _) in enumerate(headers):
        if order in series_at:
            entries.append(_series(series_at[order], source, names))
        elif order not in used:
            entries.append(source)
    return entries


# One series to one stack


class _Stack(NamedTuple):
    slices: list[SeriesSlice]  # sorted
    dropped: list[SeriesSlice]
    findings: list[SeriesFinding]


def _slices(source: Source, header: InstanceHeader, order: int) -> list[SeriesSlice]:
    """A file's slices; none if it cannot be part of a stack."""
    if not _may_be_stacked(header):
        return []
    single = (header.tags.plane,) if header.tags.plane else ()
    planes = single if header.num_frames == 1 else header.frame_planes
    if len(planes) != header.num_frames or np.abs([plane.position_mm for plane in planes]).max() > _FARTHEST_MM:
        return []
    return [SeriesSlice(source, frame, header, plane, order) for frame, plane in enumerate(planes)]


def _may_be_stacked(header: InstanceHeader) -> bool:
    """Whether it is a grey image of a scanner that stacks, in a series, and not a picture of a screen."""
    tags = header.tags
    captured = (header.sop_class_uid or "").startswith(_SECONDARY_CAPTURE) or _SCREEN_SAVE in header.image_type
    grey = tags.photometric_interpretation in _GREY
    return tags.modality in STACKED_MODALITIES and grey and not captured and bool(header.series_uid and tags.spacing_mm)


def _group_key(item: SeriesSlice) -> tuple[object, ...]:
    header, tags = item.header, item.header.tags
    size = header.rows, header.columns
    return header.series_uid, tags.modality, header.frame_of_reference_uid, tags.photometric_interpretation, size


def _stack(group: list[SeriesSlice]) -> _Stack | None:
    """Leave out what is no part of the stack; None when fewer than two positions remain."""
    stack = _Stack(group, [], [])
    for leave_out in (_copies, _localisers, _derived, _other_geometry, _other_acquisitions, _repeats):
        stack = leave_out(stack)
        if len(stack.slices) < 2:
            return None
    return stack


def _series(stack: _Stack, first: Source, names: Counter[str]) -> Series:
    slices = stack.slices
    header = slices[0].header
    assert header.tags.spacing_mm is not None  # `_slices` saw to it
    geometry = measure_stack([item.plane for item in slices], header.tags.spacing_mm, header.tags.slice_thickness_mm)
    name = _common_name(slices)
    findings = (*stack.findings, *geometry.findings)
    return Series(tuple(slices), geometry.affine_lps_mm, name if names[name] == 1 and name else first.name, findings)


def _common_name(slices: Sequence[SeriesSlice]) -> str:
    """The one file, or the folder of all files; "" where there is none."""
    names = list(dict.fromkeys(item.source.name for item in slices))
    if len(names) == 1:
        return names[0]
    try:
        return os.path.commonpath([os.path.dirname(name) for name in names])
    except ValueError:  # absolute and relative names
        return ""


def _display(item: SeriesSlice) -> SliceDisplay:
    header = item.header
    padding = header.padding_value
    if padding is not None and header.pixel_representation == 1 and padding >= 2**15:
        padding -= 2**16  # -2000 is often written as 63536
    in_unit = None if padding is None else padding * header.rescale_slope + header.rescale_intercept
    voi = header.vois[min(item.frame, len(header.vois) - 1)]
    return SliceDisplay(voi.transform, in_unit)


# What is left out, each step with its finding


def _copies(stack: _Stack) -> _Stack:
    """Keep one of the files that have the same bytes or the same instance UID."""
    kept: list[SeriesSlice] = []
    copies: list[SeriesSlice] = []
    seen: set[tuple[str, int]] = set()
    # Of two files with one instance UID, the same one stays whatever their order.
    for item in sorted(stack.slices, key=lambda item: (item.header.sha256, item.order, item.frame)):
        identities = {(uid, item.frame) for uid in (item.header.sha256, item.header.instance_uid) if uid}
        (copies if seen & identities else kept).append(item)
        seen |= identities
    return _without(stack, kept, copies, "duplicate", "{n} left out: copies of slices already there")


def _localisers(stack: _Stack) -> _Stack:
    def is_localiser(item: SeriesSlice) -> bool:
        return not _LOCALISERS.isdisjoint(item.header.image_type[2:])

    others = [item for item in stack.slices if not is_localiser(item)]
    localisers = [item for item in stack.slices if is_localiser(item)]
    text = "{n} not in the stack: localisers, which are pictures of their own"
    return _without(stack, others, localisers, "localiser", text, drop=False)


def _derived(stack: _Stack) -> _Stack:
    """Originals alone, or derived images alone: lossy compression marks every image of a series as derived."""
    derived = [item for item in stack.slices if item.header.image_type[:1] == ("DERIVED",)]
    originals = [item for item in stack.slices if item.header.image_type[:1] != ("DERIVED",)]
    if derived and not originals:
        finding = SeriesFinding("derived", "all images are derived (reformatted, or compressed with loss)")
        return stack._replace(findings=[*stack.findings, finding])
    return _without(stack, originals, derived, "derived-dropped", "{n} left out: derived from others")


def _other_geometry(stack: _Stack) -> _Stack:
    """Keep the parallel slices, with one pixel spacing, that are at most positions."""
    geometries = np.array([_directions_and_spacing(item) for item in stack.slices])
    tolerance = np.array([_SAME_DIRECTION] * 6 + [_SAME_SPACING] * 2)
    left, best, most = np.arange(len(geometries)), np.arange(0), 0
    while left.size > most:
        same = (np.abs(geometries[left] - geometries[left[0]]) <= tolerance).all(axis=1)
        positions = projections_mm([stack.slices[number].plane for number in left[same]])
        num_positions = len(np.unique(np.round(positions / SAME_POSITION_MM)))
        if num_positions > most:
            best, most = left[same], num_positions
        left = left[~same]
    chosen = set(best.tolist())
    kept = [item for number, item in enumerate(stack.slices) if number in chosen]
    others = [item for number, item in enumerate(stack.slices) if number not in chosen]
    text = "{n} not in the stack: at another angle, or of another pixel spacing"
    return _without(stack, kept, others, "other-orientation", text, drop=False)


def _directions_and_spacing(item: SeriesSlice) -> tuple[float, ...]:
    """Six cosines, and the logarithms of both spacings, whose differences are relative ones."""
    rows_mm, columns_mm = item.header.tags.spacing_mm or (1.0, 1.0)
    return (*item.plane.row_direction, *item.plane.column_direction, math.log(rows_mm), math.log(columns_mm))


def _other_acquisitions(stack: _Stack) -> _Stack:
    """Of acquisitions (echoes, time points, b-values, fat or water, ...) at the same positions keep the largest.

    Acquisitions at other positions are parts of one stack: head scans are often made in steps.
    """
    numbers: dict[_Acquisition, list[int]] = defaultdict(list)
    for number, item in enumerate(stack.slices):
        numbers[_acquisition(item)].append(number)

    def rank(key: _Acquisition) -> tuple[int, float, _Acquisition]:
        first = min(_instance_number(stack.slices[number]) for number in numbers[key])
        return -len(numbers[key]), first, key

    largest_first = sorted(numbers, key=rank)
    positions = projections_mm([item.plane for item in stack.slices])
    parts = _joined([numbers[key] for key in largest_first], positions, _meets)
    if not mostly_even(positions[np.concatenate(parts)]):
        parts = _joined(parts, positions, _interleaves)
    chosen = {number for part in parts for number in part}
    kept = [item for number, item in enumerate(stack.slices) if number in chosen]
    others = [item for number, item in enumerate(stack.slices) if number not in chosen]
    if len(parts) > 1:
        finding = SeriesFinding("joined-acquisitions", f"the stack is joined from {len(parts)} acquisitions")
        stack = stack._replace(findings=[*stack.findings, finding])
    text = "{n} left out: other acquisitions (or echoes, time points, b-values, image types) of the same region"
    return _without(stack, kept, others, "other-acquisition", text)


def _joined(parts: list[list[int]], positions: Array, conflict: Callable[[Array, Array], bool]) -> list[list[int]]:
    """The first part, and each further one that does not conflict with those before."""
    joined, taken = parts[:1], positions[parts[0]]
    for part in parts[1:]:
        if not conflict(taken, positions[part]):
            joined.append(part)
            taken = np.concatenate([taken, positions[part]])
    return joined


def _meets(taken: Array, added: Array) -> bool:
    """Whether more positions are in both than a seam would have."""
    shared = (np.abs(taken[:, None] - added) <= SAME_POSITION_MM).any(axis=0).sum()
    return bool(shared >= max(_SHARED_POSITIONS * min(len(taken), len(added)), 1))


def _interleaves(taken: Array, added: Array) -> bool:
    """Whether slices of a second phase lie among those of the first; one slice alone is none."""
    return bool(len(added) > 1 and added.min() < taken.max() and added.max() > taken.min())


class _Acquisition(NamedTuple):
    numbers: tuple[tuple[bool, float], ...]
    image_type: tuple[str, ...]


def _acquisition(item: SeriesSlice) -> _Acquisition:
    """What tells apart images of one position: time, echo, b-value, or fat, water, magnitude, phase, ..."""
    header = item.header
    numbers: tuple[float | None, ...] = (
        header.acquisition_number, header.echo_number, header.temporal_position, header.diffusion_b_value
    )  # fmt: skip
    image_type = header.image_type
    if header.frame_moments:
        *of_frame, frame_type = header.frame_moments[item.frame]
        numbers, image_type = (*numbers, *of_frame), (*image_type, *frame_type)
    return _Acquisition(tuple((number is not None, number or 0.0) for number in numbers), image_type)


def _instance_number(item: SeriesSlice) -> float:
    return math.inf if item.header.instance_number is None else item.header.instance_number


def _repeats(stack: _Stack) -> _Stack:
    """Sort along the normal and keep the first of the slices at one position."""
    positions = projections_mm([item.plane for item in stack.slices])
    numbered = sorted(zip(positions.tolist(), stack.slices, strict=True), key=lambda pair: _place(*pair))
    kept: list[SeriesSlice] = []
    repeats: list[SeriesSlice] = []
    last_mm = -np.inf
    for position_mm, item in numbered:
        if position_mm - last_mm <= SAME_POSITION_MM:
            repeats.append(item)
        else:
            kept.append(item)
            last_mm = position_mm
    text = "{n} left out: where another slice lies, with nothing to tell them apart (the first by number is kept)"
    return _without(stack, kept, repeats, "repeated-position", text)


def _place(position_mm: float, item: SeriesSlice) -> tuple[float, float, str, int]:
    return round(position_mm / SAME_POSITION_MM), _instance_number(item), item.header.sha256, item.frame


def _without(
    stack: _Stack, kept: list[SeriesSlice], left_out: list[SeriesSlice], kind: str, text: str, *, drop: bool = True
) -> _Stack:
    if not left_out:
        return stack._replace(slices=kept)
    files = tuple(dict.fromkeys(item.source.name for item in sorted(left_out, key=lambda item: item.order)))
    number = f"{len(left_out)} {'image' if len(left_out) == 1 else 'images'}"
    finding = SeriesFinding(kind, text.format(n=number), files)
    return _Stack(kept, [*stack.dropped, *(left_out if drop else [])], [*stack.findings, finding])
