"""What a run says of its steps: log.jsonl, and TensorBoard and Weights & Biases where they are asked for."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

Tracker = Literal["tensorboard", "wandb"]
Write = Callable[[int, Mapping[str, float]], object]


def open_log(
    folder: Path, trackers: Sequence[Tracker], next_step: int, settings: Mapping[str, Any], open_things: ExitStack
) -> Write:
    """What writes the values of a step everywhere; steps that are run again leave no second line.

    Raises:
        ValueError: a tracker's package is not installed.
    """
    writers: list[Write] = [jsonl_writer(folder / "log.jsonl", next_step)]
    for tracker in trackers:
        opened = _tensorboard if tracker == "tensorboard" else _wandb
        writers.append(opened(folder, next_step, settings, open_things))

    def write(step: int, values: Mapping[str, float]) -> None:
        for writer in writers:
            writer(step, values)

    return write


def jsonl_writer(path: Path, next_step: int) -> Callable[[int, Mapping[str, Any]], None]:
    """What adds a line a step to a file; lines of steps from `next_step` on, and one that a kill has cut, go first."""
    if path.is_file():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines(True) if _is_before(line, next_step)]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)

    def write(step: int, values: Mapping[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    return write


def _is_before(line: str, next_step: int) -> bool:
    try:
        return line.endswith("\n") and bool(json.loads(line)["step"] < next_step)
    except json.JSONDecodeError:
        return False


def _tensorboard(folder: Path, next_step: int, settings: Mapping[str, Any], open_things: ExitStack) -> Write:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("tracker tensorboard: the package is not installed; pip install tensorboard") from error
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=next_step)
    open_things.callback(writer.close)

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return write


def _wandb(folder: Path, next_step: int, settings: Mapping[str, Any], open_things: ExitStack) -> Write:
    """One run a folder: it goes on where the stage does."""
    try:
        import wandb
    except ImportError as error:
        raise ValueError("tracker wandb: the package is not installed; pip install wandb") from error
    name, number = (
        f"{folder.parent.name}-{folder.name}",
        hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
    )
    run = wandb.init(name=name, id=number, resume="allow", dir=str(folder), config=dict(settings))
    open_things.callback(run.finish)
    return lambda step, values: run.log(dict(values), step=step)
