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

from ..frame import Array, Finding, TechnicalTags
from ..units import HU_UNPROVEN, STORED
from .acquisitions import one_acquisition, selected
from .rendering import SliceDisplay, padding_in_unit
from .select import Selection
from .slices import NotAStack, SeriesSlice, Stack, without
from .stack import SAME_POSITION_MM, measure_stack, projections_mm

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
MOSAIC = "MOSAIC"
NOT_A_VOLUME = "not-a-volume"
"""Kind of the finding of a picture that should have been a slice of a volume."""


@dataclass(frozen=True, eq=False)
class Series:
    """Slices of one stack, sorted along their normal (row direction x column direction), none of them read yet."""

    slices: tuple[SeriesSlice, ...]
    """Two or more."""
    affine_lps_mm: Array
    """(4, 4) float64: (slice, row, column, 1) to LPS mm; sheared when the gantry was tilted."""
    file: str
    """The folder of the slices, or their file; the first slice's file where a folder holds several series."""
    findings: tuple[Finding, ...] = ()
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
        """Of the voxels, as far as tags say: "HU", "HU, unproven" or "stored"; see `units.unit_of`."""
        units = {item.header.unit for item in self.slices}
        return units.pop() if len(units) == 1 else HU_UNPROVEN if HU_UNPROVEN in units else STORED

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


class LooseSlice(NamedTuple):
    """A file of a series that became no volume."""

    source: Source
    """Comes out as a picture of its own."""
    finding: Finding
    """Why it is in no volume."""


class RefusedSeries(NamedTuple):
    """A series of which no volume can be made without a guess, or that holds nothing of what was asked for."""

    file: str
    """Its name."""
    reason: str
    """One line, and what to do."""
    order: int
    """Place of its first file in what the user gave."""


def group_series(
    headers: Sequence[tuple[Source, InstanceHeader]], select: Selection = (), applied: set[str] | None = None
) -> list[Series | Source | LooseSlice | RefusedSeries]:
    """Stack the slices of each series; whatever is no slice stays a file of its own.

    Args:
        headers: files in the order in which they were given, with their headers.
        select: which acquisition of several the user chose.
        applied: takes the keys of `select` that told something apart.

    Returns:
        Series, each at the place of its first file, and single files. Images that a series drops (derived ones
        beside originals, copies, other acquisitions of the same positions) are named in its findings.
    """
    applied = set() if applied is None else applied
    groups: dict[tuple[object, ...], list[SeriesSlice]] = defaultdict(list)
    faults: dict[tuple[object, ...], list[_Fault]] = defaultdict(list)
    for order, (source, header) in enumerate(headers):
        slices = _slices(source, header, order)
        for item in slices:
            groups[_group_key(item)].append(item)
        if not slices and (reason := _fault(header)):
            faults[_series_key(source, header)].append(_Fault(order, reason))
    stacked = {key: _stack(group, select, applied) for key, group in groups.items()}
    stacks = [stack for stack in stacked.values() if isinstance(stack, Stack)]
    used = {item.order for stack in stacks for item in (*stack.slices, *stack.dropped)}
    names = Counter(_common_name(stack.slices) for stack in stacks)
    by_order: dict[int, Series | LooseSlice | RefusedSeries] = {}
    for stack in stacks:
        first = min(item.order for item in stack.slices)
        by_order[first] = _series(stack, headers[first][0], names)
    for key, result in stacked.items():
        if isinstance(result, NotAStack):
            slices = [item for item in groups[key] if not _is_localiser(item.header)]
            used |= {item.order for item in slices}
            refused = _refused(slices, result.reason)
            by_order[refused.order] = refused
    for order, finding in _loose(groups, stacked, faults).items():
        if order not in used:
            by_order[order] = LooseSlice(headers[order][0], finding)
    places = [order for order in range(len(headers)) if order in by_order or order not in used]
    return [by_order.get(order, headers[order][0]) for order in places]


# One series to one stack


class _Fault(NamedTuple):
    order: int
    reason: str


def _slices(source: Source, header: InstanceHeader, order: int) -> list[SeriesSlice]:
    """A file's slices; none if it cannot be part of a stack."""
    if not _may_be_stacked(header) or header.tags.spacing_mm is None:
        return []
    single = (header.tags.plane,) if header.tags.plane else ()
    planes = single if header.num_frames == 1 else header.frame_planes
    if len(planes) != header.num_frames or np.abs([plane.position_mm for plane in planes]).max() > _FARTHEST_MM:
        return []
    return [SeriesSlice(source, frame, header, plane, order) for frame, plane in enumerate(planes)]


def _may_be_stacked(header: InstanceHeader) -> bool:
    """Whether it is a grey image of a scanner that stacks, and not a picture of a screen or of many slices."""
    tags = header.tags
    captured = (header.sop_class_uid or "").startswith(_SECONDARY_CAPTURE) or _SCREEN_SAVE in header.image_type
    grey = tags.photometric_interpretation in _GREY
    return tags.modality in STACKED_MODALITIES and grey and not captured and MOSAIC not in header.image_type


def _fault(header: InstanceHeader) -> str:
    """Why a file that may be a slice is none; "" for a picture that never was one."""
    if not _may_be_stacked(header) or _is_localiser(header):
        return ""
    if header.geometry_fault:
        return header.geometry_fault
    return "Image Position (Patient) (0020,0032) is farther away than a patient can be, or not there for every frame"


def _series_key(source: Source, header: InstanceHeader) -> tuple[object, ...]:
    """What files of one series share; without a Series Instance UID (0020,000E), the folder."""
    in_series = header.series_uid or f"in {os.path.dirname(source.name)}"
    return in_series, header.tags.modality


def _group_key(item: SeriesSlice) -> tuple[object, ...]:
    header = item.header
    size = header.rows, header.columns
    return (*_series_key(item.source, header), header.frame_of_reference_uid, header.inverted, size)


def _loose(
    groups: dict[tuple[object, ...], list[SeriesSlice]],
    stacked: dict[tuple[object, ...], Stack | NotAStack | None],
    faults: dict[tuple[object, ...], list[_Fault]],
) -> dict[int, Finding]:
    """For files of series that became no volume, by their place, the reason; one file alone is no series."""
    found: dict[int, Finding] = {}
    for fault in (several for several in faults.values() if len(several) > 1):
        text = f"{len(fault)} files of one series are single pictures, not a volume: {fault[0].reason}"
        found |= {item.order: Finding(NOT_A_VOLUME, text) for item in fault}
    for key, group in groups.items():
        others = [item for item in group if not _is_localiser(item.header)]
        if stacked[key] is None and len(others) > 1:
            text = f"{len(others)} images of one series are single pictures, not a volume: fewer than two of them lie "
            found |= {item.order: Finding(NOT_A_VOLUME, f"{text}behind each other") for item in others}
    return found


def _stack(group: list[SeriesSlice], select: Selection, applied: set[str]) -> Stack | NotAStack | None:
    """Leave out what is no part of the stack; None when fewer than two positions remain."""
    stack: Stack | NotAStack = Stack(group, [], [])
    steps: list[Callable[[Stack], Stack | NotAStack]] = [
        _copies,
        _localisers,
        lambda stack: selected(stack, select, applied),
        _derived,
        _other_geometry,
        lambda stack: one_acquisition(stack, select, applied) if _has_depth(stack) else stack._replace(slices=[]),
    ]
    for leave_out in steps:
        if isinstance(stack, Stack) and len(stack.slices) < 2:
            return None
        stack = leave_out(stack) if isinstance(stack, Stack) else stack
    return None if isinstance(stack, Stack) and len(stack.slices) < 2 else stack


def _has_depth(stack: Stack) -> bool:
    """Whether slices lie at more than one position."""
    positions = projections_mm([item.plane for item in stack.slices])
    return bool(np.ptp(positions) > SAME_POSITION_MM)


def _series(stack: Stack, first: Source, names: Counter[str]) -> Series:
    slices = stack.slices
    header = slices[0].header
    assert header.tags.spacing_mm is not None  # `_slices` saw to it
    geometry = measure_stack([item.plane for item in slices], header.tags.spacing_mm, header.tags.slice_thickness_mm)
    name = _common_name(slices)
    findings = (*stack.findings, *_header_findings(slices), *geometry.findings)
    return Series(tuple(slices), geometry.affine_lps_mm, name if names[name] == 1 and name else first.name, findings)


def _refused(group: list[SeriesSlice], reason: str) -> RefusedSeries:
    first = min(group, key=lambda item: item.order)
    return RefusedSeries(_common_name(group) or first.source.name, reason, first.order)


def _header_findings(slices: Sequence[SeriesSlice]) -> list[Finding]:
    """What each file's tags are found to say, once for all files that say it."""
    files: dict[Finding, list[str]] = defaultdict(list)
    for item in slices:
        for finding in item.header.findings:
            files[finding].append(item.source.name)
    found = [finding._replace(files=tuple(dict.fromkeys(names))) for finding, names in files.items()]
    if slices[0].header.series_uid is None:
        text = "the files have no Series Instance UID (0020,000E); those of one folder are taken for one series"
        found.append(Finding("no-series-uid", text))
    return found


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
    voi = header.vois[min(item.frame, len(header.vois) - 1)]
    return SliceDisplay(voi.transform, padding_in_unit(header), header.inverted)


# What is left out, each step with its finding


def _copies(stack: Stack) -> Stack:
    """Keep one of the files that have the same bytes, or the same instance UID at one position.

    A UID that many positions share was put there for privacy, and names nothing.
    """
    kept: list[SeriesSlice] = []
    copies: list[SeriesSlice] = []
    places: dict[str, set[tuple[float, ...]]] = defaultdict(set)
    for item in stack.slices:
        if item.header.instance_uid and item.header.num_frames == 1:
            places[item.header.instance_uid].add(item.plane.position_mm)
    shared = {uid for uid, positions in places.items() if len(positions) > 1}
    seen: set[tuple[str, int]] = set()
    # Of two files with one instance UID, the same one stays whatever their order.
    for item in sorted(stack.slices, key=lambda item: (item.header.sha256, item.order, item.frame)):
        uid = item.header.instance_uid
        names = (item.header.sha256, None if uid in shared else uid)
        identities = {(name, item.frame) for name in names if name}
        (copies if seen & identities else kept).append(item)
        seen |= identities
    return without(stack, kept, copies, "duplicate", "{n} left out: copies of slices already there")


def _is_localiser(header: InstanceHeader) -> bool:
    return not _LOCALISERS.isdisjoint(header.image_type[2:])


def _localisers(stack: Stack) -> Stack:
    others = [item for item in stack.slices if not _is_localiser(item.header)]
    localisers = [item for item in stack.slices if _is_localiser(item.header)]
    text = "{n} not in the stack: localisers, which are pictures of their own"
    return without(stack, others, localisers, "localiser", text, drop=False)


def _derived(stack: Stack) -> Stack:
    """Originals alone, or derived images alone: lossy compression marks every image of a series as derived."""
    derived = [item for item in stack.slices if item.header.image_type[:1] == ("DERIVED",)]
    originals = [item for item in stack.slices if item.header.image_type[:1] != ("DERIVED",)]
    if derived and not originals:
        finding = Finding("derived", "all images are derived (reformatted, or compressed with loss)")
        return stack._replace(findings=[*stack.findings, finding])
    return without(stack, originals, derived, "derived-dropped", "{n} left out: derived from others")


def _other_geometry(stack: Stack) -> Stack:
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
    return without(stack, kept, others, "other-orientation", text, drop=False)


def _directions_and_spacing(item: SeriesSlice) -> tuple[float, ...]:
    """Six cosines, and the logarithms of both spacings, whose differences are relative ones."""
    rows_mm, columns_mm = item.header.tags.spacing_mm or (1.0, 1.0)
    return (*item.plane.row_direction, *item.plane.column_direction, math.log(rows_mm), math.log(columns_mm))
