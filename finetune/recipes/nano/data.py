"""What the recipe nano trains on: pictures with facts, questions and text of the training side.

Letters: P pictures.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from data_cards.readers.pictures import read_labelled_pictures
from data_cards.readers.tables import find_set
from data_cards.readers.text import read_medquad, read_mts_dialog, read_pubmedqa
from data_cards.readers.vqa_rad import VisualQuestion, read_vqa_rad
from data_cards.split import side
from evals.tasks.caption_wording import CAPTIONS
from evals.tasks.picture_questions import facts
from evals.tasks.wording import CLOSED_QUESTIONS, OPEN_QUESTIONS
from medsiglip.imaging import read_pictures, resize

PICTURE_CARDS = ("histo-lc25000-lung", "modality-mednist", "cxr-nih14", "vqa-rad")
TEXT_CARDS = ("medquad", "pubmedqa", "mts-dialog")
STAGES = {
    "tokenizers": {"texts": TEXT_CARDS, "captions and questions": "all patterns", "questions": ("vqa-rad",)},
    "contrastive": {"pictures with captions made of their facts": PICTURE_CARDS},
    "pretrain": {"texts": TEXT_CARDS, "pictures with captions made of their facts": PICTURE_CARDS},
    "instruct": {
        "questions": ("vqa-rad",),
        "pictures with questions made of their facts, and ones they cannot answer": PICTURE_CARDS,
        "questions that no picture answers": ("medquad",),
        "texts": TEXT_CARDS,
    },
}
"""What each stage reads of which sets."""
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
    groups: tuple[str, ...]
    """Of each picture: the patient, case, tile or block that the split goes by."""
    questions: tuple[VisualQuestion, ...]
    texts: tuple[str, ...]
    text_cards: tuple[str, ...]
    """Of each text, its set."""
    text_questions: tuple[str, ...]
    """Questions about health that no picture answers."""

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
        return {card: tuple(i for i, of in enumerate(self.cards) if of == card) for card in PICTURE_CARDS}

    def numbers_of(self, card: str) -> tuple[int, ...]:
        """Rows of one set."""
        return self._numbers[card]

    def draw_picture(self, rng: random.Random) -> int:
        """A row of any set: chest films most often, for they have most to be asked."""
        card = rng.choices(PICTURE_CARDS, weights=(3, 2, 4, 2))[0]
        return rng.choice(self._numbers[card])

    def with_shuffled_labels(self, seed: int) -> "Corpus":
        """The control: within every set, facts and questions go to other pictures at random."""
        rng = random.Random(f"shuffled labels:{seed}")
        order = list(range(len(self.paths)))
        for card in sorted(set(self.cards)):
            rows = self.numbers_of(card)
            for row, other in zip(rows, rng.sample(rows, len(rows)), strict=True):
                order[row] = other
        return replace(self, facts=tuple(self.facts[i] for i in order), paths=tuple(self.paths[i] for i in order))

    def all_texts(self) -> Iterator[str]:
        """What the tokenizers learn from: every text, question, answer and caption that training uses."""
        yield from self.texts
        for _ in range(20):  # the short medical phrases must become pieces of their own
            yield from (text for wording in CAPTIONS for text in wording.phrasings.train)
            for phrasings in (*OPEN_QUESTIONS.values(), *CLOSED_QUESTIONS.values()):
                yield from phrasings.train
        for question in self.questions:
            yield from (question.question, question.answer, question.answer.lower())

    def facts_known(self) -> dict[str, dict[str, int]]:
        """Set to fact to the pictures that have it."""
        known: dict[str, Counter[str]] = {}
        for card, about in zip(self.cards, self.facts, strict=True):
            known.setdefault(card, Counter()).update(f"{name}: {value}" for name, value in about.items())
        return {card: dict(sorted(counts.items())) for card, counts in sorted(known.items())}

    def report(self) -> str:
        """Counts a set, for the log."""
        counts = ", ".join(f"{card} {count}" for card, count in sorted(Counter(self.cards).items()))
        return f"training side: pictures {counts}; {len(self.questions)} VQA-RAD questions; {len(self.texts)} texts"


def read_corpus(data: Path, size_px: int) -> Corpus:
    """Read the training side of the kit.

    Raises:
        ValueError: a set or one of its files is missing.
    """
    pictures = [
        picture
        for card in PICTURE_CARDS
        for picture in read_labelled_pictures(data, card)
        if side(picture.group) == "train"
    ]
    questions = [q for q in read_vqa_rad(find_set(data, "vqa-rad")) if side(q.group) == "train"]
    text_cards, texts = zip(*_texts(data), strict=True)
    return Corpus(
        pixels=_pixels([picture.path for picture in pictures], size_px + MARGIN_PX),
        facts=tuple(facts(picture) for picture in pictures),
        cards=tuple(picture.card for picture in pictures),
        paths=tuple(picture.path for picture in pictures),
        groups=tuple(picture.group for picture in pictures),
        questions=tuple(questions),
        texts=texts,
        text_cards=text_cards,
        text_questions=tuple(sorted({h.question.replace(" ?", "?") for h in read_medquad(find_set(data, "medquad"))})),
    )


def write_data_report(corpus: Corpus, path: Path) -> None:
    """Write what each stage reads as JSON: sets, sources, licences, counts, groups, duplicates, facts."""
    from data_cards.schema import load_card

    sets = {
        name: {
            "licence": str(load_card(name).licence),
            "source": str(load_card(name).source),
            **(_text_counts(corpus, name) if name in TEXT_CARDS else _picture_counts(corpus, name)),
        }
        for name in (*PICTURE_CARDS, *TEXT_CARDS)
    }
    report = {
        "side": "train",
        "sets": sets,
        "stages": STAGES,
        "facts": corpus.facts_known(),
        "questions": len(corpus.questions),
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _picture_counts(corpus: Corpus, card: str) -> dict[str, int]:
    """Pictures, groups, and pictures whose file another one has too, by bytes: in one group, so on one side."""
    rows = corpus.numbers_of(card)
    groups_of_file: dict[str, list[str]] = {}
    for row in rows:
        digest = hashlib.sha256(corpus.paths[row].read_bytes()).hexdigest()
        groups_of_file.setdefault(digest, []).append(corpus.groups[row])
    return {
        "pictures": len(rows),
        "groups": len({corpus.groups[row] for row in rows}),
        "duplicates_kept": sum(len(groups) - 1 for groups in groups_of_file.values()),
        "duplicates_in_several_groups": sum(len(set(groups)) > 1 for groups in groups_of_file.values()),
    }


def _text_counts(corpus: Corpus, card: str) -> dict[str, int]:
    texts = [text for text, of in zip(corpus.texts, corpus.text_cards, strict=True) if of == card]
    return {"texts": len(texts), "duplicates_kept": len(texts) - len(set(texts))}


def _pixels(paths: Sequence[Path], side_px: int) -> torch.Tensor:
    squares = [resize(read_pictures(path)[0].pixels, side_px, "huggingface") for path in paths]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()


def _texts(data: Path) -> Iterator[tuple[str, str]]:
    """Set and text."""
    for health in read_medquad(find_set(data, "medquad")):
        yield "medquad", f"{health.question}\n{health.answer}"
    for abstract in read_pubmedqa(find_set(data, "pubmedqa")):
        yield "pubmedqa", f"{abstract.question}\n{abstract.context}\n{abstract.conclusion}"
    for note in read_mts_dialog(find_set(data, "mts-dialog")):
        yield "mts-dialog", f"{note.dialogue}\n{note.note}"
