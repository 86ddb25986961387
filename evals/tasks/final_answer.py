"""Finding the answer in what a model wrote: a letter, yes or no, a short text. What cannot be told is no answer.

Only what the model says counts: a reasoning trace is cut off first, and one that was never closed leaves nothing.
Source: the MedGemma report asks for a last line `Final Answer: (X)`, or `The most likely diagnosis is: X` for skin and
    fundus pictures; the other forms below are what models write instead.
"""

import re
from collections.abc import Mapping

from evals.metrics.answers import normalise, yes_or_no
from medgemma.answers import split_thinking

MARKERS = (
    r"final answer\s*(?:is)?\s*[:\-=]?",
    r"most likely diagnosis is\s*[:\-=]?",
    r"\b(?:correct|best|right|most likely|most appropriate)\s+(?:answer|option|choice)\s*(?:is|would be|:)\s*[:\-=]?",
    r"\banswer\s*(?:is|:|=)\s*[:\-=]?",
    r"\b(?:option|choice)\s*(?:is|:|=)\s*[:\-=]?",
)
"""What comes before an answer, the surest first; of one marker the last place counts."""

_THINK_TAG = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_WRAPPERS = re.compile(r"\\(?:boxed|text|mathrm|textbf)\s*\{([^{}]*)\}")
_FILLERS = re.compile(
    r"^(?:the\s+)?(?:(?:correct|best|right)\s+)?(?:answer|option|choice)\s*(?:is|:)?\s*[:\-=]?\s*", re.I
)


def spoken(text: str) -> str:
    """Return a reply without its reasoning trace, Markdown asterisks, dollar signs and LaTeX boxes."""
    said = _THINK_TAG.sub(" ", split_thinking(text).text)
    while (unwrapped := _WRAPPERS.sub(r"\1", said)) != said:
        said = unwrapped
    return said.replace("*", "").replace("$", "").replace("__", "").strip()


def after_marker(text: str) -> str | None:
    """Return the line after the last place of the surest marker in a reply; None if it has none."""
    said = spoken(text)
    for marker in MARKERS:
        places = list(re.finditer(marker, said, re.IGNORECASE))
        if places:
            lines = [line.strip() for line in said[places[-1].end() :].splitlines() if line.strip()]
            return lines[0] if lines else ""
    return None


def parse_short(text: str) -> str:
    """Return a short answer: the line after the marker, else the first line, without quotes and a full stop."""
    marked = after_marker(text)
    lines = [line.strip() for line in spoken(text).splitlines() if line.strip()]
    line = marked if marked is not None else (lines[0] if lines else "")
    return line.strip("\"'` ").rstrip(".").strip()


def parse_yes_no(text: str) -> str:
    """Return yes, no, or an empty text: what stands after the marker, else in the whole reply."""
    marked = after_marker(text)
    return yes_or_no(marked if marked is not None else spoken(text)) or ""


def parse_letter(text: str, options: Mapping[str, str]) -> str:
    """Return the letter of the option that a reply names, empty if it names none or several.

    Args:
        text: The reply.
        options: Letter (A, B, ...) to text.

    In turn: a letter after the surest marker; the option's own text there; and without a marker a reply that is, or
    begins with, a lettered option or that is an option's text.
    """
    marked = after_marker(text)
    if marked is not None:
        return _letter_in(_FILLERS.sub("", marked), options)
    said = spoken(text)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if not lines:
        return ""
    found = {letter for letter in (_leading(lines[0], options), _leading(lines[-1], options)) if letter}
    if len(found) == 1:
        return found.pop()
    return _by_text(lines[0] if len(lines) == 1 else said, options)


def _letter_in(line: str, options: Mapping[str, str]) -> str:
    bracketed: list[str] = [letter.upper() for letter in re.findall(r"[(\[]\s*([A-Za-z])\s*[)\]]", line)]
    named = [letter for letter in dict.fromkeys(bracketed) if letter in options]
    if len(named) > 1:
        return ""
    if named:
        return named[0]
    leading = _leading(line, options)
    others = set(re.findall(r"\b([A-Z])\b(?=\s*(?:[)\].,:;/]|or\b|and\b|$))", line)) & set(options)
    if leading and others <= {leading}:
        return leading
    return "" if leading else _by_text(line, options)


def _leading(line: str, options: Mapping[str, str]) -> str:
    """Return the letter that a line begins with or is: "B", "(b)", "B.", "B: text", "Option B"."""
    found = re.match(
        r"(?:(?:option|choice|answer)\s+)?[\"'(\[]?\s*([A-Za-z])\s*(?:[)\].:,\"'-]|$)", line, re.IGNORECASE
    )
    if found is None:
        found = re.match(r"(?:option|choice|answer)?\s*([A-Z])(?=\s)(?!\s[a-z])", line)
    letter = str(found[1]).upper() if found else ""
    return letter if letter in options else ""


def _by_text(line: str, options: Mapping[str, str]) -> str:
    """Return the letter of the option whose text a line is; an option that several letters have is none."""
    said = normalise(line)
    fitting = [letter for letter, option in options.items() if normalise(option) == said]
    return fitting[0] if len(fitting) == 1 else ""
