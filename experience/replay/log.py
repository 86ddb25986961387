"""The log of what changes a replay: calls, in order, from which the same state comes again to the last bit.

Steps have numbers; items name the steps that they are made of, so that what they share is written once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from experience.replay.data.arena import Arena, Cell, Cells, Store
from experience.replay.data.items import Column, Data, Part, Trajectory, drop_all, of_one_arena
from experience.replay.data.structure import Structure, flatten
from experience.replay.tables.fields import Fields, as_written, fields_of
from experience.replay.tables.live import LiveTable
from experience.storage.frames import FrameFile, frames, packed, unpacked


class StepNumbers:
    """The numbers of steps, by where they lie."""

    def __init__(self, next_number: int = 0) -> None:
        self.next = next_number
        self._of: dict[Arena, Any] = {}
        """By row."""

    @classmethod
    def of_cells(cls, cells: dict[int, Cell]) -> Self:
        """Return the numbers by which cells are named."""
        made = cls(1 + max(cells, default=-1))
        found: dict[Arena, dict[int, int]] = {}
        for number, (arena, row) in cells.items():
            found.setdefault(arena, {})[row] = number
        for arena, numbers in found.items():
            made.number(Cells(arena, list(numbers)), list(numbers.values()))
        return made

    def number(self, cells: Cells, numbers: Any) -> None:
        """Say which numbers steps have, (n,) int64."""
        arena, rows = cells
        known = self._of.get(arena, np.zeros(0, np.int64))
        if len(known) < arena.capacity:
            self._of[arena] = known = np.resize(known, arena.capacity)
        known[rows] = numbers

    def of(self, arena: Arena, rows: Any) -> Any:
        """Return the numbers of steps, (n,) int64."""
        return self._of[arena][rows]


class CallLog:
    """Calls being written."""

    def __init__(self, path: Path, numbers: StepNumbers) -> None:
        """Append to a file.

        Args:
            path: Of the file.
            numbers: Of the steps that are there.
        """
        self.file = FrameFile(path)
        self.numbers = numbers

    def put(self, data: Any, count: int, *, batched: bool = False, inserted: Mapping[str, Any] | None = None) -> Any:
        """Write that steps are stored, and return their numbers, (count,) int64.

        Args:
            data: Of one, or if `batched` of all, stacked.
            count: Of steps.
            batched: Whether the data is stacked.
            inserted: Tables that all are inserted into at once, to priorities, (count,).
        """
        first = self.numbers.next
        known = {"inserted": inserted} if inserted else {}
        self.file.append(packed({"call": "put", "first": first, "data": data, "batched": batched, **known}))
        self.numbers.next += count
        return np.arange(first, first + count)

    def insert(
        self,
        live: LiveTable,
        items: Sequence[Data] | Cells,
        priorities: Any,
        fields: Sequence[Fields] | None = None,
    ) -> None:
        """Write that items are inserted; priorities (n,)."""
        written = items_as_written(items, self.numbers)
        known = {"fields": as_written(fields)} if fields else {}
        self.call("insert", live, items=written, priorities=priorities, **known)

    def call(self, name: str, live: LiveTable, **values: Any) -> None:
        """Write that a table is changed."""
        self.file.append(packed({"call": name, "table": live.state.table.name, **values}))


def items_as_written(items: Sequence[Data] | Cells, numbers: StepNumbers) -> Any:
    """Return items by the numbers of their steps: an array of single steps, or a list of columns each."""
    if isinstance(items, Cells):
        return numbers.of(*items)
    if cells := of_one_arena(items):
        return numbers.of(*cells)
    return [_item_as_written(one, numbers) for one in items]


def items_of(written: Any, cells: dict[int, Cell]) -> list[Data]:
    """Return the items that `items_as_written` wrote."""
    if isinstance(written, np.ndarray):
        return [cells[number] for number in written.tolist()]
    return [cells[one] if isinstance(one, int) else _trajectory(one, cells) for one in written]


def structure_as_written(structure: Structure) -> Any:
    """Return a structure as lists; named tuples become tuples."""
    if structure is None:
        return None
    kind, *parts = structure
    if kind is dict:
        return ["dict", *[[name, structure_as_written(part)] for name, part in parts]]
    return ["list" if kind is list else "tuple", *map(structure_as_written, parts)]


def structure_of(written: Any) -> Structure:
    """Return the structure that `structure_as_written` wrote."""
    if written is None:
        return None
    kind, *parts = written
    if kind == "dict":
        return (dict, *[(name, structure_of(part)) for name, part in parts])
    return (list if kind == "list" else tuple, *map(structure_of, parts))


def calls_in(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the calls of a file, up to where a crash cut it; none if it is not there."""
    return map(unpacked, frames(path)) if path.exists() else iter(())


def repeat(calls: Iterable[dict[str, Any]], tables: dict[str, LiveTable], store: Store, cells: dict[int, Cell]) -> None:
    """Do again what calls did; each cell in `cells`, by its number, is held, and those that come to it."""
    for call in calls:
        if call["call"] == "put":
            data, first = call["data"], call["first"]
            flat = flatten(data)
            new = store.put_many(flat, len(flat.leaves[0])).each() if call["batched"] else [store.put(data)]
            cells.update(enumerate(new, start=first))
            for name, priorities in call.get("inserted", {}).items():
                _insert(tables[name], new, priorities)
            continue
        state = tables[call["table"]].state
        if call["call"] == "insert":
            known = fields_of(call["fields"]) if "fields" in call else None
            _insert(tables[call["table"]], items_of(call["items"], cells), np.array(call["priorities"]), known)
        elif call["call"] == "sample":
            drop_all(state.sample_many(call["count"]).gone)
        elif call["call"] == "update":
            state.update(call["keys"], call["priorities"])
        elif call["call"] == "policy":
            state.advance(call["policy_version"])
        elif call["call"] == "delete":
            state.delete(call["keys"])
        elif call["call"] == "remove":
            state.remove_one()
        else:
            state.reset()


def _insert(live: LiveTable, items: Sequence[Data], priorities: Any, fields: Sequence[Fields] | None = None) -> None:
    for one in items:
        one.hold()
    live.state.insert_many(of_one_arena(items) or items, priorities, fields)


def _item_as_written(item: Data, numbers: StepNumbers) -> Any:
    if isinstance(item, Cell):
        return int(numbers.of(*item))
    columns = [
        [column.squeeze, [[part.leaf, numbers.of(part.arena, list(part.rows)).tolist()] for part in column.parts]]
        for column in item.columns
    ]
    return [structure_as_written(item.structure), columns]


def _trajectory(written: Any, cells: dict[int, Cell]) -> Trajectory:
    structure, columns = written
    made = []
    for squeeze, parts in columns:
        found = [Part(_arena(steps, cells), leaf, tuple(cells[one].row for one in steps)) for leaf, steps in parts]
        made.append(Column(tuple(found), squeeze))
    return Trajectory(structure_of(structure), tuple(made))


def _arena(steps: Sequence[int], cells: dict[int, Cell]) -> Arena:
    return cells[steps[0]].arena
