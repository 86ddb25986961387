"""Checkpoints: all that a replay holds, in one file of frames; the last frame says that it is whole."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experience.replay.core import Core
from experience.replay.data.arena import Cell, Cells, LeafSpec
from experience.replay.data.errors import Broken
from experience.replay.log import StepNumbers, items_as_written, items_of, structure_as_written, structure_of
from experience.replay.tables.live import LiveTable
from experience.replay.tables.rate_limiters import LimiterState, RateLimiter
from experience.replay.tables.table import Table
from experience.storage.durable import sync_folder
from experience.storage.frames import FrameFile, frames, packed, unpacked
from experience.storage.values import dtype_name, dtype_of

FORMAT = 3
"""1: without fields of items, groups and ages. 2: in the log, steps are stored and inserted by two calls always."""

COUNTERS = ("inserts", "samples", "deletes", "forgone")
"""Of a limiter."""


def write_checkpoint(path: Path, core: Core, numbers: StepNumbers) -> None:
    """Write all that a replay holds, whole or not at all.

    Whoever calls holds the lock.

    Args:
        path: Of the file.
        core: What is written.
        numbers: Of its steps.
    """
    draft = path.with_name(path.name + ".partial")
    draft.unlink(missing_ok=True)
    file = FrameFile(draft)
    arenas = [arena for arena in core.store.arenas.values() if len(arena)]
    head = {"format": FORMAT, "next": numbers.next, "tables": list(core.tables), "arenas": len(arenas)}
    file.append(packed(head))
    for arena in arenas:
        rows = arena.rows()
        leaves = [None if one is None else [dtype_name(one.dtype), list(one.shape)] for one in arena.leaves]
        told = {"structure": structure_as_written(arena.structure), "leaves": leaves}
        file.append(packed({**told, "steps": numbers.of(arena, rows)}))
        for leaf in range(len(arena.leaves)):
            file.append(packed(arena.read(leaf, rows)))
    for live in core.tables.values():
        file.append(packed(_table(live, numbers)))
    file.append(packed("end"))
    file.close()
    draft.replace(path)
    sync_folder(path.parent)


def read_checkpoint(path: Path, core: Core, *, replace_limiters: bool = False) -> dict[int, Cell]:
    """Fill an empty replay with what a checkpoint holds, limiters included.

    Args:
        path: Of the file.
        core: Its tables are those of the checkpoint.
        replace_limiters: Let the limiters of the tables differ from those of the checkpoint.

    Returns:
        Number of a step to where it lies, each with a reference of the caller's.

    Raises:
        Broken: The file is cut or damaged.
        ValueError: It is of a newer version, or the tables differ.
    """
    read = _Reader(path)
    head = read.next()
    if head["format"] > FORMAT:
        raise ValueError(f"{path}: is of format {head['format']}; this version reads {FORMAT}; update open-medgemma")
    if head["tables"] != list(core.tables):
        raise ValueError(f"{path}: holds the tables {head['tables']}; got {list(core.tables)}; name the same in order")
    cells: dict[int, Cell] = {}
    for _ in range(head["arenas"]):
        told = read.next()
        specs = [None if one is None else LeafSpec(dtype_of(one[0]), tuple(one[1])) for one in told["leaves"]]
        arena = core.store.restored(structure_of(told["structure"]), specs)
        columns = [read.next() for _ in specs]
        rows = arena.put_many(
            [_objects(one) if isinstance(one, list) else one for one in columns], len(told["steps"]), 1
        )
        cells.update(zip(told["steps"].tolist(), Cells(arena, np.asarray(rows)).each(), strict=True))
    for live in core.tables.values():
        _fill(live, read.next(), cells, path, replace_limiters)
    if read.next() != "end":
        raise Broken(f"{path}: does not end where it should; take an older checkpoint")
    return cells


def format_of(path: Path) -> int:
    """Return the format of a checkpoint, which is that of the log behind it."""
    return int(_Reader(path).next()["format"])


def description(table: Table) -> dict[str, Any]:
    """Return what a checkpoint says of the definition of a table, its limiter apart."""
    selectors = {"sampler": repr(table.sampler), "remover": repr(table.remover)}
    sizes = {"max_size": table.max_size, "max_times_sampled": table.max_times_sampled}
    return {**selectors, **sizes, "group_size": table.group_size, "max_age": table.max_age}


class _Reader:
    """The values of a file, one after another."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._frames = frames(path)

    def next(self) -> Any:
        payload = next(self._frames, None)
        if payload is None:
            raise Broken(f"{self._path}: is cut or damaged: it has no end mark; take an older checkpoint")
        return unpacked(payload)


def _table(live: LiveTable, numbers: StepNumbers) -> dict[str, Any]:
    state = live.state
    rows = np.sort(state.order.oldest(len(state)))
    return {
        "description": description(state.table),
        "limiter": asdict(state.limiter.limiter),
        "counters": {name: getattr(state.limiter, name) for name in COUNTERS},
        "generator": state.generator.bit_generator.state,
        "rows": rows,
        "items": items_as_written(state.contents.of_many(rows), numbers),
        **state.arrays(),
    }


def _fill(live: LiveTable, held: Mapping[str, Any], cells: dict[int, Cell], path: Path, replace_limiters: bool) -> None:
    state = live.state
    where = f"{path}: table {state.table.name!r}"
    described = {"group_size": 0, "max_age": None, **held["description"]}
    if described != (given := description(state.table)):
        raise ValueError(f"{where} was {described}; got {given}; give the tables that were written")
    limiter = RateLimiter(**held["limiter"])
    if limiter != state.table.rate_limiter and not replace_limiters:
        raise ValueError(
            f"{where} had {limiter}; got {state.table.rate_limiter}; give the same, or replace_limiters=True"
        )
    items = items_of(held["items"], cells)
    for one in items:
        one.hold()
    state.restore(dict(held), dict(zip(held["rows"].tolist(), items, strict=True)))
    state.limiter = LimiterState(limiter)
    counters = held["counters"]  # of format 1 a list
    for name, value in counters.items() if isinstance(counters, dict) else zip(COUNTERS, counters, strict=False):
        setattr(state.limiter, name, value)
    state.generator.bit_generator.state = held["generator"]


def _objects(values: list[Any]) -> Any:
    column = np.empty(len(values), object)
    for number, one in enumerate(values):
        column[number] = one
    return column
