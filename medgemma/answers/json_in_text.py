"""JSON in an answer: alone, in a fence, or after reasoning and a final-answer marker."""

import json
import re
from dataclasses import dataclass
from typing import Any

from medgemma.answers.final import MARKER
from medgemma.engine.request import FinishReason

_FENCE = re.compile(r"```(?:json)?\s*\n?(.*?)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class JsonAnswer:
    """The JSON value of an answer."""

    value: Any
    """None if there is none, and if it is null: see `reason`."""
    reason: str | None = None
    """Why there is none; None if there is one."""


def json_answer(text: str, finish_reason: FinishReason = "stop") -> JsonAnswer:
    """The JSON object or list that an answer ends with.

    The last one of what follows the last `Final Answer`, else of the last fence, else of the whole text.

    Args:
        text: an answer without its reasoning trace.
        finish_reason: of the answer; one that was cut is not passed off as whole, even if what is there parses.

    Returns:
        The value, or the reason why there is none.
    """
    if finish_reason != "stop":
        cut = "was cut by its limit of tokens" if finish_reason == "length" else f"ended with {finish_reason!r}"
        return JsonAnswer(None, f"the answer {cut}, so its JSON may not be whole")
    marked = list(MARKER.finditer(text.replace("*", " ")))
    places = [text[marked[-1].end() :]] if marked else []
    places += [fence for fence in reversed(_FENCE.findall(text))] + [text]
    found = None
    for place in places:
        found = _last_value(place)
        if found is not None:
            return JsonAnswer(found)
    if not re.search(r"[{\[]", text):
        return JsonAnswer(None, "the answer holds no JSON object or list")
    return JsonAnswer(None, "the answer holds no JSON that parses")


def _last_value(text: str) -> Any:
    """The last object or list that parses and is inside no other; None without one."""
    decoder, found, at = json.JSONDecoder(), None, 0
    while opening := re.compile(r"[{\[]").search(text, at):
        try:
            found, at = decoder.raw_decode(text, opening.start())
        except RecursionError:
            return None  # no answer nests so deep; trying again inside of it would take for ever
        except ValueError:
            at = opening.end()
    return found
