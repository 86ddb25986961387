"""Files of frames, each behind its length and CRC-32: written by one process, readable up to where a crash cut them.

What `append` wrote is with the operating system when it returns, and survives the death of the process; what was
synced survives the loss of power. A frame that a crash cut, and whatever follows it, is not read.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from zlib import crc32

from experience.storage.durable import lock, sync_folder
from experience.storage.values import decode, encode

HEAD = struct.Struct("<QI")
"""Length and CRC-32 of a frame."""

SIZE = struct.Struct("<Q")

LARGE_BYTES = 1 << 16
"""A part of a frame that is written by itself: to join it to others would copy it."""


class FrameFile:
    """A file being written; a second process is refused by a lock."""

    def __init__(self, path: Path) -> None:
        """Open a file to append to; a frame that was cut at its end is removed.

        Raises:
            ValueError: Another process writes it.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        if not lock(self._file):
            raise ValueError(f"{path}: is being written by another process; give each process its own")
        if cut := cut_bytes(path):
            self._file.truncate(self._file.tell() - cut)
        self.num_bytes = path.stat().st_size
        sync_folder(path.parent)

    def append(self, parts: Sequence[Any], *, sync: bool = False) -> None:
        """Write a frame of byte strings, all or nothing.

        Raises:
            OSError: The disk is full or broken; what was written before is kept.
        """
        checksum, size = 0, 0
        for part in parts:
            checksum, size = crc32(part, checksum), size + len(part)
        try:
            for piece in _pieces([HEAD.pack(size, checksum), *parts]):
                view = memoryview(piece)
                while view:
                    view = view[self._file.write(view) :]
            if sync:
                self.sync()
        except OSError as fault:
            self._file.truncate(self.num_bytes)
            raise OSError(
                fault.errno, f"{self.path}: cannot be written ({fault.strerror}); what was recorded until now is kept"
            ) from fault
        self.num_bytes += HEAD.size + size

    def sync(self) -> None:
        """Make what was written survive the loss of power."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and let go of the lock."""
        self.sync()
        self._file.close()


def frames(path: Path) -> Iterator[bytes]:
    """Yield every whole frame."""
    with path.open("rb") as file:
        while payload := _frame(file):
            yield payload


def cut_bytes(path: Path) -> int:
    """Return how many bytes at the end belong to no whole frame."""
    with path.open("rb") as file:
        whole = 0
        while _frame(file):
            whole = file.tell()
        return path.stat().st_size - whole


def packed(value: Any) -> list[bytes]:
    """Return the parts of a frame that holds a value (see `storage.values`)."""
    text, buffers = encode(value)
    data = text.encode()
    return [SIZE.pack(len(buffers)), *(SIZE.pack(len(one)) for one in (data, *buffers)), data, *buffers]


def unpacked(payload: bytes) -> Any:
    """Return the value that `packed` made a frame of."""
    (count,) = SIZE.unpack_from(payload)
    sizes = struct.unpack_from(f"<{count + 1}Q", payload, SIZE.size)
    place, parts = SIZE.size * (count + 2), []
    for size in sizes:
        parts.append(payload[place : place + size])
        place += size
    text, *buffers = parts
    return decode(text.decode(), buffers)


def _pieces(parts: Sequence[Any]) -> Iterator[Any]:
    """Parts that follow one another, the small ones joined."""
    small = []
    for part in parts:
        if len(part) < LARGE_BYTES:
            small.append(part)
        else:
            yield b"".join(small)
            yield part
            small = []
    if small:
        yield b"".join(small)


def _frame(file: IO[bytes]) -> bytes:
    """The next whole frame, or nothing."""
    head = file.read(HEAD.size)
    if len(head) < HEAD.size:
        return b""
    size, checksum = HEAD.unpack(head)
    left = os.fstat(file.fileno()).st_size - file.tell()
    payload = file.read(size) if size <= left else b""
    return payload if payload and crc32(payload) == checksum else b""
