"""A letter in a reply that is JSON: under a key that says answer, as the one true verdict, or by its probability."""

# ruff: noqa: E501  (patterns are lists of words)

import json
import re
from collections.abc import Mapping
from typing import Any

_KEYS = re.compile(
    r"(?:final|correct|selected|chosen|best|the)?[_ -]*(?:answer|choice|option|letter|diagnosis|response|prediction|selection)[_ -]*(?:letter|key|id)?",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^\s*(?:```|~~~)\w*\s*\n?|\n?\s*(?:```|~~~)\s*$")


def structured_answer(text: str, options: Mapping[str, str]) -> str | None:
    """Return what a JSON reply answers, as text; None if the reply is no JSON object or list.

    "" says that it is one and chooses nothing. Several answers in a list are joined by "and".
    """
    try:
        value = json.loads(_FENCE.sub("", text.strip()))
    except ValueError:
        return None
    if isinstance(value, list):
        return " and ".join(map(_words, value))
    return _of_object(value, options) if isinstance(value, dict) else None


def _of_object(value: Mapping[str, Any], options: Mapping[str, str]) -> str:
    answers = [inner for key, inner in value.items() if _KEYS.fullmatch(key)]
    if len(answers) == 1:
        only = answers[0]
        if isinstance(only, dict):
            return str(only.get("letter") or only.get("text") or "") or _of_object(only, options)
        return " and ".join(map(_words, only)) if isinstance(only, list) else _words(only)
    if value.keys() <= options.keys() and value:
        if all(isinstance(inner, bool) for inner in value.values()):
            return " and ".join(key for key, inner in value.items() if inner)
        if all(isinstance(inner, int | float) for inner in value.values()):
            best = max(value, key=lambda key: float(value[key]))
            return best if float(value[best]) > sum(map(float, value.values())) / 2 else ""
    return ""


def _words(value: Any) -> str:
    return {True: "yes", False: "no", None: ""}[value] if value is None or isinstance(value, bool) else str(value)
