"""The answer in what a model wrote, as tasks grade it: a letter, yes or no, a number, a short text; empty if none.

`medgemma.answers` reads it; here traces of other models (`<think>`) are cut off too. A trace that was never closed
leaves no answer.
"""

import re
from collections.abc import Mapping

from medgemma.answers import final_letter, final_number, final_part, final_yes_no, split_thinking

_THINK_TAG = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_MARKUP = re.compile(r"\*+|__+|\\(?:boxed|text)\b|[{}$]")


def spoken(text: str) -> str:
    """Return a reply without its reasoning trace."""
    return _THINK_TAG.sub(" ", split_thinking(text).text).strip()


def parse_letter(text: str, options: Mapping[str, str], question: str = "") -> str:
    """Return the letter of the option that a reply chooses by letter or by its words, empty if none or several.

    Args:
        text: The reply.
        options: Letter (A, B, ...) to text.
        question: What was asked, so that the exception is told where it was asked for.
    """
    return final_letter(spoken(text), options, question).letter or ""


def parse_yes_no(text: str, question: str = "") -> str:
    """Return yes, no, or an empty text.

    Args:
        text: The reply.
        question: What was asked; "there is no effusion" is an answer only beside it.
    """
    yes = final_yes_no(spoken(text), question).yes
    return "" if yes is None else "yes" if yes else "no"


def parse_short(text: str) -> str:
    """Return a short answer: the first line after the last `Final Answer`, else of the reply, unquoted."""
    said = spoken(text)
    part = final_part(said)
    lines = [line.strip() for line in _MARKUP.sub("", said if part is None else part).splitlines() if line.strip()]
    return lines[0].strip("\"'` ").rstrip(".").strip() if lines else ""


def parse_number(text: str, unit: str = "", question: str = "") -> float | None:
    """Return the number that an answer gives ("about 12.5 mm", "1,200"), None if it gives none or several."""
    return final_number(spoken(text), unit, question=question).value
