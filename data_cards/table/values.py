"""What the cells of a table say: missing, numbers, present or absent, several labels in one cell."""

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from data_cards.table.rows import Box

_MISSING = frozenset(("", "nan", "na", "n/a", "null", "#n/a", "<na>", "nat"))
_PRESENT = frozenset(("1", "true", "yes", "y", "t", "positive", "pos", "present"))
_ABSENT = frozenset(("0", "false", "no", "n", "f", "negative", "neg", "absent"))
_UNCERTAIN = frozenset(("-1", "u", "uncertain"))
_NO_FINDING = frozenset(("no finding", "no findings", "no_finding", "none", "normal"))
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")

UNCERTAIN = "uncertain"
"""What `presence_of` gives for -1 and its like."""


def is_missing(cell: Any) -> bool:
    """Whether a cell says nothing: None, NaN, an empty text or list, "NA", "null"."""
    if isinstance(cell, str):
        return _is_missing_text(cell)
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or cell in ([], {})


@lru_cache(4096)  # the cells of a large table are few values over and over
def _is_missing_text(text: str) -> bool:
    return text.strip().lower() in _MISSING


def text_of(cell: Any) -> str:
    """A cell as a text: whole numbers without their ".0", lists and objects as JSON; empty if it is missing."""
    if is_missing(cell):
        return ""
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell) if isinstance(cell, int | float) else json.dumps(cell, ensure_ascii=False, default=str)


def class_of(cell: Any) -> str:
    """A cell as the name of a class; "1.0", as a spreadsheet writes a 1 beside an empty cell, is "1"."""
    return _class_of_text(cell) if isinstance(cell, str) else _class_of_text(text_of(cell))


@lru_cache(4096)
def _class_of_text(text: str) -> str:
    text = text_of(text)
    return text[:-2] if re.fullmatch(r"[+-]?\d+\.0", text) else text


def number_of(cell: Any) -> float | None:
    """A cell as a number, None if it is none. "3,14" is 3.14; "1,234" could be two numbers and is none."""
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return float(cell) if math.isfinite(cell) else None
    text = text_of(cell)
    if _THOUSANDS.fullmatch(text):
        return None
    try:
        number = float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
    except ValueError:
        return None
    return number if math.isfinite(number) and re.search(r"\d", text) else None


def presence_of(cell: Any) -> bool | str | None:
    """Whether a finding is present: True, False, UNCERTAIN, or None if the cell says none of them (missing too)."""
    return cell if isinstance(cell, bool) else _presence_in(class_of(cell))


@lru_cache(4096)
def _presence_in(text: str) -> bool | str | None:
    text = text.lower()
    if text in _UNCERTAIN:
        return UNCERTAIN
    return True if text in _PRESENT else False if text in _ABSENT else None


def labels_in(cell: Any, marks: str = "|;") -> tuple[str, ...]:
    """The labels of one cell: a list, a list written as text, or names between `marks`; "No Finding" is none."""
    if isinstance(cell, str) and cell.strip().startswith("["):
        cell = list_in(cell) or cell
    parts = cell if isinstance(cell, list | tuple) else re.split(f"[{re.escape(marks)}]", text_of(cell))
    names = [class_of(part) for part in parts]
    return tuple(dict.fromkeys(name for name in names if name and name.lower() not in _NO_FINDING))


def list_in(text: str) -> list[Any] | None:
    """The list that a text holds, as JSON or as Python writes it; None if it holds none."""
    for candidate in (text, text.replace("'", '"')):
        try:
            found = json.loads(candidate)
        except json.JSONDecodeError:
            continue
        return found if isinstance(found, list) else None
    return None


def boxes_in(cell: Any) -> tuple[Box, ...] | None:
    """The boxes of one cell, None if it holds none.

    Args:
        cell: MedGemma's [{"box_2d": [y0, x0, y1, x1], "label": ...}], one of these, or the four numbers alone; as a
            text or as values. Numbers of which one is above 1 are of 0 to 1000, else fractions.
    """
    value = list_in(cell) if isinstance(cell, str) else cell
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list) and len(value) == 4 and all(_is_number(part) for part in value):
        value = [value]
    if not isinstance(value, list):
        return None
    found = [_box(part) for part in value]
    return tuple(box for box in found if box) if all(found) else None


def _box(value: Any) -> Box | None:
    label = ""
    if isinstance(value, Mapping):
        label, value = text_of(value.get("label")), value.get("box_2d") or value.get("box")
    if not isinstance(value, list) or len(value) != 4 or not all(_is_number(part) for part in value):
        return None
    y0, x0, y1, x1 = (float(part) for part in value)
    unit = "per_mille" if max(value) > 1 else "fraction"
    return Box(label, y0, x0, y1, x1, unit) if y0 < y1 and x0 < x1 else None  # type: ignore[arg-type]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
