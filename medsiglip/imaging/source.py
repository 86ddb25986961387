"""Where the bytes of one file come from: a path, a member of a zip, or memory."""

from __future__ import annotations

import os
import stat
import zipfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO

from .frame import ImageError
from .zips import open_zip, read_member

MAX_BYTES = 2**31
"""Size of the largest file that is read."""

MISSING = "no such file or folder; check the path"
_TOO_LARGE = "bytes, more than the limit of 2 GiB; split it into smaller files"


@dataclass(frozen=True)
class Source:
    """One file, not yet read."""

    path: str
    """As the user gave it; "" for bytes in memory."""
    member: str | None = None
    """Name inside the zip at `path`, or inside `archive`."""
    data: bytes | None = field(default=None, repr=False)
    """The bytes of a file in memory."""
    archive: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)
    """A zip in memory, of which this is a member."""

    @property
    def name(self) -> str:
        """What results and messages call it, such as "scan.dcm" or "study.zip/series/scan.dcm"."""
        return "/".join(part for part in (self.path, self.member) if part)


def as_source(file: Source | str | os.PathLike[str]) -> Source:
    """A path as a `Source`; a `Source` stays as it is."""
    return file if isinstance(file, Source) else Source(os.fspath(file))


def read_source(source: Source, max_bytes: int | None = None) -> bytes:
    """The bytes of one file.

    Args:
        source: a path is relative to the working directory.
        max_bytes: read no more than these, from the beginning; None for the whole.

    Raises:
        ImageError: missing, unreadable, no regular file, too large, or a damaged member of a zip.
    """
    if source.data is not None:
        return source.data[:max_bytes]
    if source.archive is not None and source.member is not None:
        return read_member(source.archive, source.member, source.name, max_bytes)
    if source.member is not None:
        return read_member(_archive_at(source.path), source.member, source.name, max_bytes)
    with open_file(source.path, source.name) as file:
        return _read(file, source.name, max_bytes)


def open_file(path: str | Path, name: str) -> IO[bytes]:
    """Open a regular file; a pipe or device, on which reading could wait for ever, is refused.

    Raises:
        ImageError: missing, unreadable, a folder or another thing that is no file.
    """
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISREG(kind):
            return open(path, "rb")
    except FileNotFoundError:
        raise ImageError(name, MISSING) from None
    except (OSError, ValueError) as error:
        raise ImageError(name, _unreadable(error)) from None
    if stat.S_ISDIR(kind):
        raise ImageError(name, "a folder, not a file; use open_images or list_files for folders")
    raise ImageError(name, "neither a file nor a folder; give a regular file")


def _archive_at(path: str) -> zipfile.ZipFile:
    """The directory of an archive is read once for all of its members that are read in turn."""
    with open_file(path, path) as file:
        status = os.fstat(file.fileno())
    return _opened_zip(path, status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _opened_zip(path: str, inode: int, mtime_ns: int, size: int) -> zipfile.ZipFile:
    return open_zip(open_file(path, path), path)


def _read(file: IO[bytes], name: str, max_bytes: int | None) -> bytes:
    try:
        size = os.fstat(file.fileno()).st_size
        if max_bytes is None and size > MAX_BYTES:
            raise ImageError(name, f"{size} {_TOO_LARGE}")
        return file.read(size if max_bytes is None else max_bytes)
    except OSError as error:
        raise ImageError(name, _unreadable(error)) from None


def _unreadable(error: OSError | ValueError) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a valid file name"
    return f"cannot be read ({reason}); check the path and its permissions"
