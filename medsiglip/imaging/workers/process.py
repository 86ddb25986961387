"""One decoder process as the process that asks sees it: its pipes, its time, and how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..frame import is_grey_plane
from ..picture import Picture
from .pipe import Answer, Job, read_message, widen, write_message

MAX_FRAMES = 2**16
"""Most frames that are taken from one file."""
MAX_BYTES_A_FILE = 2**32
"""Most bytes of pixels that are taken from one file."""

_START_S = 60.0
_BYTES_PER_EXTRA_SECOND = 2**20
_KEPT_BYTES = str(2**26)
_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": _KEPT_BYTES, "MALLOC_TRIM_THRESHOLD_": _KEPT_BYTES}
"""For glibc: giving a frame's memory back and asking for it again takes as long as windowing the frame."""
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPJ_NUM_THREADS")


@dataclass(frozen=True)
class Limits:
    """What one file may cost."""

    memory_mib: int = 1024
    """Growth of the worker's address space above its idle size and the file's own bytes; enforced on Linux."""
    seconds: float = 30.0
    """Wall-clock time a file, and one second more for each MiB of pixels it gives."""


class Decoded(NamedTuple):
    """What a worker made of one file."""

    items: list[Any]
    sha256: str


class Failed(NamedTuple):
    """Why a worker made nothing of it."""

    reason: str
    perhaps_others_fault: bool = False
    """A crash or lack of memory, which files decoded before in the same process may have led to."""
    is_last: bool = False
    """The worker takes no further job."""


class WorkerProcess:
    """One process, its pipes, and how long its present file has taken."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # nothing may wait in a buffer that a forked process would write a second time
            env=_environment(),
            start_new_session=True,  # the terminal's Ctrl-C is not for it
        )
        self._command = command
        self._jobs: FileIO = self._process.stdin  # type: ignore[assignment]
        self._answers = BufferedReader(self._process.stdout)  # type: ignore[type-var]
        self.num_jobs = 0
        self._is_ready = False
        self._busy_s = 0.0
        self._num_bytes = 0
        self._is_overdue = False
        self._is_leaving = False
        widen(self._jobs)

    def is_alive(self) -> bool:
        """Whether it could take another job: one that has answered its last is still there for a moment."""
        return not self._is_leaving and self._process.poll() is None

    def kill(self) -> None:
        """End it at once; whoever is reading its answers sees their end."""
        self._process.kill()
        self._process.wait()

    def dispose(self) -> None:
        """End it and close the pipes, which nobody uses any more."""
        self.kill()
        self._jobs.close()
        self._answers.close()

    def grow_older(self, elapsed_s: float, limits: Limits) -> None:
        """Count time, and kill when there has been too much."""
        self._busy_s += elapsed_s
        allowed_s = limits.seconds + self._num_bytes / _BYTES_PER_EXTRA_SECOND if self._is_ready else _START_S
        if self._busy_s > allowed_s:
            self._is_overdue = True
            self._process.kill()

    def wait_until_ready(self) -> None:
        """The worker's own imports are no file's time."""
        if self._is_ready:
            return
        try:
            answer = read_message(self._answers, Answer)
        except (EOFError, OSError, ValueError, TypeError):
            self.kill()
            answer = Answer("failed", self._how_it_ended())
        if answer.kind != "ready":
            command = " ".join(self._command)
            raise RuntimeError(
                f"the decoder process `{command}` does not start: {answer.text}; install the package again"
            )
        self._is_ready = True

    def run(self, jobs: Sequence[Job], item_type: Any) -> list[Decoded | Failed]:
        """Decode files one after the other; whatever the worker does, this ends and says so.

        Args:
            jobs: sent ahead, so that the worker need not wait between files; all but the first without data, for the
                others must fit in the pipe while the worker writes.
            item_type: what the worker makes of a file.

        Returns:
            What became of each, up to the file that the worker did not survive: at least one.
        """
        outcomes: list[Decoded | Failed] = []
        try:
            for job in jobs:
                write_message(self._jobs, job)
            for _ in jobs:
                self.num_jobs += 1
                self._busy_s, self._num_bytes = 0.0, 0
                outcomes.append(self._receive(item_type))
                if isinstance(outcomes[-1], Failed) and outcomes[-1].is_last:
                    self._is_leaving = True
                    break
            return outcomes
        except (EOFError, OSError, ValueError, TypeError, KeyError, IndexError):  # it died, or talks nonsense
            self.kill()
        return [*outcomes, self._fatal(jobs[0].seconds)]

    def _fatal(self, seconds: float) -> Failed:
        if self._is_overdue:
            return Failed(f"decoding took longer than {seconds:g} s; copy or export the file again", is_last=True)
        reason = f"crashed the decoder ({self._how_it_ended()}), as damaged files do; copy or export the file again"
        return Failed(reason, perhaps_others_fault=True, is_last=True)

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        try:
            return signal.Signals(-code).name if code < 0 else f"exit status {code}"
        except ValueError:
            return f"signal {-code}"

    def _receive(self, item_type: Any) -> Decoded | Failed:
        items: list[Any] = []
        while True:
            answer = read_message(self._answers, Answer)
            if answer.kind == "done":
                return Decoded(items, answer.text)
            if answer.kind == "failed":
                return Failed(answer.text, perhaps_others_fault=answer.out_of_memory, is_last=answer.is_last)
            items.append(read_message(self._answers, item_type))
            self._num_bytes += num_bytes(items[-1])
            if len(items) > MAX_FRAMES or self._num_bytes > MAX_BYTES_A_FILE:
                self.kill()
                reason = f"more than {MAX_FRAMES} frames or {MAX_BYTES_A_FILE} bytes of pixels; split the file"
                return Failed(reason, is_last=True)


def num_bytes(value: Any) -> int:
    """Bytes of the arrays in a result; a grey plane seen three times counts once."""
    if isinstance(value, Picture):
        return value.pixels.size // (3 if is_grey_plane(value.pixels) else 1)
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    return sum(map(num_bytes, value)) if isinstance(value, list | tuple) else 0


def _environment() -> dict[str, str]:
    """The child finds modules where this process does, never in the user's working directory."""
    paths = [str(Path(__file__).parents[3]), *(path for path in sys.path if path)]
    return {**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), **_MEMORY, "PYTHONPATH": os.pathsep.join(paths)}
