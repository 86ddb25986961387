"""From what a user typed to files not yet opened: files, folders, globs, lists, standard input, members of zips."""

from __future__ import annotations

import glob
import os
import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from .frame import ImageError, printable
from .source import MISSING, Source, open_file, read_source
from .zips import is_zip, members_of, open_zip

# fmt: off
_NOT_PICTURES = frozenset([
    ".csv", ".tsv", ".txt", ".md", ".rst", ".json", ".jsonl", ".xml", ".html", ".htm", ".css", ".js", ".py",
    ".ipynb", ".sh", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".log", ".gz", ".zip", ".tar", ".tgz",
    ".bz2", ".xz", ".7z", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".parquet", ".arrow",
    ".safetensors", ".npy", ".npz", ".pkl", ".pt", ".onnx", ".db", ".sqlite", ".mp4", ".avi", ".mov",
    ".exe", ".dll", ".so", ".lock", ".bak", ".tmp", ".part", ".partial", ".sha256", ".md5"
])
# fmt: on


@dataclass(frozen=True)
class FileProblem:
    """A source that gave no picture, for reporting by name."""

    file: str
    """The source as the user gave it."""
    reason: str
    """What is wrong and what to do."""

    def __str__(self) -> str:
        return f"{printable(self.file)}: {self.reason}"


_VOXELS_OF = {".img": (".hdr",), ".raw": (".mhd",), ".zraw": (".mhd",)}
"""What a file that only holds voxels ends with, and its header."""


class ListedFiles(NamedTuple):
    """What `list_files` found."""

    files: list[Source]
    """In the order given; sorted inside a folder, glob or zip. Not yet opened."""
    problems: list[FileProblem]
    """Sources that gave nothing."""


def list_files(sources: Sequence[str | os.PathLike[str]]) -> ListedFiles:
    """Find the picture files that a user's sources name.

    Args:
        sources: each a file, a folder (searched recursively; hidden files, DICOMDIR and extensions that are
            no pictures, zips among them, are left out), a zip (known by its content; the same members are left
            out), a quoted glob (`**` is recursive), "@list.txt" (one path a line, relative to the list's folder;
            blank lines and lines that begin with # are ignored), or "-" (the same from standard input, relative
            to the working directory).

    Returns:
        Files and problems; a source that gives no file always gives a problem.
    """
    listed = ListedFiles([], [])
    for source in sources:
        _add_source(os.fspath(source), listed)
    if not sources:
        listed.problems.append(FileProblem("(no files)", "nothing was given; name a file, folder or glob"))
    return listed


def list_file(file: Source) -> ListedFiles:
    """One file, or the members of a zip, whatever its extension; a missing file is found missing when it is read."""
    listed = ListedFiles([], [])
    if file.member is None and file.data is None:
        _add_file(file, listed)
    else:
        listed.files.append(file)
    return listed


def list_archive(data: bytes) -> ListedFiles:
    """The members of a zip in memory, and what of it cannot be read; never fails."""
    listed = ListedFiles([], [])
    try:
        archive = open_zip(BytesIO(data), "")
        _add_archive(archive, "", archive, listed)
    except ImageError as error:
        listed.problems.append(FileProblem(error.file, error.reason))
    return listed


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
        header = _header_of(path)
        _add_file(Source(str(header or path)), listed)
    elif kind == "other":
        listed.problems.append(FileProblem(source, "neither a file nor a folder; give a regular file"))
    elif glob.has_magic(source):
        _add_glob(path, source, listed)
    else:
        listed.problems.append(FileProblem(source, MISSING))


def _add_file(file: Source, listed: ListedFiles) -> None:
    try:
        archive = is_zip(read_source(file, 4))
    except ImageError:  # whoever reads it says why
        archive = False
    if archive:
        _add_members(file.path, listed)
    else:
        listed.files.append(file)


def _add_glob(pattern: Path, source: str, listed: ListedFiles) -> None:
    matches = [Path(match) for match in sorted(glob.glob(str(pattern), recursive=True))]
    files = [match for match in matches if match.is_file()]
    files = list(dict.fromkeys(_header_of(file) or file for file in files))
    for file in files:
        _add_file(Source(str(file)), listed)
    if not files:
        matched = "matches folders only" if matches else "matches no file"
        listed.problems.append(FileProblem(source, f"{matched}; check the pattern, and quote it from the shell"))


def _add_folder(folder: Path, listed: ListedFiles) -> None:
    found: list[Path] = []
    for root, subfolders, names in os.walk(folder, onerror=lambda error: _add_unreadable(error, listed)):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [path for name in names if _may_be_picture(name) and not _header_of(path := Path(root, name))]
    listed.files.extend(Source(str(path)) for path in sorted(found))
    if not found:
        reason = "the folder holds no pictures; give a folder with DICOM, PNG, JPEG or TIFF files"
        listed.problems.append(FileProblem(str(folder), reason))


def _add_unreadable(error: OSError, listed: ListedFiles) -> None:
    reason = f"the folder cannot be read ({error.strerror}); check its permissions"
    listed.problems.append(FileProblem(str(error.filename), reason))


def _add_members(path: str, listed: ListedFiles) -> None:
    try:
        with open_file(path, path) as file:
            _add_archive(open_zip(file, path), path, None, listed)
    except ImageError as error:
        listed.problems.append(FileProblem(error.file, error.reason))


def _add_archive(archive: zipfile.ZipFile, name: str, kept: zipfile.ZipFile | None, listed: ListedFiles) -> None:
    """Add the members of an archive; `kept` is the archive itself where it lies in memory."""
    members = members_of(archive, name, _may_be_picture)
    pictures = [member for member in members.names if not _header_in(member, members.names)]
    listed.files.extend(Source(name, member, archive=kept) for member in pictures)
    for member, reason in members.refused:
        listed.problems.append(FileProblem(Source(name, member).name, reason))
    if not members.names and not members.refused:
        reason = "the zip archive holds no pictures; give one with DICOM, PNG, JPEG or TIFF files"
        listed.problems.append(FileProblem(name, reason))


def _header_of(path: Path) -> Path | None:
    """The header beside a file of voxels, which reads as one picture with it; None for other files."""
    headers = _VOXELS_OF.get(path.suffix.lower(), ())
    found = (path.with_suffix(ending) for suffix in headers for ending in (suffix, suffix.upper()))
    return next((header for header in found if header.is_file()), None)


def _header_in(member: str, members: Sequence[str]) -> bool:
    stem, dot, suffix = member.rpartition(".")
    headers = _VOXELS_OF.get(f"{dot}{suffix.lower()}", ())
    return any(f"{stem}{ending}" in members for header in headers for ending in (header, header.upper()))


def _may_be_picture(name: str) -> bool:
    name = name.lower()
    if name.startswith(".") or name == "dicomdir":
        return False
    return name.endswith((".nii.gz", ".hdr.gz")) or Path(name).suffix not in _NOT_PICTURES
