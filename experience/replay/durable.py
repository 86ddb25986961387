"""A replay that survives its process: a folder with a checkpoint and the log of the calls since.

checkpoint-000003.replay   what was held
calls-000003.log           what was called afterwards
"""

from pathlib import Path
from threading import Lock

from experience.replay.checkpoint import FORMAT, format_of, read_checkpoint, write_checkpoint
from experience.replay.core import Core
from experience.replay.data.arena import Cell
from experience.replay.data.items import drop_all
from experience.replay.log import CallLog, StepNumbers, calls_in, repeat


class Durable:
    """The folder of a replay."""

    def __init__(self, folder: Path, core: Core, *, sync: bool, replace_limiters: bool) -> None:
        """Take in what the folder holds, and log every call from now on.

        Args:
            folder: Made if it is not there.
            core: Without items.
            sync: Calls return when the log is synced.
            replace_limiters: The limiters of the tables may differ from those that the folder knows.

        Raises:
            Broken: The checkpoint is not whole.
            ValueError: Its tables are others, or another process is at work in the folder.
        """
        self.folder = folder
        self._core = core
        self._syncing = Lock()
        self._synced = 0
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(folder.glob("checkpoint-*.replay"))
        self._number = int(found[-1].stem.split("-")[1]) if found else 0
        cells: dict[int, Cell] = {}
        if found:
            cells = read_checkpoint(found[-1], core, replace_limiters=replace_limiters)
            repeat(calls_in(self._log_path()), core.tables, core.store, cells)
            for live in core.tables.values():
                live.state.limiter.limiter = live.state.table.rate_limiter
        else:
            write_checkpoint(folder / "checkpoint-000000.replay", core, StepNumbers())
        numbers = StepNumbers.of_cells(cells)
        drop_all(list(cells.values()))
        core.log = CallLog(self._log_path(), numbers)
        core.synced = self.sync if sync else None
        self._remove_others()
        if found and format_of(found[-1]) < FORMAT:  # whose readers would not know what is logged from now on
            self.checkpoint()

    def checkpoint(self) -> Path:
        """Write a checkpoint, begin a new log, and remove the ones before; return the file."""
        with self._core.lock, self._syncing:
            log = self._core.log
            assert log is not None
            path = self.folder / f"checkpoint-{self._number + 1:06}.replay"
            write_checkpoint(path, self._core, log.numbers)
            self._number += 1
            self._core.log = CallLog(self._log_path(), log.numbers)
            self._synced = 0
            log.file.close()
            self._remove_others()
        return path

    def sync(self) -> None:
        """Make every call that has returned survive the loss of power; threads that ask together share one sync."""
        log = self._core.log
        assert log is not None
        written = log.file.num_bytes
        with self._syncing:
            if self._core.log is log and self._synced < written:
                written = log.file.num_bytes
                log.file.sync()
                self._synced = written

    def close(self) -> None:
        """Sync, and let go of the folder."""
        with self._core.lock, self._syncing:
            if self._core.log:
                self._core.log.file.close()
                self._core.log = self._core.synced = None

    def _log_path(self) -> Path:
        return self.folder / f"calls-{self._number:06}.log"

    def _remove_others(self) -> None:
        for path in [*self.folder.glob("checkpoint-*"), *self.folder.glob("calls-*.log")]:
            if f"-{self._number:06}." not in path.name or path.name.endswith(".partial"):
                path.unlink()
