"""Any value that an agent sees, says or does, as JSON beside raw buffers, and back without the loss of a bit.

Plain JSON stays what it is. Whatever JSON cannot hold becomes an object whose only key begins with `$`: bytes and
arrays lie in the buffers (or, inline, as base64), a NaN keeps its payload as 16 hexadecimal digits.

Exceptions: an array of numbers without axes comes back as the scalar of its dtype, arrays come back in C order, and
named tuples as tuples. Objects, structured and object arrays are refused.
"""

import json
import math
import struct
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from experience.episode import Episode

_ASCII = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


class Encoded(NamedTuple):
    """A value taken apart."""

    text: str
    """ASCII JSON."""
    buffers: list[bytes]
    """What `$bytes`, `$array` and `$scalar` refer to, by place."""


def encode(value: Any, *, canonical: bool = False) -> Encoded:
    """Take a value apart.

    Args:
        value: None, bool, int, float, str, bytes, NumPy scalars and arrays; dicts, lists and tuples of them.
        canonical: Sort the keys of dicts and make a float64 scalar a float, so that equal values have equal texts.

    Raises:
        ValueError: It holds something else; says where.
    """
    buffers: list[bytes] = []

    def keep(data: bytes) -> int:
        buffers.append(data)
        return len(buffers) - 1

    tree = _tree(value, "value", keep, canonical)
    return Encoded(_ASCII.encode(tree), buffers)


def encode_inline(value: Any) -> str:
    """Take a value apart into one text, buffers as base64."""
    tree = _tree(value, "value", lambda data: b64encode(data).decode(), False)
    text = json.dumps(tree, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text if is_text(text) else _ASCII.encode(tree)


def decode(text: str, buffers: Sequence[bytes] = ()) -> Any:
    """Put together what `encode` or `encode_inline` took apart."""
    return _value(json.loads(text), buffers)


class Digest(NamedTuple):
    """What an episode comes to."""

    sha256: str
    num_bytes: int
    """Of its values."""


def digest_of(episode: Episode) -> Digest:
    """Return the SHA-256 and the size of an episode's content, the same in whatever form it lies on disk."""
    digest, num_bytes = sha256(), 0
    for part in ([episode.episode_id, dict(episode.metadata)], *(step.fields() for step in episode.steps)):
        text, buffers = encode(part, canonical=True)
        for data in (text.encode(), *buffers):
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
            num_bytes += len(data)
    return Digest(digest.hexdigest(), num_bytes)


def sha256_of(episode: Episode) -> str:
    """Return the SHA-256 of an episode's content."""
    return digest_of(episode).sha256


def same(one: Any, other: Any) -> bool:
    """Say whether two values are equal in every bit, dtypes and shapes included; the order of keys is free."""
    return encode(one, canonical=True) == encode(other, canonical=True)


def is_text(text: str) -> bool:
    """Say whether a str is Unicode text; a lone surrogate is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(256)
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return a name that `dtype_of` turns back into the dtype, byte order included.

    Raises:
        ValueError: The dtype is structured or holds objects.
    """
    if dtype.hasobject or dtype.names or dtype.subdtype:
        raise ValueError(f"got dtype {dtype}; expected numbers, times, texts or bytes; store each field by itself")
    if dtype.kind == "V" and not dtype.name.startswith("void"):
        return dtype.name  # ml_dtypes: bfloat16, float8_e4m3fn, ...
    return dtype.name if dtype.kind not in "USV" and np.dtype(dtype.name) == dtype else dtype.str


@lru_cache(256)
def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype of a name; bfloat16 and the 8-bit floats are those of ml_dtypes.

    Raises:
        ValueError: ml_dtypes is needed and not installed, or the name is unknown.
    """
    try:
        return np.dtype(name)
    except TypeError:
        pass
    try:
        import ml_dtypes
    except ImportError as fault:
        raise ValueError(f"dtype {name} needs ml_dtypes; run `pip install 'open-medgemma[rlds]'`") from fault
    if not hasattr(ml_dtypes, name):
        raise ValueError(f"got dtype {name!r}; expected one of NumPy or ml_dtypes")
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found


def is_scalar(value: np.generic | np.ndarray[Any, Any]) -> bool:
    """Say whether NumPy's value is kept as a scalar; an array of a text without axes knows more than its scalar."""
    return isinstance(value, np.generic) or (value.ndim == 0 and value.dtype.kind not in "USV")


def array_of(data: bytes, dtype: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return the array whose C-order bytes these are."""
    kind = dtype_of(dtype)
    if kind.itemsize == 0:
        return np.empty(tuple(shape), kind)
    return np.frombuffer(bytearray(data), kind).reshape(tuple(shape))


def _tree(value: Any, where: str, keep: Any, canonical: bool) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return _array_tree(value, where, keep, canonical)
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": keep(bytes(value))}
    if isinstance(value, Mapping):
        items = [(key, _tree(one, f"{where}.{key}", keep, canonical)) for key, one in _items(value, canonical)]
        if all(type(key) is str and not key.startswith("$") for key, _ in items):
            return dict(items)
        return {"$dict": [[_tree(key, f"a key of {where}", keep, canonical), one] for key, one in items]}
    if isinstance(value, list | tuple):
        parts = [_tree(one, f"{where}[{place}]", keep, canonical) for place, one in enumerate(value)]
        return {"$tuple": parts} if isinstance(value, tuple) else parts
    if isinstance(value, int | str):  # of enumerations, the value
        return int(value) if isinstance(value, int) else str.__str__(value)
    raise ValueError(
        f"{where}: got a {type(value).__module__}.{type(value).__name__}; expected texts, bytes, numbers, NumPy "
        "arrays, and dicts, lists and tuples of them (a tensor: .numpy())"
    )


def _items(value: Mapping[Any, Any], canonical: bool) -> list[tuple[Any, Any]]:
    return sorted(value.items(), key=lambda item: repr(item[0])) if canonical else list(value.items())


def _array_tree(value: Any, where: str, keep: Any, canonical: bool) -> Any:
    if canonical and value.dtype == np.float64 and value.ndim == 0:
        return _tree(struct.unpack("=d", value.tobytes())[0], where, keep, canonical)
    try:
        name = dtype_name(value.dtype)
    except ValueError as fault:
        raise ValueError(f"{where}: {fault}") from fault
    if is_scalar(value):
        native = value.astype(value.dtype.newbyteorder("="))
        return {"$scalar": [dtype_name(native.dtype), keep(native.tobytes())]}
    return {"$array": [name, list(value.shape), keep(value.tobytes())]}


def _value(tree: Any, buffers: Sequence[bytes]) -> Any:
    if isinstance(tree, list):
        return [_value(one, buffers) for one in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        (tag, held), *_ = tree.items()
        if tag.startswith("$"):
            return _tagged(tag, held, buffers)
    return {key: _value(one, buffers) for key, one in tree.items()}


def _tagged(tag: str, held: Any, buffers: Sequence[bytes]) -> Any:
    def data(place: Any) -> bytes:
        return b64decode(place) if isinstance(place, str) else buffers[place]

    if tag == "$bytes":
        return data(held)
    if tag == "$array":
        return array_of(data(held[2]), held[0], held[1])
    if tag == "$scalar":
        return array_of(data(held[1]), held[0], (1,))[0]
    if tag == "$tuple":
        return tuple(_value(one, buffers) for one in held)
    if tag == "$float":
        return struct.unpack(">d", bytes.fromhex(held))[0]
    if tag == "$dict":
        return {_value(key, buffers): _value(one, buffers) for key, one in held}
    raise ValueError(f"got the tag {tag!r}; expected one that this version writes; update open-medgemma")
