"""What the data of a table must be."""

from typing import Any

import numpy as np

from experience.replay.data.errors import SignatureMismatch
from experience.replay.data.structure import flatten, paths
from experience.replay.tables.fields import NOTHING, Fields, demand_fields
from experience.replay.tables.table import Table
from experience.transformations.trees import ArraySpec


def check(table: Table, data: Any, *fields: Fields | None, batched: bool = False) -> None:
    """Compare data and fields of items with what a table expects; see below."""
    if table.signature is not None:
        check_signature(table, data, batched=batched)
    if table.needs_fields:
        for one in fields:
            check_fields(table, one)


def check_signature(table: Table, data: Any, *, batched: bool = False) -> None:
    """Compare data with the signature of a table.

    Args:
        table: Its signature is nested `ArraySpec`s; None for an axis of any length.
        data: Of an item.
        batched: Every leaf has a first axis over the items.

    Raises:
        SignatureMismatch: Another structure, dtype or shape; says where.
    """
    where = f"table {table.name!r}"
    wanted, found = _flatten_signature(table.signature), flatten(data)
    if wanted.structure != found.structure:
        expected, got = _names(wanted.structure), _names(found.structure)
        raise SignatureMismatch(f"{where}: expected the fields {expected}, got {got}")
    for path, spec, leaf in zip(paths(wanted.structure), wanted.leaves, found.leaves, strict=True):
        array = np.asarray(leaf)
        shape = array.shape[1:] if batched else array.shape
        fits = len(shape) == len(spec.shape) and all(a in (None, b) for a, b in zip(spec.shape, shape, strict=True))
        if array.dtype != spec.dtype or not fits:
            name = ".".join(map(str, path)) or "the data"
            raise SignatureMismatch(
                f"{where}, {name}: expected {np.dtype(spec.dtype)} of shape {spec.shape}, got {array.dtype} of {shape}"
            )


def check_fields(table: Table, fields: Fields | None) -> None:
    """Compare the fields of an item with what a table needs to know.

    Raises:
        ValueError: One is missing, and it says which, and what for; or they are no `Fields`.
    """
    demand_fields(fields)
    known, missing = fields or NOTHING, ""
    if table.rate_limiter.counts == "tokens" and not known.tokens:
        missing = "its limiter counts tokens; expected tokens=... from 1"
    elif table.group_size and known.group is None:
        missing = f"its items come in groups of {table.group_size}; expected group=..."
    elif table.max_age is not None and known.policy_version is None:
        missing = f"its items go when they are older than max_age={table.max_age}; expected policy_version=..."
    if missing:
        raise ValueError(f"table {table.name!r}: {missing} in fields=Fields(...), got {fields}")


def _flatten_signature(signature: Any) -> Any:
    return flatten(_boxed(signature))


class _Box:
    """A leaf: `ArraySpec` is a tuple, and would be taken apart."""

    def __init__(self, spec: ArraySpec) -> None:
        self.shape, self.dtype = spec


def _boxed(signature: Any) -> Any:
    if isinstance(signature, ArraySpec):
        return _Box(signature)
    if isinstance(signature, dict):
        return {name: _boxed(part) for name, part in signature.items()}
    if isinstance(signature, list | tuple):
        parts = [_boxed(part) for part in signature]
        return type(signature)(*parts) if hasattr(signature, "_fields") else type(signature)(parts)
    raise ValueError(f"got a {type(signature).__name__} in a signature; expected ArraySpec(shape, dtype)")


def _names(structure: Any) -> str:
    return ", ".join(".".join(map(str, path)) or "(one value)" for path in paths(structure))
