"""What the model sees, as a picture for a person: beside the file's own window, or slice by slice.

    view = View("nano", 112, "huggingface")
    sheet = draw(opened(["film.dcm", "ct/"], on_problem=print), view, on_problem=print)

S is the side of the model's square in pixels. Every square is shown pixel for pixel or enlarged by a whole number,
never smoothed; only the reader's left-hand copy of a large film is reduced.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from .drawing import BRIGHT, WARNING, Line, captioned, enlarged, fitted, side_by_side, stacked, text_block
from .frame import FULL_RANGE, PERCENTILE, VOI, ImageError, TechnicalTags
from .listing import FileProblem
from .open import open_images
from .picture import Picture
from .resize import resize
from .units import UNKNOWN
from .volumes.presets import CT_WINDOWS
from .volumes.rendering import MIN_MAX, default_view
from .volumes.volume import Volume

if TYPE_CHECKING:
    import PIL.Image

Item = TypeVar("Item")

_PAIR_SIDE_PX = 448
"""The model's square beside a film is enlarged to about this side."""
_TILE_SIDE_PX = 224
"""The same for a slice of a contact sheet."""
_LEAST_SHEET_PX = 900
"""A contact sheet is at least as wide as this if it has slices enough; its text needs the room."""
MAX_PAIRS, MAX_VOLUMES = 12, 4
"""What one sheet shows at most."""


class View(NamedTuple):
    """How a model is shown its pictures."""

    model: str
    """Its name, for the captions."""
    size_px: int
    """S."""
    resize_policy: str
    """One of `RESIZE_POLICIES`."""
    model_type: str = "siglip"
    """config.json's; it decides how volumes are shown, see `default_view`."""


class Pair(NamedTuple):
    """One frame twice."""

    own: Picture
    """Under the policy "voi"."""
    given: Picture
    """Under the policy that the model is given."""


def opened(
    sources: Sequence[str],
    policy: str = VOI,
    *,
    on_problem: Callable[[FileProblem], None],
    select: Mapping[str, object] | None = None,
) -> Iterator[Pair | Volume]:
    """Open files, folders, globs and zips for `draw`; what cannot be read is reported, and the others go on.

    Args:
        sources: as for `open_images`.
        policy: what the model is given: a policy of `open_images`, or "min-max" for volumes alone.
        on_problem: told of each source that cannot be read.
        select: as for `open_images`.

    Returns:
        An iterator in the order of the sources.

    Raises:
        ValueError: an unknown policy, or key to select by.
    """
    own = _Own(sources, select)
    for item in open_images(sources, VOI if policy == MIN_MAX else policy, on_problem, select=select):
        if isinstance(item, Volume):
            yield item
        elif policy == MIN_MAX:
            on_problem(FileProblem(item.file, "min-max is a policy of volumes; use voi or full-range"))
        else:
            yield Pair(item if policy == VOI else own.of(item), item)


class _Own:
    """The pictures of the same sources under the policy "voi", read along with the others."""

    def __init__(self, sources: Sequence[str], select: Mapping[str, object] | None) -> None:
        # What cannot be read is reported by the other reading.
        self._coming = open_images(sources, VOI, lambda problem: None, select=select)
        self._waiting: dict[tuple[str, int], Picture] = {}

    def of(self, given: Picture) -> Picture:
        """The same frame; `given` itself if it cannot be read with its own window."""
        key = given.file, given.frame
        while key not in self._waiting and (item := next(self._coming, None)) is not None:
            if isinstance(item, Picture):
                self._waiting[item.file, item.frame] = item
        return self._waiting.pop(key, given)


def draw(
    items: Iterable[Pair | Volume],
    view: View,
    *,
    policy: str = VOI,
    num_slices: int = 16,
    on_problem: Callable[[FileProblem], None],
) -> PIL.Image.Image | None:
    """Draw pictures as rows and, below them, volumes as contact sheets.

    Args:
        items: from `opened`.
        view: the model's size and resize policy.
        policy: for volumes: "voi" is the model's default view (`default_view`).
        num_slices: slices shown of a volume at most, evenly chosen.
        on_problem: told of what cannot be shown, such as a CT policy for an MR volume.

    Returns:
        RGB; None if there was nothing to draw. Of more than 12 pictures or 4 volumes the sheet says what is left out.
    """
    volumes: list[PIL.Image.Image] = []
    num_volumes = 0

    def drawn(item: Pair | Volume, numbered: bool = False) -> list[PIL.Image.Image]:
        try:
            if isinstance(item, Pair):
                return [draw_pair(item, view, numbered)]
            return [draw_volume(item, view, policy, num_slices)]
        except ValueError as error:
            file = item.given.file if isinstance(item, Pair) else item.file
            on_problem(FileProblem(file, error.reason if isinstance(error, ImageError) else str(error)))
            return []

    def pairs() -> Iterator[Pair]:
        nonlocal num_volumes
        for item in items:
            if isinstance(item, Pair):
                yield item
                continue
            num_volumes += 1
            if num_volumes <= MAX_VOLUMES:  # at once, so that one volume at a time is in memory
                volumes.extend(drawn(item))

    kept, num_pairs = evenly_kept(pairs(), MAX_PAIRS)
    multi_frame = {pair.given.file for pair in kept if pair.given.frame}
    parts = [part for pair in kept for part in drawn(pair, pair.given.file in multi_frame)] + volumes
    if not parts:
        return None
    left_out = _left_out(len(kept), num_pairs, num_volumes)
    return stacked([*([text_block(left_out, parts[0].width)] if left_out else []), *parts])


def _left_out(num_kept: int, num_pairs: int, num_volumes: int) -> list[Line]:
    lines = []
    if num_kept < num_pairs:
        lines.append(Line(f"{num_kept} of {num_pairs} pictures shown, evenly chosen", WARNING))
    if num_volumes > MAX_VOLUMES:
        lines.append(Line(f"the first {MAX_VOLUMES} of {num_volumes} volumes shown", WARNING))
    return lines


def evenly_kept(items: Iterable[Item], most: int) -> tuple[list[Item], int]:
    """About evenly spaced items of a stream, at most `most`, and how many came; never holds more than twice as many."""
    kept: list[Item] = []
    stride = 1
    count = 0
    for item in items:
        if count % stride == 0:
            kept.append(item)
        count += 1
        if len(kept) > 2 * most:
            kept, stride = kept[::2], stride * 2
    if len(kept) > most:
        kept = [kept[i] for i in np.linspace(0, len(kept) - 1, most).round().astype(int)]
    return kept, count


def draw_pair(pair: Pair, view: View, numbered: bool = False) -> PIL.Image.Image:
    """One row: the file's own window at its own aspect, and the square that the model sees.

    Args:
        pair: one frame.
        view: the model's size and resize policy.
        numbered: say which frame of its file it is.

    Returns:
        RGB; the left-hand picture fits the side of the right-hand square.
    """
    square = resize(pair.given.pixels, view.size_px, view.resize_policy)
    times = max(1, round(_PAIR_SIDE_PX / view.size_px))
    side = times * view.size_px
    left = captioned(fitted(pair.own.pixels, side), side, _own_caption(pair.own, numbered))
    right = captioned(enlarged(square, times), side, _model_caption(pair.given, view, times))
    return side_by_side([left, right])


def draw_volume(volume: Volume, view: View, policy: str = VOI, num_slices: int = 16) -> PIL.Image.Image:
    """A contact sheet: numbered slices as the model sees them, below the volume's facts and findings.

    Args:
        volume: with `policy` a CT preset, voxels of unknown unit (NIfTI) are taken as Hounsfield units.
        view: the model's size and resize policy.
        policy: see `draw`.
        num_slices: slices shown at most, evenly chosen.

    Returns:
        RGB, about as wide as it is high.

    Raises:
        ImageError: a CT policy for a volume of another modality, or a policy that volumes do not have.
    """
    preset = _preset_of(policy, view, volume)
    if policy.startswith("ct-") and volume.unit == UNKNOWN:
        volume = volume.as_hu()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        slices = list(volume.pictures(preset, num_slices))
    rows = _tile_rows(slices, view)
    heading = volume_heading(volume, slices, view, [str(warning.message) for warning in caught])
    return stacked([text_block(heading, max(row.width for row in rows)), *rows])


def _preset_of(policy: str, view: View, volume: Volume) -> str:
    """The volume's preset for a policy of the command line."""
    if policy == VOI:
        return default_view(view.model_type, volume.unit)
    if policy in (FULL_RANGE, PERCENTILE) or policy.startswith("voi:"):
        known = ", ".join([VOI, MIN_MAX, *(f"ct-{preset}" for preset in CT_WINDOWS)])
        raise ImageError(volume.file, f"the policy {policy!r} is for single pictures; for a volume use one of {known}")
    return policy.removeprefix("ct-")


def volume_heading(volume: Volume, slices: Sequence[Picture], view: View, warned: Sequence[str] = ()) -> list[Line]:
    """A volume's name, facts and findings, and what was warned of while its slices were rendered."""
    num_slices, height, width = volume.voxels.shape
    spacing = " x ".join(f"{value:.3g}" for value in volume.spacing_mm)
    shown = "all slices" if len(slices) == num_slices else f"{len(slices)} of {num_slices} slices, evenly chosen"
    findings = [*(f"{finding.kind}: {finding.text}" for finding in volume.findings), *warned]
    return [
        Line(Path(volume.file).name or "volume in memory", BRIGHT),
        Line(
            f"{volume.modality or 'unknown modality'}, {num_slices} slices of {height} rows x {width} columns, "
            f"unit {volume.unit}, spacing {spacing} mm (slices, rows, columns), "
            f"{volume.orientation} ({volume.axis_codes})"
        ),
        Line(f"what {view.model} sees: {shown}; policy {slices[0].policy}, {_resize_text(view, _tile_times(view))}"),
        *(Line(f"! {text}", WARNING) for text in dict.fromkeys(findings)),
    ]


def _tile_times(view: View) -> int:
    return max(1, round(_TILE_SIDE_PX / view.size_px))


def _tile_rows(slices: Sequence[Picture], view: View) -> list[PIL.Image.Image]:
    times = _tile_times(view)
    side = times * view.size_px
    columns = max(math.ceil(math.sqrt(len(slices))), min(len(slices), _LEAST_SHEET_PX // side))
    tiles = [
        captioned(
            enlarged(resize(picture.pixels, view.size_px, view.resize_policy), times),
            side,
            [Line(f"slice {picture.frame + 1}")],
        )
        for picture in slices
    ]
    return [side_by_side(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]


def _own_caption(picture: Picture, numbered: bool) -> list[Line]:
    height, width = picture.pixels.shape[:2]
    frame = f", frame {picture.frame + 1}" if numbered else ""
    source = "window" if picture.policy.startswith(VOI) else "pixels"
    return [
        Line(f"{Path(picture.file).name or 'picture in memory'}{frame}", BRIGHT),
        Line(f"own {source} ({picture.policy}), {height} rows x {width} columns"),
        Line(tags_line(picture.tags)),
    ]


def _model_caption(picture: Picture, view: View, times: int) -> list[Line]:
    height, width = picture.pixels.shape[:2]
    squared = "" if height == width else ", squashed" if view.resize_policy.startswith("huggingface") else ", padded"
    return [
        Line(f"what {view.model} sees", BRIGHT),
        Line(f"policy {picture.policy}"),
        Line(f"{_resize_text(view, times)}{squared}"),
    ]


def _resize_text(view: View, times: int) -> str:
    return f"resize {view.resize_policy} to {view.size_px} x {view.size_px} px" + (
        f" (shown x{times})" if times > 1 else ""
    )


def tags_line(tags: TechnicalTags) -> str:
    """The technical tags that are there: modality, body part, view, photometric interpretation, bits, spacing."""
    bits = f"{tags.bits_stored} bits" if tags.bits_stored else None
    spacing = " x ".join(f"{value:.3g}" for value in tags.spacing_mm or ())
    found = [
        tags.modality, tags.body_part, tags.view_position, tags.photometric_interpretation, bits,
        f"spacing {spacing} mm" if spacing else None,
    ]  # fmt: skip
    return ", ".join(part for part in found if part)
