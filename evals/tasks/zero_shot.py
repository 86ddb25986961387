"""Zero-shot classification of labelled pictures; the captions that contrastive training uses too."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from data_cards.readers.pictures import LabelledPicture
from data_cards.split import SIDES, Side
from evals.items import Item
from evals.outputs import Output
from evals.tasks.caption_wording import CAPTIONS, CaptionWording, all_findings
from evals.tasks.phrasings import Wordings
from evals.tasks.picture_questions import HELD_OUT_SIDES, MEDNIST_FACTS, TISSUES, facts, sample
from evals.tasks.task import ItemOptions, Task, checked_side
from evals.tasks.wording import FINDINGS, NO_FINDING


@dataclass(frozen=True)
class Caption:
    """A caption and the facts it states: true of every picture that has them all."""

    text: str
    facts: Mapping[str, str]

    def is_true_of(self, facts: Mapping[str, str]) -> bool | None:
        """Say whether the caption is true of a picture: True, False, or None where its facts do not tell.

        A MedNIST chest film, for example, has no label for pneumonia, so a caption about pneumonia is neither
        a positive nor a negative of it.
        """
        if any(name in facts and facts[name] != value for name, value in self.facts.items()):
            return False
        return True if self.facts.items() <= facts.items() else None


@dataclass(frozen=True)
class ZeroShotTask:
    """A classification task: one set, its classes, and the facts that make a class."""

    name: str
    card: str
    summary: str
    class_facts: Mapping[str, Mapping[str, str]]
    """Label to the facts its captions state. A picture belongs to the class whose facts it has."""


TRAINED_WORDINGS = "-trained-wordings"
"""After a task's name: the same items, its classes in the wordings that recipes train on."""

_CHEST = {"modality": "X-ray", "body_part": "chest"}
_LUNG = {"modality": "histology", "body_part": "lung"}

TASKS: dict[str, ZeroShotTask] = {
    task.name: task
    for task in (
        ZeroShotTask(
            "zero-shot-lung-histology",
            "histo-lc25000-lung",
            "3 lung tissue classes by caption",
            {label: {**_LUNG, "tissue": tissue} for label, tissue in TISSUES.items()},
        ),
        ZeroShotTask(
            "zero-shot-mednist", "modality-mednist", "6 modality and body part classes by caption", MEDNIST_FACTS
        ),
        ZeroShotTask(
            "zero-shot-modality",
            "modality-mednist",
            "3 modalities by caption",
            {facts["modality"]: {"modality": facts["modality"]} for facts in MEDNIST_FACTS.values()},
        ),
        ZeroShotTask(
            "zero-shot-body-part",
            "modality-mednist",
            "5 body parts by caption",
            {facts["body_part"]: {"body_part": facts["body_part"]} for facts in MEDNIST_FACTS.values()},
        ),
        ZeroShotTask(
            "zero-shot-vqa-rad",
            "vqa-rad",
            "4 modality and body part classes of teaching files, many scanners, by caption",
            {
                "abdominal CT": {"modality": "CT", "body_part": "abdomen"},
                "chest X-ray": _CHEST,
                "head CT": {"modality": "CT", "body_part": "head"},
                "head MRI": {"modality": "MRI", "body_part": "head"},
            },
        ),
        ZeroShotTask(
            "zero-shot-nih-pneumonia",
            "cxr-nih14",
            "pneumonia or no finding by caption",
            {
                "pneumonia": {**_CHEST, "pneumonia": "present"},
                "no finding": {**_CHEST, NO_FINDING: "present"},
            },
        ),
    )
}


def captions(facts: Mapping[str, str], wordings: Wordings = "train") -> list[Caption]:
    """Return all captions that are true of a picture with these facts.

    Beside the single statements of caption_wording.CAPTIONS a chest film with two findings or more gets captions
    that name them all.

    Args:
        facts: As `picture_questions.facts` returns them.
        wordings: `train`, or `held-out` for phrasings that no recipe may use.
    """
    return [
        Caption(text, statement.facts) for statement in _statements(facts) for text in statement.phrasings.of(wordings)
    ]


def draw_caption(facts: Mapping[str, str], rng: random.Random) -> Caption:
    """Draw a training caption that is true of a picture: first what is said, then how, for some has more wordings."""
    statement = rng.choice(_statements(facts))
    return Caption(rng.choice(statement.phrasings.train), statement.facts)


def class_prompts(task: str, wordings: Wordings = "held-out") -> dict[str, list[str]]:
    """Return the captions of every class of a task, label to texts.

    Raises:
        ValueError: The task is unknown.
    """
    by_label = {}
    for label, class_facts in _task(task).class_facts.items():
        exact = [wording for wording in CAPTIONS if wording.facts == class_facts]
        by_label[label] = [text for wording in exact for text in wording.phrasings.of(wordings)]
    return by_label


def label_of(task: str, picture: LabelledPicture) -> str | None:
    """Return the class of a picture, None if it is in none.

    Raises:
        ValueError: The task is unknown.
    """
    known = facts(picture)
    fitting = [label for label, wanted in _task(task).class_facts.items() if wanted.items() <= known.items()]
    assert len(fitting) <= 1, f"{picture.path} fits the classes {fitting}"
    return fitting[0] if fitting else None


def items(
    data_dir: str | Path,
    task: str,
    limit: int | None = None,
    seed: int = 0,
    side: Side = "held-out",
    wordings: Wordings = "held-out",
) -> list[Item]:
    """Make the items of one task, in a seeded order; the prompt of each lists the captions of all classes.

    Args:
        data_dir: A folder with the set's folder, or that folder.
        task: A name of TASKS.
        limit: At most so many items.
        seed: Of the order.
        side: Groups; `held-out` ones are new to every recipe.
        wordings: Of the captions; `held-out` ones are new to every recipe.

    Raises:
        ValueError: The task is unknown, or its set is missing or broken.
    """
    card = _task(task).card
    checked_side(side, SIDES)
    prompt = "\n".join(f"{label}: {'; '.join(texts)}" for label, texts in class_prompts(task, wordings).items())
    labelled = [(picture, label_of(task, picture)) for picture in sample(data_dir, card, None, seed, side)]
    return [
        Item(picture.picture_id, (str(picture.path),), prompt, label, "class", picture.group, {"card": card})
        for picture, label in labelled
        if label is not None
    ][:limit]


def _task(name: str) -> ZeroShotTask:
    if name not in TASKS:
        raise ValueError(f"got task {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]


def _statements(facts: Mapping[str, str]) -> list[CaptionWording]:
    stated = [wording for wording in CAPTIONS if wording.facts.items() <= facts.items()]
    present = tuple(name for name in FINDINGS if facts.get(name) == "present")
    if len(present) > 1:
        stated.append(CaptionWording({**_CHEST, **dict.fromkeys(present, "present")}, _all_findings(present)))
    return stated


_all_findings = lru_cache(maxsize=1024)(all_findings)


def grade_label(item: Item, output: Output) -> dict[str, float]:
    """Grade one picked label."""
    return {"accuracy": float(output.text == item.reference)}


def _row(definition: ZeroShotTask, wordings: Wordings) -> Task:
    def task_items(data_dir: str | Path, options: ItemOptions) -> list[Item]:
        side = checked_side(options.side, SIDES)
        return items(data_dir, definition.name, seed=options.seed, side=side, wordings=wordings)

    trained = wordings == "train"
    return Task(
        definition.name + TRAINED_WORDINGS * trained,
        (definition.card,),
        definition.summary + ", in the wordings recipes train on" * trained,
        "label",
        "label",
        items=task_items,
        grade=grade_label,
        wording=lambda: class_prompts(definition.name, wordings),
        sides=HELD_OUT_SIDES,
        label_sets={"": class_prompts(definition.name, wordings)},
        version=1 if trained else 2,
    )


_WORDINGS: tuple[Wordings, ...] = ("held-out", "train")
ROWS = tuple(_row(definition, wordings) for definition in TASKS.values() for wordings in _WORDINGS)
