"""The answer in what a model wrote, as tasks grade it: a letter, yes or no, a short text; empty if it cannot be told.

`medgemma.answers` finds it; here traces of other models (`<think>`) are cut off too, and an answer that stands on the
last line alone, after reasoning, counts. A trace that was never closed leaves no answer.
"""

import re
from collections.abc import Mapping

from medgemma.answers import final_letter, final_part, final_yes_no, split_thinking

_THINK_TAG = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.,])[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d,]*\d)")
_MARKUP = re.compile(r"\*+|__+|\\(?:boxed|text)\b|[{}$]")


def spoken(text: str) -> str:
    """Return a reply without its reasoning trace."""
    return _THINK_TAG.sub(" ", split_thinking(text).text).strip()


def parse_letter(text: str, options: Mapping[str, str]) -> str:
    """Return the letter of the option that a reply names by letter or by its text, empty if it names none or several.

    Args:
        text: The reply.
        options: Letter (A, B, ...) to text.
    """
    said = spoken(text)
    told_apart = {letter: "" if _is_letter(option) else option for letter, option in options.items()}
    for part in (said, _last_line(said)):
        if letter := final_letter(part, told_apart).letter:
            return letter
    return ""


def parse_yes_no(text: str) -> str:
    """Return yes, no, or an empty text."""
    said = spoken(text)
    for part in (said, _last_line(said)):
        if (yes := final_yes_no(part).yes) is not None:
            return "yes" if yes else "no"
    return ""


def parse_short(text: str) -> str:
    """Return a short answer: the first line after the last `Final Answer`, else of the reply, unquoted."""
    said = spoken(text)
    part = final_part(said)
    lines = [line.strip() for line in _MARKUP.sub("", said if part is None else part).splitlines() if line.strip()]
    return lines[0].strip("\"'` ").rstrip(".").strip() if lines else ""


def parse_number(text: str) -> float | None:
    """Return the one number of an answer ("about 12.5 mm", "1,200"), None if it has none or several."""
    said = spoken(text)
    for part in (parse_short(text), _last_line(said)):
        numbers = {float(found.replace(",", "")) for found in _NUMBER.findall(part)}
        if len(numbers) == 1:
            return numbers.pop()
    return None


def _is_letter(option: str) -> bool:
    """Say whether an option's text is a letter itself (hepatitis A, B, C): "(A)" then means the letter asked for."""
    return re.fullmatch(r"\W*[A-Za-z]\W*", option) is not None


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if len(lines) > 1 and final_part(said) is None else ""
