"""Damaged and lying files for every format read here: half with lies in the header, half with bytes damaged.

    for item in mutations("dicom-rle", count=30, seed=0):
        ...                     # item.name says what was done, item.data is the file

Deterministic: input `i` of a format and seed is the same bytes on every machine and whatever the count. Originals
are made here or come with pydicom; every DICOM original carries `personal_data.FUZZ_IDENTITY`, and some lies put
it where a code or a number belongs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from tests.medsiglip.imaging import (
    fuzz_dicom,
    fuzz_dicom_lies,
    fuzz_raster,
    fuzz_series,
    fuzz_tiff,
    fuzz_volumes,
    fuzz_zip,
)


class FuzzInput(NamedTuple):
    name: str
    """Format, number and what was done, such as "png/00012 IHDR width=0": enough to make it again."""
    data: bytes


FORMATS = (
    *fuzz_dicom.ORIGINALS,
    "dicom-series",
    "png",
    "jpeg",
    "tiff",
    "bmp",
    "gif",
    "webp",
    "nifti",
    "nifti-gz",
    "zip",
)


def mutations(format: str, count: int, seed: int) -> Iterator[FuzzInput]:
    """Damaged files, header-aware lies and blind damage in turn.

    Args:
        format: one of `FORMATS`.
        count: how many.
        seed: another seed gives other files.

    Returns:
        The files, made one by one.
    """
    for number in range(count):
        rng = random.Random(f"{format}/{seed}/{number}")
        done, data = (lie if number % 2 == 0 else damage)(rng, format)
        yield FuzzInput(f"{format}/{number:05} {done}", data)


def originals(format: str) -> list[bytes]:
    """The valid files that mutations of a format begin with."""
    return list(_originals(format))


@cache
def _originals(format: str) -> tuple[bytes, ...]:
    if format in fuzz_dicom.ORIGINALS:
        return tuple(fuzz_dicom.assemble(parts) for parts in fuzz_dicom.originals(format))
    rooms = {
        "tiff": fuzz_tiff,
        "nifti": fuzz_volumes,
        "nifti-gz": fuzz_volumes,
        "zip": fuzz_zip,
        "dicom-series": fuzz_series,
    }
    return tuple(rooms.get(format, fuzz_raster).originals(format))


# Lies: the header says what is not so


def lie(rng: random.Random, format: str) -> tuple[str, bytes]:
    """One to three lies in the header of an original, all checksums right, so that the lie gets through."""
    if format in fuzz_dicom.ORIGINALS:
        return fuzz_dicom_lies.lie(rng, format)
    if format == "dicom-series":
        return fuzz_series.lie(rng)
    original = rng.choice(_originals(format))
    if format == "tiff":
        return fuzz_tiff.lie(rng, original)
    if format in ("nifti", "nifti-gz"):
        return fuzz_volumes.lie(rng, original, format)
    if format == "zip":
        return fuzz_zip.lie(rng)
    return fuzz_raster.lie(rng, original, format)


# Damage: bytes change with no idea of what they mean


def damage(rng: random.Random, format: str) -> tuple[str, bytes]:
    """Blind damage to an original: at most three operations."""
    if format == "dicom-series":
        return _damaged_slices(rng)
    if format == "nifti-gz" and rng.random() < 0.5:
        name, data = damage(rng, "nifti")
        return f"{name}, then packed", fuzz_volumes.packed(data)
    data, done = rng.choice(_originals(format)), []
    for operation in rng.choices(_OPERATIONS, k=rng.choice((1, 1, 1, 2, 3))):
        data = operation(rng, data)
        done.append(operation.__name__.strip("_").replace("_", " "))
    if rng.random() < 0.15:
        data = _spliced(rng, data, rng.choice(_originals(rng.choice((format, format, *FORMATS)))))
        done.append("spliced")
    return " + ".join(done), data


def _damaged_slices(rng: random.Random) -> tuple[str, bytes]:
    """Packing comes after the damage, so that it gets through."""
    files = [fuzz_dicom.assemble(parts) for parts in fuzz_series.slices()]
    numbers = rng.sample(range(len(files)), k=rng.choice((1, 1, 2, len(files))))
    done = []
    for number in numbers:
        name, files[number] = damage(rng, "dicom-explicit")
        done.append(name)
    return f"{len(numbers)} slices: {done[0]}", fuzz_series.pack(files)


def _truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(max(len(data), 1))]


def _end_truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: -rng.randint(1, 16)]


def _bytes_flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64)) if changed else 0):
        changed[_place(rng, len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _bytes_replaced(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64)) if changed else 0):
        changed[_place(rng, len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
    return bytes(changed)


def _number_overwritten(rng: random.Random, data: bytes) -> bytes:
    width = rng.choice((2, 4, 8))
    value = rng.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1, len(data)))
    place = _place(rng, len(data) + 1)
    return data[:place] + value.to_bytes(width, rng.choice(("little", "big"))) + data[place + width :]


def _block_deleted(rng: random.Random, data: bytes) -> bytes:
    start, stop = _block(rng, data)
    return data[:start] + data[stop:]


def _block_doubled(rng: random.Random, data: bytes) -> bytes:
    start, stop = _block(rng, data)
    return data[:stop] + data[start:stop] * rng.choice((1, 1, 10)) + data[stop:]


def _block_zeroed(rng: random.Random, data: bytes) -> bytes:
    start, stop = _block(rng, data)
    return data[:start] + rng.choice((b"\0", b"\xff")) * (stop - start) + data[stop:]


def _block_inserted(rng: random.Random, data: bytes) -> bytes:
    start, _ = _block(rng, data)
    return data[:start] + rng.randbytes(rng.choice((1, 2, 4, 64, 1024))) + data[start:]


def _spliced(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


_OPERATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _truncated,
    _end_truncated,
    _bytes_flipped,
    _bytes_replaced,
    _number_overwritten,
    _block_deleted,
    _block_doubled,
    _block_zeroed,
    _block_inserted,
)


def _place(rng: random.Random, length: int) -> int:
    """Any place, more often in the first kilobyte, where headers are."""
    return rng.randrange(min(length, rng.choice((1024, max(length, 1)))) or 1)


def _block(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = _place(rng, len(data))
    return start, min(len(data), start + rng.choice((1, 2, 4, 16, 128, 1024)))
