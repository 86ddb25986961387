"""Zip archives: which members may be pictures, and their bytes. Nothing is ever written to disk.

An archive is judged by what its directory claims before anything is unpacked, and held to its claims while it is.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from typing import IO, NamedTuple

from .frame import ImageError

MAX_MEMBER_BYTES = 2**30
"""Largest claimed size of a member."""
MAX_TOTAL_BYTES = 2**33
"""Largest sum of claimed sizes."""
MAX_RATIO = 1000
"""Largest claimed size over packed size, for members above 16 MiB."""
MAX_DIRECTORY_BYTES = 2**23
"""Largest central directory; some 80,000 members."""

_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_SMALL_BYTES = 2**24  # an all-black slice packs a thousandfold too
_ENCRYPTED = 0x1  # general purpose bit 0. Source: PKWARE APPNOTE 4.4.4
_PACKING = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks the others without a bound on memory

NESTED = "a zip inside a zip or folder is not opened; unpack it, or give it by its own name"
_DAMAGED = "damaged or truncated zip archive; copy it again"
_DAMAGED_MEMBER = "damaged inside the zip archive; copy or pack it again"


class Refused(NamedTuple):
    """A member that is not read."""

    member: str
    reason: str


class Members(NamedTuple):
    """What an archive holds, hidden members and folders left out."""

    names: list[str]
    """Sorted."""
    refused: list[Refused]


def is_zip(head: bytes) -> bool:
    """Whether a file's first bytes are a zip's."""
    return head[:4] in _MAGIC


def open_zip(file: IO[bytes], name: str) -> zipfile.ZipFile:
    """Read an archive's directory.

    Args:
        file: seekable; must stay open as long as the archive is used.
        name: for messages.

    Raises:
        ImageError: damaged, or the directory is too large.
    """
    bounded = _BoundedReads(file)
    try:
        archive = zipfile.ZipFile(bounded)
    except _TooMuch:
        reason = f"a zip archive with a directory of more than {MAX_DIRECTORY_BYTES} bytes; unpack it"
        raise ImageError(name, reason) from None
    except Exception:  # BadZipFile, struct.error, UnicodeDecodeError, NotImplementedError, OSError, ...
        raise ImageError(name, _DAMAGED) from None
    bounded.max_bytes = MAX_MEMBER_BYTES + 1
    return archive


def members_of(archive: zipfile.ZipFile, name: str, may_be_picture: Callable[[str], bool]) -> Members:
    """The members to read, and those that must not be unpacked.

    Args:
        archive: from `open_zip`.
        name: the archive's, for messages.
        may_be_picture: whether a member of this base name is wanted.

    Raises:
        ImageError: an office document, or the members together are too large.
    """
    if "[Content_Types].xml" in archive.NameToInfo:
        raise ImageError(name, "an office document, not an archive of pictures; export its pictures")
    infos = [info for info in archive.infolist() if _is_wanted(info, may_be_picture)]
    counts = Counter(info.filename for info in infos)
    reasons = {info.filename: _reason_to_refuse(info, counts[info.filename]) for info in infos}
    total = sum(info.file_size for info in infos if not reasons[info.filename])
    if total > MAX_TOTAL_BYTES:
        raise ImageError(name, f"a zip archive of {total} bytes unpacked, more than {MAX_TOTAL_BYTES}; unpack it")
    names = sorted(member for member, reason in reasons.items() if not reason)
    return Members(names, [Refused(member, reason) for member, reason in sorted(reasons.items()) if reason])


def read_member(archive: zipfile.ZipFile, member: str, name: str, max_bytes: int | None = None) -> bytes:
    """The bytes of a member, or no more than `max_bytes` from its beginning.

    Raises:
        ImageError: damaged, larger than it claims, encrypted, or of a size that is refused.
    """
    info = archive.NameToInfo.get(member)
    if info is None:
        raise ImageError(name, "no such member in the zip archive; check its name")
    if reason := _reason_to_refuse(info, 1):
        raise ImageError(name, reason)
    try:
        with archive.open(info) as file:
            data = file.read(info.file_size + 1 if max_bytes is None else max_bytes)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        raise ImageError(name, _DAMAGED_MEMBER) from None
    if max_bytes is None and len(data) != info.file_size:
        raise ImageError(name, _DAMAGED_MEMBER)
    return data


def _is_wanted(info: zipfile.ZipInfo, may_be_picture: Callable[[str], bool]) -> bool:
    *folders, name = re.split(r"[/\\]", info.filename)
    hidden = any(part == "__MACOSX" or (part.startswith(".") and part.strip(".")) for part in [*folders, name])
    return bool(name) and not hidden and (may_be_picture(name) or name.lower().endswith(".zip"))


def _reason_to_refuse(info: zipfile.ZipInfo, count: int) -> str:
    """Why a member must not be unpacked; "" if it may."""
    if info.filename.lower().endswith(".zip"):
        return NESTED
    if count > 1:
        return f"{count} members of this name; pack the archive again"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted; unpack the archive with its password"
    if info.compress_type not in _PACKING:
        return "packed by a method that is not read; unpack the archive, or pack it again with deflate"
    if info.file_size > MAX_MEMBER_BYTES:
        return f"{info.file_size} bytes unpacked, more than the limit of {MAX_MEMBER_BYTES}; unpack the archive"
    if info.file_size > max(_SMALL_BYTES, MAX_RATIO * info.compress_size):
        return (
            f"{info.file_size} bytes packed into {info.compress_size}, more than {MAX_RATIO} to 1; unpack the archive"
        )
    return ""


class _TooMuch(Exception):
    """A read larger than any honest directory."""


class _BoundedReads:
    """A file for `zipfile`, which reads the directory in one piece, however long it claims to be."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.max_bytes = MAX_DIRECTORY_BYTES
        self.tell, self.seek, self.seekable, self.close = file.tell, file.seek, file.seekable, file.close

    def read(self, size: int = -1) -> bytes:
        if size > self.max_bytes:
            raise _TooMuch
        return self._file.read(size)
