"""VQA-RAD: questions and answers about radiology pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_cards.readers.tables import cell, read_csv

AnswerType = Literal["CLOSED", "OPEN"]

COLUMNS = (
    "file",
    "qid",
    "question",
    "answer",
    "answer_type",
    "question_type",
    "phrase_type",
    "organ",
    "official_split",
    "patient_id",
    "licence",
)


@dataclass(frozen=True)
class VisualQuestion:
    """One question about one picture.

    Source: Lau et al., Sci Data 5, 180251 (2018); columns as in the card vqa-rad.
    """

    item_id: str
    """`vqa-rad-` and the release's question number."""
    path: Path
    """The picture's file; not opened by the reader."""
    question: str
    answer: str
    answer_type: AnswerType
    """CLOSED: yes/no or a choice named in the question; OPEN: free text."""
    question_type: str
    """PRES, POS, ABN, MODALITY, SIZE, PLANE, ATTRIB, COUNT, COLOR, ORGAN, OTHER; sometimes several."""
    organ: str
    """HEAD, CHEST or ABD."""
    group: str
    """MedPix case."""
    official_split: str
    """The published mark, train or test; it is not disjoint by picture."""
    licence: str


def read_vqa_rad(folder: Path) -> list[VisualQuestion]:
    """Read VQA-RAD from its folder (labels.csv and images/).

    Raises:
        ValueError: labels.csv or a column is missing, a cell is empty, or an answer type is unknown.
    """
    table = folder / "labels.csv"
    rows = read_csv(table, COLUMNS)
    return [_question(folder, table, number, row) for number, row in enumerate(rows, start=1)]


def _question(folder: Path, table: Path, number: int, row: dict[str, str]) -> VisualQuestion:
    cells = {name: cell(table, number, row, name) for name in COLUMNS}
    return VisualQuestion(
        item_id=f"vqa-rad-{cells['qid']}",
        path=folder / cells["file"],
        question=cells["question"],
        answer=cells["answer"],
        answer_type=_answer_type(table, number, cells["answer_type"]),
        question_type=cells["question_type"],
        organ=cells["organ"],
        group=cells["patient_id"],
        official_split=cells["official_split"],
        licence=cells["licence"],
    )


def _answer_type(table: Path, number: int, text: str) -> AnswerType:
    if text == "CLOSED":
        return "CLOSED"
    if text == "OPEN":
        return "OPEN"
    raise ValueError(f"{table}: record {number} has answer_type {text!r}; expected CLOSED or OPEN")
