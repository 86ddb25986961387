"""What crosses the pipe between a decoder pool and its worker processes: JSON, and the raw bytes of arrays.

Never pickle, which would run whatever a damaged or hostile worker sends.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import sys
from collections.abc import Iterator
from functools import cache
from io import BufferedIOBase, RawIOBase
from types import UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from ..frame import MAX_VALUES, Array
from ..picture import Square
from ..volumes.select import Selection

Value = TypeVar("Value")

MAX_TEXT = 2**26
"""Longest JSON text of one message, bytes."""
_LENGTH = struct.Struct("<I")
_KINDS = "biuf"  # bool, signed, unsigned, float


class Job(NamedTuple):
    """What a worker is asked to do with one file."""

    operation: str
    """"pictures", "content", "header", "values" or "volume"."""
    name: str
    """What messages call the file."""
    path: str
    """Absolute; "" for bytes in memory."""
    member: str | None
    """Name inside the zip at `path`."""
    data: Array | None
    """(N,) uint8, the bytes of a file in memory."""
    policy: str
    """Pixel policy of "pictures"."""
    square: Square | None
    """Side in pixels and resize policy of "pictures"."""
    select: Selection
    """Which volume of a file that holds several."""
    memory_mib: int
    """Growth of the worker that the file may cause."""
    seconds: float
    """What the pool waits for the next frame; a worker without its pool gives up a while later."""


class Answer(NamedTuple):
    """What a worker says of the present file."""

    kind: str
    """"ready" (for the first job), "item" (the next message is a frame, a header, ...), "done" or "failed"."""
    text: str = ""
    """With "done" the hex SHA-256 of the file's bytes, with "failed" the reason and what to do."""
    out_of_memory: bool = False
    """With "failed": the reason is the bound on memory."""
    is_last: bool = False
    """With "failed": the worker takes no further job."""


def write_message(pipe: RawIOBase | BufferedIOBase, value: Any) -> None:
    """Write one value.

    Args:
        pipe: unbuffered where the process may fork, for a forked one would write the buffer again.
        value: numbers, texts, None, arrays, and tuples, dataclasses and NamedTuples of these.
    """
    arrays: list[Array] = []
    text = json.dumps(_to_json(value, arrays)).encode()
    _write_all(pipe, _LENGTH.pack(len(text)) + text)
    for array in arrays:
        _write_all(pipe, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def read_message(pipe: BufferedIOBase, hint: type[Value]) -> Value:
    """Read one value that is of the type `hint`; arrays are read straight into their own memory.

    Raises:
        EOFError: the other end has gone.
        ValueError: what came is no message of this type.
    """
    (length,) = _LENGTH.unpack(_read_exactly(pipe, bytearray(_LENGTH.size)))
    if length > MAX_TEXT:
        raise ValueError(f"a message of {length} bytes, more than {MAX_TEXT}")
    value = json.loads(bytes(_read_exactly(pipe, bytearray(length))))
    restored: Value = _restore(hint, value, pipe)
    return restored


def _to_json(value: Any, arrays: list[Array]) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return [value.dtype.str, list(value.shape)]
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [_to_json(getattr(value, field.name), arrays) for field in dataclasses.fields(value)]
    if isinstance(value, tuple | list):
        return [_to_json(item, arrays) for item in value]
    raise TypeError(f"{type(value).__name__} is not sent")


def _restore(hint: Any, value: Any, pipe: BufferedIOBase) -> Any:
    """The inverse of `_to_json`; arrays follow the text in the order in which the text names them."""
    if value is None:
        return None
    origin = get_origin(hint)
    if origin is Union or origin is UnionType:
        (hint,) = (option for option in get_args(hint) if option is not type(None))
        origin = get_origin(hint)
    if np.ndarray in (origin, hint):
        return _read_array(pipe, *value)
    if fields := _field_types(hint):
        return hint(*(_restore(kind, item, pipe) for kind, item in zip(fields, value, strict=True)))
    if origin is tuple:
        return tuple(_restore(kind, item, pipe) for kind, item in _items(get_args(hint), value))
    return value


@cache
def _field_types(hint: Any) -> tuple[Any, ...]:
    """Of a dataclass or NamedTuple in order; () for every other type."""
    if not isinstance(hint, type) or not (dataclasses.is_dataclass(hint) or hasattr(hint, "_fields")):
        return ()
    types = get_type_hints(hint)
    names = [f.name for f in dataclasses.fields(hint)] if dataclasses.is_dataclass(hint) else hint._fields
    return tuple(types[name] for name in names)


def _items(types: tuple[Any, ...], value: list[Any]) -> Iterator[tuple[Any, Any]]:
    if types[-1] is Ellipsis:
        return ((types[0], item) for item in value)
    return iter(zip(types, value, strict=True))


def _read_array(pipe: BufferedIOBase, dtype_name: str, shape: list[int]) -> Array:
    dtype = np.dtype(dtype_name)
    if dtype.kind not in _KINDS or min(shape, default=0) < 0 or math.prod(shape) > MAX_VALUES:
        raise ValueError(f"not an array that is sent: {dtype} of shape {shape}")
    array = np.empty(shape, dtype)
    _read_exactly(pipe, array.reshape(-1).view(np.uint8).data)
    return array


def _read_exactly(pipe: BufferedIOBase, buffer: Any) -> Any:
    view = memoryview(buffer)
    while len(view):
        count = pipe.readinto(view)
        if not count:
            raise EOFError("the other end of the pipe has gone")
        view = view[count:]
    return buffer


def _write_all(pipe: RawIOBase | BufferedIOBase, data: Any) -> None:
    view = memoryview(data)
    while len(view):
        view = view[pipe.write(view) :]


def widen(pipe: RawIOBase | BufferedIOBase) -> None:
    """Let a pipe hold 1 MiB instead of 64 KiB where the system can, so that frames cross in few turns."""
    if sys.platform != "linux":
        return
    import fcntl

    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 2**20)
    except OSError:  # the user's share of pipe memory is spent
        return
