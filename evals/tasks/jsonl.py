"""Questions in one JSON-lines format, for sets that only their owners have; docs/evals-jsonl.md describes it.

A row that cannot be used is not left out: it becomes an item with a fault, which fails by name and stays in n. A file
of another split, or with a patient of another split, is refused whole.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evals.items import Item
from evals.tasks.chest_films import age_band

RowKind = Literal["choice", "yes-no", "short", "text", "json", "boxes"]


class Row(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    """Unique in the file."""
    split: str = Field(min_length=1)
    """The file's own name: test for test.jsonl."""
    group: str = Field(min_length=1)
    """What dependent rows share: the patient, else the study or the question in all its languages."""
    kind: RowKind
    question: str = ""
    """May be empty where the task words the question from `category`."""
    context: str = ""
    """What the question is about: an indication, a note, a record."""
    images: tuple[str, ...] = ()
    """Files relative to the folder of the JSONL, in order; a folder or NIfTI file is a volume."""
    options: dict[str, str] = {}
    """choice: A, B, C, ... to text."""
    answer: Any
    """choice: the letter; yes-no: "yes" or "no"; short, text: text; json: any JSON object or list; boxes: one box,
    [y0, x0, y1, x1] in fractions of the picture's height and width."""
    category: str = ""
    """Condition, finding, subject, language, kind of question: figures are also given by it."""
    sex: Literal["", "F", "M"] = ""
    age: float | None = Field(default=None, ge=0, lt=150)
    """Years."""
    view: str = ""

    @model_validator(mode="after")
    def _answer_fits_kind(self) -> "Row":
        fault = _fault_of_answer(self)
        if fault:
            raise ValueError(fault)
        return self


def read_rows(
    folder: Path, split: str, card: str, kinds: Sequence[RowKind], needs: Sequence[str] = ()
) -> list[Row | Item]:
    """Read one split.

    Args:
        folder: Holds SPLIT.jsonl and what its rows name.
        split: Which file.
        card: The set.
        kinds: The kinds of row that the task can ask.
        needs: Fields that must not be empty.

    Returns:
        In the order of the file: rows, and for each line that cannot be used an Item with the reason as `fault`.

    Raises:
        ValueError: The file is missing, not UTF-8 or empty, no line of it can be used, a row is of another split, or a
            group is in another split's file too.
    """
    path = folder / f"{split}.jsonl"
    found = [_read(path, number, line, card, kinds, needs) for number, line in _lines(path)]
    rows = [row for row in found if isinstance(row, Row)]
    if not rows:
        first = next((item.fault for item in found if isinstance(item, Item)), "it has no line")
        raise ValueError(f"{path}: no line can be used ({first}); docs/evals-jsonl.md describes the format")
    astray = [row.id for row in rows if row.split != split]
    if astray:
        raise ValueError(
            f"{path}: {len(astray)} row(s) are of another split, such as {astray[0]}; expected split {split!r}: "
            "this is the wrong file, or rows were mixed"
        )
    _demand_no_shared_group(path, {row.group for row in rows})
    return list(found)


def meta_of(row: Row, card: str) -> dict[str, str]:
    """Return what the scores of an item may be divided by."""
    band = "" if row.age is None else age_band(str(row.age))
    found = {"category": row.category, "sex": row.sex, "age_band": band, "view": row.view}
    return {"card": card, "row_kind": row.kind, **{name: value for name, value in found.items() if value}}


def _lines(path: Path) -> list[tuple[int, str]]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the rows of the split, one JSON object a line")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        raise ValueError(f"{path}: is no UTF-8 ({fault.reason} at byte {fault.start}); save it as UTF-8") from fault
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _read(path: Path, number: int, line: str, card: str, kinds: Sequence[RowKind], needs: Sequence[str]) -> Row | Item:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as fault:
        return _unusable(path, number, card, {}, f"is no JSON ({fault.msg} at column {fault.colno})")
    if not isinstance(value, dict):
        return _unusable(path, number, card, {}, f"is a JSON {type(value).__name__}; expected an object")
    try:
        row = Row.model_validate(value)
    except ValidationError as fault:
        return _unusable(path, number, card, value, _said_without_values(fault))
    if row.kind not in kinds:
        return _unusable(path, number, card, value, f"is of kind {row.kind}; this task takes {', '.join(kinds)}")
    empty = [name for name in needs if not getattr(row, name)]
    if empty:
        return _unusable(path, number, card, value, f"has no {', '.join(empty)}; this task needs it")
    absent = [name for name in row.images if not (path.parent / name).exists()]
    if absent:
        return _unusable(path, number, card, value, f"names {absent[0]}, which is not there; add the file")
    return row


def _unusable(path: Path, number: int, card: str, value: Mapping[str, Any], why: str) -> Item:
    """Make the item of a line that cannot be used; its id and group as far as they can be read."""
    name = value.get("id") if isinstance(value.get("id"), str) else ""
    group = value.get("group") if isinstance(value.get("group"), str) else ""
    return Item(
        item_id=name or f"line {number}",
        files=(),
        prompt="",
        reference="",
        kind="closed",
        group=group or f"line {number}",
        meta={"card": card},
        fault=f"{path.name}: line {number} {why}",
    )


def _said_without_values(fault: ValidationError) -> str:
    """Name the fields that are wrong, without what they hold: a row may be of a patient."""
    told = [
        f"{'.'.join(str(part) for part in error['loc']) or 'row'}: {error['msg'].removeprefix('Value error, ')}"
        for error in fault.errors(include_input=False, include_url=False)
    ]
    return f"does not fit the format ({'; '.join(told[:3])})"


def _fault_of_answer(row: Row) -> str:
    letters = [chr(ord("A") + place) for place in range(len(row.options))]
    if row.kind == "choice":
        if len(letters) < 2 or list(row.options) != letters:
            return "options must be A, B, C, ... in order, at least two"
        return "" if row.answer in letters else "answer must be one of the letters of options"
    if row.options:
        return "options are for kind choice only"
    if row.kind == "yes-no":
        return "" if row.answer in ("yes", "no") else 'answer must be "yes" or "no"'
    if row.kind == "json":
        return "" if isinstance(row.answer, dict | list) else "answer must be a JSON object or list"
    if row.kind == "boxes":
        return "" if _is_box(row.answer) else "answer must be [y0, x0, y1, x1] in 0..1 with y0 < y1 and x0 < x1"
    return "" if isinstance(row.answer, str) and row.answer.strip() else "answer must be a text"


def _is_box(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 4:
        return False
    if not all(
        isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= 1 for number in value
    ):
        return False
    return bool(value[0] < value[2] and value[1] < value[3])


def _demand_no_shared_group(path: Path, groups: set[str]) -> None:
    for other in sorted(path.parent.glob("*.jsonl")):
        if other == path:
            continue
        shared = groups & _groups(other)
        if shared:
            raise ValueError(
                f"{path}: {len(shared)} group(s) (patients) are in {other.name} too; expected every patient in one "
                "split; divide the set by patient"
            )


def _groups(path: Path) -> set[str]:
    found = set()
    for _, line in _lines(path):
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict) and isinstance(value.get("group"), str):
            found.add(value["group"])
    return found
