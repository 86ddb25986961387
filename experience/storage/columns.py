"""Values into Arrow columns of a spec, and back, bit for bit."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from experience.storage.schema import NATIVE_DTYPES, PLAIN_TYPES, Spec, arrow_type, lies_raw, native_type, needs_shape
from experience.storage.values import array_of, decode, dtype_of, encode_inline


class _Absent:
    """The value of a key that is not there."""


ABSENT: Final = _Absent()


def to_arrow(spec: Spec, values: Sequence[Any]) -> pa.Array:
    """Return the column of values, each of which the settled spec holds; None or ABSENT become null."""
    if spec.kind == "json":
        return pa.array([None if v is ABSENT else encode_inline(v) for v in values], pa.large_string())
    there = [value is not None and value is not ABSENT for value in values]
    if spec.kind in PLAIN_TYPES:
        return pa.array([v if ok else None for v, ok in zip(values, there, strict=True)], PLAIN_TYPES[spec.kind])
    if spec.kind == "scalar":
        return _scalars(spec, values, there)
    if spec.kind == "array":
        return _arrays(spec, values, there)
    mask = None if all(there) else pa.array([not ok for ok in there])
    if spec.kind == "dict":
        parts = [
            to_arrow(one, [value.get(name, ABSENT) if ok else ABSENT for value, ok in zip(values, there, strict=True)])
            for name, one in spec.fields.items()
        ]
        return pa.StructArray.from_arrays(parts, fields=list(arrow_type(spec)), mask=mask)
    assert spec.item is not None
    items = to_arrow(spec.item, [one for value, ok in zip(values, there, strict=True) if ok for one in value])
    lengths = [len(value) if ok else 0 for value, ok in zip(values, there, strict=True)]
    return pa.LargeListArray.from_arrays(_offsets(lengths), items, mask=mask)


def from_arrow(spec: Spec, column: pa.Array) -> list[Any]:
    """Return the values of a column; a null as None, or as ABSENT where the spec says that it stands for no key."""
    null = ABSENT if spec.null == "absent" else None
    if spec.kind == "json":
        return [null if text is None else decode(text) for text in column.to_pylist()]
    if spec.kind in PLAIN_TYPES:
        values = column.to_pylist()
        return values if null is None or column.null_count == 0 else [null if v is None else v for v in values]
    there = column.is_valid().to_pylist() if column.null_count else [True] * len(column)
    if spec.kind == "dict":
        names = list(spec.fields)
        parts = [from_arrow(spec.fields[name], column.field(name)) for name in names]
        rows = zip(*parts, strict=True)
        return [
            {name: value for name, value in zip(names, row, strict=True) if value is not ABSENT} if ok else null
            for row, ok in zip(rows, there, strict=True)
        ]
    if spec.kind == "scalar":
        found = _flat(spec.dtype, column)
        return [found[i] if ok else null for i, ok in enumerate(there)]
    if spec.kind == "array":
        return [value if ok else null for value, ok in zip(_from_arrays(spec, column), there, strict=True)]
    assert spec.item is not None
    offsets = column.offsets.to_numpy()
    items = from_arrow(spec.item, column.values.slice(offsets[0], offsets[-1] - offsets[0]))
    parts = [items[a - offsets[0] : b - offsets[0]] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    kind = tuple if spec.kind == "tuple" else list
    return [kind(part) if ok else null for part, ok in zip(parts, there, strict=True)]


def _offsets(lengths: Sequence[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))


def _native(dtype: str, data: bytes) -> pa.Array:
    """Bytes as an Arrow array of the dtype; numbers are not looked at, so that a NaN keeps its payload."""
    if dtype == "bool":
        return pa.array(np.frombuffer(data, np.bool_))
    size = len(data) // np.dtype(dtype).itemsize
    return pa.Array.from_buffers(native_type(dtype), size, [None, pa.py_buffer(data)])


def _flat(dtype: str, column: pa.Array) -> Any:
    """The numbers of a column, nulls as anything."""
    if dtype not in NATIVE_DTYPES:
        kind = dtype_of(dtype)
        empty = bytes(kind.itemsize)
        return array_of(b"".join(one or empty for one in column.to_pylist()), dtype, (len(column),))
    if dtype == "bool":
        return column.fill_null(False).to_numpy(zero_copy_only=False)
    kind = np.dtype(dtype)
    data = column.buffers()[1]
    if data is None or not len(column):
        return np.empty(len(column), kind)
    return np.frombuffer(data, kind, len(column), column.offset * kind.itemsize)


def _scalars(spec: Spec, values: Sequence[Any], there: Sequence[bool]) -> pa.Array:
    kind = dtype_of(spec.dtype)
    if spec.dtype not in NATIVE_DTYPES:
        found = [np.asarray(v, kind).tobytes() if ok else None for v, ok in zip(values, there, strict=True)]
        return pa.array(found, pa.large_binary())
    empty = bytes(kind.itemsize)
    data = b"".join(np.asarray(v, kind).tobytes() if ok else empty for v, ok in zip(values, there, strict=True))
    column = _native(spec.dtype, data)
    return column if all(there) else _masked(column, there)


def _masked(column: pa.Array, there: Sequence[bool]) -> pa.Array:
    bits = pa.array(there, pa.bool_()).buffers()[1]
    return pa.Array.from_buffers(column.type, len(column), [bits, column.buffers()[1]])


def _arrays(spec: Spec, values: Sequence[Any], there: Sequence[bool]) -> pa.Array:
    mask = None if all(there) else pa.array([not ok for ok in there])
    data = [value.tobytes() if ok else b"" for value, ok in zip(values, there, strict=True)]
    if lies_raw(spec):
        stored = pa.array([one if ok else None for one, ok in zip(data, there, strict=True)], pa.large_binary())
    else:
        sizes = [value.size if ok else 0 for value, ok in zip(values, there, strict=True)]
        stored = pa.LargeListArray.from_arrays(_offsets(sizes), _native(spec.dtype, b"".join(data)), mask=mask)
    if not needs_shape(spec):
        return stored
    shapes = pa.array(
        [list(v.shape) if ok else None for v, ok in zip(values, there, strict=True)], pa.list_(pa.int64())
    )
    return pa.StructArray.from_arrays([shapes, stored], fields=list(arrow_type(spec)), mask=mask)


def _from_arrays(spec: Spec, column: pa.Array) -> list[Any]:
    """Arrays of a column; where it is null, anything."""
    shapes: list[Any] = [spec.shape] * len(column)
    if needs_shape(spec):
        shapes, column = [shape or () for shape in column.field("shape").to_pylist()], column.field("values")
    if lies_raw(spec):
        there = column.is_valid().to_pylist()
        return [
            array_of(one.as_py(), spec.dtype, shape) if ok else None
            for one, shape, ok in zip(column, shapes, there, strict=True)
        ]
    offsets = column.offsets.to_numpy().tolist()
    flat = _flat(spec.dtype, column.values)
    if not flat.flags.writeable:
        flat = flat.copy()
    parts = [flat[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    if needs_shape(spec) or len(spec.shape or ()) > 1:
        return [
            part.reshape(shape) if part.size or 0 in shape else part for part, shape in zip(parts, shapes, strict=True)
        ]
    return parts
