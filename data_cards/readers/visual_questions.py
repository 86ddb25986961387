"""Visual question answering releases as their owners hand them out: VQA-RAD, SLAKE, PathVQA."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from data_cards.readers.fields import cells, one_of
from data_cards.readers.tables import read_csv, read_json_array
from data_cards.readers.vqa_rad import AnswerType, VisualQuestion

VQA_RAD_TABLE = "VQA_RAD Dataset Public.json"
VQA_RAD_PICTURES = "VQA_RAD Image Folder"
GOOGLE_SPLIT = "vqa_rad_balanced_split_and_human_eval_inclusions.tsv"

GoogleSide = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class GoogleSplitRow:
    """Where Google's balanced division of VQA-RAD puts a question."""

    side: GoogleSide
    in_human_evaluation: bool


@dataclass(frozen=True)
class PathologyQuestion:
    """PathVQA: a question with the picture's encoded bytes; the release has no file names."""

    item_id: str
    question: str
    answer: str
    answer_type: AnswerType
    """CLOSED where the answer is yes or no."""
    picture: bytes
    """The encoded picture (JPEG)."""
    group: str
    """A hash of the picture: its questions are one group."""


def read_vqa_rad_release(folder: Path) -> list[VisualQuestion]:
    """Read VQA-RAD as published at osf.io/89kps.

    Args:
        folder: Holds "VQA_RAD Dataset Public.json" and "VQA_RAD Image Folder".

    Raises:
        ValueError: The table or a field is missing, a field is empty, or an answer type is unknown.
    """
    table = folder / VQA_RAD_TABLE
    names = ("qid", "phrase_type", "image_case_url", "image_name", "image_organ", "question", "question_type", "answer")
    questions = []
    for number, row in enumerate(read_json_array(table, (*names, "answer_type")), start=1):
        found = cells(table, number, row, names)
        questions.append(
            VisualQuestion(
                item_id=f"vqa-rad-{found['qid']}",
                path=folder / VQA_RAD_PICTURES / found["image_name"],
                question=found["question"],
                answer=found["answer"],
                answer_type=_answer_type(table, number, row),
                question_type=found["question_type"],
                organ=found["image_organ"],
                group=found["image_case_url"],
                official_split="test" if found["phrase_type"].startswith("test") else "train",
                licence="CC0 1.0",
            )
        )
    return questions


def read_google_split(table: Path) -> Mapping[str, GoogleSplitRow]:
    """Read Google's balanced division of VQA-RAD.

    Args:
        table: vqa_rad_balanced_split_and_human_eval_inclusions.tsv of Google-Health/google-health, data_splits/.

    Returns:
        `item_id` of the questions (`vqa-rad-` and QID_unique) to their side.

    Raises:
        ValueError: The table or a column is missing, or a cell is none of the known values.
    """
    found: dict[str, GoogleSplitRow] = {}
    columns = ("QID_unique", "SPLIT_BALANCED", "INCLUDED_IN_HUMAN_EVAL")
    for number, row in enumerate(read_csv(table, columns), start=1):
        side = one_of(table, number, row, "SPLIT_BALANCED", ("train", "validation", "test"))
        included = one_of(table, number, row, "INCLUDED_IN_HUMAN_EVAL", ("TRUE", "FALSE")) == "TRUE"
        key = f"vqa-rad-{cells(table, number, row, ('QID_unique',))['QID_unique']}"
        if key in found:
            raise ValueError(f"{table}: record {number} repeats the question {key}; fetch the file again")
        sides: dict[str, GoogleSide] = {"train": "train", "validation": "validation", "test": "test"}
        found[key] = GoogleSplitRow(sides[side], included)
    return found


def read_slake(
    folder: Path, split: Literal["train", "validate", "test"] = "test", language: Literal["en", "zh"] = "en"
) -> list[VisualQuestion]:
    """Read the questions of one split of SLAKE in one language; each picture has questions in both.

    question_type is the release's content_type, organ its location. The group is the picture: no patients are named.

    Args:
        folder: Holds train.json, validate.json (or validation.json), test.json and imgs/.
        split: Which table.
        language: q_lang of the questions to return; there are as many others as the table has rows besides.

    Raises:
        ValueError: The table or a field is missing, a field is empty, or a language or answer type is unknown.
    """
    table = folder / f"{split}.json"
    if split == "validate" and not table.is_file() and (folder / "validation.json").is_file():
        table = folder / "validation.json"
    names = ("img_name", "question", "answer", "q_lang", "location", "qid", "content_type")
    questions = []
    for number, row in enumerate(read_json_array(table, (*names, "answer_type")), start=1):
        found = cells(table, number, row, names)
        if one_of(table, number, row, "q_lang", ("en", "zh")) == language:
            questions.append(
                VisualQuestion(
                    item_id=f"slake-{found['qid']}",
                    path=folder / "imgs" / found["img_name"],
                    question=found["question"],
                    answer=found["answer"],
                    answer_type=_answer_type(table, number, row),
                    question_type=found["content_type"],
                    organ=found["location"],
                    group=f"slake_{found['img_name'].partition('/')[0]}",
                    official_split=split,
                    licence="CC BY 4.0",
                )
            )
    return questions


def read_path_vqa(folder: Path, split: Literal["train", "validation", "test"] = "test") -> Iterator[PathologyQuestion]:
    """Read one split of PathVQA from the Parquet files of its copy on the Hub, row group by row group.

    The owners' own release keeps its tables as Python pickles, which this package does not load.

    Args:
        folder: Holds data/SPLIT-*.parquet with the columns image (a struct with bytes), question and answer.
        split: Which files.

    Raises:
        ValueError: No file of the split is there, a column is missing, or a cell is empty.
    """
    import pyarrow.parquet as parquet

    files = sorted((folder / "data").glob(f"{split}-*.parquet"))
    if not files:
        raise ValueError(f"{folder / 'data'}: has no {split}-*.parquet; fetch the set, or correct --data")
    number = 0
    for file in files:
        table = parquet.ParquetFile(file)
        missing = [name for name in ("image", "question", "answer") if name not in table.schema_arrow.names]
        if missing:
            raise ValueError(f"{file}: has no column {', '.join(missing)}; fetch the file again")
        for batch in table.iter_batches(batch_size=256, columns=["image", "question", "answer"]):
            for row in batch.to_pylist():
                number += 1
                yield _pathology_question(file, number, split, row)


def _pathology_question(file: Path, number: int, split: str, row: Mapping[str, object]) -> PathologyQuestion:
    image, found = row["image"], cells(file, number, row, ("question", "answer"))
    picture = image.get("bytes") if isinstance(image, dict) else None
    if not isinstance(picture, bytes) or not picture:
        raise ValueError(f"{file}: record {number} holds no picture; fetch the file again")
    answer_type: AnswerType = "CLOSED" if found["answer"].lower() in ("yes", "no") else "OPEN"
    group = f"pathvqa_{sha256(picture).hexdigest()[:16]}"
    item_id = f"path-vqa-{split}-{number}"
    return PathologyQuestion(item_id, found["question"], found["answer"], answer_type, picture, group)


def _answer_type(table: Path, number: int, row: Mapping[str, object]) -> AnswerType:
    return "CLOSED" if one_of(table, number, row, "answer_type", ("CLOSED", "OPEN")) == "CLOSED" else "OPEN"
