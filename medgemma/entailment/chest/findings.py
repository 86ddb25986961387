"""Findings out of a report's text, by rules: what, whether it is there, where, how large, and what changed.

A sentence is divided into clauses, a clause into parts with one finding each. A denial reaches to the end of its
clause, a guess ("may represent") over what follows it, and "A or B" holds both possible.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple, TypeVar

from medgemma.entailment.chest.vocabulary import (
    CHANGES,
    COUNTS,
    FILLERS,
    FINDINGS,
    NORMAL_FORMS,
    OF_BOTH_LUNGS,
    PLAINER,
    QUALIFIERS,
    SIDES,
    SIZES,
    ZONES,
    Change,
    Count,
    Side,
    Size,
    Zone,
    compiled,
)
from medgemma.entailment.sentences import sentences

Status = Literal["present", "possible", "absent"]
_Name = TypeVar("_Name", bound=str)


@dataclass(frozen=True)
class Finding:
    """One finding of a report and what its sentence says of it; what it leaves open is empty."""

    name: str
    """A key of vocabulary.FINDINGS."""
    status: Status
    sides: frozenset[Side] = frozenset()
    zones: frozenset[Zone] = frozenset()
    size: Size = ""
    change: Change = ""
    qualifiers: frozenset[str] = frozenset()
    larger_side: Side | None = None
    measures: frozenset[str] = frozenset()
    """Such as "2 cm"."""
    count: Count = ""
    is_only: bool = False
    """Said to be nowhere else, or alone."""
    sentence: str = ""


def findings_of(text: str) -> tuple[Finding, ...]:
    """Return what a text says of findings of the chest, sentence by sentence, in the order of reading.

    Args:
        text: English; what the rules do not know is left out.
    """
    return tuple(finding for sentence in sentences(text) for finding in _of_sentence(sentence))


def unread_words(sentence: str) -> frozenset[str]:
    """Return the stems of a sentence's words that no rule reads: neither a finding, nor an attribute, nor a filler."""
    text = _reworded(sentence)
    for pattern in _READ:
        text = pattern.sub(" ", text)
    return stems(text)


def stems(text: str) -> frozenset[str]:
    """Return the first five letters of each word that says something; numbers whole."""
    words = re.findall(r"[a-z0-9.]*[a-z0-9]", text.lower())
    return frozenset(word[:5].rstrip("s") for word in words if word not in FILLERS)


class _Mention(NamedTuple):
    name: str
    start: int
    end: int


@lru_cache(maxsize=20_000)
def _of_sentence(sentence: str) -> tuple[Finding, ...]:
    return tuple(found for clause in _CLAUSES.split(_reworded(sentence)) for found in _of_clause(clause, sentence))


def _reworded(sentence: str) -> str:
    text = " ".join(sentence.lower().rstrip(".;!? ").split())
    for pattern, plain in PLAINER:
        text = pattern.sub(plain, text)
    return text


_CLAUSES = re.compile(
    r";|,? but |\bhowever\b|\balthough\b|, and (?=(?:normal|the|slight)\b)"
    r"|, (?=(?:and )?(?:there (?:is|are)|normal|no)\b)"
    r"|(?<!consistent)(?<!compatible)(?<!associated),? with (?!a normal outline)"
)
_BY_LENGTH = sorted(FINDINGS.items(), key=lambda row: -len(row[1].pattern.pattern))
_READ = [
    *(kind.pattern for _, kind in _BY_LENGTH),
    *(form.pattern for form in NORMAL_FORMS),
    *(pattern for words in (SIDES, ZONES, SIZES, CHANGES, COUNTS) for pattern in words.values()),
    compiled(QUALIFIERS),
]


def _of_clause(clause: str, sentence: str) -> Iterator[Finding]:
    for form in NORMAL_FORMS:
        if found := form.pattern.search(clause):
            place = " ".join([*clause[: found.start()].split()[-2:], found[0]])
            sides, zones = _of_one(_sides(place)), _zones(place)
            yield from (Finding(name, "absent", sides=sides, zones=zones, sentence=sentence) for name in form.absent)
            clause = _blanked(clause, found)
    mentions = [mention for mention in _mentions(clause) if not _ASKED.search(clause[: mention.start])]
    yield from _placed([_read(clause, mentions, place, sentence) for place in range(len(mentions))])


def _placed(findings: Sequence[Finding]) -> Iterator[Finding]:
    """What is held possible lies where its neighbour does: the one before, else the one after it."""
    for place, finding in enumerate(findings):
        neighbours = [*findings[:place][::-1], *findings[place + 1 :]]
        placed = next((one for one in neighbours if one.sides or one.zones), None)
        if finding.status == "possible" and placed and not (finding.sides or finding.zones):
            yield replace(finding, sides=placed.sides, zones=placed.zones)
        else:
            yield finding


_ASKED = re.compile(r"\b(?:evaluation (?:of|for)|evaluate for|history of)(?: \w+)?\s*$")
"""What stands before a finding that was looked for, or known, and is not reported."""


def _of_one(sides: frozenset[Side]) -> frozenset[Side]:
    """Both sides are no place: clear lungs are clear everywhere."""
    return sides if len(sides) == 1 else frozenset()


def _blanked(clause: str, found: "re.Match[str]") -> str:
    return clause[: found.start()] + "_" * (found.end() - found.start()) + clause[found.end() :]


def _mentions(clause: str) -> list[_Mention]:
    """The findings that a clause names, in order; of overlapping ones the longest."""
    every = [
        _Mention(name, found.start(), found.end())
        for name, kind in _BY_LENGTH
        for found in kind.pattern.finditer(clause)
    ]
    kept: list[_Mention] = []
    for mention in sorted(every, key=lambda one: (one.start - one.end, one.start)):
        if all(mention.end <= other.start or mention.start >= other.end for other in kept):
            kept.append(mention)
    return sorted(kept, key=lambda one: one.start)


def _read(clause: str, mentions: Sequence[_Mention], place: int, sentence: str) -> Finding:
    mention = mentions[place]
    part = _part(clause, mentions, place)
    status = _status(clause, mentions, place)
    return Finding(
        mention.name,
        status,
        sides=_of_one(_sides(part)) if status == "absent" or mention.name in OF_BOTH_LUNGS else _sides(part),
        zones=_zones(part),
        size=_first(SIZES, part, ""),
        change=_first(CHANGES, part, ""),
        qualifiers=frozenset(QUALIFIERS).intersection(re.findall(r"\w+", part)),
        larger_side=_larger_side(part),
        measures=frozenset(" ".join(found) for found in re.findall(r"(\d+(?:\.\d+)?) ?(mm|cm)\b", part)),
        count=_first(COUNTS, part, ""),
        is_only=bool(re.search(r"\bonly\b", part)),
        sentence=sentence,
    )


def _part(clause: str, mentions: Sequence[_Mention], place: int) -> str:
    """The words that belong to one mention: up to the list's comma, `and` or `or` between it and its neighbours."""
    mention = mentions[place]
    start, end = 0, len(clause)
    if place > 0:
        between = clause[mentions[place - 1].end : mention.start]
        cut = _last(_LISTS, between)
        start = mentions[place - 1].end + cut if cut is not None else 0
    if place + 1 < len(mentions):
        between = clause[mention.end : mentions[place + 1].start]
        cut = _last(_LISTS, between)
        end = mention.end + cut if cut is not None else len(clause)
    return clause[start:end]


_LISTS = re.compile(r"[,:]|\b(?:and|or|versus|vs|as well as|which|that|without|no|suggest\w*|consistent)\b")


def _last(pattern: "re.Pattern[str]", text: str) -> int | None:
    found = list(pattern.finditer(text))
    return found[-1].start() if found else None


_DENIES = re.compile(
    r"\b(?:no|without|negative for|free of|clear of|absence of|neither|nor|not(?! clear)|resolution of|resolved)\b"
)
_ENDS_DENIAL = re.compile(r"\bthere (?:is|are)\b|\b(?:is|are) (?:noted|again)\b|\bafter\b")
_DENIED_AFTER = re.compile(
    r"^[^,:]*?\b(?:(?:is|are|was|were) (?:\w+ )?(?:absent|not (?:clearly )?(?:seen|present|visible|identified|"
    r"visualized|appreciated|noted|demonstrated|suggested|evident)(?! on the lateral))|(?:cannot|can not) be seen|"
    r"(?:has|have|had) (?:\w+ )?(?:resolved|cleared|gone|disappeared))\b"
)
_GUESSES = re.compile(
    r"\b(?:may|might|could|possib\w+|probabl\w+|likely|suspect\w*|suspicious|concern\w*|suggest\w*|consistent with|"
    r"compatible|question\w*|either|represent\w*|versus|excluding)\b"
)
_GUESSED_AFTER = re.compile(
    r"^[^,:]*?\b(?:(?:is|are|as) (?:\w+ )?(?:possible|likely|suspected|suggested|probable|questionable|"
    r"one explanation)|is (?:one |a )?possible|is a possibility|versus)\b"
)
_ALTERNATIVE = re.compile(r"\b(?:or|versus|vs)\b")


def _status(clause: str, mentions: Sequence[_Mention], place: int) -> Status:
    mention = mentions[place]
    before = clause[: mention.start]
    following = mentions[place + 1].start if place + 1 < len(mentions) else len(clause)
    after = clause[mention.end :]
    denials = [found.end() for found in _DENIES.finditer(before)]
    if denials and not _ENDS_DENIAL.search(before[denials[-1] :]):
        return "absent"
    to_next = after[: following - mention.end]
    if _DENIED_AFTER.search(to_next if _GUESSES.search(to_next) else after):
        return "absent"
    if re.search(r"\b(?:cause|explanation)s? of (?:the )?(?:\w+ )?$", before):
        return "present"
    if _GUESSES.search(before) or _GUESSED_AFTER.search(to_next):
        return "possible"
    if _is_alternative(clause, mentions, place):
        return "possible"
    return "present"


def _is_alternative(clause: str, mentions: Sequence[_Mention], place: int) -> bool:
    """Whether `or` stands between a mention and a neighbour."""
    pairs = zip(mentions, mentions[1:], strict=False)
    return any(
        _ALTERNATIVE.search(clause[one.end : other.start]) and mentions[place] in (one, other) for one, other in pairs
    )


def _sides(text: str) -> frozenset[Side]:
    text = _COMPARED.sub(" bilateral ", text)
    named = {side for side, pattern in SIDES.items() if pattern.search(text)}
    both: tuple[Side, Side] = ("left", "right")
    return frozenset(side for side in both if side in named or "both" in named)


def _zones(text: str) -> frozenset[Zone]:
    return frozenset(zone for zone, pattern in ZONES.items() if pattern.search(text))


_COMPARED = re.compile(
    r"\b(?:(left|right)(?: side)? (?:greater|larger|more|worse) than (?:the )?(?:left|right)|"
    r"(?:greater|larger|more|worse) on the (left|right)|on the (left|right) is the (?:larger|greater)(?: one)?)\b"
)


def _larger_side(text: str) -> Side | None:
    found = _COMPARED.search(text)
    named = next((side for side in found.groups() if side), None) if found else None
    return "left" if named == "left" else "right" if named == "right" else None


def _first(patterns: "Mapping[_Name, re.Pattern[str]]", text: str, none: _Name) -> _Name:
    return next((name for name, pattern in patterns.items() if pattern.search(text)), none)
