"""tf.train.Example on the wire, without TensorFlow: a map of names to lists of bytes, of float32 or of int64.

Numbers are copied as bits, so that a NaN keeps its payload.

Source: tensorflow/core/example/{example,feature}.proto; the protocol buffers' encoding.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Column = list[bytes] | np.ndarray[Any, Any]
"""A list of bytes, (n,) float32 or (n,) int64."""

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def parse_example(record: bytes) -> dict[str, Column]:
    """Return the features of a record.

    Raises:
        ValueError: The bytes are no tf.train.Example.
    """
    found: dict[str, Column] = {}
    try:
        for _, features in _fields(memoryview(record)):
            for _, entry in _fields(features):
                name, value = "", memoryview(b"")
                for number, part in _fields(entry):
                    if number == 1:
                        name = bytes(part).decode()
                    else:
                        value = part
                found[name] = _column(value)
    except (IndexError, TypeError, UnicodeDecodeError) as fault:
        raise ValueError(f"the record is no tf.train.Example ({fault})") from fault
    return found


def serialize_example(columns: Mapping[str, Column]) -> bytes:
    """Return the record of some features; keys in order, so that equal features give equal bytes."""
    entries = [_field(1, _field(1, name.encode()) + _field(2, _feature(columns[name]))) for name in sorted(columns)]
    return _field(1, b"".join(entries))


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield field numbers and contents: bytes for lengths and fixed numbers, int for varints."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        wire, number = tag & 7, tag >> 3
        if wire == VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(wire)
        if size is None:
            if wire != LENGTH:
                raise IndexError(f"wire type {wire}")
            size, place = _varint(data, place)
        if place + size > len(data):
            raise IndexError("cut off")
        yield number, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _column(feature: memoryview) -> Column:
    for kind, held in _fields(feature):
        values = [value for _, value in _fields(held)]
        if kind == 1:
            return [bytes(value) for value in values]
        if kind == 2:
            return np.frombuffer(b"".join(values), "<f4").astype(np.float32)
        one_by_one = bool(values) and isinstance(values[0], int)
        packed = b"".join(map(_encoded, values)) if one_by_one else b"".join(values)
        return _unpacked(np.frombuffer(packed, np.uint8))
    return []


def _unpacked(data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Packed varints as int64."""
    ends = np.flatnonzero(data < 0x80)
    if not len(ends):
        return np.zeros(0, np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    parts = (data & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(parts, starts).view(np.int64)


def _packed(values: np.ndarray[Any, Any]) -> bytes:
    """Int64 as packed varints."""
    left = np.ascontiguousarray(values, np.int64).view(np.uint64)
    place = np.arange(10, dtype=np.uint64) * np.uint64(7)
    parts = left[:, None] >> place
    there = parts > 0
    there[:, 0] = True
    more = np.concatenate([there[:, 1:], np.zeros((len(left), 1), bool)], axis=1)
    low = (parts & np.uint64(0x7F)).astype(np.uint8) | np.where(more, 0x80, 0).astype(np.uint8)
    return low[there].tobytes()


def _feature(column: Column) -> bytes:
    if isinstance(column, list):
        return _field(1, b"".join(_field(1, value) for value in column))
    if column.dtype == np.float32:
        return _field(2, _field(1, column.astype("<f4").tobytes()) if len(column) else b"")
    return _field(3, _field(1, _packed(column)) if len(column) else b"")


def _field(number: int, data: bytes) -> bytes:
    return _encoded(number << 3 | LENGTH) + _encoded(len(data)) + data


def _encoded(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
