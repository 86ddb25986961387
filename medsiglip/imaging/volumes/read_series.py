"""A series to voxels, or straight to the pictures a model is shown; at most one slice more than needed in memory.

S is slices, H is rows, W is columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..frame import Array, ImageError, check_size
from ..picture import Picture, Square
from ..resize import resize
from ..units import HU_UNPROVEN, UNPROVEN_FINDING, proven
from .presets import CT_WINDOWS, ct_windows, sample_slices
from .rendering import (
    MIN_MAX,
    SliceRenderer,
    ValueRange,
    choose_preset,
    slice_picture,
    slice_tags,
    warn_unless_axial,
)
from .series import Series
from .volume import Volume

if TYPE_CHECKING:
    from ..source import Source
    from ..workers.pool import DecoderPool

Frame = TypeVar("Frame")


def read_volume(series: Series, pool: DecoderPool) -> Volume:
    """Read all slices, each decoded by the pool and copied straight into its place.

    Args:
        series: as `group_series` found it.
        pool: decodes several files at a time.

    Returns:
        (S, H, W) int16, or float32 when a slice's values are not whole or do not fit; HU for CT, where tags say so or
        the lowest values show it.

    Raises:
        ImageError: a slice cannot be decoded or has another size than its header says; names the file.
    """
    check_size(int(np.prod(series.shape)), f"a volume of {' x '.join(map(str, series.shape))} voxels", series.file)
    voxels = np.empty(series.shape, np.int16 if _is_whole(series) else np.float32)
    for index, values in _decoded_values(series, pool, range(len(series.slices))):
        if not np.can_cast(values.dtype, voxels.dtype):
            voxels = voxels.astype(np.float32)
        voxels[index] = values
    unit = proven(series.unit, _lowest(voxels, series)) if series.unit == HU_UNPROVEN else series.unit
    return Volume(
        voxels,
        unit,
        series.affine_lps_mm,
        series.file,
        series.sha256,
        series.files,
        series.tags,
        (*series.findings, *([UNPROVEN_FINDING] if unit == HU_UNPROVEN else [])),
        series.displays,
    )


def _lowest(voxels: Array, series: Series) -> float:
    """The smallest value that is no padding."""
    renderer = SliceRenderer.of(MIN_MAX, series.displays, series.tags)
    lows = (renderer.widened(ValueRange(), values, index).low for index, values in enumerate(voxels))
    return min(lows, default=0.0)


def series_pictures(
    series: Series,
    pool: DecoderPool,
    preset: str | None = None,
    budget: int | None = None,
    sampling: str = "even",
    square: Square | None = None,
) -> Iterator[Picture]:
    """Show slices one by one without ever holding the volume; what `Volume.pictures` shows, byte for byte.

    With a CT preset only the chosen slices are read, and windowed (and resized) by the pool's workers; presets that
    stretch the whole volume's range read every slice once.

    Args:
        series: as `group_series` found it.
        pool: decodes several files at a time.
        preset: see `Volume.pictures`.
        budget: slices that are shown at most; None: all.
        sampling: how `presets.sample_slices` chooses them.
        square: makes every picture this square, (S, S, 3).

    Raises:
        ImageError: a CT preset for a series that is not in HU; while iterating, a slice that cannot be decoded.
        ValueError: an unknown preset or sampling, or a budget below 1.

    Warns:
        UserWarning: the slices are not axial, which MedGemma has not seen in training.
    """
    if series.unit == HU_UNPROVEN:  # what the values show takes all of them
        volume = read_volume(series, pool)
        return (_squared(picture, square) for picture in volume.pictures(preset, budget, sampling))
    preset = choose_preset(preset, series.unit, series.file)
    warn_unless_axial(series.affine_lps_mm, preset, series.file)
    num_slices = len(series.slices)
    indices = list(range(num_slices)) if budget is None else sample_slices(num_slices, budget, sampling)
    if preset in CT_WINDOWS:
        ct_windows(preset)  # warns
        return _windowed(series, pool, f"ct-{preset}", indices, square)
    return _stretched(series, pool, SliceRenderer.of(preset, series.displays, series.tags), indices, square)


def _windowed(
    series: Series, pool: DecoderPool, policy: str, indices: Sequence[int], square: Square | None
) -> Iterator[Picture]:
    files = _by_file(series, indices)
    pictures = pool.pictures((source for source, _ in files), policy, square=square)
    for (source, wanted), decoded in zip(files, pictures, strict=True):
        for index, picture in _frames(series, source, wanted, decoded):
            _check_shape(series, picture.pixels, source, square)
            tags = slice_tags(series.tags, series.affine_lps_mm, index)
            yield replace(
                picture, file=series.file, frame=index, sha256=series.sha256, tags=tags, findings=series.findings
            )


def _stretched(
    series: Series,
    pool: DecoderPool,
    renderer: SliceRenderer,
    indices: Sequence[int],
    square: Square | None,
) -> Iterator[Picture]:
    """Where the range of the whole volume is needed, the chosen slices wait for it."""
    waiting: list[tuple[int, Array]] = []
    values_range = ValueRange()
    needs_range = renderer.needs_range(indices)
    chosen = set(indices)
    for index, values in _decoded_values(series, pool, range(len(series.slices)) if needs_range else indices):
        if not needs_range:
            yield _shown(series, renderer, index, values, values_range, square)
            continue
        values_range = renderer.widened(values_range, values, index)
        if index in chosen:
            waiting.append((index, values))
    for index, values in waiting:
        yield _shown(series, renderer, index, values, values_range, square)


def _shown(
    series: Series,
    renderer: SliceRenderer,
    index: int,
    values: Array,
    values_range: ValueRange,
    square: Square | None,
) -> Picture:
    rendered = renderer.render(values, index, values_range)
    affine, findings = series.affine_lps_mm, series.findings
    return _squared(slice_picture(rendered, index, affine, series.file, series.sha256, series.tags, findings), square)


def _squared(picture: Picture, square: Square | None) -> Picture:
    if square is None:
        return picture
    try:
        return replace(picture, pixels=resize(picture.pixels, *square), square=square)
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError(picture.file, str(error)) from None


# From files to slices


def _decoded_values(series: Series, pool: DecoderPool, indices: Sequence[int]) -> Iterator[tuple[int, Array]]:
    """Slice index and (H, W) values, each file decoded once; frames are let go as soon as they have been taken."""
    files = _by_file(series, indices)
    for (source, wanted), decoded in zip(files, pool.values(source for source, _ in files), strict=True):
        for index, values in _frames(series, source, wanted, decoded):
            _check_shape(series, values, source)
            yield index, values


def _by_file(series: Series, indices: Sequence[int]) -> list[tuple[Source, list[int]]]:
    """Files in slice order, with the indices of the slices that are wanted of each."""
    wanted: dict[int, list[int]] = {}
    for index in indices:
        wanted.setdefault(series.slices[index].order, []).append(index)
    return [(series.slices[numbers[0]].source, numbers) for numbers in wanted.values()]


def _frames(
    series: Series, source: Source, wanted: Sequence[int], decoded: list[Frame] | ImageError
) -> Iterator[tuple[int, Frame]]:
    if isinstance(decoded, ImageError):
        advice = f"without it the series {series.file or 'in memory'} has a gap: copy the file again, or move it away"
        raise ImageError(source.name, f"{decoded.reason} ({advice})") from None
    frames: list[Frame | None] = list(decoded)
    decoded.clear()
    for index in wanted:
        number = series.slices[index].frame
        frame = frames[number] if number < len(frames) else None
        if frame is None:
            reason = f"{len(frames)} frames, fewer than its header says; copy the file again"
            raise ImageError(source.name, reason)
        frames[number] = None
        yield index, frame


def _check_shape(series: Series, values: Array, source: Source, square: Square | None = None) -> None:
    expected = series.shape[1:] if square is None else (square.size_px, square.size_px)
    if values.shape[:2] != expected:
        got = f"{values.shape[0]} rows x {values.shape[1]} columns"
        reason = f"decodes to {got}, its header says {expected[0]} x {expected[1]}; copy the file again"
        raise ImageError(source.name, reason)


def _is_whole(series: Series) -> bool:
    """Whether every slice is rescaled by whole numbers, as far as headers say."""
    headers = {id(item.header): item.header for item in series.slices}.values()
    return all(header.rescale_slope.is_integer() and header.rescale_intercept.is_integer() for header in headers)
