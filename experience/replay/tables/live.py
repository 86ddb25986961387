"""A table at work: who waits for it, since when and why."""

import math
import threading
import time
from typing import Literal, NamedTuple

from experience.replay.data.errors import RateLimited
from experience.replay.tables.state import TableState

Call = Literal["insert", "sample"]


class Waits(NamedTuple):
    """How calls of one kind were blocked."""

    waiting: int
    """Calls that are blocked now."""
    longest_s: float
    """For which the first of them has been."""
    blocked: int
    """Calls that ever were."""
    blocked_s: float
    """For which those were, all together, that are no longer."""


class TableInfo(NamedTuple):
    """What a table is at."""

    name: str
    size: int
    max_size: int
    inserts: int
    """Since the start or the last reset, like the next two."""
    samples: int
    deletes: int
    difference: float
    """inserts * samples_per_insert - samples."""
    insert_waits: Waits
    sample_waits: Waits
    why_no_insert: str
    """Why an insert would wait now; empty if it would not."""
    why_no_sample: str
    counts: str = "items"
    """What inserts, samples, deletes and the difference are counted in."""
    policy_version: int = -1
    """The newest that is known; -1 while none is."""
    stale: int = 0
    """Items that went for their age, since the start or the last reset."""
    tokens: int = 0
    """Of the items that are there."""
    groups: int = 0
    """Complete groups, of a table with a group_size."""
    incomplete: int = 0
    """Items whose group is not complete."""


class Deadline:
    """When a call stops waiting."""

    def __init__(self, timeout_s: float | None) -> None:
        if timeout_s is not None and math.isnan(timeout_s):
            raise ValueError("got timeout=nan; expected seconds, or None to wait without end")
        self.begin = time.monotonic()
        self._timeout_s = timeout_s

    def left_s(self) -> float | None:
        """Return how long it may still wait; None: without end."""
        return None if self._timeout_s is None else self.begin + self._timeout_s - time.monotonic()


class LiveTable:
    """A table and those who wait for it; the lock is the replay's."""

    def __init__(self, state: TableState, lock: threading.RLock) -> None:
        self.state = state
        self.is_checked = state.table.needs_fields or state.table.signature is not None
        """What is inserted must be looked at first."""
        self._may_go_on: dict[Call, threading.Condition] = {
            "insert": threading.Condition(lock),
            "sample": threading.Condition(lock),
        }
        self._since: dict[Call, list[float]] = {"insert": [], "sample": []}
        self._waiting = 0
        self._blocked: dict[Call, int] = {"insert": 0, "sample": 0}
        self._blocked_s: dict[Call, float] = {"insert": 0.0, "sample": 0.0}

    def changed(self) -> None:
        """Wake the first of those that may go on; when it has, it wakes the next. To be called after every change."""
        if self._waiting:
            for call, since in self._since.items():
                if since and self._may(call):
                    self._may_go_on[call].notify()

    def wait_or_refuse(self, call: Call, count: int, deadline: "Deadline") -> None:
        """Wait until the limiter lets a call through.

        Raises:
            RateLimited: It did not in time.
        """
        if not self.wait(call, deadline):
            raise self.refusal(call, count, deadline)

    def wait(self, call: Call, deadline: "Deadline") -> bool:
        """Wait until the limiter lets a call through; say whether it does so in time."""
        begin = time.monotonic()
        self._since[call].append(begin)
        self._waiting += 1
        self._blocked[call] += 1
        try:
            while not self._may(call):
                left_s = deadline.left_s()
                if left_s is not None and left_s <= 0:
                    return False
                self._may_go_on[call].wait(left_s)
            return True
        except BaseException:
            self.changed()  # it may have been woken, and others not
            raise
        finally:
            self._since[call].remove(begin)
            self._waiting -= 1
            self._blocked_s[call] += time.monotonic() - begin

    def refusal(self, call: Call, count: int, deadline: "Deadline") -> RateLimited:
        """Return what a call that waited in vain raises."""
        why, waited_s = self.why(call), time.monotonic() - deadline.begin
        waiting = ", ".join(f"{len(since)} {name}s" for name, since in self._since.items() if since)
        others = f"{waiting} of others wait too; " if waiting else ""
        what = f"{call} of {count} items" if count > 1 else call
        return RateLimited(f"table {self.state.table.name!r}: {what} was blocked for {waited_s:.3g} s; {others}{why}")

    def why(self, call: Call) -> str:
        """Say why a call would wait now; empty if it would not."""
        limiter = self.state.limiter
        if self._may(call):
            return ""
        if call == "insert":
            return limiter.why_no_insert()
        groups = self.state.groups
        waiting = groups.num_waiting if groups is not None else 0
        more = f" ({waiting} items are not counted: their groups are not complete)" if waiting else ""
        return limiter.why_no_sample() + more

    def info(self) -> TableInfo:
        """Return what the table is at."""
        state, limiter = self.state, self.state.limiter
        return TableInfo(
            state.table.name,
            len(state),
            state.table.max_size,
            limiter.inserts,
            limiter.samples,
            limiter.deletes,
            limiter.difference,
            self._waits("insert"),
            self._waits("sample"),
            self.why("insert"),
            self.why("sample"),
            limiter.limiter.counts,
            state.newest,
            state.stale,
            state.fields.num_tokens,
            len(state.groups) if state.groups is not None else 0,
            state.groups.num_waiting if state.groups is not None else 0,
        )

    def _may(self, call: Call) -> bool:
        limiter = self.state.limiter
        return limiter.can_insert() if call == "insert" else limiter.can_sample()

    def _waits(self, call: Call) -> Waits:
        since = self._since[call]
        longest = time.monotonic() - min(since) if since else 0.0
        return Waits(len(since), longest, self._blocked[call], self._blocked_s[call])
