"""What the values of a column have in common, found from the values themselves, and its Arrow type.

Columns are native Arrow types wherever the values agree: texts, numbers, lists, structs. What does not agree (a list in
one step, a dict in the next) becomes a text column of JSON (see `values`), so that nothing is refused or lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from experience.storage.values import dtype_name, dtype_of, is_scalar, is_text

Kind = Literal["none", "bool", "int", "float", "text", "bytes", "scalar", "array", "list", "tuple", "dict", "json"]

Null = Literal["", "none", "absent"]
"""What a null in the column stands for: it has none, None, or a key that the dict did not have."""

NATIVE_DTYPES = frozenset(
    ["bool", "float16", "float32", "float64"] + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
"""Those that Arrow and every reader of Parquet know; others are stored as their bytes."""


@dataclass(frozen=True)
class Spec:
    """What is known of the values of a column or of a part of one."""

    kind: Kind
    dtype: str = ""
    """Of a scalar or an array."""
    shape: tuple[int | None, ...] | None = ()
    """Of an array; None for an axis whose length differs, None as a whole where the number of axes does."""
    fields: Mapping[str, "Spec"] = field(default_factory=dict)
    """Of a dict."""
    item: "Spec | None" = None
    """Of a list or tuple; None if all are empty."""
    null: Null = ""


def spec_of(value: Any) -> Spec:
    """Return the spec of one value."""
    if value is None:
        return Spec("none", null="none")
    if isinstance(value, np.generic | np.ndarray):
        if is_scalar(value):
            return Spec("scalar", dtype_name(value.dtype.newbyteorder("=")))
        return Spec("array", dtype_name(value.dtype), value.shape)
    if isinstance(value, bool):
        return Spec("bool")
    if isinstance(value, int):
        return Spec("int" if -(2**63) <= value < 2**63 else "json")
    if isinstance(value, float):
        return Spec("float")
    if isinstance(value, str):
        return Spec("text" if is_text(value) else "json")
    if isinstance(value, bytes | bytearray | memoryview):
        return Spec("bytes")
    if isinstance(value, Mapping):
        if not all(type(key) is str and key and is_text(key) for key in value):
            return Spec("json")
        return Spec("dict", fields={key: spec_of(one) for key, one in value.items()})
    if isinstance(value, list | tuple):
        item: Spec | None = None
        for one in value:
            item = merged(item, spec_of(one))
        return Spec("list" if isinstance(value, list) else "tuple", item=item)
    return Spec("json")


def merged(one: Spec | None, other: Spec | None) -> Spec | None:
    """Return the narrowest spec that holds the values of both."""
    if one is None or other is None or one == other:
        return one or other
    if "none" in (one.kind, other.kind):
        return _with_null(other if one.kind == "none" else one, "none")
    null = one.null or other.null
    if {one.null, other.null} == {"none", "absent"}:
        return Spec("json", null="absent")
    if "json" in (one.kind, other.kind):
        return Spec("json", null="absent" if null == "absent" else "")
    if one.kind != other.kind and {(one.kind, one.dtype), (other.kind, other.dtype)} == FLOATS:
        return Spec("scalar", "float64", null=null)  # which is a float, bit for bit
    if one.kind == other.kind and one.dtype == other.dtype:
        if one.kind == "array":
            return Spec("array", one.dtype, _merged_shape(one.shape, other.shape), null=null)
        if one.kind in ("list", "tuple"):
            return Spec(one.kind, item=merged(one.item, other.item), null=null)
        if one.kind == "dict":
            return Spec("dict", fields=_merged_fields(one.fields, other.fields), null=null)
        return replace(one, null=null)
    return Spec("json", null="absent" if null == "absent" else "")


FLOATS = {("float", ""), ("scalar", "float64")}


def absent(spec: Spec) -> Spec:
    """Return the spec of a field that some dicts lack."""
    return _with_null(spec, "absent")


def settled(spec: Spec | None) -> Spec:
    """Return a spec that Parquet can hold: what holds no value yet (None alone, empty dicts and lists) becomes JSON."""
    if spec is None or spec.kind == "none" or (spec.kind == "dict" and not spec.fields):
        return Spec("json", null="absent" if spec and spec.null == "absent" else "")
    if spec.kind in ("list", "tuple"):
        return replace(spec, item=settled(spec.item)) if spec.item else Spec("json", null=_json_null(spec.null))
    if spec.kind == "dict":
        return replace(spec, fields={name: settled(one) for name, one in spec.fields.items()})
    return replace(spec, null=_json_null(spec.null)) if spec.kind == "json" else spec


def arrow_type(spec: Spec) -> pa.DataType:
    """Return the Arrow type of a settled spec."""
    if spec.kind in PLAIN_TYPES:
        return PLAIN_TYPES[spec.kind]
    if spec.kind == "scalar":
        return native_type(spec.dtype) if spec.dtype in NATIVE_DTYPES else pa.large_binary()
    if spec.kind == "array":
        values = pa.large_binary() if lies_raw(spec) else pa.large_list(native_type(spec.dtype))
        return pa.struct({"shape": pa.list_(pa.int64()), "values": values}) if needs_shape(spec) else values
    if spec.kind == "dict":
        return pa.struct([pa.field(name, arrow_type(one)) for name, one in spec.fields.items()])
    assert spec.item is not None
    return pa.large_list(arrow_type(spec.item))


PLAIN_TYPES = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.large_string(),
    "json": pa.large_string(),
    "bytes": pa.large_binary(),
}


def native_type(dtype: str) -> pa.DataType:
    """Return the Arrow type of a dtype in NATIVE_DTYPES."""
    return pa.from_numpy_dtype(np.dtype(dtype))


def lies_raw(spec: Spec) -> bool:
    """Say whether an array is stored as its C-order bytes: Parquet has no such number, or it is pixels."""
    pixels = (spec.shape is None or len(spec.shape) > 1) and dtype_of(spec.dtype).itemsize == 1
    return spec.dtype not in NATIVE_DTYPES or (pixels and spec.dtype != "bool")


def needs_shape(spec: Spec) -> bool:
    """Say whether the shape of an array must be stored beside it."""
    if spec.shape is None or None in spec.shape:
        return lies_raw(spec) or spec.shape is None or len(spec.shape) > 1
    return False


def to_json(spec: Spec) -> dict[str, Any]:
    """Return a spec as JSON."""
    row: dict[str, Any] = {"kind": spec.kind}
    if spec.dtype:
        row["dtype"] = spec.dtype
    if spec.kind == "array":
        row["shape"] = None if spec.shape is None else list(spec.shape)
    if spec.fields:
        row["fields"] = {name: to_json(one) for name, one in spec.fields.items()}
    if spec.item:
        row["item"] = to_json(spec.item)
    return row | ({"null": spec.null} if spec.null else {})


def from_json(row: Mapping[str, Any]) -> Spec:
    """Return the spec that `to_json` wrote."""
    shape = row.get("shape", ())
    return Spec(
        row["kind"],
        row.get("dtype", ""),
        None if shape is None else tuple(shape),
        {name: from_json(one) for name, one in row.get("fields", {}).items()},
        from_json(row["item"]) if "item" in row else None,
        row.get("null", ""),
    )


def _with_null(spec: Spec, null: Null) -> Spec:
    if spec.kind == "json":
        return Spec("json", null="absent" if "absent" in (spec.null, null) else spec.null)
    if spec.null in ("", null):
        return replace(spec, null=null)
    return Spec("json", null="absent")


def _json_null(null: Null) -> Null:
    return "absent" if null == "absent" else ""


def _merged_shape(
    one: tuple[int | None, ...] | None, other: tuple[int | None, ...] | None
) -> tuple[int | None, ...] | None:
    if one is None or other is None or len(one) != len(other):
        return None
    return tuple(a if a == b else None for a, b in zip(one, other, strict=True))


def _merged_fields(one: Mapping[str, Spec], other: Mapping[str, Spec]) -> dict[str, Spec]:
    found: dict[str, Spec] = {}
    for name in dict.fromkeys([*one, *other]):
        if name in one and name in other:
            both = merged(one[name], other[name])
            assert both is not None
            found[name] = both
        else:
            found[name] = absent(one[name] if name in one else other[name])
    return found
