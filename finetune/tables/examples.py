"""The rows of a user's table as conversations to learn, in the words that `medgemma-eval run --table` asks them in.

Letters: S side in pixels.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from data_cards.table import Row, Split, Table
from evals.items import Item
from evals.tasks.multiple_choice import options_of
from evals.tasks.tables import completion, items_of, table_kinds
from finetune.collate import Example
from medgemma import MedGemma
from medgemma.asking import AnswerOptions
from medgemma.prompts.content import open_study, pictures_of, study_parts
from medgemma.prompts.special_tokens import turn_tokens
from medsiglip.command import one_line, progress
from medsiglip.imaging import Picture
from medsiglip.preprocess import Preprocessing

KEPT_BYTES = 2 << 30
"""Of resized pictures that stay in memory; the others are read again when they are drawn."""
MOST_FAULTS_SHOWN = 5


@dataclass
class SeenPictures:
    """Pictures by number, as the model sees them."""

    preprocessing: Preprocessing
    read: Callable[[tuple[str, ...]], Sequence[Picture]]
    """A study's files to its pictures, volumes as the slices that are shown."""
    places: list[tuple[tuple[str, ...], int]] = field(default_factory=list)
    """Number to the study's files and the picture's place among its pictures."""
    kept: dict[int, np.ndarray] = field(default_factory=dict)

    def add(self, files: tuple[str, ...], pictures: Sequence[Picture]) -> tuple[int, ...]:
        """Numbers for the pictures of a study that has just been read."""
        numbers = tuple(range(len(self.places), len(self.places) + len(pictures)))
        self.places += [(files, place) for place in range(len(pictures))]
        if (len(self.kept) + len(pictures)) * 3 * self.preprocessing.size_px**2 <= KEPT_BYTES:
            self.kept |= {n: self.preprocessing.resized(p) for n, p in zip(numbers, pictures, strict=True)}
        return numbers

    def pixel_values(self, number: int) -> torch.Tensor:
        """(3, S, S) float32."""
        resized = self.kept.get(number)
        if resized is None:
            files, place = self.places[number]
            resized = self.preprocessing.resized(self.read(files)[place])
        return self.preprocessing.pixel_values([resized])[0]


def table_items(table: Table, *splits: Split) -> list[Item]:
    """All questions of these sides, of every kind that the table holds; rows whose items are faulty left out."""
    items = [item for kind in table_kinds(table) for item in items_of(table, kind, splits)]
    if faults := [item.fault for item in items if item.fault]:
        raise ValueError(f"{faults[0]}{_and_more(len(faults), 'rows')}")
    return items


def with_shuffled_answers(items: Sequence[Item], seed: int) -> list[Item]:
    """The control that must not learn: answers go to other items with the same question, or another option is right."""
    by_question: dict[str, list[int]] = defaultdict(list)
    rng, shuffled = random.Random(f"answers:{seed}"), list(items)
    for place, item in enumerate(items):
        if item.meta.get("table_kind") == "choices":
            shuffled[place] = replace(item, reference=rng.choice(list(options_of(item).values())))
        elif "table_kind" not in item.meta and options_of(item):
            shuffled[place] = replace(item, reference=rng.choice(list(options_of(item))))  # such items name the letter
        else:
            by_question[item.meta.get("label", item.meta.get("category", ""))].append(place)
    for places in by_question.values():
        others = [items[place] for place in places]
        rng.shuffle(others)
        for place, other in zip(places, others, strict=True):
            graded_by = {key: value for key, value in other.meta.items() if key.startswith("answer_")}
            shuffled[place] = replace(items[place], reference=other.reference, meta={**items[place].meta, **graded_by})
    return shuffled


def examples_of(
    items: Sequence[Item],
    model: MedGemma,
    pictures: SeenPictures | None,
    advance: Callable[[int], object],
    learned: Callable[[Item], str] = completion,
) -> list[Example]:
    """Items as examples; every study is opened once, so that a bad one is named before the first step.

    Args:
        items: none of them faulty.
        model: whose tokenizer, template and pixels they are for; it is not asked.
        pictures: gets the studies; None for a model of text alone.
        advance: called with 1 an item.
        learned: the right reply to an item.

    Raises:
        ValueError: pictures cannot be read, or an item does not fit the model's context: the first ones are named.
    """
    numbers: dict[tuple[str, ...], tuple[int, ...]] = {}
    examples, faults = [], []
    for item in sorted(items, key=lambda item: item.files):
        try:
            parts = study_parts(open_study([Path(file) for file in item.files])) if item.files else []
            if item.files and pictures is None:
                raise ValueError("has a picture, and the model sees none; give another --set model")
            reply = completion_ids(model, learned(item))
            asked = model.asking.question(parts, item.prompt, AnswerOptions(), len(reply)).request
            if pictures is not None and item.files not in numbers:
                numbers[item.files] = pictures.add(item.files, asked.pictures)
        except (ValueError, OSError) as fault:
            faults.append(f"{item.item_id}: {one_line(fault)}")
        else:
            seen = numbers.get(item.files, ())
            examples.append(Example(asked.prompt.input_ids, reply, seen, item.item_id))
        advance(1)
    if faults:
        shown = "; ".join(faults[:MOST_FAULTS_SHOWN])
        raise ValueError(f"{len(faults)} of {len(items)} rows cannot be learned from: {shown}")
    place = {item.item_id: number for number, item in enumerate(items)}
    return sorted(examples, key=lambda example: place[example.place])


def completion_ids(model: MedGemma, text: str) -> tuple[int, ...]:
    """An answer's tokens and the one that ends it: the turn's end, or the text's for a model without a chat form."""
    ids = tuple(model.tokenizer(text, add_special_tokens=False).input_ids)
    end = turn_tokens(model.tokenizer).end
    return (*ids, model.tokenizer.eos_token_id if end is None else end)


def read_study(files: tuple[str, ...]) -> list[Picture]:
    """A study's pictures in the order of their slots."""
    return pictures_of(study_parts(open_study([Path(file) for file in files])))


def read_pictures(rows: Sequence[Row], split: Split, pictures: SeenPictures, quiet: bool) -> list[tuple[int, ...]]:
    """Numbers of the pictures of each row; every one is read once, so that a bad one is named now.

    Raises:
        ValueError: some cannot be read; the first rows are named.
    """
    numbers, faults = [], []
    with progress(len(rows), f"rows read of {split}", quiet) as advance:
        for row in rows:
            files = tuple(map(str, row.files))
            try:
                numbers.append(pictures.add(files, read_study(files)))
            except (ValueError, OSError) as fault:
                faults.append(f"{row.place}: {one_line(fault)}")
            advance(1)
    if faults:
        shown = "; ".join(faults[:MOST_FAULTS_SHOWN])
        raise ValueError(f"{len(faults)} of {len(rows)} rows of {split} have pictures that cannot be read: {shown}")
    return numbers


def identity_line(table: Table) -> str:
    """What a run has learned from: the table's name, and a hash of all its rows as they were understood."""
    rows = json.dumps([asdict(row) for row in table.rows], default=str, sort_keys=True)
    return f"table {table.source}, {len(table.rows)} rows, sha256 {sha256(rows.encode()).hexdigest()[:16]}"


def usable(table: Table, faulty_rows: str) -> Table:
    """The table without its faulty rows, if the user wants that.

    Raises:
        ValueError: there are such rows; the first is named.
    """
    return replace(table, faulty=()) if faulty_rows == "left-out" else table.without_faults()


def _and_more(count: int, what: str) -> str:
    return f" (and {count - 1} more {what})" if count > 1 else ""
