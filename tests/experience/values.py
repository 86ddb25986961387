"""Values that have been lost by one format or another, and episodes of them."""

from typing import Any

import ml_dtypes
import numpy as np

from experience import Episode, Step


def bits(pattern: int, dtype: Any) -> np.ndarray[Any, Any]:
    """One number of these bits."""
    return np.array([pattern], f"u{np.dtype(dtype).itemsize}").view(dtype)


SIGNALLING_NAN = bits(0x7FF0000000000001, "f8")
HARD: dict[str, Any] = {
    "NaN payload": bits(0x7F800001, "f4"),
    "scalar NaN payload": bits(0x7FC12345, "f4")[0],
    "float NaN payload": bits(0xFFF8000000000123, "f8")[0].item(),
    "float64 NaN": SIGNALLING_NAN,
    "float16 NaN": bits(0x7E01, "f2"),
    "minus zero": -0.0,
    "minus zeros": np.array([-0.0, 0.0], "f2"),
    "infinity": float("-inf"),
    "uint64": np.uint64(2**64 - 1),
    "uint64s": np.array([2**63, 2**64 - 1], np.uint64),
    "int8": np.array([[-128, 127]], np.int8),
    "huge int": 2**70,
    "bfloat16": np.array([1.5, np.nan, -0.0], ml_dtypes.bfloat16),
    "bfloat16 scalar": np.array([1.5], ml_dtypes.bfloat16)[0],
    "float8": np.array([1.5], ml_dtypes.float8_e4m3fn),
    "complex": np.array([1 + 2j], np.complex64),
    "bool": np.array([[True, False], [False, True]]),
    "time": np.array(["2020-02-29T12"], "M8[s]"),
    "duration": np.timedelta64(7, "ms"),
    "big endian": np.arange(3, dtype=">i4"),
    "long double": np.array([np.longdouble(1) / 3]),
    "texts": np.array(["a", "Äß"]),
    "one": np.ones((1,)),
    "scalar": np.float64(1),
    "empty": np.zeros(0, "i4"),
    "empty rows": np.zeros((0, 3), "f4"),
    "no columns": np.zeros((3, 0), "f4"),
    "pixels": np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
    "column major": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "bytes": b"\x89PNG\r\n\x1a\n\x00\xff",
    "no bytes": b"",
    "text": "“Ä” \U0001f600\x00",
    "no text": "",
    "lone surrogate": "\ud800",
    "none": None,
    "nested": {"a": {"b": [1, None, {"c": (1.5, b"x")}]}, "list of arrays": [np.ones(2, "f4"), np.ones(3, "f4")]},
    "tuple": (1, "x", None),
    "empty tuple": (),
    "empty dict": {},
    "empty list": [],
    "tool calls": [{"name": "fetch", "arguments": {"codes": ["718-7"], "most": 3}}],
    "keys": {"$array": 1, 2: "x", "": None},
    "true": True,
}


def episode_of(values: list[Any], name: str = "e", **metadata: Any) -> Episode:
    """An episode of one step a value."""
    last = len(values) - 1
    steps = [
        Step(value, None if i == last else value, None if i == last else 0.1, None, i == 0, i == last, i == last)
        for i, value in enumerate(values)
    ]
    return Episode(tuple(steps), name, metadata)
