"""Slices that are being put together to a stack, and the note of each that is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..frame import Finding, Plane

if TYPE_CHECKING:
    from ..dicom.header import InstanceHeader
    from ..dicom.moments import FrameMoment
    from ..source import Source


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

    @property
    def moment(self) -> FrameMoment:
        """What tells it apart from other images of its position."""
        return self.header.frame_moments[self.frame] if self.header.frame_moments else self.header.moment


class Stack(NamedTuple):
    """The slices of a series on their way to a volume."""

    slices: list[SeriesSlice]
    """Those that are in it."""
    dropped: list[SeriesSlice]
    """Those that are left out, and come out nowhere else."""
    findings: list[Finding]
    """One for each step that left slices out."""


class NotAStack(NamedTuple):
    """Why slices are no volume."""

    reason: str
    """One line, and what to do."""


def without(
    stack: Stack, kept: list[SeriesSlice], left_out: list[SeriesSlice], kind: str, text: str, *, drop: bool = True
) -> Stack:
    """The stack of the kept slices, with a finding that names the files of the others.

    Args:
        stack: as it was.
        kept: slices that stay.
        left_out: slices that go.
        kind: of the finding.
        text: of the finding, where "{n}" stands for "1 image" or "3 images".
        drop: whether the slices that go come out nowhere else; False for pictures of their own.
    """
    if not left_out:
        return stack._replace(slices=kept)
    files = tuple(dict.fromkeys(item.source.name for item in sorted(left_out, key=lambda item: item.order)))
    finding = Finding(kind, text.format(n=images(len(left_out))), files)
    return Stack(kept, [*stack.dropped, *(left_out if drop else [])], [*stack.findings, finding])


def images(count: int) -> str:
    """How many, in words."""
    return f"{count} {'image' if count == 1 else 'images'}"
