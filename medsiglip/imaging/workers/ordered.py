"""Work done in several threads, handed over in order, a bounded way ahead of whoever asks."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    *,
    threads: int,
    size_of: Callable[[Result], int],
    max_ahead: int,
    max_bytes: int,
) -> Iterator[Result]:
    """Yield `work(item)` for every item, in order.

    Args:
        items: taken one by one, as room becomes free, from any of the threads (never two at a time).
        work: called in several threads; what it raises is raised here in its turn.
        threads: number of threads.
        size_of: bytes that a result holds.
        max_ahead: items that may be begun or finished and not yet handed over.
        max_bytes: finished bytes above which no further item is begun.

    Raises:
        RuntimeError: the iteration is carried on in a forked process, which has none of the threads.
    """
    shared = _Shared(iter(items), work, size_of, max_ahead, max_bytes)
    process = os.getpid()
    for _ in range(threads):
        threading.Thread(target=shared.serve, daemon=True).start()
    try:
        while (slot := shared.next_finished(process)) is not None:
            if slot.error is not None:
                raise slot.error
            yield slot.result
    finally:
        shared.stop(process)


class _Slot(Generic[Item, Result]):
    """The place of one item in the order."""

    def __init__(self) -> None:
        self.finished = False
        self.error: BaseException | None = None
        self.result: Result
        self.num_bytes = 0


class _Shared(Generic[Item, Result]):
    """What the threads and the reader share, all of it under one condition."""

    def __init__(
        self,
        items: Iterator[Item],
        work: Callable[[Item], Result],
        size_of: Callable[[Result], int],
        max_ahead: int,
        max_bytes: int,
    ) -> None:
        self._items, self._work, self._size_of = items, work, size_of
        self._max_ahead, self._max_bytes = max_ahead, max_bytes
        self._slots: deque[_Slot[Item, Result]] = deque()
        self._num_bytes = 0
        self._exhausted = False
        self._changed = threading.Condition()

    def serve(self) -> None:
        """What each thread does."""
        while (taken := self._take()) is not None:
            slot, item = taken
            try:
                slot.result = self._work(item)
                slot.num_bytes = self._size_of(slot.result)
            except BaseException as error:  # raised again where the results are read
                slot.error = error
            del item, taken
            with self._changed:
                slot.finished = True
                self._num_bytes += slot.num_bytes
                self._changed.notify_all()

    def _take(self) -> tuple[_Slot[Item, Result], Item] | None:
        """The next item, once there is room; None when there are no more."""
        with self._changed:
            while not self._exhausted and not self._has_room():
                self._changed.wait()
            if self._exhausted:
                return None
            slot: _Slot[Item, Result] = _Slot()
            try:
                item = next(self._items)
            except StopIteration:
                self._exhausted = True
                self._changed.notify_all()
                return None
            except BaseException as error:
                slot.error, slot.finished, self._exhausted = error, True, True
                self._slots.append(slot)
                self._changed.notify_all()
                return None
            self._slots.append(slot)
            return slot, item

    def _has_room(self) -> bool:
        return not self._slots or (len(self._slots) < self._max_ahead and self._num_bytes < self._max_bytes)

    def next_finished(self, process: int) -> _Slot[Item, Result] | None:
        """The first slot, once it is finished; None after the last."""
        if os.getpid() != process:
            raise RuntimeError("a forked process cannot go on with its parent's pictures; open them again there")
        with self._changed:
            while not (self._slots[0].finished if self._slots else self._exhausted):
                self._changed.wait()
            if not self._slots:
                return None
            slot = self._slots.popleft()
            self._num_bytes -= slot.num_bytes
            self._changed.notify_all()
            return slot

    def stop(self, process: int) -> None:
        """Let the threads end after what they have in hand."""
        if os.getpid() != process:
            return
        with self._changed:
            self._exhausted = True
            self._slots.clear()
            self._changed.notify_all()
