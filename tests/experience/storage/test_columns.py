"""Every value comes back from Parquet as it was, alone, beside its like, and beside what is quite another thing."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from experience.storage.columns import from_arrow, to_arrow
from experience.storage.schema import Spec, arrow_type, from_json, merged, settled, spec_of, to_json
from experience.storage.values import decode, encode, encode_inline, same
from tests.experience.values import HARD, bits


def spec_over(values: Sequence[Any]) -> Spec:
    found = None
    for value in values:
        found = merged(found, spec_of(value))
    return settled(found)


def through_parquet(values: Sequence[Any]) -> list[Any]:
    spec = spec_over(values)
    file = io.BytesIO()
    pq.write_table(pa.table({"x": to_arrow(spec, values)}), file)
    twice = pa.concat_tables([pq.read_table(file), pq.read_table(file)])["x"].combine_chunks()
    return from_arrow(from_json(to_json(spec)), twice.slice(len(values)))


def assert_same(given: Sequence[Any], found: Sequence[Any]) -> None:
    assert len(given) == len(found)
    for one, other in zip(given, found, strict=True):
        assert same(one, other), f"{one!r} came back as {other!r}"


@pytest.mark.parametrize("value", HARD.values(), ids=HARD.keys())
def test_a_value_survives_alone_and_in_company(value: Any) -> None:
    for company in ([value], [value, value], [None, value], [{"a": value}, {}, {"a": None}], [value, "x"], [[value]]):
        assert_same(company, through_parquet(company))
    text, buffers = encode(value)
    assert text.isascii() and same(decode(text, buffers), value) and same(decode(encode_inline(value)), value)


def test_what_is_the_same() -> None:
    nan = bits(0x7FC00001, "f4")
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1}) and same(np.array(1.0), np.float64(1.0))
    unlike = [(0.0, -0.0), (1, 1.0), (1, True), ((1,), [1]), ("a", b"a"), (None, {}), (nan, bits(0x7FC00002, "f4"))]
    unlike += [(np.ones(1), np.float64(1)), (np.ones(2, "f4"), np.ones(2)), (np.ones(4), np.ones((2, 2)))]
    assert not any(same(one, other) for one, other in unlike)


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([{"tokens": np.zeros(3, "i4")}, {"tokens": np.zeros(0, "i4")}], "struct<tokens: large_list<item: int32>>"),
        ([1.5, None], "double"),
        ([b"png", None], "large_binary"),
        ([np.zeros((4, 4, 3), "u1")], "large_binary"),
        ([np.float16(1)], "halffloat"),
        (
            [[{"role": "user", "content": "x"}], []],
            "large_list<item: struct<role: large_string, content: large_string>>",
        ),
        ([[], {}], "large_string"),
    ],
)
def test_columns_are_what_other_readers_know(values: list[Any], type_: str) -> None:
    assert str(arrow_type(spec_over(values))) == type_


@pytest.mark.parametrize("thing", [object(), {1, 2}, {"a": [np.array([None])]}, np.zeros(2, "i4,f4")])
def test_what_cannot_be_kept_is_refused(thing: object) -> None:
    with pytest.raises(ValueError, match=r"value.*expected"):
        encode({"observation": thing})


NUMBERS = arrays.arrays(
    st.sampled_from(["f2", "f4", "f8", "i1", "u8", "?", "c8", ">u2", "M8[s]"]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | NUMBERS
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(TREES, min_size=1, max_size=4))
def test_any_values_survive_together(values: list[Any]) -> None:
    assert_same(values, through_parquet(values))
