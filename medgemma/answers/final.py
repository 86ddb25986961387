"""The letter, the yes or no or the number that an answer gives, in the many ways models write it.

MedGemma is asked to end with `Final Answer: X` (technical report, tables A6 and A7; MedGemma 1.5 report, appendix B).
How replies are read is in reading/; evals/gauntlet measures it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medgemma.answers.reading.letters import chosen_option
from medgemma.answers.reading.numbers import said_number
from medgemma.answers.reading.plain import before_run_on, plain
from medgemma.answers.reading.structured import structured_answer
from medgemma.answers.reading.yes_no import said_yes_no

MARKER = re.compile(r"\bfinal\s+answer\b(?:\s+is)?\s*[:=]?\s*", re.IGNORECASE)
"""`Final Answer:`, `The final answer is`; emphasis is gone before it is looked for."""
_EMPHASIS = re.compile(r"\*+|`+|__+|\$+|\\(?:boxed|text|textbf|mathrm|mathbf)\b|[{}]")


@dataclass(frozen=True)
class FinalLetter:
    """The option an answer chose."""

    letter: str | None
    """Upper case; None if no single one was chosen."""
    reason: str | None = None
    """Why there is none."""


@dataclass(frozen=True)
class FinalYesNo:
    """Whether an answer says yes."""

    yes: bool | None
    """None if it says neither, or both."""
    reason: str | None = None
    """Why it is None."""


@dataclass(frozen=True)
class FinalNumber:
    """The number that an answer gives."""

    value: float | None
    """In the unit asked for."""
    reason: str | None = None
    """Why there is none."""


def final_part(text: str) -> str | None:
    """What follows the last `Final Answer` marker, markup removed; None without one, "" if nothing follows.

    Args:
        text: an answer without its reasoning trace.
    """
    return _after_last(MARKER, _plain(text))


def final_letter(text: str, options: Sequence[str] | Mapping[str, str] = "ABCDE", question: str = "") -> FinalLetter:
    """The option that an answer chooses, as a person reads it.

    The explicit statement wins over later talk, a correction over what it corrects; options that are denied, quoted,
    considered or said by others are not chosen. An option may be named by its letter or its words; "C. difficile" and
    "vitamin A" are words. Replies in English and the languages of Global-MMLU-Lite are read.

    Args:
        text: an answer without its reasoning trace.
        options: the letters that may be chosen, or letter to its text, so that an answer may also give the text.
        question: what was asked; told so, a reply to "all of these ... EXCEPT" may affirm the others.

    Returns:
        None and the reason for an answer that names no option, one that was not offered, or two.
    """
    texts = options if isinstance(options, Mapping) else dict.fromkeys(options, "")
    if not text.strip():
        return FinalLetter(None, "the text is empty")
    stated = structured_answer(text, texts)
    whole = plain(text) if stated is None else f"Final answer: {stated}"
    reading = chosen_option(before_run_on(whole), texts, question)
    return FinalLetter(reading.option, None if reading.option else f"{reading.reason}: {_shown(text)}")


def final_yes_no(text: str, question: str = "") -> FinalYesNo:
    """Whether an answer says yes or no, as a person reads it.

    Args:
        text: an answer without its reasoning trace.
        question: what was asked. "There is no effusion" says no to "Is there an effusion?" and yes to "Is an effusion
            absent?"; without the question only the words yes and no are read.

    Returns:
        None and the reason where it says neither, both, or leaves it open ("may be", "cannot be excluded").
    """
    stated = structured_answer(text, {})
    whole = plain(text) if not stated else f"Final answer: {stated}"
    reading = said_yes_no(before_run_on(whole), question)
    if reading.option:
        return FinalYesNo(reading.option == "yes")
    return FinalYesNo(None, f"{reading.reason}: {_shown(text)}")


def final_number(
    text: str, unit: str = "", possible_range: tuple[float, float] | None = None, question: str = ""
) -> FinalNumber:
    """The number that an answer gives; a range, a bound ("below 5") and two values are none.

    Args:
        text: an answer without its reasoning trace.
        unit: of the number; another one is converted if only the decimal point moves, and is no answer otherwise.
        possible_range: what the value can be, in `unit`; tells 1,250 from 1.25.
        question: what was asked; of several numbers the one whose line names it is meant.
    """
    stated = structured_answer(text, {})
    found = said_number(stated or before_run_on(plain(text)), unit, possible_range, question)
    return FinalNumber(found.value, f"{found.reason}: {_shown(text)}" if found.value is None else None)


def _plain(text: str) -> str:
    """Without emphasis, code marks and LaTeX boxes."""
    return _EMPHASIS.sub("", text).strip()


def _after_last(marker: re.Pattern[str], plain: str) -> str | None:
    found = list(marker.finditer(plain))
    return plain[found[-1].end() :].strip() if found else None


def _shown(text: str) -> str:
    """The beginning of an answer, for a reason of one line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else line[:57] + "...")
