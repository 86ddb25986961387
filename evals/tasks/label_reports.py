"""Reports written from labels: NIH ChestX-ray14 has findings and no reports, so a report says what is labelled.

Scored by the findings that a report says are there: F1 of each report and over all, and the share of sentences that
repeat an earlier one. The fourteen labels were mined from reports by NIH's own program and are noisy; a report made of
them has no site, side, size or comparison, and says nothing of what the labels leave out. Figures do not compare with
RadGraph F1.
"""

import random
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_cards.readers.chest_releases import read_nih14_release
from data_cards.readers.pictures import LabelledPicture, read_nih14
from data_cards.readers.tables import find_set
from data_cards.split import side as side_of
from evals.items import Item
from evals.measures import Answered, Measure, of_statistic
from evals.metrics.conditions import Rate, rate_of_columns
from evals.outputs import Output
from evals.tasks.chest_films import NIH14_CONDITIONS, subgroups
from evals.tasks.final_answer import spoken
from evals.tasks.report_generation import OURS, film_prompt
from evals.tasks.task import ItemOptions, Task

FOUND = "There is {condition}."
NOTHING = "Findings: None of the fourteen findings is seen.\nImpression: No finding."

SAID_AS = {
    "atelectasis": r"atelecta\w+",
    "cardiomegaly": r"cardiomegaly|(?:enlarged|large) (?:heart|cardiac silhouette)",
    "consolidation": r"consolidations?",
    "edema": r"o?edema",
    "pleural effusion": r"effusions?",
    "infiltration": r"infiltrat\w+",
    "mass": r"mass(?:es)?",
    "nodule": r"nodul\w+",
    "pneumonia": r"pneumonias?",
    "pneumothorax": r"pneumothora(?:x|ces)",
    "emphysema": r"emphysema\w*",
    "fibrosis": r"fibro(?:sis|tic)",
    "pleural thickening": r"pleural thickening",
    "hernia": r"herniat?\w*",
}
"""Condition to how reports say it."""
_SAID = {condition: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for condition, words in SAID_AS.items()}
_DENIED = re.compile(r"\b(?:no|not|without|absent|none|free of|negative for|resolved)\b", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<=[.;!?])\s+|\n+")
_CLAUSES = re.compile(r"[.;!?\n]|\bbut\b|\bhowever\b", re.IGNORECASE)

RATES: tuple[Rate, ...] = ("f1", "precision", "recall")


def report_of(conditions: Sequence[str]) -> str:
    """Return the report of a film with these conditions, in their order."""
    if not conditions:
        return NOTHING
    named = conditions[0] if len(conditions) == 1 else f"{', '.join(conditions[:-1])} and {conditions[-1]}"
    findings = " ".join(FOUND.format(condition=condition) for condition in conditions)
    return f"Findings: {findings}\nImpression: {named[0].upper()}{named[1:]}."


def conditions_said(text: str) -> frozenset[str]:
    """Return the conditions that a report says are there; what is denied earlier in the same clause is not."""
    found = set()
    for clause in _CLAUSES.split(text):
        for condition, words in _SAID.items():
            said = words.search(clause)
            if said and not _DENIED.search(clause[: said.start()]):
                found.add(condition)
    return frozenset(found)


def sentences(text: str) -> list[str]:
    """Return a report's sentences, without the headings `Findings:` and `Impression:`."""
    bare = (
        re.sub(r"^(?:findings|impression):\s*", "", part.strip(), flags=re.IGNORECASE)
        for part in _SENTENCES.split(text)
    )
    return [part for part in bare if part]


def without_repeats(text: str) -> str:
    """Return a report whose sentences are each said once: what repeats itself in training repeats itself after it."""
    kept, seen = [], set()
    for line in text.split("\n"):
        parts = []
        for part in _SENTENCES.split(line):
            key = " ".join(part.lower().split())
            if key not in seen:
                parts.append(part)
            seen.add(key)
        kept.append(" ".join(parts))
    return "\n".join(line for line in kept if line.strip())


def repeated_share(text: str) -> float:
    """Return the share of sentences that repeat an earlier one, 0 to 1; 0 for no sentence."""
    said = [" ".join(part.lower().split()) for part in sentences(text)]
    return 1 - len(set(said)) / len(said) if said else 0.0


def grade(item: Item, output: Output) -> dict[str, float]:
    """Grade one report: F1 of its findings (1 where both have none), and the share of repeated sentences."""
    text = spoken(output.text)
    said, there = conditions_said(text), conditions_said(item.reference)
    both = len(said & there)
    is_report = bool(text.strip())
    f1 = 2 * both / (len(said) + len(there)) if said or there else float(is_report)
    return {"finding_f1": f1, "repeated": repeated_share(text)}


def over_findings(answered: Sequence[Answered]) -> dict[str, Measure]:
    """Return micro and macro F1, precision and recall over findings; findings that no film has are in no mean."""
    names = tuple(_SAID)
    columns = np.zeros((len(answered), 3, len(names)))
    for row, (item, output) in enumerate(answered):
        said, there = conditions_said(spoken(output.text)), conditions_said(item.reference)
        for place, name in enumerate(names):
            columns[row, :, place] = (name in said and name in there, name in said, name in there)
    has = columns[:, 2].any(axis=0)
    every = columns.sum(axis=2)
    some = columns[:, :, has].reshape(len(answered), -1)
    found: dict[str, Measure] = {}
    for rate in RATES:
        found[f"micro_{rate}"] = of_statistic(answered, partial(_rate, every, 1, rate))
        if has.any():
            found[f"macro_{rate}"] = of_statistic(answered, partial(_rate, some, int(has.sum()), rate))
    return found


def items(
    films: Callable[[Path, str], list[LabelledPicture]], card: str, data_dir: str | Path, options: ItemOptions
) -> list[Item]:
    """Make one item a film, in a seeded order.

    Args:
        films: A set's folder and a side to its films.
        card: The set's.
        data_dir: Holds the set's folder, or is it.
        options: Side and seed.

    Raises:
        ValueError: The set is missing or broken.
    """
    made = [_item(film) for film in films(find_set(data_dir, card), options.side)]
    random.Random(options.seed).shuffle(made)
    return made


def _item(film: LabelledPicture) -> Item:
    there = [condition for condition, label in NIH14_CONDITIONS.items() if film.labels[label] == "1"]
    meta = {"card": film.card, "normality": "abnormal" if there else "normal", **subgroups(film.labels)}
    return Item(
        film.picture_id, (str(film.path),), film_prompt(""), report_of(there), "open", film.group, meta
    )  # fmt: skip


def _kit(folder: Path, side: str) -> list[LabelledPicture]:
    return [film for film in read_nih14(folder) if side in ("all", side_of(film.group))]


def _release(folder: Path, side: str) -> list[LabelledPicture]:
    """The owners' split where its lists are there, else ours."""
    wanted = {"test": "test", "train": "train_val"}[side]
    return [
        film
        for film in read_nih14_release(folder)
        if (film.labels["official_split"] or ("train_val" if side_of(film.group) == "train" else "test")) == wanted
    ]


def _rate(columns: np.ndarray, num_conditions: int, rate: Rate, weights: np.ndarray) -> np.ndarray:
    return rate_of_columns(weights @ columns, num_conditions, rate)


def _row(
    name: str, card: str, summary: str, films: Callable[[Path, str], list[LabelledPicture]], sides: tuple[str, ...]
) -> Task:
    return Task(
        name,
        (card,),
        summary,
        "text",
        "long",
        items=partial(items, films, card),
        grade=grade,
        wording=lambda: [film_prompt(""), FOUND, NOTHING, SAID_AS],
        sides=sides,
        main_metric="finding_f1",
        pooled=over_findings,
        breakdown="normality",
        subgroups=("view", "sex", "age_band"),
        max_new_tokens=128,
    )


ROWS = (
    _row(
        "nih14-label-report",
        "nih-chestxray14",
        "NIH ChestX-ray14: a report of the labelled findings, scored by the findings it says",
        _release,
        ("test", "train"),
    ),
    _row(
        "kit-nih14-label-report",
        "cxr-nih14",
        "NIH ChestX-ray14, the kit's films: a report of the labelled findings, scored by the findings it says",
        _kit,
        OURS,
    ),
)
