"""Slabs: memory of a client that the actor on the same machine reads while a call lasts.

An array that is sent with a call of Ray is copied into the object store, and its object made, pinned and freed by
several processes, which costs far more than the copy. Here a client writes the arrays of an insert into memory that
both have mapped. The memory is an anonymous file of the client's, gone with it.
"""

import mmap
import os
from secrets import token_bytes
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import ray

from experience.replay.data.structure import Flat, flatten, unflatten

LEAST_BYTES = 64 << 10
"""Of the arrays of a call that go through a slab; less goes with the call."""

MOST_BYTES = 64 << 20
"""More goes through the object store, so that a client does not keep as much again for good."""

ALIGNED = 64
"""Where an array begins, in bytes. Before the first stands the slab's token."""

CAN_LEND = hasattr(os, "memfd_create")
"""Linux."""


class Place(NamedTuple):
    """Where an array lies in a slab."""

    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Lent(NamedTuple):
    """A slab on its way to an actor, with what lies in it."""

    node: str
    """Ray's name of the machine."""
    path: str
    token: bytes
    """Tells it from any other, and is what it begins with."""
    num_bytes: int
    data: Flat
    """Leaves, or their places."""


class NotHere(Exception):
    """The actor cannot read a slab: it is on another machine, or may not."""


class Slab:
    """Memory of a client, and its name for others; freed with its last mapping."""

    def __init__(self, least: int) -> None:
        self.token = token_bytes(16)
        self.num_bytes = 1 << (least - 1).bit_length()
        self._file = os.fdopen(os.memfd_create("replay"), "r+b")
        self._file.truncate(self.num_bytes)
        self.memory = np.frombuffer(mmap.mmap(self._file.fileno(), self.num_bytes), np.uint8)
        self.memory[: len(self.token)] = np.frombuffer(self.token, np.uint8)
        self.path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"


class Lender:
    """The slabs of a client for the calls of an actor; for use from many threads."""

    def __init__(self) -> None:
        self._free: list[Slab] = []
        self._lends = CAN_LEND

    def filled(self, data: Any) -> tuple[Slab, Lent] | None:
        """Copy the arrays of data into a slab; None if they should go another way. `free` gives the slab back."""
        if not self._lends:
            return None
        structure, leaves = flatten(data)
        arrays = [isinstance(leaf, np.ndarray) and not leaf.dtype.hasobject for leaf in leaves]
        sizes = [
            -(-leaf.nbytes // ALIGNED) * ALIGNED if array else 0 for leaf, array in zip(leaves, arrays, strict=True)
        ]
        if not LEAST_BYTES <= sum(sizes) <= MOST_BYTES - ALIGNED:
            return None
        slab, start = self._slab(ALIGNED + sum(sizes)), ALIGNED
        for number, size in enumerate(sizes):
            if size:
                leaf = leaves[number]
                leaves[number] = Place(start, leaf.dtype, leaf.shape)
                np.copyto(_array(slab.memory, leaves[number]), leaf)
                start += size
        node = ray.get_runtime_context().get_node_id()
        return slab, Lent(node, slab.path, slab.token, slab.num_bytes, Flat(structure, leaves))

    def free(self, slab: Slab) -> None:
        """Take back a slab that no call reads any more."""
        self._free.append(slab)

    def stop(self) -> None:
        """Lend no more: the actor cannot read it."""
        self._lends = False

    def _slab(self, least: int) -> Slab:
        try:
            slab = self._free.pop()
        except IndexError:
            return Slab(least)
        return slab if slab.num_bytes >= least else Slab(least)


class Borrower:
    """The slabs of all clients that an actor has mapped; for use from many threads."""

    def __init__(self) -> None:
        self._mapped: dict[bytes, tuple[str, int, Any]] = {}
        """Token to path, number of the file, and memory."""
        self._lock = Lock()

    def data(self, lent: Lent) -> Any:
        """Return what lies in a slab, of arrays that are read in place.

        Raises:
            NotHere: It is on another machine, or of another user.
        """
        mapped = self._mapped.get(lent.token) or self._map(lent)
        memory = mapped[2]
        leaves = [_array(memory, leaf) if isinstance(leaf, Place) else leaf for leaf in lent.data.leaves]
        return unflatten(lent.data.structure, leaves)

    def _map(self, lent: Lent) -> tuple[str, int, Any]:
        if lent.node != ray.get_runtime_context().get_node_id():
            raise NotHere
        try:
            with open(lent.path, "rb") as file:
                memory = np.frombuffer(mmap.mmap(file.fileno(), lent.num_bytes, prot=mmap.PROT_READ), np.uint8)
                number = os.fstat(file.fileno()).st_ino
        except (OSError, ValueError) as fault:
            raise NotHere from fault
        if memory[: len(lent.token)].tobytes() != lent.token:
            raise NotHere
        with self._lock:
            self._mapped = {token: one for token, one in self._mapped.items() if _is_there(*one[:2])}
            self._mapped[lent.token] = lent.path, number, memory
            return self._mapped[lent.token]


def _is_there(path: str, number: int) -> bool:
    """Whether the client still has the file."""
    try:
        return os.stat(path).st_ino == number
    except OSError:
        return False


def _room(leaf: Any) -> int:
    """Bytes of an array in a slab; 0 for what is none."""
    is_array = isinstance(leaf, np.ndarray) and not leaf.dtype.hasobject
    return -(-int(leaf.nbytes) // ALIGNED) * ALIGNED if is_array else 0


def _array(memory: Any, place: Place) -> Any:
    return np.ndarray(place.shape, place.dtype, memory, place.start)
