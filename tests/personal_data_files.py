"""What a file that a test has written says, decoded; nothing for files that are themselves inputs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

MAX_BYTES = 1 << 26
"""Of larger files the beginning is read."""

_INPUTS = (".dcm", ".dic", ".ima")
_DICOM_BEGINNINGS = (b"\x02\0", b"\0\x02", b"\x08\0", b"\0\x08")  # groups 2 and 8: a data set without a preamble
_GZIP, _PNG, _PARQUET, _ZIP = b"\x1f\x8b", b"\x89PNG\r\n\x1a\n", b"PAR1", b"PK\3\4"


def texts_of(path: Path) -> Iterator[bytes | str]:
    """A file's texts: its bytes, and what its format packs or compresses.

    Args:
        path: DICOM by content or name gives nothing, and neither does a zip that holds such a file.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES)
    if path.suffix.lower() in _INPUTS or _is_dicom(data):
        return
    if data.startswith(_ZIP):
        yield from _texts_of_zip(path, data)
    elif path.suffix == ".safetensors":
        yield data[8 : 8 + int.from_bytes(data[:8], "little")]  # names and metadata; the rest is numbers
    else:
        yield data
    if data.startswith(_PARQUET):
        yield from _texts_of_parquet(path)
    elif data.startswith(_PNG):
        yield from _texts_of_png(path)
    elif data.startswith(_GZIP):
        yield from _unpacked(data)


def _is_dicom(data: bytes) -> bool:
    return data[128:132] == b"DICM" or data[:2] in _DICOM_BEGINNINGS


def _texts_of_zip(path: Path, data: bytes) -> Iterator[bytes]:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            members = [archive.read(name) for name in archive.namelist()[:100]]
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, ValueError, EOFError, zlib.error):
        return  # damaged on purpose: an input
    if not any(_is_dicom(member) or member.startswith(_ZIP) for member in members):
        yield from (data, *members)


def _texts_of_parquet(path: Path) -> Iterator[str]:
    """Metadata, and every column but numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):
        return
    yield str(table.schema.metadata)
    for name in table.schema.names:
        kind = table.schema.field(name).type
        number = pa.types.is_floating(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_boolean(kind)
        if not number:
            yield "\n".join(str(value) for value in table[name].to_pylist())


def _texts_of_png(path: Path) -> Iterator[str]:
    """Compressed text chunks and EXIF."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            yield str(image.info)
    except Exception:  # damaged on purpose: an input
        return


def _unpacked(data: bytes) -> Iterator[bytes]:
    try:
        yield zlib.decompressobj(wbits=31).decompress(data, MAX_BYTES)
    except zlib.error:
        return
