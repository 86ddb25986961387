"""From names to pictures: files, folders, globs, lists and standard input.

`list_files` turns what a user typed into files and problems and never fails; `read_pictures` reads one file
and fails with `ImageError`; `open_images` is both for Python users, stopping at the first bad file.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from .picture import FULL_RANGE, VOI, Array, DecodedFrame, ImageError, Picture, as_rgb

if TYPE_CHECKING:
    import PIL.Image

POLICIES = (VOI, FULL_RANGE)

# fmt: off
_NOT_PICTURES = frozenset([
    ".csv", ".tsv", ".txt", ".md", ".rst", ".json", ".jsonl", ".xml", ".html", ".htm", ".css", ".js", ".py",
    ".ipynb", ".sh", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".log", ".gz", ".zip", ".tar", ".tgz",
    ".bz2", ".xz", ".7z", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".parquet", ".arrow",
    ".safetensors", ".npy", ".npz", ".pkl", ".pt", ".onnx", ".db", ".sqlite", ".mp4", ".avi", ".mov",
    ".exe", ".dll", ".so", ".lock", ".bak", ".tmp", ".part", ".partial", ".sha256", ".md5"
])
# fmt: on

Source: TypeAlias = "str | Path | bytes | Array | Picture | PIL.Image.Image"
"""Anything one picture, or one file or folder of pictures, may be given as."""


@dataclass(frozen=True)
class FileProblem:
    """A source that gave no picture, for reporting by name."""

    file: str
    """The source as the user gave it."""
    reason: str
    """What is wrong and what to do."""

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


class ListedFiles(NamedTuple):
    """What `list_files` found."""

    files: list[Path]
    """In the order given; sorted inside a folder or glob. Not yet opened."""
    problems: list[FileProblem]
    """Sources that gave nothing."""


def list_files(sources: Sequence[str | Path]) -> ListedFiles:
    """Find the picture files that a user's sources name.

    Args:
        sources: each a file, a folder (searched recursively; hidden files, DICOMDIR and extensions that are
            no pictures are left out), a quoted glob (`**` is recursive), "@list.txt" (one path a line,
            relative to the list's folder; blank lines and lines that begin with # are ignored), or "-" (the
            same from standard input, relative to the working directory).

    Returns:
        Files and problems; a source that gives no file always gives a problem.
    """
    listed = ListedFiles([], [])
    for source in sources:
        _add_source(str(source), listed)
    if not sources:
        listed.problems.append(FileProblem("(no files)", "nothing was given; name a file, folder or glob"))
    return listed


def read_pictures(path: str | Path, policy: str = VOI) -> list[Picture]:
    """Read all frames of one file.

    Args:
        path: a DICOM instance (whatever its extension), PNG, JPEG, TIFF, BMP, WebP or GIF.
        policy: for DICOM, "voi" (the file's own window, or the full range where it has none) or "full-range".

    Returns:
        One picture a frame, (H, W, 3) uint8 each; `Picture.policy` says what was used.

    Raises:
        ImageError: missing, unreadable, truncated, too large or not a picture.
        ValueError: an unknown policy.
    """
    _check_policy(policy)
    return _pictures(_read_bytes(path), str(path), policy)


def open_images(source: Source | Sequence[Source], policy: str = VOI) -> Iterator[Picture]:
    """Open anything as pictures, one by one: files are read only when their turn comes.

    Args:
        source: a file, folder, glob or list as for `list_files`; the bytes of a file; a (H, W) or (H, W, 3)
            uint8 array; a PIL image; a `Picture`; or a sequence of these.
        policy: see `read_pictures`.

    Returns:
        An iterator of pictures.

    Raises:
        ImageError: while iterating, on the first source that cannot be read.
        ValueError: an unknown policy, at once.
    """
    _check_policy(policy)
    sources = source if isinstance(source, Sequence) and not isinstance(source, str | bytes) else [source]
    return (picture for item in sources for picture in _open_one(item, policy))


def _check_policy(policy: str) -> None:
    if policy not in POLICIES:
        raise ValueError(f"unknown pixel policy {policy!r}; use one of {', '.join(POLICIES)}")


def _open_one(source: Source, policy: str) -> Iterator[Picture]:
    if isinstance(source, Picture):
        yield source
    elif isinstance(source, bytes):
        yield from _pictures(source, "", policy)
    elif isinstance(source, np.ndarray):
        yield Picture.from_array(source)
    elif isinstance(source, str | Path):
        listed = list_files([source])
        for problem in listed.problems:
            raise ImageError(problem.file, problem.reason)
        for path in listed.files:
            yield from read_pictures(path, policy)
    else:
        yield Picture.from_pil(source)


def _pictures(data: bytes, file: str, policy: str) -> list[Picture]:
    frames = _decode(data, file, policy)
    sha256 = hashlib.sha256(data).hexdigest()
    return [
        Picture(as_rgb(decoded.pixels), file, number, sha256, decoded.policy, decoded.tags)
        for number, decoded in enumerate(frames)
    ]


def _decode(data: bytes, file: str, policy: str) -> list[DecodedFrame]:
    """By content: DICOM may have any extension, and a TIFF may hide in a DICOM preamble."""
    from .dicom import decode_dicom, has_dicom_preamble, parses_as_dicom
    from .raster import decode_raster, is_raster

    if not data:
        raise ImageError(file, "the file is empty; copy it again")
    if has_dicom_preamble(data):
        return decode_dicom(data, policy, file)
    if is_raster(data):
        return decode_raster(data, file)
    if parses_as_dicom(data):
        return decode_dicom(data, policy, file)
    raise ImageError(file, "not a picture in a format read here; give DICOM, PNG, JPEG, TIFF, BMP, WebP or GIF")


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(str(path), _MISSING) from None
    except IsADirectoryError:
        raise ImageError(str(path), "a folder, not a file; use open_images or list_files for folders") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a valid file name"
        raise ImageError(str(path), f"cannot be read ({reason}); check the path and its permissions") from None


_MISSING = "no such file or folder; check the path"


def _add_source(source: str, listed: ListedFiles) -> None:
    if source == "-":
        _add_lines(sys.stdin, Path(), "-", listed)
    elif source.startswith("@"):
        _add_list_file(source, listed)
    else:
        _add_path(source, Path(), listed)


def _add_list_file(source: str, listed: ListedFiles) -> None:
    list_path = Path(source[1:])
    try:
        lines = list_path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        listed.problems.append(FileProblem(source, "no such list; check the path after @"))
    except (OSError, ValueError):
        reason = "the list cannot be read; give a UTF-8 text file with one path a line"
        listed.problems.append(FileProblem(source, reason))
    else:
        _add_lines(lines, list_path.parent, source, listed)


def _add_lines(lines: Iterable[str], folder: Path, source: str, listed: ListedFiles) -> None:
    paths = [line.strip() for line in lines]
    paths = [path for path in paths if path and not path.startswith("#")]
    for path in paths:
        _add_path(path, folder, listed)
    if not paths:
        listed.problems.append(FileProblem(source, "the list names no files; write one path a line"))


def _add_path(source: str, folder: Path, listed: ListedFiles) -> None:
    path = folder / source
    try:
        kind = "folder" if source and path.is_dir() else "file" if path.is_file() else "other" if path.exists() else ""
    except (OSError, ValueError):
        kind = ""
    if not source:
        listed.problems.append(FileProblem("(empty path)", "an empty name; name a file, folder or glob"))
    elif kind == "folder":
        _add_folder(path, listed)
    elif kind == "file":
        listed.files.append(path)
    elif kind == "other":
        listed.problems.append(FileProblem(source, "neither a file nor a folder; give a regular file"))
    elif glob.has_magic(source):
        _add_glob(path, source, listed)
    else:
        listed.problems.append(FileProblem(source, _MISSING))


def _add_glob(pattern: Path, source: str, listed: ListedFiles) -> None:
    matches = [Path(match) for match in sorted(glob.glob(str(pattern), recursive=True))]
    files = [match for match in matches if match.is_file()]
    listed.files.extend(files)
    if not files:
        matched = "matches folders only" if matches else "matches no file"
        listed.problems.append(FileProblem(source, f"{matched}; check the pattern, and quote it from the shell"))


def _add_folder(folder: Path, listed: ListedFiles) -> None:
    found: list[Path] = []
    for root, subfolders, names in os.walk(folder, onerror=lambda error: _add_unreadable(error, listed)):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(root, name) for name in names if _may_be_picture(name)]
    listed.files.extend(sorted(found))
    if not found:
        reason = "the folder holds no pictures; give a folder with DICOM, PNG, JPEG or TIFF files"
        listed.problems.append(FileProblem(str(folder), reason))


def _add_unreadable(error: OSError, listed: ListedFiles) -> None:
    reason = f"the folder cannot be read ({error.strerror}); check its permissions"
    listed.problems.append(FileProblem(str(error.filename), reason))


def _may_be_picture(name: str) -> bool:
    hidden = name.startswith(".")
    return not hidden and name.upper() != "DICOMDIR" and Path(name).suffix.lower() not in _NOT_PICTURES
