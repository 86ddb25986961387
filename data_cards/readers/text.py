"""Text sets: MedQuAD, PubMedQA (PQA-L), MTS-Dialog, ACI-BENCH."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from data_cards.readers.fields import text_group
from data_cards.readers.tables import cell, read_json_lines


@dataclass(frozen=True)
class HealthQuestion:
    """MedQuAD: a consumer's question answered by an NIH site."""

    item_id: str
    """Split and number of the record (the release's own ids repeat)."""
    question: str
    answer: str
    focus: str
    """The disease, drug or topic asked about; empty in the few records whose document names none."""
    question_type: str
    source: str
    url: str
    group: str
    """The focus in lower case, or the document where there is none: one entity never lies on two sides."""


@dataclass(frozen=True)
class AbstractQuestion:
    """PubMedQA: a research question, the abstract without its conclusion, and the expert's answer."""

    item_id: str
    question: str
    context: str
    """The abstract's sections, `LABEL: text`, one a line."""
    sections: tuple[str, ...]
    """The same sections without their labels."""
    conclusion: str
    answer: str
    """yes, no or maybe."""
    group: str
    """The PubMed number: one abstract is one group."""


@dataclass(frozen=True)
class DialogueNote:
    """MTS-Dialog, ACI-BENCH: a doctor-patient dialogue and the note, or section of it, written from it."""

    item_id: str
    section: str
    """Section of the note, for example GENHX, ROS, FAM/SOCHX; empty where it is the whole note."""
    dialogue: str
    note: str
    group: str
    """A hash of the dialogue: the same dialogue has one group in every file of the set."""


@dataclass(frozen=True)
class ScoredSummary:
    """MTS-Dialog: a system's summary of a dialogue, and how factual people found it. All scores are 0 to 1."""

    item_id: str
    dialogue: str
    reference: str
    """The summary by a person."""
    summary: str
    """By a system."""
    precision: float
    """Share of the summary's facts that are in the reference."""
    recall: float
    f1: float
    hallucination: float
    """Share of facts that are made up."""
    omission: float
    """Share of the reference's facts that are left out."""
    group: str
    """A hash of the dialogue, as in `DialogueNote`."""


def read_medquad(folder: Path, split: Literal["train", "val"] = "train") -> list[HealthQuestion]:
    """Read one split of MedQuAD.

    Raises:
        ValueError: The split's file or a field is missing, or a field is empty.
    """
    table = folder / f"{split}.jsonl.gz"
    rows = read_json_lines(table, ("id", "question", "answer", "focus", "qtype", "source", "url"))
    return [_health_question(table, number, row) for number, row in enumerate(rows, start=1)]


def read_pubmedqa(folder: Path, split: Literal["train", "val"] = "train") -> list[AbstractQuestion]:
    """Read one split of PubMedQA's expert-labelled part.

    Raises:
        ValueError: The split's file or a field is missing, a field is empty, or an answer is not yes, no or
            maybe.
    """
    table = folder / f"{split}.jsonl.gz"
    rows = read_json_lines(table, ("id", "question", "contexts", "long_answer", "answer"))
    return [_abstract_question(table, number, row) for number, row in enumerate(rows, start=1)]


def read_mts_dialog(folder: Path, split: Literal["train", "val", "test1"] = "train") -> list[DialogueNote]:
    """Read one split of MTS-Dialog.

    Raises:
        ValueError: The split's file or a field is missing, or a field is empty.
    """
    table = folder / f"{split}.jsonl.gz"
    columns = ("id", "section", "dialogue", "note")
    cells = [_cells(table, number, row, columns) for number, row in enumerate(read_json_lines(table, columns), 1)]
    return [
        DialogueNote(row["id"], row["section"], row["dialogue"], row["note"], _dialogue_group(row["dialogue"]))
        for row in cells
    ]


def read_factuality_scores(folder: Path) -> list[ScoredSummary]:
    """Read the people's scores of MTS-Dialog's summaries: four systems on each dialogue.

    Raises:
        ValueError: The file or a field is missing, a text is empty, or a score is no number.
    """
    table = folder / "factuality-scores.jsonl.gz"
    names = ("id", "dialogue", "reference_summary", "automatic_summary")
    columns = ("factualprecision", "factualrecall", "factualf1", "hallucinationrate", "omissionrate")
    found = []
    for number, row in enumerate(read_json_lines(table, (*names, *columns)), 1):
        cells = _cells(table, number, row, names)
        precision, recall, f1, hallucination, omission = (_score(table, number, row, name) for name in columns)
        found.append(
            ScoredSummary(
                item_id=cells["id"],
                dialogue=cells["dialogue"],
                reference=cells["reference_summary"],
                summary=cells["automatic_summary"],
                precision=precision,
                recall=recall,
                f1=f1,
                hallucination=hallucination,
                omission=omission,
                group=_dialogue_group(cells["dialogue"]),
            )
        )
    return found


def read_aci_bench(folder: Path, split: Literal["train", "val", "test1", "test2"] = "train") -> list[DialogueNote]:
    """Read one split of ACI-BENCH: whole visits with the whole note.

    Raises:
        ValueError: The split's file or a field is missing, or a field is empty.
    """
    table = folder / f"{split}.jsonl.gz"
    columns = ("id", "dialogue", "note")
    found = [_cells(table, number, row, columns) for number, row in enumerate(read_json_lines(table, columns), 1)]
    return [
        DialogueNote(row["id"], "", row["dialogue"], row["note"], text_group("aci", row["dialogue"])) for row in found
    ]


def _score(table: Path, number: int, row: Mapping[str, object], name: str) -> float:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{table}: record {number} has {name} {value!r}; expected a number; fetch the file again")
    return float(value)


def _cells(table: Path, number: int, row: Mapping[str, object], columns: tuple[str, ...]) -> dict[str, str]:
    return {name: cell(table, number, row, name) for name in columns}


def _health_question(table: Path, number: int, row: Mapping[str, object]) -> HealthQuestion:
    cells = _cells(table, number, row, ("id", "question", "answer", "qtype", "source", "url"))
    focus = " ".join(str(row["focus"]).split())
    document = cells["id"].partition("-")[0]
    return HealthQuestion(
        item_id=f"medquad-{table.name.partition('.')[0]}-{number}",
        question=cells["question"],
        answer=cells["answer"],
        focus=focus,
        question_type=cells["qtype"],
        source=cells["source"],
        url=cells["url"],
        group=f"medquad_{focus.lower() or document}",
    )


def _abstract_question(table: Path, number: int, row: Mapping[str, object]) -> AbstractQuestion:
    cells = _cells(table, number, row, ("id", "question", "long_answer", "answer"))
    if cells["answer"] not in ("yes", "no", "maybe"):
        raise ValueError(f"{table}: record {number} has answer {cells['answer']!r}; expected yes, no or maybe")
    contexts = row["contexts"]
    if not isinstance(contexts, list) or not all(isinstance(part, dict) and "text" in part for part in contexts):
        raise ValueError(f"{table}: record {number} has no list of {{label, text}} in 'contexts'; fetch the file again")
    return AbstractQuestion(
        item_id=f"pubmedqa-{cells['id']}",
        question=cells["question"],
        context="\n".join(f"{part.get('label', 'TEXT')}: {part['text']}" for part in contexts),
        sections=tuple(str(part["text"]) for part in contexts),
        conclusion=cells["long_answer"],
        answer=cells["answer"],
        group=f"pubmed_{cells['id']}",
    )


def _dialogue_group(dialogue: str) -> str:
    return f"mts_{sha256(' '.join(dialogue.split()).encode()).hexdigest()[:16]}"
