"""Boxes that a reply states in other forms than MedGemma's JSON: by named edges, in brackets, in a table."""

# ruff: noqa: E501  (patterns are lists of words)

import re
from collections.abc import Mapping
from typing import Any

from medgemma.answers.reading import words
from medgemma.answers.reading.plain import plain

_EDGES = (
    ("ymin", "y0", "top", "y1"),
    ("xmin", "x0", "left", "x1"),
    ("ymax", "y1", "bottom", "y2"),
    ("xmax", "x1", "right", "x2"),
)
_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_BRACKETS = re.compile(rf"(?<![\d.,])[\[(]?{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}(?:[\])]|(?![\d,]|\.\d))")
_X_FIRST = re.compile(r"\bx\w*\W+y\w*\W+x\w*\W+y", re.IGNORECASE)
_NO_CORNERS = re.compile(r"\bwidth\b|\bheight\b|\bw\s*,\s*h\b", re.IGNORECASE)
_TABLE = re.compile(
    r"\|?\s*(?:label\s*\|)?\s*(?:y0|ymin)\s*\|\s*(?:x0|xmin)\s*\|\s*(?:y1|ymax)\s*\|\s*(?:x1|xmax)\s*\|?\s*\n"
    + rf"(?:[\s|:-]*\n)?\s*\|?(?:\s*[A-Za-z][\w ]*\|)?{_NUMBER}\|{_NUMBER}\|{_NUMBER}\|{_NUMBER}\|?",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"\b(ymin|xmin|ymax|xmax|y0|x0|y1|x1|y2|x2|top|left|bottom|right)\s*[:=]?\s*(?:edge\s*)?(?:is|at|near)?\s*(\d+(?:\.\d+)?)",
    re.IGNORECASE,
)
_EXAMPLE = re.compile(
    r"\b(?:format|form|example|e\.g|such\s+as|as\s+in|template|instead\s+of|not|order)\b[^.\n]*$", re.IGNORECASE
)
_NONE = re.compile(
    r"\b(?:there\s+(?:is|are)\s+no|no\s+(?:\w+\s+){0,3}(?:is|are|was|were|can\s+be)?\s*(?:seen|visible|present|found|identified|box)|nothing\s+to\s+(?:box|locate)|"
    r"(?:is|are)\s+(?:not|absent)\s*(?:present|visible|seen|found)?|none\s+(?:is|are|was|were)?\s*(?:seen|present|visible|found))\b",
    re.IGNORECASE,
)
_CANNOT = re.compile(
    r"\b(?:can(?:not|'t)|unable|did\s+not\s+load|sorry|not\s+(?:provided|attached|able|possible|sure|clear))\b",
    re.IGNORECASE,
)


def named_edges(row: Mapping[str, Any]) -> list[float] | None:
    """Return [y0, x0, y1, x1] of an object whose keys name the edges; None if they do not name all four plainly."""
    inner = [value for value in row.values() if isinstance(value, Mapping)]
    if len(inner) == 1 and (edges := named_edges(inner[0])):
        return edges
    keys = {str(key).lower().replace("_", ""): value for key, value in row.items()}
    for names in zip(*_EDGES, strict=True):
        if set(names) <= keys.keys():
            return [keys[name] for name in names]
    return None


def boxes_in_prose(text: str) -> list[list[float]]:
    """Return the box that a reply states in words: of several the last, none if two stand without a correction."""
    whole = plain(text)
    if whole.count("[") != whole.count("]") or _NO_CORNERS.search(whole):
        return []
    if table := _TABLE.search(whole):
        return [[float(n) for n in table.groups()]]
    lists = [m for m in _BRACKETS.finditer(whole) if not _EXAMPLE.search(whole[: m.start()])]
    if lists:
        boxes = [[float(n) for n in m.groups()] for m in lists]
        if _X_FIRST.search(whole):
            boxes = [[y0, x0, y1, x1] for x0, y0, x1, y1 in boxes]
        distinct = [box for i, box in enumerate(boxes) if box not in boxes[:i]]
        between = whole[lists[0].end() : lists[-1].start()]
        takes_back = (
            words.CORRECTS.search(between)
            or words.FINAL.search(between)
            or re.search(r"\bthat\s+is|\bthe\s+(?:left|right|other|correct)\s+one", between, re.IGNORECASE)
        )
        if len(distinct) == 1 or takes_back:
            return [boxes[-1]]
        return distinct if re.fullmatch(r"[\s,;&]*(?:and)?\s*", _joined(whole, lists)) else []
    named = {name.lower(): float(number) for name, number in _NAMED.findall(whole)}
    edges = named_edges(named)
    return [edges] if edges else []


def _joined(text: str, lists: list[re.Match[str]]) -> str:
    """What stands between neighbours, if it is the same for all; else something that joins nothing."""
    gaps = {text[one.end() : other.start()].strip(" ,\n") for one, other in zip(lists, lists[1:], strict=False)}
    return " " if gaps <= {"", "and", ";", "&"} else "no"


def says_nothing_to_box(text: str) -> bool:
    """Say whether a reply says that what was to be located is not there."""
    if re.fullmatch(r"\W*(?:none|nothing|absent|not\s+(?:seen|present|visible))\W*", text, re.IGNORECASE):
        return True
    return _NONE.search(text) is not None and _CANNOT.search(text) is None and not re.search(r"\d", text)
