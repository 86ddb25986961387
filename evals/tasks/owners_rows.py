"""The reports' rows whose data only its owners have, over the JSON-lines format of jsonl.py.

Sources: the reports of MedGemma (arXiv:2507.05201, sections 3 and 6, appendix A) and MedGemma 1.5 (arXiv:2604.05081,
    appendix B) for what is asked and how it is scored; the sentences are ours, apart from the last lines they ask for
    and the keys of laboratory reports.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_cards.readers.tables import find_set
from evals.items import Item, Kind
from evals.metrics.conditions import CHEXPERT_5
from evals.tasks import chest_films, multiple_choice, picture_classes
from evals.tasks.jsonl import Row, RowKind, meta_of, read_rows
from evals.tasks.owners_grading import grade, parse, pooled
from evals.tasks.task import Form, ItemOptions, Task

REASON = multiple_choice.INSTRUCTION
YES_NO = chest_films.INSTRUCTION
LETTER = picture_classes.FINAL_ANSWER
DIAGNOSIS = picture_classes.DIAGNOSIS
SHORT = "Answer with one word or a short phrase."
CONCISE = "Answer concisely, without an explanation."

VOLUME_QUESTION = "Is there {{category}} in the {volume} volume?"
FILM_QUESTION = "Is there {category} in this image?"
WHERE = (
    "Boxes are [y0, x0, y1, x1], each number from 0 to 1000 of the picture's height or width. Left and right are the "
    'patient\'s. Where is the {category}? End with "Final Answer:" and a JSON list with one object, with the keys '
    "box_2d and label."
)
CHANGE = "The first image is the earlier film, the second the later one. How has {category} changed?"
SLIDE = "These are patches of one histopathology slide. Give the final diagnosis in one line, without an explanation."
LAB_REPORT = (
    "Read the laboratory report in the image. Write a JSON list with one object a result, with the keys name, result, "
    "unit, range, panel, method, specimen and sample_collection_time (DD-MM-YYYY HH:MM:SS). Leave out what the report "
    "does not say. Write nothing but the JSON."
)
RECORD = (
    "You help with questions about a patient's record.\n"
    "--- begin of the record ---\n{context}\n--- end of the record ---"
)

FORMS: dict[RowKind, Form] = {
    "choice": "letter",
    "yes-no": "yes-no",
    "short": "short",
    "text": "long",
    "json": "json",
    "boxes": "box",
}


@dataclass(frozen=True)
class OwnersRow:
    """One row of the reports' tables."""

    card: str
    summary: str
    instructions: Mapping[RowKind, str]
    """The kinds of row it takes, the usual one first, to what follows the question."""
    needs: tuple[str, ...] = ()
    """Fields of a row that must not be empty."""
    question: str = ""
    """Used where a row has none; {category} is the row's."""
    record: bool = False
    """The context is a patient's record, put between delimiter lines."""
    main_metric: str = "accuracy"
    named: tuple[str, ...] = ()
    """The conditions of macro F1; all that occur if empty."""
    sides: tuple[str, ...] = ("test", "validation", "train")
    thinks: bool = False
    max_new_tokens: int = 256

    @property
    def kind(self) -> RowKind:
        """The usual kind of row."""
        return next(iter(self.instructions))


OWNERS: dict[str, OwnersRow] = {
    "mmmu": OwnersRow(
        "mmmu",
        "MMMU, pictures of college subjects",
        {"choice": REASON, "short": SHORT},
        ("images", "category"),
        sides=("validation", "test", "dev"),
        max_new_tokens=1024,
    ),
    "mmlu-pro": OwnersRow(
        "mmlu-pro", "MMLU-Pro, up to ten options", {"choice": REASON}, ("category",), max_new_tokens=1024
    ),
    "global-mmlu-lite": OwnersRow(
        "global-mmlu-lite",
        "Global-MMLU-Lite; category: the language, group: the question in all languages",
        {"choice": REASON},
        ("category",),
        max_new_tokens=1024,
    ),
    "eyepacs": OwnersRow(
        "eyepacs",
        "EyePACS, five grades of retinopathy",
        {"choice": DIAGNOSIS},
        ("images",),
        question=picture_classes.SETS["kit-fundus"].question,
    ),
    "us-derm-mcqa": OwnersRow("us-derm-mcqa", "skin pictures, four options", {"choice": DIAGNOSIS}, ("images",)),
    "path-mcqa": OwnersRow("path-mcqa", "histology patches, three to nine options", {"choice": LETTER}, ("images",)),
    "ct-dataset-1": OwnersRow(
        "ct-dataset-1",
        "CT volumes, one question a condition; macro accuracy over conditions",
        {"yes-no": YES_NO},
        ("images", "category"),
        question=VOLUME_QUESTION.format(volume="CT"),
        main_metric="accuracy_mean_over_categories",
    ),
    "ct-rate": OwnersRow(
        "ct-rate",
        "CT-RATE, 18 conditions; macro F1, precision, recall over conditions",
        {"yes-no": YES_NO},
        ("images", "category"),
        question=VOLUME_QUESTION.format(volume="chest CT"),
        main_metric="macro_f1",
        sides=("validation", "train"),
    ),
    "mri-dataset-1": OwnersRow(
        "mri-dataset-1",
        "MRI volumes, one question a condition; macro accuracy over conditions",
        {"yes-no": YES_NO},
        ("images", "category"),
        question=VOLUME_QUESTION.format(volume="MRI"),
        main_metric="accuracy_mean_over_categories",
    ),
    "ms-cxr-t": OwnersRow(
        "ms-cxr-t",
        "MS-CXR-T, two films, change of a finding; mean over findings of the classes' recall",
        {"choice": LETTER},
        ("images", "category"),
        question=CHANGE,
        main_metric="class_recall_mean_over_categories",
    ),
    "mimic-cxr-adjudicated": OwnersRow(
        "mimic-cxr-jpg",
        "MIMIC-CXR, films with adjudicated labels, one question a condition",
        {"yes-no": YES_NO},
        ("images", "category"),
        question=FILM_QUESTION,
        main_metric="macro_f1",
        named=CHEXPERT_5,
        sides=("adjudicated-test",),
    ),
    "chest-imagenome": OwnersRow(
        "chest-imagenome",
        "Chest ImaGenome, one box an anatomy; mean IoU",
        {"boxes": ""},
        ("images", "category"),
        question=WHERE,
        main_metric="iou",
        max_new_tokens=1000,
    ),
    "wsi-path": OwnersRow(
        "wsi-path",
        "patches of a slide, final diagnosis; ROUGE-L",
        {"text": ""},
        ("images",),
        question=SLIDE,
        main_metric="rouge_l_f1",
    ),
    "lab-reports": OwnersRow(
        "mendeley-lab-reports",
        "laboratory reports to JSON; F1 of fields, mean over documents and over all fields",
        {"json": ""},
        ("images",),
        question=LAB_REPORT,
        main_metric="field_f1",
        max_new_tokens=4096,
    ),
    "ehrnoteqa": OwnersRow(
        "ehrnoteqa",
        "EHRNoteQA, discharge summaries, five options",
        {"choice": REASON},
        ("context",),
        record=True,
        thinks=True,
        max_new_tokens=1024,
    ),
    "ehrqa": OwnersRow(
        "ehrqa",
        "EHRQA, whole records; category: one of the report's ten kinds; mean over them",
        {"short": CONCISE, "choice": CONCISE, "yes-no": CONCISE},
        ("context", "category"),
        record=True,
        main_metric="accuracy_mean_over_categories",
    ),
}
"""Name of the task to its row. Its file is --data/CARD/SIDE.jsonl."""


def prompt(owned: OwnersRow, row: Row) -> str:
    """Return the text put to a model."""
    question = row.question or owned.question.format(category=row.category)
    if row.kind == "choice":
        question = multiple_choice.prompt(question, row.options, instruction="")
    context = RECORD.format(context=row.context) if owned.record else row.context
    parts = (context.strip(), question.strip(), owned.instructions[row.kind])
    return "\n\n".join(part for part in parts if part)


def items(owned: OwnersRow, data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make the items of one split in a seeded order, those of lines that cannot be used among them.

    Raises:
        ValueError: The folder or the file is missing, of another split, or has no usable line (see jsonl.read_rows).
    """
    folder = find_set(data_dir, owned.card)
    needs = owned.needs if owned.question else (*owned.needs, "question")
    found = read_rows(folder, options.side, owned.card, tuple(owned.instructions), needs)
    made = [row if isinstance(row, Item) else _item(owned, folder, row) for row in found]
    random.Random(options.seed).shuffle(made)
    return made


def _item(owned: OwnersRow, folder: Path, row: Row) -> Item:
    kind: Kind = "closed" if row.kind in ("choice", "yes-no") else "open"
    meta = meta_of(row, owned.card) | {f"option_{letter}": text for letter, text in row.options.items()}
    if row.kind == "yes-no":
        meta["condition"] = row.category
    return Item(
        item_id=row.id,
        files=tuple(str(folder / name) for name in row.images),
        prompt=prompt(owned, row),
        reference=row.answer if isinstance(row.answer, str) else json.dumps(row.answer),
        kind=kind,
        group=row.group,
        meta=meta,
    )


def _wording(owned: OwnersRow) -> object:
    fields = {"id": "ID", "split": "test", "group": "G", "context": "CONTEXT", "category": "CATEGORY"}
    answers: dict[RowKind, dict[str, object]] = {
        "choice": {"answer": "A", "options": {"A": "FIRST", "B": "SECOND"}},
        "yes-no": {"answer": "yes"},
        "short": {"answer": "TEXT"},
        "text": {"answer": "TEXT"},
        "json": {"answer": {}},
        "boxes": {"answer": [0, 0, 1, 1]},
    }
    question = "" if owned.question else "QUESTION"
    rows = [
        Row.model_validate({**fields, "kind": kind, "question": question, **answers[kind]})
        for kind in owned.instructions
    ]
    return [prompt(owned, row) for row in rows]


def _row(name: str, owned: OwnersRow) -> Task:
    return Task(
        name,
        (owned.card,),
        f"{owned.summary} [JSONL]",
        "text",
        FORMS[owned.kind],
        items=partial(items, owned),
        grade=partial(grade, owned.kind),
        wording=partial(_wording, owned),
        sides=owned.sides,
        main_metric=owned.main_metric,
        parse=parse if owned.kind in ("choice", "yes-no", "short") else None,
        pooled=partial(pooled, owned.kind, owned.named),
        breakdown="category",
        subgroups=("sex", "age_band", "view"),
        is_jsonl=True,
        thinks=owned.thinks,
        max_new_tokens=owned.max_new_tokens,
        version=2,
    )


ROWS = tuple(_row(name, owned) for name, owned in OWNERS.items())
