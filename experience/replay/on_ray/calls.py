"""Calls of an actor, whose faults come by their names."""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import ray
from ray import exceptions

from experience.replay.batch import Batch, batch_of
from experience.replay.data.errors import Expired, Unavailable, WrongVersion
from experience.replay.data.structure import Flat
from experience.replay.on_ray.actor import MAY_WAIT, PROTOCOL, Rows, Sampled
from experience.replay.on_ray.groups import gathered

CACHED_BYTES = 1 << 30
"""Of the groups that a client keeps at hand. They lie in the object store of its machine, shared with all there."""


class Actor(NamedTuple):
    """An actor of a replay, as a client knows it."""

    handle: Any
    name: str
    comes_back: bool
    """After its death: it has a folder."""

    def begin(self, method: str, *arguments: Any) -> Any:
        """Call without waiting; `end` waits."""
        try:
            called = getattr(self.handle, method)
            return called.options(concurrency_group=MAY_WAIT.get(method, "others")).remote(PROTOCOL, *arguments)
        except AttributeError as fault:
            raise WrongVersion(
                f"replay {self.name!r}: its actor does not know the call {method!r}: it was made by another version; "
                "install the same open-medgemma in both"
            ) from fault

    def end(self, reference: Any) -> Any:
        """Return what a call gives.

        Raises:
            Unavailable: The actor is dead, or died meanwhile.
            Exception: What the call raised.
        """
        try:
            return ray.get(reference)
        except exceptions.RayTaskError as fault:
            raise fault.cause from None
        except exceptions.RayActorError as fault:
            raise Unavailable(self._why()) from fault

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call, and return what it gives."""
        return self.end(self.begin(method, *arguments))

    def _why(self) -> str:
        if self.comes_back:
            return (
                f"replay {self.name!r}: its actor died and comes back with all that was acknowledged; whether this "
                "call was done is not known: look at info() before it is done again"
            )
        return (
            f"replay {self.name!r}: its actor is dead, by close() or by itself, and has no folder to come back from; "
            "make another: Replay.on_ray(..., folder=...)"
        )


class Groups:
    """The groups of an actor's rows that a client has read, for its next samples; for use from many threads."""

    def __init__(self) -> None:
        self._columns: dict[int, Sequence[Any]] = {}
        self._num_bytes = 0
        self._lock = Lock()

    def known(self) -> dict[int, Sequence[Any]]:
        """Return number to columns of each."""
        with self._lock:
            return dict(self._columns)

    def batch(self, sampled: Sampled, known: Mapping[int, Sequence[Any]]) -> Batch:
        """Read what was sampled.

        Args:
            sampled: What the actor answered.
            known: What it was told that the client has.

        Raises:
            Expired: It lay with an actor that has died since.
        """
        try:
            found = ray.get(list(sampled.references.values())) if sampled.references else []
        except exceptions.ObjectLostError as fault:
            raise Expired(
                "what was sampled lay in the object store of an actor, or a machine, that has died since; sample again"
            ) from fault
        new = dict(zip(sampled.references, found, strict=True))
        columns = {**known, **new}
        batch = sampled.batch
        if batch.columns:
            structure, leaves = batch.columns
            read = [_read(leaf, columns) if isinstance(leaf, Rows) else _own(leaf) for leaf in leaves]
            batch = Batch.of_columns(Flat(structure, read), batch.info)
        else:
            batch = batch_of([batch.flat(place) for place in range(len(batch))], batch.info)
        if new or sampled.gone:
            self._keep(new, sampled.gone)
        return batch

    def _keep(self, new: Mapping[int, Sequence[Any]], gone: Sequence[int]) -> None:
        """Keep what is new, and let go what is gone, and the oldest until the rest is within CACHED_BYTES."""
        with self._lock:
            for number in new.keys() - self._columns.keys():
                self._columns[number] = new[number]
                self._num_bytes += _num_bytes(new[number])
            for number in gone:
                self._let_go(number)
            while self._num_bytes > CACHED_BYTES:
                self._let_go(next(iter(self._columns)))

    def _let_go(self, number: int) -> None:
        if columns := self._columns.pop(number, None):
            self._num_bytes -= _num_bytes(columns)


def _own(value: Any) -> Any:
    """Return a value with arrays that may be written to; those that come from Ray may not."""
    if isinstance(value, list):
        return [_own(one) for one in value]
    return value.copy() if isinstance(value, np.ndarray) and not value.flags.writeable else value


def _read(rows: Rows, known: Mapping[int, Sequence[Any]]) -> Any:
    columns = {number: known[number][rows.leaf] for number in np.unique(rows.numbers).tolist() if number in known}
    places = rows.places.copy()
    for number, values in rows.gathering.items():
        columns[number] = values
        places[rows.numbers == number] = np.arange(len(values))
    return gathered(rows.spec, rows.numbers, places, columns)


def _num_bytes(columns: Sequence[Any]) -> int:
    return sum(column.nbytes for column in columns)
