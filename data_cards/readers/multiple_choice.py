"""Multiple-choice questions in one shape; the cards medqa-usmle, medmcqa and mmlu-medical."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_cards.readers.fields import cells, mapping, text_group
from data_cards.readers.tables import read_json_lines


@dataclass(frozen=True)
class MultipleChoiceQuestion:
    """One question with lettered options, exactly one of them right."""

    item_id: str
    question: str
    options: Mapping[str, str]
    """Letter to text, in the order of the letters."""
    answer: str
    """Letter of the right option."""
    subject: str
    """Empty where the set names none."""
    group: str
    """Questions with the same text have one group in every split and part of a set."""
    pictures: tuple[Path, ...] = ()
    """Pictures the question shows; not opened by the reader."""


def read_medqa_usmle(folder: Path, split: Literal["dev"] = "dev") -> list[MultipleChoiceQuestion]:
    """Read medqa-usmle.

    Raises:
        ValueError: The split's file or a field is missing or empty, or the answer is no letter of the options.
    """
    return _read(folder / f"{split}.jsonl.gz", "medqa", subject="")


def read_medmcqa(folder: Path, split: Literal["train", "val"] = "val") -> list[MultipleChoiceQuestion]:
    """Read one part of medmcqa (both are of the published validation split).

    Raises:
        ValueError: As `read_medqa_usmle`.
    """
    return _read(folder / f"{split}.jsonl.gz", "medmcqa", subject="subject")


def read_mmlu_medical(folder: Path, split: Literal["fewshot", "val"] = "val") -> list[MultipleChoiceQuestion]:
    """Read one part of mmlu-medical; `fewshot` holds at most five examples a subject.

    Raises:
        ValueError: As `read_medqa_usmle`.
    """
    return _read(folder / f"{split}.jsonl.gz", "mmlu", subject="subject")


def lettered_question(
    table: Path,
    number: int,
    *,
    item_id: str,
    question: str,
    options: Mapping[str, str],
    answer: str,
    subject: str,
    group_prefix: str,
    pictures: tuple[Path, ...] = (),
) -> MultipleChoiceQuestion:
    """Check one question and give it its group.

    Raises:
        ValueError: There are fewer than two options, one is empty, letters are not A, B, C, ..., or the answer is
            none of them.
    """
    letters = [chr(ord("A") + place) for place in range(len(options))]
    if len(letters) < 2 or list(options) != letters or not all(text.strip() for text in options.values()):
        raise ValueError(f"{table}: record {number} has options {dict(options)}; expected texts for A, B, C, ...")
    if answer not in options:
        raise ValueError(f"{table}: record {number} has answer {answer!r}; expected one of {', '.join(options)}")
    group = text_group(group_prefix, question)
    return MultipleChoiceQuestion(item_id, question, options, answer, subject, group, pictures)


def _read(table: Path, prefix: str, subject: str) -> list[MultipleChoiceQuestion]:
    columns = ("id", "question", "answer", *([subject] if subject else []))
    questions = []
    for number, row in enumerate(read_json_lines(table, (*columns, "options")), start=1):
        found = cells(table, number, row, columns)
        options = {letter: str(text) for letter, text in mapping(table, number, row, "options").items()}
        questions.append(
            lettered_question(
                table,
                number,
                item_id=found["id"],
                question=found["question"],
                options=options,
                answer=found["answer"],
                subject=found.get(subject, ""),
                group_prefix=prefix,
            )
        )
    return questions
