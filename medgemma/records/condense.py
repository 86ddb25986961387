"""Facts fitted into a number of tokens, by rules that are stated; what is dropped is counted and said.

1. The patient's line is always kept.
2. Facts of other categories than those asked for are left out.
3. Facts that say the same on the same day are one.
4. If all of these fit, they are the record. Otherwise facts are taken by how much they share with the question, and
   among equal ones the newest first, until one does not fit. Each word of the question counts for one over the number
   of facts that have it, so that a rare word counts more than one that all have. Without a question the newest are
   taken.
5. What was taken stands in the order of time. If facts were dropped for want of room, the last line says how many.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from medgemma.records.facts import Fact

OTHERS = "of other categories"
REPEATED = "repeated on the same day"
NO_ROOM = "without room"
MORE = "({count} more facts left out)"

_WORD = re.compile(r"[a-z0-9]+")
COMMON = frozenset(
    {
        *("a", "an", "and", "are", "at", "by", "did", "do", "does", "ever", "for", "from", "has", "have", "how", "in"),
        *("is", "it", "its", "list", "many", "of", "on", "or", "patient", "patients", "record", "recorded", "s", "the"),
        *("there", "this", "to", "was", "were", "what", "when", "which", "who", "with"),
    }
)
"""Words of a question that say nothing of what is asked about."""


@dataclass(frozen=True)
class Condensed:
    """A record that fits."""

    facts: tuple[Fact, ...]
    """Kept, in the order of time, the patient first."""
    text: str
    """A fact a line, and what was dropped for want of room."""
    num_tokens: int
    dropped: Mapping[str, int]
    """Reason to facts."""


def condense(
    facts: Iterable[Fact],
    max_tokens: int,
    count_tokens: Callable[[str], int],
    *,
    question: str = "",
    categories: Sequence[str] = (),
    line: Callable[[Fact], str] = lambda fact: fact.line,
) -> Condensed:
    """Fit facts into a number of tokens.

    Args:
        facts: Of one patient, in the order of time, as `facts_of` gives them.
        max_tokens: Of the whole text.
        count_tokens: A text's tokens, such as `lambda text: len(tokenizer(text).input_ids)`.
        question: What the record is for; empty for none.
        categories: Resource types to keep; all if empty.
        line: A fact as a line of text.

    Raises:
        ValueError: Not even the patient's line fits.
    """
    dropped: Counter[str] = Counter()
    asked, seen = [], set()
    for fact in facts:
        key = (fact.category, fact.date, fact.text, fact.statements)
        if fact.category != "Patient" and categories and fact.category not in categories:
            dropped[OTHERS] += 1
        elif key in seen:
            dropped[REPEATED] += 1
        else:
            seen.add(key)
            asked.append(fact)
    kept = _that_fit([line(fact) for fact in asked], asked, max_tokens, count_tokens, question)
    if len(kept) < len(asked):
        dropped[NO_ROOM] = len(asked) - len(kept)
    text = _text([line(asked[n]) for n in kept], len(asked))
    return Condensed(tuple(asked[n] for n in kept), text, count_tokens(text), dict(dropped))


def _that_fit(
    lines: Sequence[str], facts: Sequence[Fact], max_tokens: int, count_tokens: Callable[[str], int], question: str
) -> list[int]:
    """Places of the facts that are kept, in the order of time."""
    every = list(range(len(lines)))
    if count_tokens(_text(lines, len(lines))) <= max_tokens:
        return every
    kept = [n for n in every if facts[n].category == "Patient"]
    if count_tokens(_text([lines[n] for n in kept], len(lines))) > max_tokens:
        raise ValueError(f"the patient's line alone has more than {max_tokens} tokens; allow the record more")
    score = _scores(lines, question)
    others = [n for n in every if n not in kept]
    by_need = sorted(others, key=lambda n: (score[n], facts[n].date, n), reverse=True)
    low, high = 0, len(by_need)  # more facts are more tokens, so the last that fits is found by halving
    while low < high:
        middle = (low + high + 1) // 2
        taken = sorted([*kept, *by_need[:middle]])
        if count_tokens(_text([lines[n] for n in taken], len(lines))) <= max_tokens:
            low = middle
        else:
            high = middle - 1
    return sorted([*kept, *by_need[:low]])


def _scores(lines: Sequence[str], question: str) -> list[float]:
    wanted = set(_WORD.findall(question.lower())) - COMMON
    words = [wanted & set(_WORD.findall(line.lower())) for line in lines]
    having = Counter(word for found in words for word in found)
    return [sum(1 / having[word] for word in found) for found in words]


def _text(lines: Sequence[str], num_asked: int) -> str:
    missing = num_asked - len(lines)
    return "\n".join([*lines, MORE.format(count=missing)] if missing else lines)
