"""What makes a write last: locks that die with their process, names that survive the loss of power."""

import os
from pathlib import Path
from typing import IO


def lock(file: IO[bytes], *, wait: bool = False) -> bool:
    """Take the lock of an open file, which its process lets go of however it ends; on Windows there is none."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive the loss of power."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def replace_synced(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    draft = path.with_name(path.name + ".partial")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)
