"""Features of TensorFlow Datasets: their features.json, and episodes in and out of records, without TensorFlow.

A record is one episode. A sequence of dicts is stored as one column a leaf: all steps of an episode one after another;
of sequences inside steps the lengths lie beside the values (`ragged_row_lengths_0`).

Source: tensorflow_datasets 4.9.10, core/features and core/example_serializer.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from experience.formats.example import Column, parse_example, serialize_example

Kind = Literal["dict", "sequence", "tensor", "text", "image"]
CLASSES = "tensorflow_datasets.core.features."


@dataclass(frozen=True)
class Feature:
    """A feature or a tree of them."""

    kind: Kind
    fields: Mapping[str, "Feature"] = field(default_factory=dict)
    """Of a dict."""
    item: "Feature | None" = None
    """Of a sequence."""
    is_dataset: bool = False
    """A sequence that TensorFlow gives as a data set of its own: the steps."""
    dtype: str = ""
    """Of a tensor; `object` for bytes."""
    shape: tuple[int | None, ...] = ()
    encoding: str = "none"
    """none: as numbers of 64-bit integers or 32-bit floats; bytes or zlib: as they lie in memory."""


def from_json(node: Mapping[str, Any], where: str = "features.json") -> Feature:
    """Return the features that a features.json describes.

    Raises:
        ValueError: It holds a feature that is none of those known here.
    """
    name = node["pythonClassName"].rpartition(".")[2]
    if "featuresDict" in node:
        parts = node["featuresDict"].get("features", {})
        return Feature("dict", {key: from_json(one, f"{where}/{key}") for key, one in parts.items()})
    if "sequence" in node:
        item = from_json(node["sequence"]["feature"], where)
        return Feature("sequence", item=item, is_dataset=name == "Dataset")
    if "tensor" in node:
        tensor = node["tensor"]
        return Feature(
            "tensor", dtype=_dtype(tensor), shape=_shape(tensor), encoding=tensor.get("encoding", "none") or "none"
        )
    if "text" in node:
        return Feature("text")
    if "image" in node:
        return Feature("image", shape=_shape(node["image"]))
    if name == "ClassLabel":
        return Feature("tensor", dtype="int64")
    raise ValueError(f"{where}: got the feature {name}; expected dicts, sequences, tensors, texts and images")


def to_json(feature: Feature) -> dict[str, Any]:
    """Return features as a features.json describes them."""
    if feature.kind == "dict":
        parts = {name: to_json(one) for name, one in feature.fields.items()}
        return {"pythonClassName": CLASSES + "features_dict.FeaturesDict", "featuresDict": {"features": parts}}
    if feature.kind == "sequence":
        assert feature.item is not None
        name = "dataset_feature.Dataset" if feature.is_dataset else "sequence_feature.Sequence"
        return {"pythonClassName": CLASSES + name, "sequence": {"feature": to_json(feature.item), "length": "-1"}}
    if feature.kind == "text":
        return {"pythonClassName": CLASSES + "text_feature.Text", "text": {}}
    assert feature.kind == "tensor", "pictures are written as the bytes they are"
    shape = {"dimensions": [str(-1 if size is None else size) for size in feature.shape]} if feature.shape else {}
    raw = feature.encoding != "none"  # which Scalar does not know
    name = "tensor_feature.Tensor" if feature.shape or raw else "scalar.Scalar"
    return {
        "pythonClassName": CLASSES + name,
        "tensor": {"shape": shape, "dtype": feature.dtype, "encoding": feature.encoding},
    }


def decode_record(feature: Feature, record: bytes) -> dict[str, Any]:
    """Return the values of a record: pictures as the bytes they are, texts as str where they are UTF-8.

    Raises:
        ValueError: The record is broken, or lacks a feature.
    """
    decoded = _decode(feature, parse_example(record), "", 0)
    assert isinstance(decoded, dict)
    return decoded


def encode_record(feature: Feature, values: Mapping[str, Any]) -> bytes:
    """Return the record of some values."""
    columns: dict[str, Column] = {}
    _encode(feature, [values], "", [], columns)
    return serialize_example(columns)


def _decode(feature: Feature, columns: Mapping[str, Column], name: str, rank: int) -> Any:
    """Values of a feature, `rank` lists deep."""
    if feature.kind == "dict":
        parts = {key: _decode(one, columns, _joined(name, key), rank) for key, one in feature.fields.items()}
        return _zipped(parts, rank)
    if feature.kind == "sequence":
        assert feature.item is not None
        return _decode(feature.item, columns, name, rank + 1)
    if feature.kind == "tensor" and feature.shape.count(None) > 1:
        shapes = columns.get(f"{name}/shape", np.zeros(0, np.int64))
        held = _column(columns, f"{name}/value")
        rows = np.asarray(shapes).reshape(-1, len(feature.shape))
        flat: Any = [_from_bytes(feature, one, row) for one, row in zip(held, rows, strict=True)]
        return _nested(flat, [], rank)
    lengths = [_column(columns, f"{name}/ragged_row_lengths_{level}") for level in range(rank - 1)]
    held = _column(columns, f"{name}/ragged_flat_values" if rank > 1 else name)
    return _nested(_items(feature, held, rank), lengths, rank)


def _items(feature: Feature, held: Column, rank: int) -> Any:
    """All values of a column, one after another."""
    if feature.kind == "text":
        return [_text(one) for one in held]
    if feature.kind == "image" or feature.dtype in ("object", "string"):
        if feature.shape and feature.kind == "tensor":
            raise ValueError(f"got a tensor of texts of shape {feature.shape}; expected single texts or sequences")
        return list(held)
    if feature.encoding != "none":
        shape = [-1 if size is None else size for size in feature.shape]
        return [_from_bytes(feature, one, shape) for one in held]
    numbers = np.asarray(held if len(held) else np.zeros(0, np.int64))
    kind = np.dtype(feature.dtype)
    numbers = numbers.view(np.uint64) if kind == np.uint64 else numbers.astype(kind)
    if rank == 0:
        return numbers.reshape([1, *(-1 if size is None else size for size in feature.shape)])
    assert None not in feature.shape
    count = len(numbers) // max(1, int(np.prod([size or 0 for size in feature.shape])))
    return numbers.reshape([count, *feature.shape])


def _from_bytes(feature: Feature, data: bytes, shape: Any) -> Any:
    raw = zlib.decompress(data) if feature.encoding == "zlib" else data
    array = np.frombuffer(bytearray(raw), np.dtype(feature.dtype)).reshape([int(size) for size in shape])
    return array[()] if array.ndim == 0 else array


def _nested(flat: Any, lengths: Sequence[Any], rank: int) -> Any:
    if rank == 0:
        return flat[0]
    for level in reversed(lengths):
        ends = np.cumsum(level)
        flat = [flat[end - length : end] for end, length in zip(ends, level, strict=True)]
    return flat


def _zipped(parts: Mapping[str, Any], rank: int) -> Any:
    """Dicts of lists as lists of dicts, `rank` lists deep."""
    if rank == 0 or not parts:
        return dict(parts)
    sizes = {len(part) for part in parts.values()}
    if len(sizes) > 1:
        raise ValueError(f"the columns {', '.join(parts)} differ in length ({sorted(sizes)}); the record is broken")
    return [_zipped({name: part[i] for name, part in parts.items()}, rank - 1) for i in range(sizes.pop())]


def _encode(
    feature: Feature, items: Sequence[Any], name: str, lengths: list[list[int]], columns: dict[str, Column]
) -> None:
    """Write items that lie `len(lengths)` lists deep; `lengths` holds those of the lists, from the outside."""
    if feature.kind == "dict":
        for key, one in feature.fields.items():
            _encode(one, [item[key] for item in items], _joined(name, key), lengths, columns)
        return
    if feature.kind == "sequence":
        assert feature.item is not None
        inner = [one for item in items for one in item]
        _encode(feature.item, inner, name, [*lengths, [len(item) for item in items]], columns)
        return
    for level, counts in enumerate(lengths[1:]):
        columns[f"{name}/ragged_row_lengths_{level}"] = np.array(counts, np.int64)
    if feature.shape.count(None) > 1:
        columns[f"{name}/shape"] = np.array([size for item in items for size in item.shape], np.int64)
        name = f"{name}/value"
    columns[f"{name}/ragged_flat_values" if len(lengths) > 1 else name] = _encoded(feature, items)


def _encoded(feature: Feature, items: Sequence[Any]) -> Column:
    if feature.kind == "text":
        return [item.encode() for item in items]
    if feature.dtype == "object":
        return [bytes(item) for item in items]
    kind = np.dtype(feature.dtype)
    data = b"".join(np.asarray(item, kind).tobytes() for item in items)
    if feature.encoding == "bytes":
        return [np.asarray(item, kind).tobytes() for item in items]
    numbers = np.frombuffer(data, kind)
    if kind == np.float32:
        return numbers
    return numbers.view(np.int64) if kind == np.uint64 else numbers.astype(np.int64)


def _column(columns: Mapping[str, Column], name: str) -> Column:
    if name not in columns:
        raise ValueError(f"the record lacks the feature {name!r}; features.json is of other records")
    return columns[name]


def _joined(name: str, key: str) -> str:
    return f"{name}/{key}" if name else key


def _text(data: Any) -> str | bytes:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError:
        return bytes(data)


def _dtype(tensor: Mapping[str, Any]) -> str:
    dtype = str(tensor["dtype"])
    return "object" if dtype == "string" else dtype


def _shape(tensor: Mapping[str, Any]) -> tuple[int | None, ...]:
    sizes = [int(size) for size in tensor.get("shape", {}).get("dimensions", [])]
    return tuple(None if size < 0 else size for size in sizes)
