"""Running a task: items.jsonl (what is asked), outputs.jsonl (what came back), run.json (how).

Scoring is a step of its own (evals/scores.py) over these files, so that scoring again costs no generation.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data_cards.readers.tables import find_set
from evals.answering import Answerer, answer_items, classify_items, refuse_items
from evals.clinic.dialogue import Dialogue, Players
from evals.clinic.running import play_items, write_dialogue_episodes
from evals.items import Item, prompts_sha256, write_items
from evals.outputs import Output, OutputFile, drop_torn_line, latest, read_outputs
from evals.tasks.task import ItemOptions, Task
from medsiglip.zero_shot import Embedder

Condition = Literal["real", "shuffled"]
"""shuffled: the same questions, each with the picture of another group: what is left needs no looking."""


@dataclass(frozen=True)
class RunOptions:
    """What decides the items and the answers of a run."""

    side: str = ""
    """One of the task's sides; empty for its first."""
    limit: int | None = None
    """At most so many items; the order is seeded, so they are a fair sample."""
    seed: int = 0
    condition: Condition = "real"
    max_new_tokens: int = 32


@dataclass(frozen=True)
class RunRecord:
    """How outputs came about; written to run.json and copied into every score."""

    task: str
    task_version: int
    condition: Condition
    side: str
    seed: int
    limit: int | None
    max_new_tokens: int
    model: str
    model_fingerprint: str
    prompts_sha256: str
    data_sha256: dict[str, str]
    """Card name / table to the SHA-256 of the copy used."""
    data_differs_from_card: list[str]
    versions: dict[str, str]
    command: str


class TaskRun(NamedTuple):
    """What a run has to report."""

    failed: list[Output]
    data_differs_from_card: list[str]


def make_items(task: Task, data_dir: str | Path, options: RunOptions) -> list[Item]:
    """Make the items of a task.

    Raises:
        ValueError: The data is missing or broken, the side is unknown, or no item is left.
    """
    asked = ItemOptions(task.checked_side(options.side), options.seed, task.num_fewshot)
    items = task.items(data_dir, asked)[: options.limit]
    if not items:
        raise ValueError(f"{data_dir}: task {task.name} has no item on side {asked.side!r}; take another side")
    return shuffle_pictures(items, options.seed) if options.condition == "shuffled" else items


def shuffle_pictures(items: Sequence[Item], seed: int) -> list[Item]:
    """Give every item the pictures of an item of another group; the order of the items stays.

    Groups are put side by side in a random order and the pictures moved on by the size of the largest group.

    Raises:
        ValueError: One group has more than half of the items, so that this cannot be done.
    """
    sizes = Counter(item.group for item in items)
    step = max(sizes.values())
    if 2 * step > len(items):
        raise ValueError(
            f"one group has {step} of {len(items)} items; expected at most half, to shuffle pictures "
            "between groups; take more items"
        )
    groups = sorted(sizes)
    random.Random(f"shuffle:{seed}").shuffle(groups)
    rank = {group: place for place, group in enumerate(groups)}
    ordered = sorted(items, key=lambda item: rank[item.group])
    moved = {
        item.item_id: replace(item, files=ordered[(place + step) % len(ordered)].files)
        for place, item in enumerate(ordered)
    }
    return [moved[item.item_id] for item in items]


def run_task(
    task: Task,
    options: RunOptions,
    data_dir: str | Path,
    out_dir: Path,
    model: Any,
    model_name: str,
    command: str,
    advance: Callable[[int], object] = lambda items: None,
) -> TaskRun:
    """Make the items, answer those that --out lacks, and record how.

    Args:
        task: What is asked.
        options: Which items, and how.
        data_dir: Holds one folder a card name, or is that folder.
        out_dir: The run goes to `condition_folder(out_dir, ...)`.
        model: An Answerer for a text task, an Embedder for a label task, Players for a dialogue task.
        model_name: As the user gave it.
        command: For the record.
        advance: Told how many items are done.

    Raises:
        ValueError: The data is missing, or the outputs there are another model's.
    """
    items = make_items(task, data_dir, options)
    folder = condition_folder(out_dir, task.name, options.condition)
    fingerprint = model.fingerprint_for(task.dialogue.roles) if task.dialogue else model.fingerprint
    prepare(items, fingerprint, folder)
    record = run_record(task, items, data_dir, options, model_name, fingerprint, command)
    write_record(folder, record)
    if task.dialogue:
        failed = run_dialogue_task(task.dialogue, items, model, folder, advance)
    elif task.answers == "text":
        failed = run_text_task(task, items, model, folder, options.max_new_tokens, advance)
    else:
        failed = run_label_task(task, items, model, folder, advance)
    return TaskRun(failed, record.data_differs_from_card)


def run_text_task(
    task: Task,
    items: Sequence[Item],
    model: Answerer,
    folder: Path,
    max_new_tokens: int,
    advance: Callable[[int], object],
) -> list[Output]:
    """Generate what outputs.jsonl in `folder` lacks; return the outputs that failed.

    Raises:
        ValueError: The outputs there are another model's.
    """
    assert task.answers == "text", f"{task.name} picks labels"
    pending = prepare(items, model.fingerprint, folder)
    advance(len(items) - len(pending))
    asked = [item for item in pending if not item.fault]
    outputs = chain(refuse_items(pending, model.fingerprint), answer_items(asked, model, max_new_tokens))
    return _write_all(outputs, folder, advance)


def run_dialogue_task(
    dialogue: Dialogue,
    items: Sequence[Item],
    players: Players,
    folder: Path,
    advance: Callable[[int], object],
    workers: int = 1,
) -> list[Output]:
    """Play what outputs.jsonl in `folder` lacks, write episodes.jsonl, and return the outputs that failed.

    Raises:
        ValueError: The outputs there are another model's, or another role was played by something else.
    """
    pending = prepare(items, players.fingerprint_for(dialogue.roles), folder)
    advance(len(items) - len(pending))
    failed = _write_all(play_items(pending, dialogue, players, workers), folder, advance)
    write_dialogue_episodes(folder, dialogue)
    return failed


def run_label_task(
    task: Task, items: Sequence[Item], model: Embedder, folder: Path, advance: Callable[[int], object]
) -> list[Output]:
    """Classify what outputs.jsonl in `folder` lacks; return the outputs that failed.

    Raises:
        ValueError: The outputs there are another model's.
    """
    assert task.answers == "label", f"{task.name} writes text"
    pending = prepare(items, model.fingerprint, folder)
    advance(len(items) - len(pending))
    if not pending:
        return []
    refused = refuse_items(pending, model.fingerprint)
    picked = (
        output
        for label_set, captions in task.label_sets.items()
        for output in classify_items(
            [item for item in pending if item.meta.get("label_set", "") == label_set and not item.fault],
            model,
            {label: list(texts) for label, texts in captions.items()},
        )
    )
    return _write_all(chain(refused, picked), folder, advance)


def prepare(items: Sequence[Item], fingerprint: str, folder: Path) -> list[Item]:
    """Write items.jsonl and return the items that outputs.jsonl has no answer to.

    Raises:
        ValueError: The outputs there are another model's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "outputs.jsonl"
    drop_torn_line(path)
    outputs = read_outputs(path)
    others = {output.model for output in outputs} - {fingerprint}
    if others:
        raise ValueError(
            f"{path}: holds answers of the model {', '.join(sorted(others))}; got {fingerprint}; "
            "give each model its own --out"
        )
    write_items(folder / "items.jsonl", items)
    answered = {name for name, output in latest(outputs, items).items() if not output.error}
    return [item for item in items if item.item_id not in answered]


def condition_folder(out_dir: Path, task: str, condition: Condition) -> Path:
    """Return the folder of a run: DIR/<task>, or DIR/<task>/shuffled."""
    return out_dir / task / "shuffled" if condition == "shuffled" else out_dir / task


def run_record(
    task: Task,
    items: Sequence[Item],
    data_dir: str | Path,
    options: RunOptions,
    model: str,
    fingerprint: str,
    command: str,
) -> RunRecord:
    """Collect how a run came about: prompts, data, versions, command."""
    hashes, differing = data_hashes(sorted({item.meta["card"] for item in items}), data_dir)
    return RunRecord(
        task=task.name,
        task_version=task.version,
        condition=options.condition,
        side=task.checked_side(options.side),
        seed=options.seed,
        limit=options.limit,
        max_new_tokens=options.max_new_tokens,
        model=model,
        model_fingerprint=fingerprint,
        prompts_sha256=prompts_sha256(items),
        data_sha256=hashes,
        data_differs_from_card=differing,
        versions={name: _version(name) for name in ("medgemma", "torch", "transformers", "numpy")},
        command=command,
    )


def write_record(folder: Path, record: RunRecord) -> None:
    """Write run.json."""
    (folder / "run.json").write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def data_hashes(cards: Sequence[str], data_dir: str | Path) -> tuple[dict[str, str], list[str]]:
    """Return the SHA-256 of every table read, and the tables that are not their card's."""
    from data_cards.check import table_sha256
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


def _write_all(outputs: Iterable[Output], folder: Path, advance: Callable[[int], object]) -> list[Output]:
    failed = []
    with OutputFile(folder / "outputs.jsonl") as file:
        for output in outputs:
            file.write(output)
            advance(1)
            if output.error:
                failed.append(output)
    return failed


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
