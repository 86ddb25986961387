"""Files of records: TFRecord and array_record, without TensorFlow."""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

FileFormat = Literal["tfrecord", "array_record"]


def read_records(path: Path, file_format: str) -> Iterator[bytes]:
    """Yield the records of a file, checked against their checksums.

    Raises:
        ValueError: The file is cut or broken, of another format, or the package that reads it is not installed.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a shard of the data set is missing; get it again")
    if file_format == "tfrecord":
        yield from _read_tfrecord(path)
    elif file_format == "array_record":
        yield from _read_array_record(path)
    else:
        raise ValueError(f"{path}: is of the format {file_format!r}; expected tfrecord or array_record; convert it")


def write_records(path: Path, records: Iterable[bytes], file_format: FileFormat) -> None:
    """Write a file of records."""
    if file_format == "array_record":
        writer = _package("array_record.python.array_record_module").ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        return
    masked = _masked_crc()
    with path.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + masked(length) + record + masked(record))


def _read_tfrecord(path: Path) -> Iterator[bytes]:
    masked = _masked_crc()
    with path.open("rb") as file:
        number = 0
        while head := file.read(12):
            record, checksum = b"", b""
            if len(head) == 12 and head[8:] == masked(head[:8]):
                record = file.read(struct.unpack("<Q", head[:8])[0])
                checksum = file.read(4)
            if len(checksum) < 4 or checksum != masked(record):
                raise ValueError(f"{path}: record {number} is cut or broken; get the file again")
            yield record
            number += 1


def _read_array_record(path: Path) -> Iterator[bytes]:
    reader = _package("array_record.python.array_record_module").ArrayRecordReader(str(path))
    try:
        for start in range(0, reader.num_records(), 16):
            yield from reader.read(start, min(start + 16, reader.num_records()))
    except RuntimeError as fault:
        raise ValueError(f"{path}: is cut or broken ({fault}); get the file again") from fault
    finally:
        reader.close()


def _masked_crc() -> Any:
    """TFRecord's checksum: CRC-32C, rotated and shifted."""
    crc32c = _package("google_crc32c").value

    def masked(data: bytes) -> bytes:
        crc = crc32c(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    return masked


def _package(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as fault:
        raise ValueError(f"this file needs {name.split('.')[0]}; run `pip install 'open-medgemma[rlds]'`") from fault
