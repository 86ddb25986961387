"""The checkpoint of a stage: weights, moments and what the run was, in one safetensors file that is whole or old.

Weights that ranks hold in parts are put together tensor by tensor, so a run may go on with another number of ranks.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from experience.storage.durable import sync_folder
from finetune.training.ranks import ALONE, Ranks
from medsiglip.checkpoints.safetensors_files import PlannedTensor, opened, write_file, writing_order

STATE = "state.safetensors"


class Kept(Protocol):
    """What an algorithm keeps over steps beside the weights, such as an anchor: saved and restored with them."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """By name."""

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what `tensors` gave."""


@dataclass(frozen=True)
class Training:
    """All that changes while a stage runs."""

    named: dict[str, nn.Parameter]
    """What is trained."""
    optimizer: torch.optim.Optimizer
    kept: Kept | None = None
    ranks: Ranks = ALONE


class Resumed(NamedTuple):
    """Where a stage goes on."""

    next_step: int
    best: float | None
    """The best metric so far."""


def save_state(
    folder: Path, training: Training, next_step: int, settings: Mapping[str, Any], best: float | None
) -> None:
    """Write the checkpoint; the old one stays until the new one is whole and on the disk.

    Raises:
        OSError: it cannot be written, for want of space for example; the old one is kept.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in training.named.items():
        tensors[f"parameter.{name}"] = parameter.detach()
        for moment, value in training.optimizer.state[parameter].items():
            tensors[f"{moment}.{name}"] = value
    if training.kept is not None:
        tensors |= {f"kept.{name}": value for name, value in training.kept.tensors().items()}
    facts = {"next_step": str(next_step), "settings": json.dumps(settings, sort_keys=True)}
    write_whole(folder / STATE, tensors, facts | ({} if best is None else {"best": repr(best)}), training.ranks)


def load_state(folder: Path, training: Training, settings: Mapping[str, Any]) -> Resumed:
    """Restore what `save_state` wrote; step 0 without a checkpoint.

    Raises:
        ValueError: the checkpoint is of another configuration or of other parameters; the first difference is named.
    """
    path = folder / STATE
    path.with_suffix(".partial").unlink(missing_ok=True)  # a killed run's
    if not path.is_file():
        return Resumed(0, None)
    with opened([path], "pt") as files:
        file = files[path]
        facts, stored = file.metadata(), set(file.keys())
        _refuse_other_settings(path, json.loads(facts["settings"]), settings)
        _refuse_other_parameters(path, file, stored, training.named)
        for name, parameter in training.named.items():
            restore(parameter, file.get_tensor(f"parameter.{name}"))
            moments = {key.split(".", 1)[0] for key in stored if key.split(".", 1)[1] == name} - {"parameter", "kept"}
            if moments:
                training.optimizer.state[parameter] = {
                    moment: _like(parameter, file.get_tensor(f"{moment}.{name}")) for moment in sorted(moments)
                }
        if training.kept is not None:
            names = [key.removeprefix("kept.") for key in sorted(stored) if key.startswith("kept.")]
            training.kept.restore({name: file.get_tensor(f"kept.{name}").clone() for name in names})
    return Resumed(int(facts["next_step"]), float(facts["best"]) if "best" in facts else None)


def restore(parameter: nn.Parameter, value: torch.Tensor) -> None:
    """Give a parameter a value (whole), of which a rank takes its part."""
    with torch.no_grad():
        parameter.copy_(_like(parameter, value))


def write_whole(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, str], ranks: Ranks) -> None:
    """Write a safetensors file under another name, put it on the disk, and let it take its place; rank 0 writes.

    Raises:
        OSError: it cannot be written; what was there is kept.
    """
    order = writing_order([_planned(name, tensor) for name, tensor in tensors.items()])
    if ranks.rank:
        for tensor in order:
            tensor.make()  # a part that rank 0 waits for
        return
    partial = path.with_suffix(".partial")
    try:
        write_file(partial, order, facts)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        old = "the checkpoint before it is kept" if path.is_file() else "there is none yet"
        raise OSError(
            f"{path}: cannot be written ({error.strerror or error}); {old}; make room and run again"
        ) from error
    sync_folder(path.parent)


def _planned(name: str, tensor: torch.Tensor) -> PlannedTensor:
    return PlannedTensor(name, DTYPES[tensor.dtype], tuple(tensor.shape), _whole(tensor))


DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64", torch.uint8: "U8"}
"""As safetensors names them: what weights, moments, and an algorithm's own tensors may be."""


def _whole(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor if isinstance(tensor, DTensor) else lambda: tensor


def _like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A copy of a value (the file's own is mapped into memory) where a parameter is, and divided as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(parameter.device, copy=True)
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value


def _refuse_other_settings(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    now = json.loads(json.dumps(now))
    differing = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if differing:
        said = "; ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in differing)
        raise ValueError(f"{path}: a checkpoint of another configuration: {said}; give it again, or another --out")


def _refuse_other_parameters(path: Path, file: Any, stored: set[str], named: Mapping[str, nn.Parameter]) -> None:
    prefix = "parameter."
    there = {k.removeprefix(prefix): tuple(file.get_slice(k).get_shape()) for k in stored if k.startswith(prefix)}
    here = {name: tuple(parameter.shape) for name, parameter in named.items()}
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            found, wanted = there.get(name, "not there"), here.get(name, "not trained")
            raise ValueError(
                f"{path}: a checkpoint of other parameters: {name} is {found} in it and {wanted} in this run; "
                "train the same parameters again, or give another --out"
            )
