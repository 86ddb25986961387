"""Free text of and about care: Indiana chest reports, K-QA answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from data_cards.readers.fields import cells, text_group, texts
from data_cards.readers.tables import read_json_lines


class ProjectedPicture(NamedTuple):
    """A picture of a study and how it was taken."""

    file: str
    """Name in the collection."""
    projection: str
    """Frontal or Lateral."""


@dataclass(frozen=True)
class ChestReport:
    """A report of one chest examination. XXXX stands where its publisher removed words."""

    item_id: str
    """`iu-xray-` and the number of the study."""
    indication: str
    """May be empty."""
    comparison: str
    """May be empty."""
    findings: str
    """May be empty in the full collection, never in iu-xray-reports."""
    impression: str
    """May be empty in the full collection, never in iu-xray-reports."""
    problems: tuple[str, ...]
    """The indexers' codes; `normal` alone where there is nothing."""
    pictures: tuple[ProjectedPicture, ...]
    group: str
    """Studies whose findings read the same have one group."""


@dataclass(frozen=True)
class RubricQuestion:
    """K-QA: a patient's question, a physician's answer and what an answer must hold."""

    item_id: str
    question: str
    answer: str
    must_have: tuple[str, ...]
    nice_to_have: tuple[str, ...]
    group: str


def read_iu_reports(folder: Path, split: Literal["train", "val"] = "train") -> list[ChestReport]:
    """Read one part of iu-xray-reports.

    Raises:
        ValueError: The file or a field is missing or of another shape, or findings or impression are empty.
    """
    table = folder / f"{split}.jsonl.gz"
    columns = ("uid", "problems", "indication", "comparison", "findings", "impression", "images")
    return [_report(table, number, row) for number, row in enumerate(read_json_lines(table, columns), start=1)]


def read_k_qa(folder: Path) -> list[RubricQuestion]:
    """Read k-qa's questions; `entailment.read_k_qa_pairs` reads its labelled pairs.

    Raises:
        ValueError: qa.jsonl.gz or a field is missing, empty or of another shape.
    """
    table = folder / "qa.jsonl.gz"
    questions = []
    columns = ("id", "question", "answer", "must_have", "nice_to_have")
    for number, row in enumerate(read_json_lines(table, columns), start=1):
        found = cells(table, number, row, ("id", "question", "answer"))
        must, nice = (texts(table, number, row, name) for name in ("must_have", "nice_to_have"))
        group = text_group("kqa", found["question"])
        questions.append(RubricQuestion(found["id"], found["question"], found["answer"], must, nice, group))
    return questions


def _report(table: Path, number: int, row: Mapping[str, object]) -> ChestReport:
    found = cells(table, number, row, ("uid", "findings", "impression"))
    return ChestReport(
        item_id=f"iu-xray-{found['uid']}",
        indication=str(row["indication"] or "").strip(),
        comparison=str(row["comparison"] or "").strip(),
        findings=found["findings"],
        impression=found["impression"],
        problems=texts(table, number, row, "problems"),
        pictures=_pictures(table, number, row["images"]),
        group=text_group("iuxray", found["findings"]),
    )


def _pictures(table: Path, number: int, images: object) -> tuple[ProjectedPicture, ...]:
    if not isinstance(images, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in images):
        raise ValueError(
            f"{table}: record {number} has no list of [file, projection] in 'images'; fetch the file again"
        )
    return tuple(ProjectedPicture(str(file), str(projection)) for file, projection in images)
