"""How outputs came about: run.json, copied into every score, so that a figure says what it rests on."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_cards.check import table_sha256
from data_cards.launch import DISTRIBUTION
from data_cards.readers.tables import find_set
from evals.generation import Generation
from evals.items import Item, prompts_sha256
from evals.judging.judge import VERSION as JUDGE_VERSION
from evals.running.options import Condition, RunOptions
from evals.tasks.task import Task


@dataclass(frozen=True)
class RunRecord:
    """What run.json holds."""

    task: str
    task_version: int
    condition: Condition
    side: str
    seed: int
    limit: int | None
    num_fewshot: int
    generation: dict[str, Any]
    """Fields of `Generation`; empty for a task that generates nothing."""
    settings: str
    """See `settings_sha256`."""
    model: str
    model_fingerprint: str
    """Of the weights."""
    model_identity: str
    """Of all that decides an answer: outputs of another one are not taken for this run's."""
    computed_on: dict[str, str]
    """device and dtype; empty for a server, which does not say."""
    prompts_sha256: str
    data_sha256: dict[str, str]
    """Card name / table to the SHA-256 of the copy used."""
    data_differs_from_card: list[str]
    versions: dict[str, str]
    commit: str
    """Of this package's source, with `+` if that was edited since; empty outside a checkout."""
    started_utc: str
    """Of the last start; a run that was stopped goes on under a new one."""
    command: str
    shown_as_examples: list[str] = field(default_factory=list)
    """Items whose patient (group) the worked examples show too; see `runner`."""
    judge: dict[str, Any] = field(default_factory=dict)
    """Of a judged task: who judged, the version of the frame, and what judge.json says of its agreement with people
    (`accepted`, None if it was not measured)."""


def settings_of(task: Task, generation: Generation) -> dict[str, Any]:
    """Return the settings of the generation that bear on the task."""
    orders = {"vote_orders": generation.vote_orders} if generation.vote_orders else {}
    if task.answers not in ("text", "dialogue"):
        return {**orders, "seed": generation.seed} if orders else {}
    return {name: value for name, value in asdict(generation).items() if name != "vote_orders"} | orders


def settings_sha256(task: Task, generation: Generation) -> str:
    """Return a short hash of the task's version and the settings: outputs made otherwise are not mixed."""
    return _sha256([task.name, task.version, settings_of(task, generation)])[:16]


def run_record(
    task: Task,
    items: Sequence[Item],
    data_dir: str | Path,
    options: RunOptions,
    model: Any,
    model_name: str,
    command: str,
) -> RunRecord:
    """Collect how a run comes about."""
    generation = options.generation(task)
    cards = sorted({item.meta["card"] for item in items if "card" in item.meta})
    hashes, differing = data_hashes(cards, data_dir)
    if task.is_table:
        hashes[Path(data_dir).name] = table_sha256(Path(data_dir)) if Path(data_dir).is_file() else ""
    if task.is_jsonl:
        file = f"{task.checked_side(options.side)}.jsonl"
        hashes[f"{task.cards[0]}/{file}"] = table_sha256(find_set(data_dir, task.cards[0]) / file)
    return RunRecord(
        task=task.name,
        task_version=task.version,
        condition=options.condition,
        side=task.checked_side(options.side),
        seed=options.seed,
        limit=options.limit,
        num_fewshot=options.fewshot(task),
        generation=settings_of(task, generation),
        settings=settings_sha256(task, generation),
        model=model_name,
        model_fingerprint=fingerprint_of(task, model),
        model_identity=identity_of(task, model),
        computed_on=computed_on(model),
        prompts_sha256=prompts_sha256(items),
        data_sha256=hashes,
        data_differs_from_card=differing,
        versions={name: _version(name) for name in (DISTRIBUTION, "torch", "transformers", "numpy")},
        commit=commit_of(Path(__file__).parents[2]),
        started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        judge=judge_of(task, model),
    )


def judge_of(task: Task, model: Any) -> dict[str, Any]:
    """Return who judges the outputs of a task; nothing if nobody does."""
    judge = model.judge_for(task.dialogue.roles) if task.dialogue else ""
    if not judge:
        return {}
    return {"judge": judge, "frame_version": JUDGE_VERSION, "accepted": dict(model.accepted) or None}


def fingerprint_of(task: Task, model: Any) -> str:
    """Return the weights, and in a dialogue who plays the other roles."""
    return str(model.fingerprint_for(task.dialogue.roles) if task.dialogue else model.fingerprint)


def identity_of(task: Task, model: Any) -> str:
    """Return what answers differ by: the model's identity, and in a dialogue who plays the other roles."""
    return str(model.identity_for(task.dialogue.roles) if task.dialogue else model.identity)


def computed_on(model: Any) -> dict[str, str]:
    """Return the device and the dtype of a model of ours; nothing of a server."""
    network: Any = getattr(model, "model", None)
    if not hasattr(network, "dtype") or not hasattr(network, "device"):
        return {}
    return {"device": str(network.device), "dtype": str(network.dtype).removeprefix("torch.")}


def write_record(folder: Path, record: RunRecord) -> None:
    """Write run.json, all or nothing."""
    draft = folder / "run.tmp"
    draft.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    draft.replace(folder / "run.json")


def read_record(folder: Path) -> Mapping[str, Any]:
    """Read run.json.

    Raises:
        ValueError: It is missing or broken.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the run stopped before it began; run the task again")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise ValueError(f"{path}: is no JSON ({fault}); run the task again") from fault
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds no object; run the task again")
    return found


def data_hashes(cards: Sequence[str], data_dir: str | Path) -> tuple[dict[str, str], list[str]]:
    """Return the SHA-256 of every table read, and the tables that are not their card's."""
    from data_cards.schema import load_card

    hashes, differing = {}, []
    for name in cards:
        for split in load_card(name).splits.values():
            path = find_set(data_dir, name) / split.file
            if not path.is_file():
                continue
            hashes[f"{name}/{split.file}"] = table_sha256(path)
            if split.sha256 is not None and hashes[f"{name}/{split.file}"] != split.sha256:
                differing.append(f"{name}/{split.file}")
    return hashes, differing


def commit_of(folder: Path) -> str:
    """Return the commit of a checkout, with `+` if files of it were edited since; empty if it is none."""
    if not (folder / ".git").exists():
        return ""
    said = [_git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")]
    return "" if not said[0] else said[0][:12] + ("+" if said[1] else "")


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _sha256(value: object) -> str:
    return sha256(json.dumps(value, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
