"""From what a cell says to the picture's file: paths of other machines, names without extension, embedded bytes."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from data_cards.table.values import is_missing, list_in

PICTURES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2"),
    *(".dcm", ".dicom", ".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".svs", ".ndpi"),
)
"""What the names of pictures, volumes and slides end with, in lower case."""


class Fault(ValueError):
    """Why a cell names no file."""


class Files:
    """Finds the files that the cells of a table name, under the table's folder."""

    def __init__(self, folder: Path, unpack_to: Path) -> None:
        """`folder` holds what the table names; pictures inside the table are written to `unpack_to`, by their hash."""
        self.folder = folder
        self.unpack_to = unpack_to

    def of(self, cell: Any) -> tuple[Path, ...]:
        """The files of one cell, in order; none if it is empty.

        Args:
            cell: A path, a list of paths, or a picture with its bytes. A path is relative to the table's folder or to
                the one above; else the file whose path ends alike, or whose name without extension is alike, if there
                is only one.

        Raises:
            Fault: There is no such file, or several.
        """
        return tuple(self._one(part) for part in parts_of(cell))

    def _one(self, part: Any) -> Path:
        if isinstance(part, Mapping):
            if isinstance(part.get("bytes"), bytes):
                return _unpacked(self.unpack_to, part["bytes"])
            part = part.get("path") or part.get("file_name") or part.get("image") or ""
        if isinstance(part, bytes):
            return _unpacked(self.unpack_to, part)
        name = str(part).strip().replace("\\", "/").removeprefix("file://")
        for path in (self.folder / name, self.folder.parent / name):
            if name and path.exists():
                return path
        return self._by_name(name)

    def _by_name(self, name: str) -> Path:
        wanted = [part for part in PurePosixPath(re.sub(r"^[A-Za-z]:", "", name)).parts if part not in ("/", ".", "..")]
        alike = self._by_last_part[wanted[-1]] if wanted else []
        for num_parts in range(len(wanted), 1 if len(wanted) > 1 else 0, -1):  # a path must share its last folder too
            found = [path for path in alike if list(path.parts[-num_parts:-1]) == wanted[-num_parts:-1]]
            if len(found) == 1:
                return found[0]
            if found:
                shown = " and ".join(str(path.relative_to(self.folder)) for path in found[:2])
                raise Fault(f"{name!r} may be any of {len(found)} files, such as {shown}; write the whole path")
        raise Fault(f"{name!r}: no such file in {self.folder}; mend the path, or put the pictures beside the table")

    @cached_property
    def _by_last_part(self) -> Mapping[str, list[Path]]:
        """Name with and without its extension to the files, and folders, of that name under the table's folder."""
        found: dict[str, list[Path]] = defaultdict(list)
        for path in _under(self.folder):
            for name in {path.name} if path.is_dir() else {path.name, stem_of(path.name)}:
                found[name].append(path)
        return found


def parts_of(cell: Any) -> list[Any]:
    """What a cell of a files column holds: paths and pictures, one each."""
    if is_missing(cell):
        return []
    if isinstance(cell, list | tuple):
        return [part for part in cell if not is_missing(part)]
    if not isinstance(cell, str):
        return [cell]
    if cell.startswith("[") and (listed := list_in(cell)):
        return [part for part in listed if not is_missing(part)]
    several = [part.strip() for part in re.split(r"[;|,]", cell) if part.strip()]
    return several if len(several) > 1 and all(is_picture_name(part) for part in several) else [cell]


def is_picture_name(name: str) -> bool:
    """Whether a name ends as pictures' names do."""
    return name.lower().endswith(PICTURES)


def stem_of(name: str) -> str:
    """A file's name without its extension, `.nii.gz` being one."""
    return name[:-7] if name.lower().endswith(".nii.gz") else name.rpartition(".")[0] or name


def equal_bytes(files: Iterable[Path]) -> dict[Path, str]:
    """File to SHA-256 for the files, each once, that have the bytes of another one; only files of one size are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for file in dict.fromkeys(files):
        if file.is_file():
            by_size[file.stat().st_size].append(file)
    by_hash: dict[str, list[Path]] = defaultdict(list)
    for alike in by_size.values():
        for file in alike if len(alike) > 1 else ():
            by_hash[_sha256(file)].append(file)
    return {file: digest for digest, alike in by_hash.items() if len(alike) > 1 for file in alike}


def _sha256(file: Path) -> str:
    digest = sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _under(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in folders)
        yield from (Path(root, name) for name in sorted(names) if _may_be_picture(name))


def _may_be_picture(name: str) -> bool:
    """Files whose names end in digits, such as UIDs, may be DICOM."""
    ending = name.rpartition(".")[2] if "." in name else ""
    return is_picture_name(name) or not ending or (ending.isdigit() and not name.startswith("."))


def _unpacked(folder: Path, picture: bytes) -> Path:
    path = folder / f"{sha256(picture).hexdigest()[:32]}{_ending(picture)}"
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            draft.write_bytes(picture)
            draft.replace(path)
        except OSError as fault:
            raise ValueError(
                f"{folder}: cannot be written ({fault}); the pictures inside the table are unpacked there; copy the "
                "table to where you may write"
            ) from fault
    return path


def _ending(picture: bytes) -> str:
    kinds = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"II*\x00", ".tif"), (b"MM\x00*", ".tif"), (b"BM", ".bmp"))
    return next((ending for mark, ending in kinds if picture.startswith(mark)), "")
