"""Nested values (dicts, lists, tuples) leaf by leaf: shapes, zeros, sums, stacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class ArraySpec(NamedTuple):
    """What a leaf is."""

    shape: tuple[int | None, ...]
    """None for an axis whose length differs."""
    dtype: np.dtype[Any]


def map_structure(function: Callable[..., Any], *trees: Any) -> Any:
    """Apply a function to the leaves that lie at the same place of trees of one structure."""
    first = trees[0]
    if isinstance(first, Mapping):
        return {name: map_structure(function, *(tree[name] for tree in trees)) for name in first}
    if isinstance(first, list | tuple) and not isinstance(first, ArraySpec):
        return type(first)(map_structure(function, *parts) for parts in zip(*trees, strict=True))
    return function(*trees)


def leaves(tree: Any) -> list[Any]:
    """Return the leaves of a tree, from the left."""
    found: list[Any] = []
    map_structure(found.append, tree)
    return found


def zeros_like(tree: Any) -> Any:
    """Return zeros of every leaf's shape and dtype; of a text or bytes the empty one, of None None."""
    return map_structure(_zero, tree)


def stack(trees: Sequence[Any]) -> Any:
    """Return trees of one structure as one, a new first axis on every leaf.

    Where a value is None (what means nothing on a last step) the others' zeros stand, as in RLDS; where it is None
    everywhere, it stays None.
    """
    there = [tree for tree in trees if tree is not None]
    if not there:
        return None
    if isinstance(there[0], Mapping):
        return {name: stack([None if tree is None else tree[name] for tree in trees]) for name in there[0]}
    if isinstance(there[0], list | tuple):
        columns = [stack([None if tree is None else tree[i] for tree in trees]) for i in range(len(there[0]))]
        return type(there[0])(columns)
    zero = _zero(there[0])
    return np.stack([np.asarray(zero if tree is None else tree) for tree in trees])


def spec_of(tree: Any) -> Any:
    """Return the spec of every leaf; None has none."""
    return map_structure(lambda leaf: None if leaf is None else ArraySpec(np.shape(leaf), np.asarray(leaf).dtype), tree)


def merged_spec(one: Any, other: Any) -> Any:
    """Return the spec that both have: an axis of differing length is None; a leaf that one lacks is the other's."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, ArraySpec):
        shape = tuple(a if a == b else None for a, b in zip(one.shape, other.shape, strict=True))
        return ArraySpec(shape, np.result_type(one.dtype, other.dtype))
    if isinstance(one, Mapping):
        return {name: merged_spec(one[name], other[name]) for name in one}
    return type(one)(merged_spec(a, b) for a, b in zip(one, other, strict=True))


def _zero(leaf: Any) -> Any:
    if leaf is None or isinstance(leaf, str | bytes):
        return None if leaf is None else type(leaf)()
    return np.zeros_like(leaf)[()]
