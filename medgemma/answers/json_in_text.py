"""JSON in an answer: alone, in a fence, or after reasoning and a final-answer marker."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medgemma.answers.final import MARKER
from medgemma.answers.reading import words
from medgemma.answers.reading.loose_json import JsonFound, fits, json_values
from medgemma.engine.request import FinishReason

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)\w*[ \t]*\n(.*?)^[ \t]*(?:```|~~~)[ \t]*$", re.DOTALL | re.MULTILINE)
_EXAMPLE = re.compile(
    r"\b(?:example|e\.g\.|for\s+instance|format|form|such\s+as|template|schema|draft)\b[^.\n]*$", re.IGNORECASE
)
_LAST_WORD = re.compile(
    r"\b(?:final|correct(?:ed|ion)?|use|better|instead|wrong|updated|revised|output)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class JsonAnswer:
    """The JSON value of an answer."""

    value: Any
    """None if there is none, and if it is null: see `reason`."""
    reason: str | None = None
    """Why there is none; None if there is one."""


def json_answer(text: str, finish_reason: FinishReason = "stop", schema: Mapping[str, Any] | None = None) -> JsonAnswer:
    """The JSON object or list that an answer ends with.

    The last one of what follows the last `Final Answer`, else of the last fence, else of the whole text. Single quotes,
    comments, trailing commas, bare keys and Python's words are read as the JSON that they mean.

    Args:
        text: an answer without its reasoning trace.
        finish_reason: of the answer; one that was cut is not passed off as whole, even if what is there parses.
        schema: what was asked for. What does not fit it is no answer, nor is an example; two that fit and differ are
            none, unless words between them take the first back.

    Returns:
        The value, or the reason why there is none.
    """
    if finish_reason != "stop":
        cut = "was cut by its limit of tokens" if finish_reason == "length" else f"ended with {finish_reason!r}"
        return JsonAnswer(None, f"the answer {cut}, so its JSON may not be whole")
    if schema is not None:
        return _fitting(text, schema)
    marked = list(MARKER.finditer(text.replace("*", " ")))
    places = [text[marked[-1].end() :]] if marked else []
    places += [fence for fence in reversed(_FENCE.findall(text))] + [text]
    for place in places:
        if found := json_values(place):
            return JsonAnswer(found[-1].value)
    if not re.search(r"[{\[]", text):
        return JsonAnswer(None, "the answer holds no JSON object or list")
    return JsonAnswer(None, "the answer holds no JSON that parses")


def _fitting(text: str, schema: Mapping[str, Any]) -> JsonAnswer:
    found = [f for f in json_values(text) if fits(f.value, schema) and not _EXAMPLE.search(text[: f.start])]
    if not found:
        return JsonAnswer(None, "the answer holds no JSON of the form asked for")
    if all(f.value == found[-1].value for f in found) or _takes_back(text, found):
        return JsonAnswer(found[-1].value)
    return JsonAnswer(None, "the answer holds several JSON values of the form asked for")


def _takes_back(text: str, found: list[JsonFound]) -> bool:
    between = text[found[-2].end : found[-1].start]
    return _LAST_WORD.search(between) is not None or words.CORRECTS.search(between) is not None
