"""What a model answered, one JSON object a line, so that a run that was killed goes on where it stopped."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from evals.items import Item, item_sha256
from medsiglip.checkpoints.identity import free_name


@dataclass(frozen=True)
class Output:
    """One answer, or the reason why there is none."""

    item_id: str
    item_sha256: str
    """Of what was asked (`items.item_sha256`)."""
    model: str
    """Identity of what answered (`medsiglip.checkpoints.identity`)."""
    settings: str = ""
    """Hash of the task's version and the settings of the generation (`record.settings_sha256`)."""
    text: str = ""
    """The generated text without thoughts; for zero-shot items the label; of several draws the first."""
    samples: Sequence[str] = ()
    """All draws, if several were asked for; with `orders` the answer to each."""
    orders: Sequence[str] = ()
    """Of a vote over orders (--vote-orders): which of the item's letters' options stood at A, B, ... each time."""
    thinking: str = ""
    """The thoughts before `text`, if there were any."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Zero-shot items: label to softmax probability."""
    log_likelihoods: Sequence[float] = ()
    """Of the item's choices, in their order: natural logarithm of the probability of the whole continuation."""
    error: str = ""
    """Why the item failed; it is asked again on the next run."""
    seconds: float = 0.0
    """Since the output before it."""
    tokens: int = 0
    """Generated, thoughts and all draws included."""
    n_cut: int = 0
    """Draws that ended at the limit of tokens."""
    attempts: int = 0
    """Requests to a server that it took."""
    cached: bool = False
    """Taken from an earlier run's answers (--cache)."""


class OutputFile:
    """Reads and appends outputs; each is with the system, whole, before the next is asked for.

    Raises:
        ValueError: Another process is writing the file, or a line is broken.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab")
        try:
            _lock(self._file, path)
            _drop_torn_line(path)
            self.before = read_outputs(path)
        except (ValueError, OSError):
            self._file.close()
            raise

    def __enter__(self) -> "OutputFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def set_aside(self) -> Path:
        """Copy what was written so far to a file beside this one, and begin anew; return that file."""
        aside = free_name(self.path)
        shutil.copyfile(self.path, aside)
        os.truncate(self.path, 0)
        self.before = []
        return aside

    def write(self, output: Output) -> None:
        """Append one line."""
        self._file.write(json.dumps(asdict(output), ensure_ascii=False).encode(errors="replace") + b"\n")
        self._file.flush()


def _lock(file: IO[bytes], path: Path) -> None:
    """Take the file for this process; the system gives it back whatever way the process ends."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        raise ValueError(
            f"{path}: another run is writing it; wait for that run, or give this one its own --out"
        ) from fault


def _drop_torn_line(path: Path) -> None:
    """Cut off what follows the last line end: a line that a killed run did not finish."""
    written = path.read_bytes()
    whole = written.rfind(b"\n") + 1
    if whole < len(written):
        os.truncate(path, whole)


def read_outputs(path: Path) -> list[Output]:
    """Read the outputs written so far; none if there is no file, and an unfinished last line is left out.

    Raises:
        ValueError: Another line is broken.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")[:-1]
    return [_output(path, number, line) for number, line in enumerate(lines, start=1)]


def latest(outputs: Iterable[Output], items: Sequence[Item]) -> dict[str, Output]:
    """Return the last output of each item, item id to output; those of items asked otherwise are left out."""
    asked = {item.item_id: item_sha256(item) for item in items}
    return {o.item_id: o for o in outputs if asked.get(o.item_id) == o.item_sha256}


def _output(path: Path, number: int, line: str) -> Output:
    try:
        return Output(**json.loads(line))
    except (json.JSONDecodeError, TypeError) as fault:
        raise ValueError(f"{path}: line {number} is no output ({fault}); delete the line and run again") from fault
