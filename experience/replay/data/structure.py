"""Nested data as a structure and its leaves, and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Structure = Any
"""None for a leaf; else a tuple of the type and its parts: (dict, (name, structure), ...), (list, structure, ...)."""


class Flat(NamedTuple):
    """Data taken apart."""

    structure: Structure
    leaves: list[Any]
    """Arrays, or objects that are none: texts, bytes, None."""


def flatten(data: Any) -> Flat:
    """Take dicts, lists and tuples apart; numbers become arrays without axes."""
    leaves: list[Any] = []
    return Flat(_flatten(data, leaves), leaves)


def unflatten(structure: Structure, leaves: Sequence[Any]) -> Any:
    """Put together what `flatten` took apart."""
    if structure is None:
        return leaves[0]
    return _unflatten(structure, iter(leaves))


def paths(structure: Structure) -> list[tuple[Any, ...]]:
    """Return where each leaf lies: its keys and places."""
    if structure is None:
        return [()]
    kind, *parts = structure
    named = parts if kind is dict else enumerate(parts)
    return [(name, *path) for name, part in named for path in paths(part)]


def _flatten(data: Any, leaves: list[Any]) -> Structure:
    if type(data) is np.ndarray:
        leaves.append(data)
        return None
    if isinstance(data, Mapping):
        return (dict, *[(name, _flatten(value, leaves)) for name, value in data.items()])
    if isinstance(data, list | tuple):
        return (type(data), *[_flatten(value, leaves) for value in data])
    leaves.append(np.asarray(data) if isinstance(data, int | float | complex | np.generic | np.ndarray) else data)
    return None


def _unflatten(structure: Structure, leaves: Any) -> Any:
    if structure is None:
        return next(leaves)
    kind, *parts = structure
    if kind is dict:
        return {name: _unflatten(part, leaves) for name, part in parts}
    values = [_unflatten(part, leaves) for part in parts]
    make: Callable[..., Any] = kind
    return make(*values) if hasattr(kind, "_fields") else make(values)
