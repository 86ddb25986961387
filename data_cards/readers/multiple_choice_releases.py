"""Multiple-choice releases as their owners hand them out: MedQA, MedMCQA, PubMedQA, MMLU, MedXpertQA, AfriMed-QA."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from data_cards.readers.fields import cells, mapping, one_of, texts
from data_cards.readers.multiple_choice import MultipleChoiceQuestion, lettered_question
from data_cards.readers.tables import read_csv, read_json_lines
from data_cards.readers.text import AbstractQuestion

MMLU_MEDICAL_SUBJECTS = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)
"""The six that papers call MMLU medical; the report adds virology."""


class AfriMedQuestions(NamedTuple):
    """AfriMed-QA's multiple-choice questions, and how many rows are of another kind."""

    questions: list[MultipleChoiceQuestion]
    num_with_several_answers: int
    """Multiple-choice rows with more than one right option; not among `questions`."""
    num_of_other_types: int
    """Rows of another question_type (short answers, consumer queries)."""


def read_medqa(folder: Path, split: Literal["train", "dev", "test"] = "test") -> list[MultipleChoiceQuestion]:
    """Read one split of MedQA's US questions with four options.

    Args:
        folder: Holds questions/US/4_options/phrases_no_exclude_SPLIT.jsonl.
        split: Which file.

    Raises:
        ValueError: The file or a field is missing or empty, or the answer is no letter of the options.
    """
    table = folder / "questions" / "US" / "4_options" / f"phrases_no_exclude_{split}.jsonl"
    questions = []
    for number, row in enumerate(read_json_lines(table, ("question", "answer", "options", "answer_idx")), start=1):
        found = cells(table, number, row, ("question", "answer_idx"))
        options = {letter: str(text) for letter, text in sorted(mapping(table, number, row, "options").items())}
        questions.append(
            lettered_question(
                table,
                number,
                item_id=f"medqa-{split}-{number - 1:05d}",
                question=found["question"],
                options=options,
                answer=found["answer_idx"],
                subject="",
                group_prefix="medqa",
            )
        )
    return questions


def read_medmcqa_release(folder: Path, split: Literal["train", "dev"] = "dev") -> list[MultipleChoiceQuestion]:
    """Read one split of MedMCQA (`dev` is what others call validation; the test answers are not public).

    The right option `cop` counts from 1 in the owners' files and from 0 in the copy on the Hub; the file's own
    smallest and largest values say which it is.

    Args:
        folder: Holds train.json and dev.json, one JSON object a line.
        split: Which file.

    Raises:
        ValueError: The file or a field is missing or empty, or `cop` counts neither 0 to 3 nor 1 to 4.
    """
    table = folder / f"{split}.json"
    names = ("id", "question", "opa", "opb", "opc", "opd", "subject_name")
    rows = read_json_lines(table, (*names, "cop"))
    places = {row["cop"] for row in rows}
    if not places <= {0, 1, 2, 3, 4} or {0, 4} <= places or not places & {0, 4}:
        raise ValueError(f"{table}: has cop values {sorted(map(str, places))}; expected 1 to 4, or 0 to 3")
    first = 0 if 0 in places else 1
    questions = []
    for number, row in enumerate(rows, start=1):
        found = cells(table, number, row, names)
        questions.append(
            lettered_question(
                table,
                number,
                item_id=f"medmcqa-{found['id']}",
                question=found["question"],
                options={letter: found[f"op{letter.lower()}"] for letter in "ABCD"},
                answer="ABCD"[int(str(row["cop"])) - first],
                subject=found["subject_name"],
                group_prefix="medmcqa",
            )
        )
    return questions


def read_pubmedqa_release(folder: Path, split: Literal["test", "other"] = "test") -> list[AbstractQuestion]:
    """Read PubMedQA's expert-labelled questions: the 500 of the official test, or the 500 others.

    Args:
        folder: Holds data/ori_pqal.json and data/test_ground_truth.json.
        split: Which half.

    Raises:
        ValueError: A file is missing or no JSON, a field is missing or empty, or the two files disagree.
    """
    table, truth = folder / "data" / "ori_pqal.json", folder / "data" / "test_ground_truth.json"
    rows, answers = _json_object(table), _json_object(truth)
    absent = [key for key in answers if key not in rows]
    if absent:
        raise ValueError(f"{truth}: names {absent[0]}, which {table.name} does not have; fetch both again")
    questions = []
    for number, key in enumerate(rows, start=1):
        question = _abstract(table, number, key, mapping(table, number, rows, key))
        if key in answers and answers[key] != question.answer:
            raise ValueError(f"{truth}: answers {key} otherwise than {table.name}; fetch both again")
        if (key in answers) == (split == "test"):
            questions.append(question)
    return questions


def read_mmlu(
    folder: Path,
    split: Literal["dev", "val", "test"] = "test",
    subjects: tuple[str, ...] = MMLU_MEDICAL_SUBJECTS,
) -> list[MultipleChoiceQuestion]:
    """Read subjects of MMLU.

    Args:
        folder: Holds dev/, val/ and test/ with SUBJECT_SPLIT.csv: no header; question, four options, letter.
        split: Which folder; `dev` holds the five examples a subject.
        subjects: File names without their ending.

    Raises:
        ValueError: A file is missing or a row has not six cells.
    """
    return [question for subject in subjects for question in _mmlu_subject(folder, split, subject)]


def read_medxpertqa(
    folder: Path, subset: Literal["Text", "MM"] = "Text", split: Literal["dev", "test"] = "test"
) -> list[MultipleChoiceQuestion]:
    """Read one part of MedXpertQA; ten options a question in Text, five in MM, whose questions show pictures.

    Args:
        folder: Holds Text/ and MM/ with dev.jsonl and test.jsonl, and images/.
        subset: Which folder.
        split: Which file.

    Raises:
        ValueError: The file or a field is missing or empty, or the label is no letter of the options.
    """
    table = folder / subset / f"{split}.jsonl"
    names = ("id", "question", "label", "body_system")
    questions = []
    for number, row in enumerate(read_json_lines(table, (*names, "options")), start=1):
        found = cells(table, number, row, names)
        pictures = texts(table, number, row, "images") if "images" in row else ()
        questions.append(
            lettered_question(
                table,
                number,
                item_id=f"medxpertqa-{found['id']}",
                question=found["question"],
                options={key: str(text) for key, text in sorted(mapping(table, number, row, "options").items())},
                answer=found["label"],
                subject=found["body_system"],
                group_prefix="medxpertqa",
                pictures=tuple(folder / "images" / name for name in pictures),
            )
        )
    return questions


def read_afrimed_qa(table: Path, split: Literal["train", "test"] | None = None) -> AfriMedQuestions:
    """Read AfriMed-QA's multiple-choice questions.

    Args:
        table: The release's CSV (columns sample_id, split, question_type, question_clean, answer_options, a JSON
            object of option1 to option5, and correct_answer, one or more of their names with commas between).
        split: Only this one; None: all.

    Raises:
        ValueError: The table or a column is missing, a cell is empty, or an answer names no option.
    """
    columns = ("sample_id", "split", "question_type", "question_clean", "answer_options", "correct_answer", "specialty")
    questions, several, others = [], 0, 0
    for number, row in enumerate(read_csv(table, columns), start=1):
        if split is not None and row["split"] != split:
            continue
        if row["question_type"] != "mcq":
            others += 1
        elif "," in row["correct_answer"]:
            several += 1
        else:
            questions.append(_afrimed_question(table, number, row))
    return AfriMedQuestions(questions, several, others)


def _abstract(table: Path, number: int, key: str, row: Mapping[str, object]) -> AbstractQuestion:
    names = ("QUESTION", "LONG_ANSWER", "final_decision")
    missing = [name for name in (*names, "CONTEXTS", "LABELS") if name not in row]
    if missing:
        raise ValueError(f"{table}: record {number} has no field {', '.join(missing)}; fetch the file again")
    found = cells(table, number, row, names)
    labels, contexts = texts(table, number, row, "LABELS"), texts(table, number, row, "CONTEXTS")
    if len(labels) != len(contexts):
        raise ValueError(
            f"{table}: record {number} has {len(labels)} LABELS and {len(contexts)} CONTEXTS; fetch it again"
        )
    return AbstractQuestion(
        item_id=f"pubmedqa-{key}",
        question=found["QUESTION"],
        context="\n".join(f"{label}: {text}" for label, text in zip(labels, contexts, strict=True)),
        sections=contexts,
        conclusion=found["LONG_ANSWER"],
        answer=one_of(table, number, row, "final_decision", ("yes", "no", "maybe")),
        group=f"pubmed_{key}",
    )


def _json_object(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as fault:
        raise ValueError(f"{path}: is missing or no JSON ({fault}); fetch the file again") from fault
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a JSON {type(value).__name__}; expected an object with a key a question")
    return value


def _mmlu_subject(folder: Path, split: str, subject: str) -> list[MultipleChoiceQuestion]:
    table = folder / split / f"{subject}_{split}.csv"
    if not table.is_file():
        raise ValueError(f"{table}: no such file; expected the table of the subject; fetch the set, or correct --data")
    with table.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    questions = []
    for number, row in enumerate(rows, start=1):
        if len(row) != 6:
            raise ValueError(f"{table}: row {number} has {len(row)} cells; expected question, four options, letter")
        questions.append(
            lettered_question(
                table,
                number,
                item_id=f"mmlu-{subject}-{split}-{number - 1:03d}",
                question=row[0],
                options=dict(zip("ABCD", row[1:5], strict=True)),
                answer=row[5].strip(),
                subject=subject,
                group_prefix="mmlu",
            )
        )
    return questions


def _afrimed_question(table: Path, number: int, row: Mapping[str, str]) -> MultipleChoiceQuestion:
    found = cells(table, number, row, ("sample_id", "question_clean", "answer_options", "correct_answer"))
    try:
        named = json.loads(found["answer_options"])
    except json.JSONDecodeError as fault:
        raise ValueError(f"{table}: record {number} has answer_options that are no JSON; mend the record") from fault
    names = sorted(named) if isinstance(named, dict) else []
    if found["correct_answer"] not in names:
        raise ValueError(f"{table}: record {number} has correct_answer {found['correct_answer']!r}; expected {names}")
    letters = {name: chr(ord("A") + place) for place, name in enumerate(names)}
    return lettered_question(
        table,
        number,
        item_id=f"afrimed-qa-{found['sample_id']}",
        question=found["question_clean"],
        options={letters[name]: str(named[name]) for name in names},
        answer=letters[found["correct_answer"]],
        subject=row["specialty"],
        group_prefix="afrimed",
    )
