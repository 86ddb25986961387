"""What runs in the actor: a replay, and the writers of its clients.

Calls that may wait have threads of their own, so that inserts that wait cannot keep out the samples that would free
them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experience.replay.batch import Batch
from experience.replay.data.arena import LeafSpec
from experience.replay.data.errors import Expired, WrongVersion
from experience.replay.data.structure import Flat
from experience.replay.on_ray.groups import Group, GroupStore, Taken
from experience.replay.on_ray.slabs import Borrower, Lent
from experience.replay.tables.live import Deadline
from experience.replay.tables.selectors import total_weight
from experience.replay.tables.table import Table

PROTOCOL = 2
"""Of the calls between client and actor; another number for every change that an older one would not understand."""

IN_THE_MESSAGE_BYTES = 1 << 20
"""Ray sends arrays up to so many bytes with the call, larger ones through its object store, which at 100 KB, where it
would begin by itself, costs twice as much. Heard by a cluster that is started here."""

BYTES_OF_INFO = 100
"""Of an item, about."""

CALLS_AT_ONCE = 1000
"""Of a kind that may wait; what is more waits before the actor."""

MAY_WAIT = {"insert": "inserts", "write": "inserts", "sample": "samples", "wait": "samples"}
"""Method to kind."""

ToldWriter = tuple[str, tuple[Any, ...], dict[str, Any]]
"""Name of a writer's method, and what it is called with."""


class Rows(NamedTuple):
    """Rows of a leaf on their way to a client."""

    leaf: int
    spec: LeafSpec
    numbers: Any
    """Group of each row."""
    places: Any
    """In the group."""
    gathering: dict[int, Any]
    """Of a group that is not in the object store yet, the rows in order."""


class Sampled(NamedTuple):
    """What a client is answered."""

    batch: Batch
    """With `Rows` where the data of its columns is to be read."""
    references: dict[int, Any]
    """Of the groups that the client did not know."""
    gone: list[int]
    """Groups that the client knew and that no item is in any more."""


class Standing(NamedTuple):
    """What a shard's table weighs."""

    size: int
    """Items, or complete groups."""
    weight: float | None
    """Sum of what they are drawn in proportion to; None: one as another, or no chance at all."""
    can_sample: bool
    items_of_a_draw: int = 1


class ReplayActor:
    """A replay, and the writers of its clients; every call says which protocol it speaks."""

    def __init__(
        self,
        make: Callable[..., Any],
        tables: Sequence[Table],
        shard: tuple[int, int],
        least_row_bytes: int,
        options: Mapping[str, Any],
    ) -> None:
        """Make the replay; what it refuses is raised by the calls.

        Args:
            make: `Replay`.
            tables: Its tables.
            shard: Its number, and of how many.
            least_row_bytes: Of the rows that lie in groups in the object store.
            options: Further arguments of `Replay`.
        """
        number, self._shards = shard
        self._store = GroupStore(least_row_bytes)
        self._slabs = Borrower()
        self._writers: dict[str, Any] = {}
        self._fault: Exception | None = None
        try:
            folder = options.get("folder")
            self._comes_back = folder is not None
            seed = options.get("seed", 0) * self._shards + number
            own = {"folder": folder and folder_of(Path(folder), *shard), "seed": seed}
            self._replay = make(tables, store=self._store, **{**options, **own})
        except (ValueError, OSError) as fault:  # raised here, it would reach the client as an actor that died
            self._fault = fault

    def met(self, protocol: int) -> tuple[int, bool]:
        """Return of how many actors this is one, and whether it comes back after its death."""
        self._check(protocol)
        return self._shards, self._comes_back

    def call(self, protocol: int, name: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method of the replay that never waits."""
        self._check(protocol)
        return getattr(self._replay, name)(*arguments)

    def num_bytes(self, protocol: int) -> int:
        """Return what the data of all items takes."""
        self._check(protocol)
        return int(self._replay.num_bytes)

    def insert(self, protocol: int, name: str, data: Any, others: tuple[Any, ...]) -> Any:
        """Call `insert` or `insert_many`; with data that may be lent.

        Raises:
            NotHere: It is lent, and cannot be read.
        """
        self._check(protocol)
        data = self._slabs.data(data) if isinstance(data, Lent) else data
        return getattr(self._replay, name)(data, *others)

    def sample(
        self, protocol: int, known: Any, table: str, count: int, timeout: float | None, ahead: int
    ) -> list[Sampled]:
        """Call `sample`, and once more for those ahead, if there are any.

        Args:
            protocol: Of the client.
            known: Numbers of the groups that the client has, (n,) int64.
            table: Its name.
            count: Of items.
            timeout: For the first batch.
            ahead: How many further batches may come along as one, as long as nothing waits for them and the answer
                goes with the message.
        """
        self._check(protocol)
        batch = self._replay.sample(table, count, timeout)
        room = ahead and IN_THE_MESSAGE_BYTES // (_num_bytes(batch) + BYTES_OF_INFO * len(batch)) - 1
        more = [self._more(table, count, min(ahead, room))] if room > 0 else []
        return [self._told(known, one) for one in (batch, *more) if one]

    def _more(self, table: str, count: int, batches: int) -> Batch | None:
        """Draw as many batches as do not wait; None where a draw may change whether the next has to."""
        core = self._replay.core
        with core.lock:
            live = core.live(table)
            its = live.state.table
            if its.rate_limiter.counts != "items" or its.group_size or its.max_times_sampled or its.extensions:
                return None
            if not (most := live.state.most_samples(batches * count) // count * count):
                return None
            draw = core.sample(live, most)
            batch = Batch(draw.data, draw.info)
        core.acknowledge()
        return batch

    def _told(self, known: Any, batch: Batch) -> Sampled:
        groups: dict[int, Group] = {}
        if batch.columns:
            structure, leaves = batch.columns
            for leaf in leaves:
                groups |= leaf.groups if isinstance(leaf, Taken) else {}
            sent = [_rows(leaf) if isinstance(leaf, Taken) else leaf for leaf in leaves]
            batch = Batch.of_columns(Flat(structure, sent), batch.info)
        names = known.tolist()
        new = groups.keys() - set(names)
        references = {number: groups[number].reference for number in new if groups[number].reference is not None}
        return Sampled(batch, references, [number for number in names if number not in self._store.groups])

    def wait(self, protocol: int, table: str, seconds: float) -> bool:
        """Wait until a sample would be let through; say whether it would in time."""
        self._check(protocol)
        with self._replay.core.lock:
            live = self._replay.core.live(table)
            return bool(live.state.limiter.can_sample() or live.wait("sample", Deadline(seconds)))

    def standing(self, protocol: int, table: str) -> Standing:
        """Return what a table weighs."""
        self._check(protocol)
        with self._replay.core.lock:
            state = self._replay.core.live(table).state
            size = len(state) if state.groups is None else len(state.groups)
            weight, per_draw = total_weight(state.sampler), state.table.group_size or 1
            return Standing(size, weight, state.limiter.can_sample(), per_draw)

    def write(self, protocol: int, writer: str, made_as: tuple[str, Any] | None, calls: Iterable[ToldWriter]) -> Any:
        """Do what a writer was told, and return what the last call gives; `made_as`: it is new."""
        self._check(protocol)
        if made_as:
            self._refuse_writers_of_groups()
            kind, argument = made_as
            self._writers[writer] = getattr(self._replay, kind)(argument)
        if writer not in self._writers:
            raise Expired(
                "the steps of the writer are gone with the actor that had them; make another writer (items that were "
                "flushed are in their tables, if the replay has a folder)"
            )
        result, name = None, ""
        for name, arguments, options in calls:
            result = getattr(self._writers[writer], name)(*arguments, **options)
        if name == "close":
            del self._writers[writer]
        return result

    def _refuse_writers_of_groups(self) -> None:
        for live in self._replay.core.tables.values():
            if live.state.table.group_size and self._shards > 1:
                raise ValueError(
                    f"table {live.state.table.name!r}: a writer stays with one shard, and the items of a group with "
                    "another; use insert or insert_many, or shards=1"
                )

    def _check(self, protocol: int) -> None:
        if protocol != PROTOCOL:
            raise WrongVersion(
                f"the client speaks version {protocol} of the replay's calls, its actor {PROTOCOL}; install the same "
                "open-medgemma in both"
            )
        if self._fault:
            raise self._fault


def folder_of(folder: Path, shard: int, shards: int) -> Path:
    """Return the folder of a shard.

    Raises:
        ValueError: The folder is that of another number of shards.
    """
    found = {int(path.name.rpartition("-")[2]) for path in folder.glob("shard-*-of-*")}
    found |= {1} if any(folder.glob("checkpoint-*")) else set()
    if others := found - {shards}:
        raise ValueError(f"{folder}: holds a replay of {min(others)} shards; got shards={shards}; give as many")
    return folder / f"shard-{shard}-of-{shards}" if shards > 1 else folder


def _num_bytes(batch: Batch) -> int:
    """What the data takes in a message; more than fits where that cannot be told, or it lies elsewhere."""
    leaves = batch.columns.leaves if batch.columns else [None]
    return sum(leaf.nbytes if isinstance(leaf, np.ndarray) else IN_THE_MESSAGE_BYTES for leaf in leaves)


def _rows(taken: Taken) -> Rows:
    gathering = {}
    for number, group in taken.groups.items():
        if group.reference is None:
            places = taken.places[taken.numbers == number]
            gathering[number] = group.columns[taken.leaf][places]
    return Rows(taken.leaf, taken.spec, taken.numbers, taken.places, gathering)
