"""What a run's folder holds for a choice: its checkpoints, and the episodes that each of them played.

RUN/checkpoints/STEP/policy.safetensors   a policy over numbers, as `finetune.imitation.policy` writes it
RUN/checkpoints/STEP/adapter              or a decoder: what was tuned of it ...
RUN/checkpoints/STEP/model                ... or the whole of it
RUN/rollouts/STEP                         a data set of the episodes that this checkpoint played; no reward is read
RUN/adapter, RUN/model                    what the recipes for tables and sets leave: one checkpoint, of their best step
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from experience.storage.layout import INDEX
from medsiglip.command import one_line

POLICY = "policy.safetensors"

Kind = Literal["policy", "adapter", "model"]


@dataclass(frozen=True)
class Checkpoint:
    """A run as it was after some steps."""

    step: int
    kind: Kind | None
    """None where only episodes are left of it."""
    path: Path
    """Of the policy's file, the adapter or the model; of the episodes where nothing else is left."""
    rollouts: Path | None


class Division(NamedTuple):
    """How a run has divided the demonstrations: the arguments of `finetune.selection.holding_out.hold_out`."""

    share: float
    """Of the groups, held out."""
    seed: int
    group: str | None
    """The metadata field; None as `experience.unrewarded.read_unrewarded` has it."""


@dataclass(frozen=True)
class Run:
    """A run and its checkpoints, the earliest first."""

    name: str
    folder: Path
    checkpoints: tuple[Checkpoint, ...]
    division: Division | None
    """As its config.yaml says; None where that says nothing of it."""


def read_runs(folders: list[Path]) -> list[Run]:
    """Look at runs; they are named by their folders, with as much of the path as tells them apart.

    Raises:
        ValueError: There is no such folder, it holds nothing to choose, or it is given twice.
    """
    places = [folder.resolve() for folder in folders]
    if twice := next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None):
        raise ValueError(f"{twice}: given twice; give each run once")
    depth = 2 if any(folder.name.isdecimal() for folder in folders) else 1  # trials of a sweep are numbers
    while len({_name(folder, depth) for folder in folders}) < len(folders):
        depth += 1
    return [read_run(folder, _name(folder, depth)) for folder in folders]


def _name(folder: Path, depth: int) -> str:
    return "/".join(folder.resolve().parts[-depth:])


def read_run(folder: Path, name: str = "") -> Run:
    """Look at one run.

    Raises:
        ValueError: There is no such folder, or it holds nothing to choose.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the --out of a run")
    found = {step: _of_step(step, kept, None) for step, kept in _steps(folder / "checkpoints").items()}
    for step, kept in _steps(folder / "rollouts").items():
        if (kept / INDEX).is_file():
            before = found.get(step)
            found[step] = _of_step(step, before.path.parent if before else kept, kept)
    if not found and (kind := _kind(folder)) is not None:
        found = {0: Checkpoint(_best_step(folder), kind, folder / kind, None)}
    if not found:
        raise ValueError(
            f"{folder}: holds no checkpoint; expected checkpoints/STEP, rollouts/STEP, adapter or model in it; "
            "give the --out of a finished run"
        )
    return Run(
        name or folder.name, folder, tuple(found[step] for step in sorted(found)), _division(folder / "config.yaml")
    )


def _steps(folder: Path) -> dict[int, Path]:
    """Step to its folder; others, such as one that is being written, are no checkpoints."""
    return {int(one.name): one for one in folder.glob("*") if one.name.isdecimal() and one.is_dir()}


def _of_step(step: int, kept: Path, rollouts: Path | None) -> Checkpoint:
    kind = _kind(kept)
    inside = {"policy": POLICY, "adapter": "adapter", "model": "model"}
    return Checkpoint(step, kind, kept / inside[kind] if kind else kept, rollouts)


def _kind(folder: Path) -> Kind | None:
    if (folder / POLICY).is_file():
        return "policy"
    if (folder / "adapter" / "adapter_config.json").is_file():
        return "adapter"
    return "model" if (folder / "model" / "config.json").is_file() else None


def _best_step(folder: Path) -> int:
    """How many steps the weights that a recipe keeps were made of; 0 where nothing says it."""
    from finetune.training.best import BEST
    from medsiglip.checkpoints.safetensors_files import opened

    path = folder / "stages" / "tune" / BEST
    if not path.is_file():
        return 0
    with opened([path], "pt") as files:
        return int(files[path].metadata().get("steps", 0))


def _division(path: Path) -> Division | None:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no YAML ({one_line(error)}); nothing says how the run divided") from error
    if not isinstance(found, dict) or "held_out_share" not in found:
        return None
    share, group = found["held_out_share"], found.get("group")
    seed = found.get("division_seed", found.get("seed"))  # earlier runs divided by the seed that they trained with
    if not (isinstance(share, float) and 0 < share < 1 and isinstance(seed, int) and isinstance(group, str | None)):
        raise ValueError(f"{path}: held_out_share, division_seed or group is none that a run writes; take another run")
    return Division(share, seed, group)
