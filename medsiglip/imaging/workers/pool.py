"""Decoding in worker processes: a crash, a hang or a memory bomb in one file is an `ImageError` for that file.

Workers are fresh interpreters on pipes, never forks: a process that has loaded torch has threads that do not
survive a fork, and a user's script needs no `__main__` guard. Results come in the order of the files whatever
the number of workers.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..dicom.policies import check_policy
from ..frame import VOI, Array, DecodedFrame, ImageError, as_rgb
from ..picture import Picture, Square
from ..source import Source, read_source
from ..volumes.select import Selection
from .ordered import in_order
from .pipe import Job
from .process import Decoded, Failed, Limits, WorkerProcess, num_bytes

if TYPE_CHECKING:
    from ..dicom.header import FileContent, InstanceHeader
    from ..volumes.voxels import VolumeValues

Result = TypeVar("Result")

MAX_AHEAD_PER_WORKER = 8
"""Files begun or decoded, and not yet handed over."""
MAX_BYTES_AHEAD = 2**29
"""Decoded bytes not yet handed over, above which no further file is begun."""

_MOST_WORKERS = 16
_MOST_FILES_A_TURN = 16
_TURNS_PER_WORKER = 4  # at least, so that the workers end together
_TICK_S = 0.1
_WORKER = (sys.executable, "-P", "-m", "medsiglip.imaging.workers.worker")


class DecoderPool:
    """Worker processes that decode files, several at a time, and hand them over in order.

    Workers are started when first needed. Use it as a context manager, or take `shared_pool()`.
    """

    def __init__(
        self, workers: int | None = None, limits: Limits | None = None, *, command: tuple[str, ...] = _WORKER
    ) -> None:
        """Start nothing yet.

        Args:
            workers: number of processes; None for one a core, at most 16.
            limits: what one file may cost.
            command: what starts a worker; tests plant decoders with faults here.
        """
        self.workers = workers or min(_num_cores(), _MOST_WORKERS)
        self.limits = limits or Limits()
        self._command = command
        self._process_id = os.getpid()
        self._changed = threading.Condition()  # guards all that follows
        self._idle: list[WorkerProcess] = []
        self._busy: set[WorkerProcess] = set()
        self._closed = False
        self._watch: threading.Thread | None = None

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, whatever they are doing; without effect in a process forked from the pool's."""
        if os.getpid() != self._process_id:
            return
        atexit.unregister(self.close)
        with self._changed:
            self._closed = True
            for worker in self._busy:  # their threads dispose of them
                worker.kill()
            for worker in self._idle:
                worker.dispose()
            self._idle.clear()
            self._changed.notify_all()

    def pictures(
        self, sources: Iterable[Source], policy: str = VOI, *, square: Square | None = None, select: Selection = ()
    ) -> Iterator[list[Picture] | ImageError]:
        """Decode files to pictures.

        Args:
            sources: taken as they are needed, a bounded way ahead.
            policy: how deep values become eight bits; see `open_images`.
            square: the worker makes every picture this square, (S, S, 3).
            select: which volume of a file that holds several.

        Returns:
            For each file in order its frames, or the error that says why there are none.

        Raises:
            ValueError: an unknown policy.
        """
        check_policy(policy)
        work = partial(self._run, "pictures", DecodedFrame, policy=policy, square=square, select=select)
        return self._in_order(_one_by_one(sources), work, partial(_pictures, square))

    def contents(self, sources: Iterable[Source]) -> Iterator[FileContent | ImageError]:
        """What each file is, with the header of a DICOM instance; a file of another format is not read whole."""
        from ..dicom.header import FileContent

        return self._in_order(self._turns(sources), partial(self._run, "content", FileContent), _only_item)

    def headers(self, sources: Iterable[Source]) -> Iterator[InstanceHeader | ImageError]:
        """Read DICOM headers without pixels; another format is an error."""
        from ..dicom.header import InstanceHeader

        return self._in_order(self._turns(sources), partial(self._run, "header", InstanceHeader), _only_item)

    def values(self, sources: Iterable[Source]) -> Iterator[list[Array] | ImageError]:
        """Decode DICOM files to modality values, (H, W) int16 or float32 a frame."""
        return self._in_order(_one_by_one(sources), partial(self._run, "values", np.ndarray), _all_items)

    def volume(self, source: Source, select: Selection = ()) -> VolumeValues | ImageError:
        """Decode one file that holds a whole volume, or one chosen of several."""
        from ..volumes.voxels import VolumeValues

        work = partial(self._run, "volume", VolumeValues, select=select)
        (values,) = self._in_order([[source]], work, _only_item)
        return values

    def _turns(self, sources: Iterable[Source]) -> Iterator[list[Source]]:
        """Several files for a worker at once, where reading one takes no longer than asking for it.

        Files in memory go singly, for their bytes are sent.
        """
        sources = list(sources)
        most = min(max(len(sources) // (_TURNS_PER_WORKER * self.workers), 1), _MOST_FILES_A_TURN)
        for in_memory, alike in groupby(sources, _is_in_memory):
            files = list(alike)
            size = 1 if in_memory else most
            yield from (files[start : start + size] for start in range(0, len(files), size))

    def _in_order(
        self,
        turns: Iterable[list[Source]],
        work: Callable[[list[Source]], list[Decoded | Failed]],
        finish: Callable[[Source, Decoded], Result],
    ) -> Iterator[Result | ImageError]:
        def one(source: Source, outcome: Decoded | Failed) -> Result | ImageError:
            if isinstance(outcome, Failed):
                return ImageError(source.name, outcome.reason)
            try:
                return finish(source, outcome)
            except ImageError as error:  # what the worker sent is no picture
                return error

        def one_turn(turn: list[Source]) -> list[Result | ImageError]:
            return [one(source, outcome) for source, outcome in zip(turn, work(turn), strict=True)]

        for results in in_order(
            turns,
            one_turn,
            threads=self.workers,
            size_of=num_bytes,
            max_ahead=MAX_AHEAD_PER_WORKER * self.workers,
            max_bytes=MAX_BYTES_AHEAD,
        ):
            yield from results

    def _run(
        self,
        operation: str,
        item_type: Any,
        sources: Sequence[Source],
        *,
        policy: str = "",
        square: Square | None = None,
        select: Selection = (),
    ) -> list[Decoded | Failed]:
        """Decode the files of a turn."""
        try:
            jobs = [_job(operation, source, policy, square, select, self.limits) for source in sources]
        except ImageError as error:  # of a file in memory, which has the turn to itself
            return [Failed(error.reason)]
        outcomes: list[Decoded | Failed] = []
        while len(outcomes) < len(jobs):
            outcomes += self._run_next(jobs[len(outcomes) :], item_type)
        return outcomes

    def _run_next(self, jobs: Sequence[Job], item_type: Any) -> list[Decoded | Failed]:
        """Up to a failure that ends the worker; one that may be due to files before it is tried again in a new one."""
        outcomes, worker = self._run_once(jobs, item_type, fresh=False)
        last = outcomes[-1]
        if isinstance(last, Failed) and last.perhaps_others_fault and worker.num_jobs > 1:
            (outcomes[-1],), _ = self._run_once([jobs[len(outcomes) - 1]], item_type, fresh=True)
        return outcomes

    def _run_once(
        self, jobs: Sequence[Job], item_type: Any, *, fresh: bool
    ) -> tuple[list[Decoded | Failed], WorkerProcess]:
        worker = self._borrow(fresh=fresh)
        try:
            worker.wait_until_ready()
            return worker.run(jobs, item_type), worker
        except BaseException:
            worker.kill()
            raise
        finally:
            self._give_back(worker)

    def _borrow(self, *, fresh: bool) -> WorkerProcess:
        """A worker nobody else uses, started if there are not yet enough."""
        with self._changed:
            while True:
                if self._closed or os.getpid() != self._process_id:
                    raise RuntimeError("this decoder pool is closed, or belongs to another process; make a new one")
                while self._idle and (fresh or not self._idle[-1].is_alive()):
                    self._idle.pop().dispose()
                if self._idle:
                    worker = self._idle.pop()
                    break
                if self._num_workers() < self.workers:
                    worker = WorkerProcess(self._command)
                    break
                self._changed.wait()
            self._busy.add(worker)
            self._start_watch()
            self._changed.notify_all()
        return worker

    def _num_workers(self) -> int:
        return len(self._idle) + len(self._busy)

    def _give_back(self, worker: WorkerProcess) -> None:
        with self._changed:
            self._busy.discard(worker)
            if worker.is_alive() and not self._closed:
                self._idle.append(worker)
            else:
                worker.dispose()
            self._changed.notify_all()

    def _start_watch(self) -> None:
        if self._watch is None:
            self._watch = threading.Thread(target=self._kill_overdue, daemon=True)
            self._watch.start()
            atexit.register(self.close)  # after Ctrl-C too

    def _kill_overdue(self) -> None:
        """Kill workers whose file has taken too long.

        Ticks are counted, not the clock read: while this process is stopped (Ctrl-Z) no file grows old.
        """
        before = time.monotonic()
        with self._changed:
            while not self._closed:
                self._changed.wait(_TICK_S if self._busy else None)
                now = time.monotonic()
                for worker in self._busy:
                    worker.grow_older(min(now - before, 2 * _TICK_S), self.limits)
                before = now


def _job(operation: str, source: Source, policy: str, square: Square | None, select: Selection, limits: Limits) -> Job:
    """Members of a zip in memory are unpacked here: sending the whole zip for each would cost more."""
    in_memory = _is_in_memory(source)
    data = np.frombuffer(read_source(source), np.uint8) if in_memory else None
    path = "" if in_memory else os.path.abspath(source.path)  # the worker keeps the folder it was started in
    member = None if in_memory else source.member
    return Job(operation, source.name, path, member, data, policy, square, select, limits.memory_mib, limits.seconds)


def _is_in_memory(source: Source) -> bool:
    return source.data is not None or source.archive is not None


def _one_by_one(sources: Iterable[Source]) -> Iterator[list[Source]]:
    return ([source] for source in sources)


def _pictures(square: Square | None, source: Source, decoded: Decoded) -> list[Picture]:
    pictures: list[Picture] = []
    for number, frame in enumerate(decoded.items):
        same = pictures and pictures[-1].tags == frame.tags
        tags = pictures[-1].tags if same else frame.tags
        rgb = as_rgb(frame.pixels)
        pictures.append(
            Picture(rgb, source.name, number, decoded.sha256, frame.policy, tags, square, findings=frame.findings)
        )
    return pictures


def _only_item(_: Source, decoded: Decoded) -> Any:
    (item,) = decoded.items
    return item


def _all_items(_: Source, decoded: Decoded) -> list[Any]:
    return decoded.items


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


_shared: dict[int, DecoderPool] = {}
_shared_lock = threading.Lock()


def shared_pool() -> DecoderPool:
    """The pool of this process, closed at its exit; a forked process gets one of its own."""
    with _shared_lock:
        if os.getpid() not in _shared:
            if not _shared and sys.platform != "win32":
                os.register_at_fork(after_in_child=_renew_lock)
            _shared[os.getpid()] = DecoderPool()
        return _shared[os.getpid()]


def _renew_lock() -> None:
    """Another thread of the parent may have held it at the moment of the fork."""
    global _shared_lock
    _shared_lock = threading.Lock()
