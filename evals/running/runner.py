"""Running a task: items.jsonl (what is asked), outputs.jsonl (what came back), run.json (how).

Scoring is a step of its own (evals/results/scores.py) over these files, so that scoring again costs no generation.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from evals.clinic.running import play_items, write_dialogue_episodes
from evals.generation import Generation
from evals.items import Item, item_sha256, write_items
from evals.outputs import Output, OutputFile, latest
from evals.running.answering import answer_items, answer_on_server, classify_items, refuse_items, side_by_side
from evals.running.cache import AnswerCache
from evals.running.checks import check_items, demand_disjoint_groups, divides_by_group, named
from evals.running.choosing import choose_items
from evals.running.local import answer_on_engine
from evals.running.options import Condition, RunOptions
from evals.running.probing import RememberedPictures, probe_items
from evals.running.record import RunRecord, read_record, run_record, write_record
from evals.running.voting import Ask, ask_in_orders, demand_orders
from evals.tasks.task import ItemOptions, Task
from medgemma import MedGemma
from medgemma.endpoint import Endpoint
from medsiglip.checkpoints.identity import is_mended


class TaskRun(NamedTuple):
    """What a run has to report."""

    n_items: int
    failed: list[Output]
    data_differs_from_card: list[str]
    shown_as_examples: list[str]
    set_aside: Path | None
    """Where the answers are that the model gave before its files changed."""


def make_items(task: Task, data_dir: str | Path, options: RunOptions) -> list[Item]:
    """Make the items of a task.

    Raises:
        ValueError: The data is missing or broken, the side is unknown, or no item is left.
    """
    asked = ItemOptions(task.checked_side(options.side), options.seed, options.fewshot(task))
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
    *,
    expect: Callable[[int], object] = lambda items: None,
    cache: AnswerCache | None = None,
    concurrency: int = 8,
) -> TaskRun:
    """Make the items, answer those that --out lacks, and record how.

    Args:
        task: What is asked.
        options: Which items, and how.
        data_dir: Holds one folder a card name, or is that folder.
        out_dir: The run goes to `condition_folder(out_dir, ...)`.
        model: A MedGemma, an Endpoint or an Answerer for a text task, a MedGemma for choices, an Embedder for a label
            task, Players for a dialogue task.
        model_name: As the user gave it.
        command: For the record.
        advance: Told how many more items are done.
        expect: Told how many items there are, before the first is done.
        cache: Answers of earlier runs; not used for dialogues.
        concurrency: Items put to a server at a time; 1 for a dialogue that a local model takes part in.

    Raises:
        ValueError: The data is missing or would make the figure wrong (an item twice, a patient on both sides), the
            options do not fit the task, or the outputs there are another model's or made with other settings.
    """
    items = make_items(task, data_dir, options)
    folder = condition_folder(out_dir, task.name, options.condition)
    shown = _shown_as_examples(task, items, data_dir, options)
    record = replace(run_record(task, items, data_dir, options, model, model_name, command), shown_as_examples=shown)
    train = partial(_train, task, data_dir, options)
    ask: Ask = partial(_outputs, task, model, folder, options.generation(task), concurrency, train)
    if options.vote_orders:
        demand_orders(task, items)
        ask = partial(ask_in_orders, ask, options.vote_orders, options.seed)
    check_items(items, asdict(record), folder)
    with OutputFile(folder / "outputs.jsonl") as file:
        aside = file.set_aside() if _is_stale(file, record) else None
        if task.is_table:
            _demand_same_table(items, file, record)
        pending = pending_items(items, file, record)
        write_items(folder / "items.jsonl", items)
        write_record(folder, record)
        expect(len(items))
        advance(len(items) - len(pending))
        kept = None if task.dialogue else cache  # other players' weights are in no key
        failed = answer_pending(pending, ask, record, file, kept, advance)
    if task.dialogue:
        write_dialogue_episodes(folder, task.dialogue)
    return TaskRun(len(items), failed, record.data_differs_from_card, shown, aside)


def _is_stale(file: OutputFile, record: RunRecord) -> bool:
    """Whether all answers so far are of the same weights with other files: a tokenizer, template or setting mended."""
    before = {output.model for output in file.before}
    return bool(before) and all(is_mended(identity, record.model_identity) for identity in before)


def _demand_same_table(items: Sequence[Item], file: OutputFile, record: RunRecord) -> None:
    """Refuse a second table in a folder: its rows have the names of the first one's, and would take their place."""
    asked = {item.item_id: item_sha256(item) for item in items}
    good = [output for output in file.before if not output.error]
    before = read_record(file.path.parent).get("data_sha256", {}) if good else {}
    gone = [output.item_id for output in good if output.item_id not in asked and before != record.data_sha256]
    otherwise = [output.item_id for output in good if asked.get(output.item_id, "") not in ("", output.item_sha256)]
    if gone or otherwise:
        raise ValueError(
            f"{file.path}: holds answers about another table, or this one before it was changed ({', '.join(before)}): "
            f"{named([*otherwise, *gone])} asked otherwise or not at all now; give each table its own --out"
        )


def pending_items(items: Sequence[Item], file: OutputFile, record: RunRecord) -> list[Item]:
    """Return the items that the outputs so far have no answer to.

    Raises:
        ValueError: The outputs are another model's, or were made with other settings.
    """
    others = {output.model for output in file.before} - {record.model_identity}
    if others:
        raise ValueError(
            f"{file.path}: holds answers of the model {', '.join(sorted(others))}; got {record.model_identity}; "
            "give each model its own --out"
        )
    if any(output.settings != record.settings for output in file.before):
        raise ValueError(
            f"{file.path}: holds answers made otherwise ({_what_differs(file.path.parent, record)}); give each way its "
            "own --out"
        )
    answered = {name for name, output in latest(file.before, items).items() if not output.error}
    return [item for item in items if item.item_id not in answered]


def answer_pending(
    pending: Sequence[Item],
    ask: Callable[[Sequence[Item]], Iterable[Output]],
    record: RunRecord,
    file: OutputFile,
    cache: AnswerCache | None,
    advance: Callable[[int], object],
) -> list[Output]:
    """Append an output for every item to the file; return those that failed."""
    good = [item for item in pending if not item.fault]
    kept = {output.item_id: output for output in cache.known(good, record)} if cache else {}
    asked = {item.item_id: item for item in side_by_side(good) if item.item_id not in kept}
    failed = []
    refused = refuse_items(pending, record.model_identity)
    for output in chain(refused, kept.values(), ask(list(asked.values()))):
        made = replace(output, settings=record.settings)
        file.write(made)
        if cache and made.item_id in asked:
            cache.keep(asked[made.item_id], made, record)
        advance(1)
        if made.error:
            failed.append(made)
    return failed


def condition_folder(out_dir: Path, task: str, condition: Condition) -> Path:
    """Return the folder of a run: DIR/<task>, or DIR/<task>/shuffled."""
    return out_dir / task / "shuffled" if condition == "shuffled" else out_dir / task


def _shown_as_examples(task: Task, items: Sequence[Item], data_dir: str | Path, options: RunOptions) -> list[str]:
    """Return the items whose patient (group) the worked examples show too; where the division is ours, refuse them.

    An owner's own split can have such items (MMLU's has): figures on it compare with others only with them in.
    """
    if not options.fewshot(task):
        return []
    shown = task.items(data_dir, ItemOptions(task.fewshot_from, options.seed))
    if divides_by_group(task):
        demand_disjoint_groups(shown, items)
    groups = {item.group for item in shown}
    return [item.item_id for item in items if item.group in groups]


def _train(task: Task, data_dir: str | Path, options: RunOptions) -> list[Item]:
    """Make the items that a probe learns from."""
    return task.items(data_dir, ItemOptions(task.trained_on, options.seed))


def _outputs(
    task: Task,
    model: Any,
    folder: Path,
    generation: Generation,
    concurrency: int,
    train: Callable[[], list[Item]],
    items: Sequence[Item],
) -> Iterable[Output]:
    if not items:
        return ()
    if task.dialogue:
        return play_items(items, task.dialogue, model, folder, concurrency)
    if task.trained_on:
        return probe_items(train(), items, RememberedPictures(model))
    if task.answers == "choices":
        return choose_items(items, model)
    if task.answers == "label":
        return _labels(task, items, RememberedPictures(model))
    if isinstance(model, Endpoint):
        return answer_on_server(items, model, generation, concurrency)
    if isinstance(model, MedGemma):
        return answer_on_engine(items, model, generation)
    return answer_items(items, model, generation)


def _labels(task: Task, items: Sequence[Item], model: Any) -> Iterator[Output]:
    sets = {item.meta.get("label_set", "") for item in items}
    assert sets <= set(task.label_sets), f"{task.name} has no label set {sets - set(task.label_sets)}"
    for label_set, captions in task.label_sets.items():
        of_set = [item for item in items if item.meta.get("label_set", "") == label_set]
        if of_set:
            yield from classify_items(of_set, model, {label: list(texts) for label, texts in captions.items()})


def _what_differs(folder: Path, record: RunRecord) -> str:
    """Name the settings that the record there has otherwise."""
    try:
        before = read_record(folder)
    except ValueError:
        return "its run.json is missing"
    if before.get("task_version") != record.task_version:
        return f"version {before.get('task_version')} of the task, now {record.task_version}"
    old, new = before.get("generation", {}), record.generation
    differing = [f"{name} {old.get(name)}, now {value}" for name, value in new.items() if old.get(name) != value]
    return ", ".join(differing) or "other settings"
