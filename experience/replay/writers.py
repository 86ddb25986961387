"""Writing items of several steps: append steps, and make items of any part of them.

Source: Cassirer et al., Reverb, arXiv:2102.04736 (2021); reverb/trajectory_writer.py.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, NamedTuple, Self

from experience.replay.core import Core
from experience.replay.data.arena import Cell
from experience.replay.data.errors import Expired
from experience.replay.data.items import Column, Part, Trajectory, leaves_of
from experience.replay.data.structure import flatten, paths, unflatten
from experience.replay.history import History, Path, TrajectoryColumn
from experience.replay.tables.fields import Fields
from experience.replay.tables.live import Deadline, LiveTable
from experience.replay.tables.signature import check_fields, check_signature


class Place(NamedTuple):
    """Where the value of a column lies."""

    cell: Cell
    leaf: int


@dataclass
class _Step:
    """A step that the writer keeps."""

    cells: list[Cell] = field(default_factory=list)
    values: dict[Path, Place] = field(default_factory=dict)


class TrajectoryWriter:
    """Steps of one agent, and the items made of them; not for use from several threads at once.

    An item is in its table when `flush` has returned; until its table takes it, the writer keeps it.
    """

    def __init__(self, core: Core, num_keep_alive_refs: int) -> None:
        """Begin an episode.

        Args:
            core: Where items go.
            num_keep_alive_refs: Of how many last steps items can be made.
        """
        if num_keep_alive_refs < 1:
            raise ValueError(f"got num_keep_alive_refs={num_keep_alive_refs}; expected at least 1")
        self._core = core
        self._kept = num_keep_alive_refs
        self._steps: deque[_Step] = deque()
        self._history = History()
        self._pending: deque[tuple[LiveTable, Trajectory, float, Fields | None]] = deque()
        self._counted: set[str] = set()
        """Tables that have an item of this episode."""

    @property
    def history(self) -> Any:
        """The columns of the steps so far, in the structure of the steps."""
        return self._history.columns()

    @property
    def episode_steps(self) -> int:
        """Steps in this episode, one that is not complete included."""
        return self._history.num_steps

    @property
    def episode(self) -> int:
        """Number of episodes before this one."""
        return self._history.episode

    def append(self, data: Any, *, partial_step: bool = False) -> None:
        """Append a step, or a part of one.

        Args:
            data: Dicts, lists and tuples of arrays, numbers, texts and bytes; copied. Steps may differ in the columns
                that they have.
            partial_step: More of the same step follows with the next call.

        Raises:
            ValueError: The step has one of the columns already.
        """
        names = paths(flatten(data).structure)
        step = self._steps[-1] if self._history.is_partial else _Step()
        if taken := [name for name in names if name in step.values]:
            raise ValueError(f"got {'.'.join(map(str, taken[0]))} twice for one step; expected it once")
        with self._core.lock:
            cell = self._core.put(data)
            step.cells.append(cell)
            step.values |= {name: Place(cell, leaf) for leaf, name in enumerate(names)}
            if not self._history.is_partial:
                self._steps.append(step)
            while len(self._steps) > self._kept:
                self._drop(self._steps.popleft())
        self._history.add(data, partial_step=partial_step)
        self._push(Deadline(0.0), 0)

    def create_item(self, table: str, priority: float, trajectory: Any, fields: Fields | None = None) -> None:
        """Make an item of columns; it is inserted now if the table takes it, else with a later call. Never blocks.

        Args:
            table: Its name.
            priority: From 0.
            trajectory: Dicts, lists and tuples of `TrajectoryColumn`.
            fields: What is known of it beside its data.

        Raises:
            Expired: A step is no longer kept.
            ValueError: A column is empty or missing in a step, the priority is negative or no number, or the table
                needs fields that are not given.
            SignatureMismatch: The item is not what the table expects.
        """
        live = self._core.live(table)
        if not 0 <= priority < float("inf"):
            raise ValueError(f"table {table!r}: got the priority {priority}; expected a finite number from 0")
        check_fields(live.state.table, fields)
        with self._core.lock:
            item = self._item(trajectory)
            if live.state.table.signature is not None:
                check_signature(live.state.table, unflatten(item.structure, leaves_of(item)))
            item.hold()
        self._pending.append((live, item, priority, self._counting(live, fields)))
        self._push(Deadline(0.0), 0)

    def values(self, trajectory: Any) -> Any:
        """Return the data that an item of these columns would have."""
        with self._core.lock:
            item = self._item(trajectory)
            return unflatten(item.structure, leaves_of(item))

    def flush(self, block_until_num_items: int = 0, timeout: float | None = None) -> bool:
        """Wait until the tables have taken the items, all but so many; say whether they have in time.

        Args:
            block_until_num_items: How many may still wait.
            timeout: Seconds; None: without end.
        """
        taken = self._push(Deadline(timeout), block_until_num_items)
        self._core.acknowledge()
        return taken

    def end_episode(self, *, clear_buffers: bool = True, timeout: float | None = None) -> bool:
        """Flush and begin another episode; say whether the tables have taken all items in time.

        Args:
            clear_buffers: Forget the steps, so that no item reaches over the end of an episode.
            timeout: Seconds to wait; None: without end. Items that were not taken go on waiting.
        """
        self._history.end(clear=clear_buffers)
        if clear_buffers:
            self._clear()
            self._counted.clear()
        return self.flush(timeout=timeout)

    def close(self) -> None:
        """Forget the steps, and the items that no table has taken."""
        self._clear()
        with self._core.lock:
            for _, item, _, _ in self._pending:
                item.drop()
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush, unless an exception ended it."""
        if kind is None:
            self.flush()
        self.close()

    def _clear(self) -> None:
        with self._core.lock:
            while self._steps:
                self._drop(self._steps.popleft())

    def _drop(self, step: _Step) -> None:
        for cell in step.cells:
            cell.drop()

    def _push(self, deadline: Deadline, left: int) -> bool:
        with self._core.lock:
            while len(self._pending) > left:
                live, item, priority, fields = self._pending[0]
                if not live.state.limiter.can_insert() and not live.wait("insert", deadline):
                    return False
                self._pending.popleft()
                self._core.insert(live, item, priority, deadline.left_s(), fields)
        return True

    def _counting(self, live: LiveTable, fields: Fields | None) -> Fields | None:
        """The fields of an item, that counts as an episode if it is the first of this one in its table."""
        table = live.state.table
        if table.rate_limiter.counts != "episodes" or (fields and fields.episodes is not None):
            return fields
        is_first = table.name not in self._counted
        self._counted.add(table.name)
        return replace(fields or Fields(), episodes=int(is_first))

    def _item(self, trajectory: Any) -> Trajectory:
        structure, columns = flatten(trajectory)
        return Trajectory(structure, tuple(map(self._column, columns)))

    def _column(self, column: Any) -> Column:
        if not isinstance(column, TrajectoryColumn):
            raise ValueError(f"got a {type(column).__name__} in a trajectory; expected parts of `history`")
        name = ".".join(map(str, column.path)) or "the data"
        if not column.steps:
            raise ValueError(f"{name}: got no step; expected at least one")
        first = self.episode_steps - len(self._steps)
        if column.episode != self.episode or min(column.steps) < first:
            raise Expired(
                f"{name}: step {min(column.steps)} of episode {column.episode} is kept no more; step {first} of "
                f"episode {self.episode} and what follows is (num_keep_alive_refs={self._kept})"
            )
        parts: list[Part] = []
        for number in column.steps:
            place = self._steps[number - first].values.get(column.path)
            if place is None:
                raise ValueError(f"{name}: step {number} does not have it; expected a column that every step has")
            (arena, row), leaf = place
            if parts and parts[-1].arena is arena and parts[-1].leaf == leaf:
                parts[-1] = Part(arena, leaf, (*parts[-1].rows, row))
            else:
                parts.append(Part(arena, leaf, (row,)))
        return Column(tuple(parts), column.squeeze)
