"""Laboratory reports as typed rows. Source: MedGemma 1.5 report, appendix B, for the keys."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from medgemma.answers.json_in_text import json_answer
from medgemma.engine.request import FinishReason

COLLECTION_TIME = "%d-%m-%Y %H:%M:%S"
"""How `sample_collection_time` is written: DD-MM-YYYY HH:MM:SS."""


@dataclass(frozen=True)
class LabResult:
    """One row of a laboratory report, each field as it is printed; None where the report does not say."""

    name: str
    result: str
    unit: str | None = None
    range: str | None = None
    """The reference range."""
    panel: str | None = None
    method: str | None = None
    specimen: str | None = None
    sample_collection_time: str | None = None
    """DD-MM-YYYY HH:MM:SS."""


@dataclass(frozen=True)
class LabReport:
    """The rows of a laboratory report."""

    results: tuple[LabResult, ...]
    reason: str | None = None
    """Why there are no results, or why some were left out."""


LAB_REPORT_SCHEMA: Mapping[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "result": {"type": "string", "minLength": 1},
            **{name: {"type": ["string", "null"]} for name in ("unit", "range", "panel", "method", "specimen")},
            "sample_collection_time": {
                "anyOf": [
                    {"type": "string", "pattern": r"^[0-9]{2}-[0-9]{2}-[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2}$"},
                    {"type": "null"},
                ]
            },
        },
        "required": [field.name for field in fields(LabResult)],
        "additionalProperties": False,
    },
}
"""What to constrain an answer with, so that `parse_lab_report` takes it."""


def parse_lab_report(text: str, finish_reason: FinishReason = "stop") -> LabReport:
    """The rows of a lab report in an answer.

    Args:
        text: an answer whose JSON is a list of rows, or an object with one such list, with the keys of `LabResult`.
        finish_reason: of the answer.

    Returns:
        The rows that are whole; `reason` names those that are not, and unknown keys.
    """
    answer = json_answer(text, finish_reason)
    if answer.reason:
        return LabReport((), answer.reason)
    rows = _rows(answer.value)
    if rows is None:
        return LabReport((), f"expected a list of results, got {_kind(answer.value)}")
    results, faults = [], []
    for number, row in enumerate(rows, 1):
        fault = _fault(row)
        if fault:
            faults.append(f"result {number}: {fault}")
        else:
            values: dict[str, Any] = {key: _text(value) for key, value in row.items()}
            results.append(LabResult(**values))
    return LabReport(tuple(results), "; ".join(faults) or None)


def _rows(value: Any) -> list[Any] | None:
    if isinstance(value, Mapping):
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        return [value] if "name" in value else lists[0] if len(lists) == 1 else None
    return value if isinstance(value, list) else None


def _fault(row: Any) -> str | None:
    if not isinstance(row, Mapping):
        return f"expected an object, got {_kind(row)}"
    known = {field.name for field in fields(LabResult)}
    if unknown := sorted(row.keys() - known):
        return f"unknown keys {', '.join(unknown)}"
    if row.get("name") in (None, "") or row.get("result") in (None, ""):
        return "no name or no result"
    if nested := [key for key, value in row.items() if isinstance(value, list | Mapping)]:
        return f"{', '.join(nested)} is no text"
    time = row.get("sample_collection_time")
    return None if time in (None, "") or _is_time(str(time)) else "sample_collection_time is not DD-MM-YYYY HH:MM:SS"


def _is_time(text: str) -> bool:
    if not re.fullmatch(r"\d{2}-\d{2}-\d{4} \d{2}:\d{2}:\d{2}", text):
        return False
    try:
        datetime.strptime(text, COLLECTION_TIME)
    except ValueError:
        return False
    return True


def _text(value: Any) -> str | None:
    """A number as it reads in JSON; an empty text says nothing."""
    return None if value is None or value == "" else value if isinstance(value, str) else str(value)


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
