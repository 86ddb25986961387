"""Questions about patient records: Synthea FHIR bundles, and EHRSQL's templates."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from data_cards.readers.fields import cells, mapping, one_of, texts
from data_cards.readers.tables import read_json_lines

NO_PATIENTS = ("hospitalInformation", "practitionerInformation")

ANSWER_TYPES = ("date", "string", "list", "choice", "boolean", "quantity", "integer", "bp", "date+string")


@dataclass(frozen=True)
class RecordQuestion:
    """A question about one patient's record, with the resources that answer it."""

    item_id: str
    patient_id: str
    """`id` of the patient's Bundle."""
    category: str
    question: str
    answer: str
    """In words."""
    answer_type: str
    """One of ANSWER_TYPES."""
    answer_value: object
    """The answer as JSON, for scoring: text, number, truth value or list, by `answer_type`."""
    evidence: tuple[str, ...]
    """`ResourceType/id`, at most 60; empty where the answer is an absence."""
    group: str
    """The patient: all questions about one record are one group."""


@dataclass(frozen=True)
class RecordBundle:
    """One patient's record as FHIR R4 resources."""

    patient_id: str
    resources: tuple[Mapping[str, object], ...]
    group: str


class QuestionTemplate(NamedTuple):
    """EHRSQL: what staff ask, with places to fill."""

    template: str
    slots: tuple[str, ...]
    departments: tuple[str, ...]
    group: str


class UnanswerableQuestions(NamedTuple):
    """EHRSQL: wordings of something that no record holds."""

    topic: str
    questions: tuple[str, ...]
    group: str


class EhrSqlBank(NamedTuple):
    """Both kinds of EHRSQL question."""

    answerable: tuple[QuestionTemplate, ...]
    unanswerable: tuple[UnanswerableQuestions, ...]


def read_synthea_questions(folder: Path, split: Literal["train", "val"] = "train") -> list[RecordQuestion]:
    """Read the questions of one part of synthea-fhir-r4.

    Raises:
        ValueError: The file or a field is missing or empty, or an answer type is unknown.
    """
    table = folder / f"{split}.qa.jsonl.gz"
    columns = ("qa_id", "patient_id", "category", "question", "answer", "answer_type", "answer_value", "evidence")
    return [_question(table, number, row) for number, row in enumerate(read_json_lines(table, columns), start=1)]


def read_synthea_bundles(folder: Path, split: Literal["train", "val"] = "train") -> Iterator[RecordBundle]:
    """Read the records of one part of synthea-fhir-r4, one after the other.

    Raises:
        ValueError: The file or a field is missing, or an entry holds no resource.
    """
    table = folder / f"{split}.bundles.jsonl.gz"
    for number, row in enumerate(read_json_lines(table, ("resourceType", "id", "entry")), start=1):
        one_of(table, number, row, "resourceType", ("Bundle",))
        patient = cells(table, number, row, ("id",))["id"]
        entries = row["entry"]
        if not isinstance(entries, list) or not all(isinstance(e, dict) and "resource" in e for e in entries):
            raise ValueError(f"{table}: record {number} has an entry without a resource; fetch the file again")
        resources = tuple(mapping(table, number, entry, "resource") for entry in entries)
        yield RecordBundle(patient, resources, f"synthea_{patient}")


def read_synthea_folder(folder: Path) -> Iterator[RecordBundle]:
    """Read the FHIR R4 bundles that Synthea itself writes, fhir/*.json, one patient each.

    Files whose name begins with hospitalInformation or practitionerInformation are no patients and are passed over.

    Raises:
        ValueError: There is no bundle, or a file is no Bundle with one Patient.
    """
    files = [f for f in sorted((folder / "fhir").glob("*.json")) if not f.name.startswith(NO_PATIENTS)]
    if not files:
        raise ValueError(f"{folder / 'fhir'}: has no *.json; expected Synthea's output folder; correct --data")
    for file in files:
        try:
            bundle = json.loads(file.read_text(encoding="utf-8"))
            resources = tuple(dict(entry["resource"]) for entry in bundle["entry"])
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError) as fault:
            raise ValueError(f"{file}: is no FHIR Bundle with resources ({fault!r}); write it again") from fault
        patients = [str(r["id"]) for r in resources if r.get("resourceType") == "Patient" and "id" in r]
        if len(patients) != 1:
            raise ValueError(f"{file}: has {len(patients)} Patient resources; expected one patient a file")
        yield RecordBundle(patients[0], resources, f"synthea_{patients[0]}")


def read_ehrsql(folder: Path) -> EhrSqlBank:
    """Read ehrsql-templates.

    Raises:
        ValueError: A file or a field is missing, empty or of another shape.
    """
    table, other = folder / "answerable-templates.jsonl.gz", folder / "unanswerable-questions.jsonl.gz"
    answerable = []
    for number, row in enumerate(read_json_lines(table, ("template", "slots", "departments")), start=1):
        template = cells(table, number, row, ("template",))["template"]
        slots, departments = texts(table, number, row, "slots"), texts(table, number, row, "departments")
        answerable.append(QuestionTemplate(template, slots, departments, f"ehrsql_{template}"))
    unanswerable = []
    for number, row in enumerate(read_json_lines(other, ("topic", "questions")), start=1):
        topic = cells(other, number, row, ("topic",))["topic"]
        unanswerable.append(UnanswerableQuestions(topic, texts(other, number, row, "questions"), f"ehrsql_{topic}"))
    return EhrSqlBank(tuple(answerable), tuple(unanswerable))


def _question(table: Path, number: int, row: Mapping[str, object]) -> RecordQuestion:
    found = cells(table, number, row, ("qa_id", "patient_id", "category", "question", "answer"))
    return RecordQuestion(
        item_id=found["qa_id"],
        patient_id=found["patient_id"],
        category=found["category"],
        question=found["question"],
        answer=found["answer"],
        answer_type=one_of(table, number, row, "answer_type", ANSWER_TYPES),
        answer_value=row["answer_value"],
        evidence=texts(table, number, row, "evidence"),
        group=f"synthea_{found['patient_id']}",
    )
