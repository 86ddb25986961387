"""Whether an answer about a record is right: compared by kind of answer, not by string.

The references are those of synthea-fhir-r4: computed from the bundles by a rule program of its own, which knows nothing
of the tools that a model answers with.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from evals.metrics.answers import normalise, yes_or_no

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ISO = r"\b(\d{4})-(\d{2})-(\d{2})(?!\d)(?:T[\d:.+Z-]*)?"
_WORDY = r"\b(?:(\d{1,2})(?:st|nd|rd|th)?\s+)?([A-Z][a-z]{2,8})\.?\s+(?:(\d{1,2})(?:st|nd|rd|th)?,?\s+)?(\d{4})\b"
_NUMBER = r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?"
_NONE = re.compile(r"^(none|no|nil|not documented|there are no|there is no)\b", re.IGNORECASE)
_OPPOSITES = (("increase", "decrease"), ("active", "resolved"))


def is_right(answer: str, answer_type: str, value: Any) -> bool:
    """Compare an answer with the reference.

    A date is right if it is the only one in the answer; a number likewise (dates aside; a quantity rounded to one
    decimal, with its date where the reference has one, its unit not compared); yes or no as `yes_or_no` reads it; a
    choice if its opposite is not said; a text if the answer holds it as whole words; a list if it is the same set of
    texts, divided by semicolons or lines.

    Args:
        answer: What the model said.
        answer_type: One of `data_cards.readers.records.ANSWER_TYPES`.
        value: The reference, typed.

    Raises:
        ValueError: The type is unknown.
    """
    if answer_type not in _COMPARE:
        raise ValueError(f"got the answer type {answer_type!r}; expected one of {', '.join(_COMPARE)}")
    return _COMPARE[answer_type](answer, value)


def dates_in(text: str) -> set[str]:
    """Return the dates of a text as YYYY-MM-DD: ISO, `30 July 1980`, `July 30, 1980`."""
    found = {"-".join(parts) for parts in re.findall(_ISO, text)}
    for before, month, after, year in re.findall(_WORDY, text):
        if month[:3].lower() in MONTHS and (before or after):
            found.add(f"{year}-{MONTHS.index(month[:3].lower()) + 1:02d}-{int(before or after):02d}")
    return found


def numbers_in(text: str) -> list[float]:
    """Return the numbers of a text without its dates; a digit inside a word or a unit is none."""
    bare = re.sub(_WORDY, " ", re.sub(_ISO, " ", text))
    return [float(number.replace(",", "")) for number in re.findall(_NUMBER, bare)]


def _date(answer: str, value: str) -> bool:
    return dates_in(answer) == {value}


def _integer(answer: str, value: int) -> bool:
    return set(numbers_in(answer)) == {float(value)}


def _quantity(answer: str, value: Mapping[str, Any]) -> bool:
    numbers = numbers_in(answer.replace(value["unit"], " "))
    close = bool(numbers) and abs(numbers[0] - value["value"]) < 0.05 + 1e-9
    return close and ("date" not in value or dates_in(answer) == {value["date"]})


def _blood_pressure(answer: str, value: Mapping[str, Any]) -> bool:
    pairs = re.findall(r"(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)", answer)
    expected = (round(value["systolic"]), round(value["diastolic"]))
    return bool(pairs) and {(round(float(s)), round(float(d))) for s, d in pairs} == {expected}


def _boolean(answer: str, value: bool) -> bool:
    return yes_or_no(answer) == ("yes" if value else "no")


def _choice(answer: str, value: str) -> bool:
    words = normalise(answer).split()

    def said(choice: str) -> bool:
        return any(word == choice or word.startswith(choice) and word in (f"{choice}d", f"{choice}s") for word in words)

    others = {choice for pair in _OPPOSITES if value in pair for choice in pair} - {value}
    return said(value) and not any(said(other) for other in others)


def _text(answer: str, value: str) -> bool:
    return bool(normalise(value)) and f" {normalise(value)} " in f" {normalise(answer)} "


def _list(answer: str, value: list[str]) -> bool:
    if not value:
        return _NONE.match(answer.strip()) is not None
    parts = re.split(r"[;\n]", answer)
    said = {normalise(re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", part)) for part in parts}
    return said - {""} == {normalise(part) for part in value}


def _date_and_text(answer: str, value: Mapping[str, Any]) -> bool:
    return _date(answer, value["date"]) and _text(answer, value["type"])


_COMPARE: dict[str, Callable[[str, Any], bool]] = {
    "date": _date,
    "string": _text,
    "list": _list,
    "choice": _choice,
    "boolean": _boolean,
    "quantity": _quantity,
    "integer": _integer,
    "bp": _blood_pressure,
    "date+string": _date_and_text,
}
