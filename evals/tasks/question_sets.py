"""The multiple-choice sets of the text tables, in one shape for rows that generate and rows of likelihoods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from data_cards.readers.multiple_choice import (
    MultipleChoiceQuestion,
    read_medmcqa,
    read_medqa_usmle,
    read_mmlu_medical,
)
from data_cards.readers.multiple_choice_releases import (
    MMLU_MEDICAL_SUBJECTS,
    read_afrimed_qa,
    read_medmcqa_release,
    read_medqa,
    read_medxpertqa,
    read_mmlu,
    read_pubmedqa_release,
)
from data_cards.readers.tables import find_set
from data_cards.readers.text import AbstractQuestion, read_pubmedqa
from data_cards.split import side as side_of

Style = Literal["medqa", "medmcqa", "pubmedqa", "mmlu"]
"""Whose prompt of lm-evaluation-harness the likelihood row has."""

VERDICTS = {"A": "yes", "B": "no", "C": "maybe"}


@dataclass(frozen=True)
class ChoiceQuestion:
    """A lettered question, and the abstract it is about where it is about one."""

    asked: MultipleChoiceQuestion
    abstract: AbstractQuestion | None = None


@dataclass(frozen=True)
class QuestionSet:
    """One set and its parts."""

    card: str
    title: str
    sides: tuple[str, ...]
    read: Callable[[Path, str], list[ChoiceQuestion]]
    """The set's folder and a side to its questions, in the order of the file."""
    style: Style | None = None
    """None: lm-evaluation-harness has no task for it."""
    fewshot_from: str = ""
    """The side that worked examples come from; empty if there is none."""
    version: int = 1

    def questions(self, data_dir: str | Path, side: str) -> list[ChoiceQuestion]:
        """Read one side of a user's copy.

        Raises:
            ValueError: The set is missing or broken.
        """
        return self.read(find_set(data_dir, self.card), side)

    def examples(self, data_dir: str | Path, side: str) -> list[ChoiceQuestion]:
        """Read the questions that may be shown before those of a side: none with the text of one that is asked.

        MMLU's own examples hold such a copy.

        Raises:
            ValueError: The set is missing or broken, or has no part to take them from.
        """
        if not self.fewshot_from:
            raise ValueError(f"{self.card}: has no part to take examples from; run it without examples")
        asked = {question.asked.group for question in self.questions(data_dir, side)}
        return [q for q in self.questions(data_dir, self.fewshot_from) if q.asked.group not in asked]


def _plain(questions: Sequence[MultipleChoiceQuestion]) -> list[ChoiceQuestion]:
    return [ChoiceQuestion(question) for question in questions]


def _of_abstracts(abstracts: Sequence[AbstractQuestion]) -> list[ChoiceQuestion]:
    letters = {verdict: letter for letter, verdict in VERDICTS.items()}
    return [
        ChoiceQuestion(
            MultipleChoiceQuestion(a.item_id, a.question, VERDICTS, letters[a.answer], "", a.group), abstract=a
        )
        for a in abstracts
    ]


def _by_group(questions: Sequence[ChoiceQuestion], side: str) -> list[ChoiceQuestion]:
    """Keep one side of the division that recipes keep too; `all` keeps everything."""
    return [question for question in questions if side in ("all", side_of(question.asked.group))]


def _kit_medqa(folder: Path, side: str) -> list[ChoiceQuestion]:
    return _by_group(_plain(read_medqa_usmle(folder)), side)


def _kit_medmcqa(folder: Path, side: str) -> list[ChoiceQuestion]:
    return _by_group(_plain([*read_medmcqa(folder, "train"), *read_medmcqa(folder, "val")]), side)


def _kit_pubmedqa(folder: Path, side: str) -> list[ChoiceQuestion]:
    return _by_group(_of_abstracts([*read_pubmedqa(folder, "train"), *read_pubmedqa(folder, "val")]), side)


def _kit_mmlu(folder: Path, side: str) -> list[ChoiceQuestion]:
    return _plain(read_mmlu_medical(folder, "fewshot" if side == "fewshot" else "val"))


def _medqa(folder: Path, side: str) -> list[ChoiceQuestion]:
    split = cast(Literal["train", "dev", "test"], side)
    return _plain(read_medqa(folder, split))


def _medmcqa(folder: Path, side: str) -> list[ChoiceQuestion]:
    return _plain(read_medmcqa_release(folder, "train" if side == "train" else "dev"))


def _pubmedqa(folder: Path, side: str) -> list[ChoiceQuestion]:
    return _of_abstracts(read_pubmedqa_release(folder, "test" if side == "test" else "other"))


def _mmlu(folder: Path, side: str) -> list[ChoiceQuestion]:
    split = cast(Literal["dev", "val", "test"], side)
    return _plain(read_mmlu(folder, split, (*MMLU_MEDICAL_SUBJECTS, "virology")))


def _medxpertqa_text(folder: Path, side: str) -> list[ChoiceQuestion]:
    return _plain(read_medxpertqa(folder, "Text", "test" if side == "test" else "dev"))


def _medxpertqa_pictures(folder: Path, side: str) -> list[ChoiceQuestion]:
    return _plain(read_medxpertqa(folder, "MM", "test" if side == "test" else "dev"))


def _afrimed(folder: Path, side: str) -> list[ChoiceQuestion]:
    tables = sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        raise ValueError(f"{folder}: has {len(tables)} *.csv; expected the release's one table; put it there alone")
    return _plain(read_afrimed_qa(tables[0], "train" if side == "train" else "test").questions)


OFFICIAL = ("test", "dev", "train")
OURS = ("held-out", "train", "all")

SETS: dict[str, QuestionSet] = {
    "medqa": QuestionSet("medqa", "MedQA, US, four options", OFFICIAL, _medqa, "medqa", "train"),
    "medmcqa": QuestionSet("medmcqa-full", "MedMCQA", ("dev", "train"), _medmcqa, "medmcqa", "train"),
    "pubmedqa": QuestionSet("pubmedqa-full", "PubMedQA", ("test", "other"), _pubmedqa, "pubmedqa", "other"),
    "mmlu-medical": QuestionSet(
        "mmlu-medical-full", "MMLU, six medical subjects and virology", ("test", "val", "dev"), _mmlu, "mmlu", "dev"
    ),
    "medxpertqa-text": QuestionSet(
        "medxpertqa", "MedXpertQA, text, ten options", ("test", "dev"), _medxpertqa_text, fewshot_from="dev"
    ),
    "medxpertqa-mm": QuestionSet(
        "medxpertqa", "MedXpertQA, pictures, five options", ("test", "dev"), _medxpertqa_pictures
    ),
    "afrimed-qa": QuestionSet("afrimed-qa", "AfriMed-QA, one right option", ("test", "train"), _afrimed),
    "kit-medqa": QuestionSet("medqa-usmle", "MedQA, development part", OURS, _kit_medqa, "medqa", "train"),
    "kit-medmcqa": QuestionSet("medmcqa", "MedMCQA, development part", OURS, _kit_medmcqa, "medmcqa", "train"),
    "kit-pubmedqa": QuestionSet("pubmedqa", "PubMedQA, development part", OURS, _kit_pubmedqa, "pubmedqa", "train"),
    "kit-mmlu-medical": QuestionSet(
        "mmlu-medical", "MMLU, six medical subjects, part", ("val", "fewshot"), _kit_mmlu, "mmlu", "fewshot"
    ),
}
"""Name of the task to its set; `kit-` marks the smaller parts that come with a kit of real data."""
