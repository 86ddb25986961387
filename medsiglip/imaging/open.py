"""The one door: anything that holds pictures to pictures and volumes.

`open_images` groups slices to volumes, `open_pictures` gives every frame as a picture, `read_pictures` reads one
file. All three stop at the first bad file with `ImageError`. Files are decoded in worker processes (see `workers`),
several at once and in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np

from .dicom.policies import check_policy
from .frame import VOI, Array, ImageError
from .listing import FileProblem, ListedFiles, list_archive, list_file, list_files
from .picture import Picture, Square
from .source import Source, as_source
from .volumes.read_series import read_volume
from .volumes.select import Selection, as_selection
from .volumes.series import LooseSlice, RefusedSeries, Series, group_series
from .volumes.volume import Volume
from .volumes.voxels import grey_volume
from .workers.pool import DecoderPool, shared_pool
from .zips import is_zip

if TYPE_CHECKING:
    import PIL.Image


ImageSource: TypeAlias = "str | os.PathLike[str] | Source | bytes | Array | Picture | PIL.Image.Image"
"""Anything that one picture, or one file, folder, glob, list or zip of pictures, may be given as."""


def open_images(
    source: ImageSource | Sequence[ImageSource],
    policy: str = VOI,
    on_problem: Callable[[FileProblem], None] | None = None,
    *,
    select: Mapping[str, object] | None = None,
) -> Iterator[Picture | Volume]:
    """Open anything as pictures and volumes, in order, one in memory at a time.

    DICOM slices of CT, MR and PET that lie behind each other become one volume, at the place of the first of them;
    so does a NIfTI file. All else is pictures. To find the slices the headers of all files are read first.

    Args:
        source: a file, folder, zip, glob or list as for `list_files`; the bytes of a file or zip; a (H, W) or
            (H, W, 3) uint8 array; a PIL image; a `Picture`; or a sequence of these.
        policy: how deeper DICOM pictures become eight bits: "voi" (the file's own window, or the full range where it
            has none), "voi:2" (its second window), "full-range", "percentile", or three windows of a CT,
            "ct-report", "ct-medgemma-1.5", "ct-google-container". Volumes keep their values.
        on_problem: told of each file that cannot be read, and the others go on; None: the first one is raised.
        select: which of several acquisitions of a series, or volumes of a file, such as {"echo": 2} or {"time": 3};
            the keys are those of `select.SELECT_KEYS`.

    Returns:
        An iterator of `Picture` and `Volume`. What a user should know of one is in its `findings`: files that a volume
        leaves out, and why slices became no volume.

    Raises:
        ImageError: while iterating, on the first source that cannot be read, or the first series of which no volume
            can be made without a guess.
        ValueError: an unknown policy, or key to select by, at once.
    """
    check_policy(policy)
    selection = as_selection(select)
    report = (lambda error: on_problem(FileProblem(error.file, error.reason))) if on_problem else _raise
    return _opened(source, policy, report, selection)


def open_pictures(
    source: ImageSource | Volume | Iterable[ImageSource | Volume],
    policy: str = VOI,
    *,
    square: Square | None = None,
    select: Mapping[str, object] | None = None,
) -> Iterator[Picture]:
    """Open anything as pictures only: every frame of every file, and every slice of NIfTI files, ungrouped.

    Args:
        source: as for `open_images`; what that yields, too: of a volume every slice, by its own preset.
        policy: see `open_images`.
        square: pictures from files are made this square where they are decoded; pictures in memory stay as they are.
        select: which volume of a file that holds several, by "time" and "channel".

    Returns:
        An iterator in the order of the source; no header is read beforehand.

    Raises:
        ImageError: while iterating, on the first source that cannot be read.
        ValueError: an unknown policy, or key to select by, at once.
    """
    check_policy(policy)
    return _pictures(source, policy, square, as_selection(select))


def read_pictures(
    file: str | os.PathLike[str] | Source, policy: str = VOI, *, select: Mapping[str, object] | None = None
) -> list[Picture]:
    """Read all frames of one file.

    Args:
        file: a DICOM instance (whatever its extension), PNG, JPEG, TIFF, BMP, WebP, GIF, NIfTI (one picture a
            slice), or a zip (the pictures of all members).
        policy: see `open_images`.
        select: see `open_pictures`.

    Returns:
        One picture a frame, (H, W, 3) uint8 each; `Picture.policy` says what was used.

    Raises:
        ImageError: missing, unreadable, truncated, too large or not a picture.
        ValueError: an unknown policy, or key to select by.
    """
    check_policy(policy)
    return list(_pictures_of(_in_turn(list_file(as_source(file))), policy, None, as_selection(select)))


def open_series(
    source: str | os.PathLike[str] | Source | Sequence[str | os.PathLike[str] | Source],
    pool: DecoderPool | None = None,
    *,
    select: Mapping[str, object] | None = None,
) -> list[Series]:
    """Find the series of slices in files, reading headers only.

    Args:
        source: a file, folder, zip, glob or list, or a sequence of these.
        pool: reads the headers; None for the process's own.
        select: see `open_images`.

    Returns:
        The series of CT, MR and PET that `read_volume` can read, in the order of their first files.

    Raises:
        ImageError: on the first source that gives no file, or the first series of which no volume can be made without
            a guess. Files without a readable header are no series.
        ValueError: an unknown key to select by.
    """
    entries = [entry for item in _as_sequence(source) for entry in _entries(item)]
    planned = _planned(list(_raising(entries)), pool or shared_pool(), as_selection(select))
    for item in planned:
        if isinstance(item, RefusedSeries | FileProblem):
            raise ImageError(item.file, item.reason)
    return [item for item in planned if isinstance(item, Series)]


# What the user gave, in order


def _as_sequence(source: ImageSource | Sequence[ImageSource]) -> Sequence[ImageSource]:
    return source if isinstance(source, Sequence) and not isinstance(source, str | bytes) else [source]


def _is_of_files(item: ImageSource) -> bool:
    return isinstance(item, str | os.PathLike | Source | bytes)


def _entries(item: ImageSource) -> list[Source | FileProblem]:
    """The files that a user's item names; problems first, so that they are raised before anything is read."""
    if isinstance(item, Source):
        listed = list_file(item)
    elif isinstance(item, bytes):
        listed = list_archive(item) if is_zip(item) else ListedFiles([Source("", data=item)], [])
    elif isinstance(item, str | os.PathLike):
        listed = list_files([item])
    else:
        raise TypeError(f"{type(item).__name__} names no files")
    return _in_turn(listed)


def _in_turn(listed: ListedFiles) -> list[Source | FileProblem]:
    return [*listed.problems, *listed.files]


def _raising(entries: Iterable[Source | FileProblem]) -> Iterator[Source]:
    for entry in entries:
        if isinstance(entry, FileProblem):
            raise ImageError(entry.file, entry.reason)
        yield entry


def _in_memory(item: ImageSource) -> Picture:
    if isinstance(item, Picture):
        return item
    return Picture.from_array(item) if isinstance(item, np.ndarray) else Picture.from_pil(item)  # type: ignore[arg-type]


# Pictures, and volumes among them


def _pictures(
    source: ImageSource | Volume | Iterable[ImageSource | Volume],
    policy: str,
    square: Square | None,
    select: Selection,
) -> Iterator[Picture]:
    for of_files, items in groupby(_items(source), _is_of_files):
        if of_files:
            yield from _pictures_of((entry for item in items for entry in _entries(item)), policy, square, select)
        else:
            for item in items:
                yield from item.pictures(VOI) if isinstance(item, Volume) else [_in_memory(item)]


def _items(source: Any) -> Iterable[Any]:
    several = isinstance(source, Iterable) and not isinstance(source, str | bytes | np.ndarray | Source)
    return source if several else [source]


def _pictures_of(
    entries: Iterable[Source | FileProblem], policy: str, square: Square | None, select: Selection
) -> Iterator[Picture]:
    for result in shared_pool().pictures(_raising(entries), policy, square=square, select=select):
        yield from _or_raise(result)


def _opened(
    source: ImageSource | Sequence[ImageSource], policy: str, report: Callable[[ImageError], None], select: Selection
) -> Iterator[Picture | Volume]:
    for of_files, items in groupby(_as_sequence(source), _is_of_files):
        if of_files:
            entries = [entry for item in items for entry in _entries(item)]
            yield from _opened_files(entries, policy, report, select)
        else:
            yield from map(_in_memory, items)


def _opened_files(
    entries: list[Source | FileProblem], policy: str, report: Callable[[ImageError], None], select: Selection
) -> Iterator[Picture | Volume]:
    pool = shared_pool()
    planned = _planned(entries, pool, select)
    sources = (item if isinstance(item, Source) else item.source for item in planned if _is_single(item))
    singles = pool.pictures(sources, policy, select=select)
    for item in planned:
        try:
            if isinstance(item, FileProblem | RefusedSeries):
                raise ImageError(item.file, item.reason)
            if isinstance(item, Series):
                yield read_volume(item, pool)
            elif isinstance(item, _VolumeFile):
                yield _volume_of_file(item.source, pool, select)
            elif isinstance(item, LooseSlice):
                pictures = _or_raise(next(singles))
                yield from (replace(one, findings=(*one.findings, item.finding)) for one in pictures)
            else:
                yield from _or_raise(next(singles))
        except ImageError as error:
            report(error)


class _VolumeFile(NamedTuple):
    source: Source


_Planned: TypeAlias = "Series | Source | LooseSlice | RefusedSeries | _VolumeFile | FileProblem"


def _is_single(item: _Planned) -> TypeGuard[Source | LooseSlice]:
    return isinstance(item, Source | LooseSlice)


def _planned(entries: Sequence[Source | FileProblem], pool: DecoderPool, select: Selection) -> list[_Planned]:
    """Slices put together to series, each at the place of its first file; all else at its own place."""
    entries = [replace(entry) for entry in entries]  # so that a file that was named twice has two identities
    place = {id(entry): number for number, entry in enumerate(entries)}
    files = [entry for entry in entries if isinstance(entry, Source)]
    read = list(zip(files, pool.contents(files), strict=True))
    known = [(file, content) for file, content in read if not isinstance(content, ImageError)]
    headers = [(file, content.header) for file, content in known if content.header is not None]
    applied: set[str] = set()
    grouped = group_series(headers, select, applied)
    in_group = {id(file) for file, _ in headers}
    volumes = {id(file) for file, content in known if content.is_grey_volume}
    if any(content.format == "volume" for _, content in known):
        applied |= {"time", "channel"}  # each file says itself what it has
    planned: list[tuple[int, _Planned]] = [(-1, problem) for problem in _unused(select, applied)]
    for number, entry in enumerate(entries):
        if isinstance(entry, Source) and id(entry) in volumes:
            planned.append((number, _VolumeFile(entry)))
        elif id(entry) not in in_group:
            planned.append((number, entry))
    places = [place[id(file)] for file, _ in headers]
    planned += [(_first_place(entry, place, places), entry) for entry in grouped]
    return [entry for _, entry in sorted(planned, key=lambda pair: pair[0])]


def _unused(select: Selection, applied: set[str]) -> list[FileProblem]:
    """What was asked for and tells nothing apart."""
    reason = "nothing here differs in it, so nothing was chosen; leave it out"
    return [FileProblem(f"--select {key}={value}", reason) for key, value in select if key not in applied]


def _first_place(
    entry: Series | Source | LooseSlice | RefusedSeries, place: dict[int, int], places: Sequence[int]
) -> int:
    if isinstance(entry, Series):
        return min(place[id(item.source)] for item in entry.slices)
    if isinstance(entry, RefusedSeries):
        return places[entry.order]
    return place[id(entry.source if isinstance(entry, LooseSlice) else entry)]


def _volume_of_file(source: Source, pool: DecoderPool, select: Selection) -> Volume:
    values = pool.volume(source, select)
    if isinstance(values, ImageError):
        raise values
    return grey_volume(values, source.name)


def _or_raise(result: list[Picture] | ImageError) -> list[Picture]:
    if isinstance(result, ImageError):
        raise result
    return result


def _raise(error: ImageError) -> None:
    raise error
