"""The letter or the yes or no that an answer ends with, in the many ways models write it.

MedGemma is asked to end with `Final Answer: X` (technical report, tables A6 and A7; MedGemma 1.5 report, appendix B).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MARKER = re.compile(r"\bfinal\s+answer\b(?:\s+is)?\s*[:=]?\s*", re.IGNORECASE)
"""`Final Answer:`, `The final answer is`; emphasis is gone before it is looked for."""
_WEAK_MARKER = re.compile(
    r"\b(?:(?:correct|best|right)\s+)?(?:answer|option|choice)\b(?:\s+is|\s*[:=])\s*|\bmost\s+likely\s+diagnosis\s+is\s*:?\s*",
    re.IGNORECASE,
)
"""`The answer is`, `Answer:`, `The correct option is`; looked for where there is no `Final Answer`."""
_EMPHASIS = re.compile(r"\*+|`+|__+|\$+|\\(?:boxed|text|textbf|mathrm|mathbf)\b|[{}]")
_LEADING_WORD = re.compile(r"(?:is|the|correct|best|right|option|choice|answer|letter)\b[\s:]*", re.IGNORECASE)
_QUOTES = "\"'\u201c\u201d\u2018\u2019"


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


def final_part(text: str) -> str | None:
    """What follows the last `Final Answer` marker, markup removed; None without one, "" if nothing follows.

    Args:
        text: an answer without its reasoning trace.
    """
    return _after_last(MARKER, _plain(text))


def final_letter(text: str, options: Sequence[str] | Mapping[str, str] = "ABCDE") -> FinalLetter:
    """The letter that an answer ends with.

    Looked for after the last `Final Answer`, else after the last `the answer is`, else in an answer that begins with
    a letter or is one, else in a last line that is nothing but a letter. `A` before a lower-case word is the article,
    not the option.

    Args:
        text: an answer without its reasoning trace.
        options: the letters that may be chosen, or letter to its text, so that an answer may also give the text.

    Returns:
        None and the reason for an answer that names no option, one that was not offered, or two.
    """
    texts = options if isinstance(options, Mapping) else dict.fromkeys(options, "")
    plain = _plain(text)
    for marker in (MARKER, _WEAK_MARKER):
        after = _after_last(marker, plain)
        if after is not None:
            return _chosen(after, texts, _where(marker))
    found = _chosen(plain, texts, _where(None))
    last_line = plain.rpartition("\n")[2]
    if found.letter is None and re.fullmatch(r"\W*[A-Z]\W*", last_line):
        return _chosen(last_line, texts, "the last line")
    return found


def final_yes_no(text: str) -> FinalYesNo:
    """Whether an answer says yes or no.

    Looked for after the last `Final Answer`, else after the last `the answer is`, else at the beginning, else in a
    last line that is nothing else.

    Args:
        text: an answer without its reasoning trace.

    Returns:
        None and the reason where neither word stands there: "there is no effusion" is not taken for a "no", since the
        question may have been whether the lungs are clear.
    """
    plain = _plain(text)
    for marker in (MARKER, _WEAK_MARKER, None):
        after = plain if marker is None else _after_last(marker, plain)
        if after is None:
            continue
        words = re.findall(r"[a-z]+", after.lower())
        last_line = re.findall(r"\w+", after.rpartition("\n")[2].lower())
        if marker is None and words[:1] not in (["yes"], ["no"]) and last_line in (["yes"], ["no"]):
            words = last_line
        if words[:1] not in (["yes"], ["no"]):
            return FinalYesNo(None, f"{_where(marker)} begins with neither yes nor no: {_shown(after)}")
        other = "no" if words[0] == "yes" else "yes"
        if words[1:3] in (["or", other], ["and", other]) or words[1:2] == [other]:
            return FinalYesNo(None, f"{_where(marker)} says both yes and no: {_shown(after)}")
        return FinalYesNo(words[0] == "yes")
    raise AssertionError("the last marker always matches")


def _where(marker: re.Pattern[str] | None) -> str:
    return {MARKER: "the final answer", _WEAK_MARKER: "the answer", None: "the text"}[marker]


def _plain(text: str) -> str:
    """Without emphasis, code marks and LaTeX boxes."""
    return _EMPHASIS.sub("", text).strip()


def _after_last(marker: re.Pattern[str], plain: str) -> str | None:
    found = list(marker.finditer(plain))
    return plain[found[-1].end() :].strip() if found else None


def _chosen(after: str, texts: Mapping[str, str], where: str) -> FinalLetter:
    if not after:
        return FinalLetter(None, f"nothing follows {where}" if where != "the text" else "the text is empty")
    by_text = _option_of_text(after, texts)
    letter = by_text or _leading_letter(after)
    if letter is None:
        return FinalLetter(None, f"{where} begins with no option letter: {_shown(after)}")
    letter = letter.upper()
    if letter not in texts:
        return FinalLetter(None, f"{where} is {letter}, which is none of {', '.join(texts)}")
    rest = _after_letter(after)
    also = _another_letter(rest) if by_text is None else None
    if also and also.upper() != letter:
        return FinalLetter(None, f"{where} names {letter} and {also.upper()}: {_shown(after)}")
    return FinalLetter(letter)


def _leading_letter(after: str) -> str | None:
    """The option letter at the beginning, if what stands there is one and not a word."""
    found = re.match(_LETTER, _unworded(after))
    if not found:
        return None
    letter, rest = found.group("letter"), _unworded(after)[found.end() :]
    bracketed = found.group(0).strip()[0] in "([<"
    if bracketed or not rest or re.match(r"[).\]:>,;/\-\u2013\u2014" + _QUOTES + r"]|\s*\n", rest):
        return letter
    if not letter.isupper() or not rest[0].isspace():
        return None
    next_word = rest.split()[0] if rest.split() else ""
    lowered = next_word[:1].islower() and next_word not in ("and", "or", "because", "since", "as", "is")
    return None if letter in "AI" and lowered else letter


_LETTER = re.compile(r"[(\[<" + _QUOTES + r"\s]*(?P<letter>[A-Za-z])(?![A-Za-z0-9])")


def _unworded(after: str) -> str:
    """Without `option`, `is`, `the answer` and the like before the letter."""
    while (found := _LEADING_WORD.match(after)) and found.end() < len(after):
        after = after[found.end() :]
    return after.lstrip(" :\n")


def _after_letter(after: str) -> str:
    found = re.match(_LETTER, _unworded(after))
    return _unworded(after)[found.end() :].lstrip(")]>." + _QUOTES) if found else ""


def _another_letter(rest: str) -> str | None:
    """A second option right behind the first: `and B`, `or (B)`, `, C`, `/D`."""
    found = re.match(r"\s*(?:and|or|,|/|&)\s*\(?(?P<letter>[A-Z])(?![A-Za-z0-9])", rest)
    return found.group("letter") if found else None


def _option_of_text(after: str, texts: Mapping[str, str]) -> str | None:
    """The option whose own words the answer gives, whole, instead of its letter.

    A text of one letter (hepatitis A, B, C) is never meant: "A" is then the option's letter.
    """
    said = _words(after.split("\n")[0])
    found = [letter for letter, text in texts.items() if len(text.strip()) > 1 and _words(text) == said]
    return found[0] if len(found) == 1 else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _shown(text: str) -> str:
    """The beginning of an answer, for a reason of one line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else line[:57] + "...")
