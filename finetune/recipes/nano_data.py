"""What the recipe nano trains on: pictures with facts, questions and text of the training side.

Letters: P pictures.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from data_cards.readers.pictures import read_labelled_pictures
from data_cards.readers.tables import find_set
from data_cards.readers.text import read_medquad, read_mts_dialog, read_pubmedqa
from data_cards.readers.vqa_rad import VisualQuestion, read_vqa_rad
from data_cards.split import side
from evals.tasks.picture_questions import facts
from evals.tasks.wording import CAPTIONS, CLOSED_QUESTIONS, OPEN_QUESTIONS
from medsiglip.imaging import read_pictures, resize

LABELLED_CARDS = ("histo-lc25000-lung", "modality-mednist", "cxr-nih14")
ORGAN_FACTS = {"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"}
MARGIN_PX = 16
"""Pictures are kept this much larger than the tower's side, for the random crop."""


@dataclass(frozen=True)
class Corpus:
    """The training side of every set, in memory."""

    pixels: torch.Tensor
    """(P, 3, S', S') uint8."""
    facts: tuple[dict[str, str], ...]
    cards: tuple[str, ...]
    """Of each picture, its set."""
    paths: tuple[Path, ...]
    questions: tuple[VisualQuestion, ...]
    texts: tuple[str, ...]

    @cached_property
    def number_of(self) -> dict[Path, int]:
        """Row of a picture by its file."""
        return {path: number for number, path in enumerate(self.paths)}

    @cached_property
    def free_orientation(self) -> torch.Tensor:
        """(P,) bool: histology, where up and left mean nothing."""
        return torch.tensor([card == "histo-lc25000-lung" for card in self.cards])

    @cached_property
    def _numbers(self) -> dict[str, tuple[int, ...]]:
        return {
            card: tuple(i for i, of in enumerate(self.cards) if of == card) for card in (*LABELLED_CARDS, "vqa-rad")
        }

    def numbers_of(self, card: str) -> tuple[int, ...]:
        """Rows of one set."""
        return self._numbers[card]

    def draw_picture(self, rng: random.Random) -> int:
        """A row of a labelled set: chest films most often, for they have most to be asked."""
        card = rng.choices(LABELLED_CARDS, weights=(3, 2, 4))[0]
        return rng.choice(self._numbers[card])

    def all_texts(self) -> Iterator[str]:
        """What the tokenizers learn from: every text, question, answer and caption that training uses."""
        yield from self.texts
        for _ in range(20):  # the short medical phrases must become pieces of their own
            yield from (text for wording in CAPTIONS for text in wording.phrasings.train)
            for phrasings in (*OPEN_QUESTIONS.values(), *CLOSED_QUESTIONS.values()):
                yield from phrasings.train
        for question in self.questions:
            yield from (question.question, question.answer, question.answer.lower())

    def report(self) -> str:
        """Counts a set, for the log."""
        counts = ", ".join(f"{card} {count}" for card, count in sorted(Counter(self.cards).items()))
        return f"training side: pictures {counts}; {len(self.questions)} VQA-RAD questions; {len(self.texts)} texts"


def read_corpus(data: Path, size_px: int) -> Corpus:
    """Read the training side of the kit.

    Raises:
        ValueError: a set or one of its files is missing.
    """
    labelled = [
        picture
        for card in LABELLED_CARDS
        for picture in read_labelled_pictures(data, card)
        if side(picture.group) == "train"
    ]
    questions = [q for q in read_vqa_rad(find_set(data, "vqa-rad")) if side(q.group) == "train"]
    asked_about = {q.path: q for q in questions}
    paths = [*(p.path for p in labelled), *asked_about]
    return Corpus(
        pixels=_pixels(paths, size_px + MARGIN_PX),
        facts=(
            *(facts(p) for p in labelled),
            *({"body_part": ORGAN_FACTS[q.organ]} for q in asked_about.values()),
        ),
        cards=(*(p.card for p in labelled), *("vqa-rad" for _ in asked_about)),
        paths=tuple(paths),
        questions=tuple(questions),
        texts=tuple(_texts(data)),
    )


def _pixels(paths: Sequence[Path], side_px: int) -> torch.Tensor:
    squares = [resize(read_pictures(path)[0].pixels, side_px, "huggingface") for path in paths]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()


def _texts(data: Path) -> Iterator[str]:
    for health in read_medquad(find_set(data, "medquad")):
        yield f"{health.question}\n{health.answer}"
    for abstract in read_pubmedqa(find_set(data, "pubmedqa")):
        yield f"{abstract.question}\n{abstract.context}\n{abstract.conclusion}"
    for note in read_mts_dialog(find_set(data, "mts-dialog")):
        yield f"{note.dialogue}\n{note.note}"
