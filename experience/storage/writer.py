"""Writing episodes as they happen: every step into the journal at once, into Parquet when the writer is closed."""

import os
from collections.abc import Mapping
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from experience.alignment import First, Transition
from experience.episode import Episode, Step
from experience.storage.commit import commit, recover
from experience.storage.journal import SUFFIX, Event, Journal, episodes_of, events_of, read_events

JOURNAL_BYTES = 256 << 20
"""A journal that has grown so far is taken into Parquet when no episode in it is open."""


class EpisodeWriter:
    """Writes episodes into a data set.

    A call that has returned is kept, whatever becomes of the process; it survives the loss of power once it is synced.
    Opening a writer takes in what writers that died have left. Several processes may write into one data set, and
    several threads through one writer.
    """

    def __init__(self, folder: Path, *, sync_every: int = 0) -> None:
        """Open a journal.

        Args:
            folder: Of the data set; made if it is not there.
            sync_every: Steps after which the journal is synced; 0: at the end of every episode only.
        """
        recover(folder)
        self.folder = folder
        self._sync_every = sync_every
        self._unsynced = 0
        self._open: set[str] = set()
        """Episodes that have begun and not ended."""
        self._lock = RLock()
        self._journal = self._new_journal()

    def write(self, episode: Episode) -> None:
        """Write a whole episode."""
        with self._lock:
            self._append(events_of(episode), sync=True)
            self._compact_if_large()

    def begin(self, episode_id: str, metadata: Mapping[str, Any]) -> None:
        """Begin an episode."""
        with self._lock:
            self._append([Event("begin", episode_id, dict(metadata))])
            self._open.add(episode_id)

    def first(self, episode_id: str, first: First) -> None:
        """Write what the environment said at the reset."""
        self._append([Event("first", episode_id, vars(first))])

    def transition(self, episode_id: str, transition: Transition) -> None:
        """Write an action and what the environment answered."""
        self._append([Event("transition", episode_id, vars(transition))])

    def seen(self, episode_id: str, step: Step) -> None:
        """Write what is seen before the agent acts on it; `step` repeats it with the action."""
        self._append([Event("seen", episode_id, step.fields())])

    def step(self, episode_id: str, step: Step) -> None:
        """Write a step as RLDS has it: whole, with the reward of its action."""
        self._append([Event("step", episode_id, step.fields())])

    def drop(self, episode_id: str) -> None:
        """Forget an episode that has not ended."""
        with self._lock:
            self._append([Event("drop", episode_id, {})])
            self._open.discard(episode_id)

    def end(self, episode_id: str, metadata: Mapping[str, Any] | None = None) -> None:
        """End an episode; what is known only now becomes part of its metadata."""
        with self._lock:
            self._append([Event("end", episode_id, dict(metadata or {}))], sync=True)
            self._open.discard(episode_id)
            self._compact_if_large()

    def compact(self) -> None:
        """Take the journal into Parquet; an episode that has not ended is taken for one that was cut."""
        with self._lock:
            self._journal.close()
            path = self._journal.path
            commit(self.folder, episodes_of(read_events(path)))
            path.unlink()
            self._journal = self._new_journal()

    def close(self) -> None:
        """Take the journal into Parquet."""
        with self._lock:
            self.compact()
            self._journal.close()
            self._journal.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, events: list[Event], *, sync: bool = False) -> None:
        with self._lock:
            self._unsynced += 1
            sync = sync or bool(self._sync_every and self._unsynced >= self._sync_every)
            self._journal.write(events, sync=sync)
            if sync:
                self._unsynced = 0

    def _compact_if_large(self) -> None:
        if self._journal.num_bytes >= JOURNAL_BYTES and not self._open:
            self.compact()

    def _new_journal(self) -> Journal:
        return Journal(self.folder / "journal" / f"{os.getpid()}-{uuid4().hex}{SUFFIX}")
