"""What each clause of a reply claims about the options, and what the reply as a whole then says."""

# ruff: noqa: E501  (patterns are lists of words)

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from medgemma.answers.reading import words
from medgemma.answers.reading.mentions import MENTION, Marked


class Strength(IntEnum):
    """How a claim is made; a stronger one wins over later talk."""

    MENTIONED = 1
    CONCLUDED = 2
    """So B. / B alone on its line / That leaves B."""
    STATED = 3
    """The answer is B, I choose B, B is correct."""
    FINAL = 4
    """Final answer: B."""


@dataclass(frozen=True)
class Claim:
    """Options that a clause chooses or denies."""

    options: frozenset[str]
    """Several where the clause does not choose between them; empty for what was not offered."""
    strength: Strength
    clause: int
    denied: bool = False


@dataclass(frozen=True)
class Reading:
    """What a reply says; no single option has a reason."""

    option: str | None
    reason: str | None = None


_QUOTED = re.compile(
    r"\"([^\"\n]{1,300})\"|“([^”\n]{1,300})”|«([^»\n]{1,300})»|「([^」\n]{1,300})」|„([^“\n]{1,300})“|(?<!\w)'([^'\n]{2,300})'(?!\w)"
)
_SENTENCE = re.compile(r"(?<=[.!?;。！？؟।။])\s+|(?<=[。！？؟।။])|\n+")
_AND = re.compile(r"(?<=\s)(?:and|und|dan|dhe|et|och)(?=\s)|(?<=[\ue000-\uf8ff]\s)[eya](?=\s)")
_BETWEEN = re.compile(r"\b(?:between|torn|zwischen|entre|tra|fra)\b[^,;]*$", re.IGNORECASE)
_CLAUSE_SIGNS = re.compile(r"\s*(?:,|，|、|၊|،|;|；|\s-\s)\s*")


_LABEL = re.compile(rf"\W*{MENTION}\s*[:)-]\s*\w")


def claims_of(found: Marked) -> tuple[list[Claim], list[int]]:
    """Return the claims of a reply's clauses in order, and the clauses that take back what came before."""
    claims, corrections = [], []
    number, pending = 0, ""
    parts = sentences(unquoted(found.text))
    has_labels = sum(_LABEL.match(part) is not None for part in parts) > 1
    for sentence in parts:
        others = words.SAID_BY_OTHERS.search(sentence)
        announced = pending
        pending = ""
        so_far = ""
        for clause in _clauses(sentence):
            number += 1
            if words.CORRECTS.search(clause):
                corrections.append(number)
            is_others = others is not None and others.start() <= sentence.find(clause) + len(clause)
            made = _claims_in(found, clause, announced + " " + so_far, sentence, number)
            if has_labels and _LABEL.match(sentence):  # "A: fever is absent" tells of A, it does not choose it
                made = [c for c in made if c.denied or c.strength >= Strength.STATED]
            claims += [] if is_others and not _own(clause) else made
            so_far += " " + clause
        if _announces(sentence):
            pending = sentence
    return claims, corrections


def read(claims: Sequence[Claim], corrections: Sequence[int]) -> Reading:
    """Return the option that the claims choose together: the strongest, after the last correction."""
    positive = [c for c in claims if not c.denied]
    for correction in reversed(corrections):
        later = [c for c in positive if c.clause >= correction and c.strength > Strength.MENTIONED and c.options]
        later = later or [
            c for c in positive if c.clause >= correction and c.options and c.strength >= Strength.MENTIONED
        ]
        if later and any(c.clause < correction for c in positive):
            top = Strength(max(c.strength for c in later))
            claims = [c for c in claims if c.clause >= correction and (c.denied or c.strength >= top)]
            positive = [c for c in claims if not c.denied]
            break
    denied = frozenset().union(*(c.options for c in claims if c.denied))
    for strength in (Strength.FINAL, Strength.STATED, Strength.CONCLUDED, Strength.MENTIONED):
        at = [c for c in positive if c.strength == strength]
        named = [c for c in at if c.options]
        if not at:
            continue
        if not named:
            return Reading(None, "the final answer is none of the options")
        chosen = {c.options for c in named}
        if len(chosen) == 1 and len(only := next(iter(chosen))) == 1:
            (option,) = only
            if strength <= Strength.STATED and any(
                c.denied and option in c.options and c.clause > named[-1].clause for c in claims
            ):
                return Reading(None, f"{option} is chosen and then denied")
            if strength == Strength.MENTIONED and option in denied:
                return Reading(None, f"{option} is named and denied")
            return Reading(option)
        together = ", ".join(sorted(frozenset().union(*chosen))) if chosen else "options"
        return Reading(None, f"the text names {together}, and does not choose")
    return Reading(None, "the text chooses no option")


def unquoted(text: str) -> str:
    """Without quoted speech; a quoted mention alone stays, unless somebody else is said to have said it."""

    def kept(match: re.Match[str]) -> str:
        whole = next(group for group in match.groups() if group is not None)
        inner, inner_ends = whole.strip(" .,"), whole.rstrip().endswith((".", "!", "?"))
        said = re.search(
            r"(?:says?|said|told|wrote|reads?|states?|claims?|written|with|as|,)\s*:?\s*$",
            text[: match.start()],
            re.IGNORECASE,
        )
        return (
            f" {inner} "
            if re.fullmatch(rf"{MENTION}|yes|no", inner, re.IGNORECASE) and not said
            else " … " + ". " * inner_ends
        )

    return _QUOTED.sub(kept, text)


def sentences(text: str) -> list[str]:
    """Return the sentences and lines of a text."""
    return [sentence.strip() for sentence in _SENTENCE.split(_protected(text)) if sentence.strip()]


def _protected(text: str) -> str:
    """A label's full stop is no end of a sentence ("B. is wrong"), nor that of "i.e."."""
    text = re.sub(r"\b(i\.e|e\.g|vs|Dr|approx|ca|z\.B)\.\s*", r"\1 ", text, flags=re.IGNORECASE)
    text = re.sub(
        rf"\b(all|every\w*|any\w*|nothing|none|no\s+\w+)\s+but\s+(?={MENTION})",
        r"\1 except ",
        text,
        flags=re.IGNORECASE,
    )
    text = re.sub(
        rf"({MENTION})\s+(?:over|rather\s+than|instead\s+of|in\s+preference\s+to)\s+(?={MENTION})", r"\1, not ", text
    )
    text = re.sub(rf"(prefer\s+{MENTION})\s+to\s+(?={MENTION})", r"\1, not ", text)
    return re.sub(
        rf"(?m)^(\s*{MENTION})[.)]\s+(?=(?:is|was|would|can|could|has|does|not|fits|False|True|Correct|Incorrect|Wrong|Right)\b)",
        r"\1 ",
        text,
    )


def _clauses(sentence: str) -> list[str]:
    parts = [sentence]
    for splitter in (words.BUT, words.BECAUSE, _AND):
        parts = [piece for part in parts for piece in _split_at(splitter, part)]
    return [piece for part in parts for piece in _CLAUSE_SIGNS.split(part) if piece.strip()]


def _split_at(splitter: re.Pattern[str], text: str) -> list[str]:
    """Parts between the words; one that also denies what stands before it (ではなく) stays with that."""
    pieces, start = [], 0
    for place in splitter.finditer(text):
        if _BETWEEN.search(text[: place.start()]):
            continue
        also_denies = not place.group(0).isascii() and words.DENIES.search(place.group(0))
        pieces.append(text[start : place.end() if also_denies else place.start()])
        start = place.end()
    return [*pieces, text[start:]]


def _announces(sentence: str) -> bool:
    """Whether a sentence ends with a marker that what follows belongs to."""
    return not re.search(MENTION, sentence) and (
        re.fullmatch(r"\W*(?:\w+\W+){0,4}?", _after_last_marker(sentence) or "x") is not None
        and re.search(r"[:=]\s*$|^\W*\w+(?:\W+\w+)?\W*$", sentence) is not None
    )


def _after_last_marker(sentence: str) -> str | None:
    places = [*words.FINAL.finditer(sentence), *words.ANSWER.finditer(sentence)]
    return sentence[max(p.end() for p in places) :] if places else None


def _own(clause: str) -> bool:
    """Whether a clause says itself whose word it is."""
    return re.search(r"\b(?:I|me|my|I'd)\b", clause) is not None


def _claims_in(found: Marked, clause: str, before: str, sentence: str, number: int) -> list[Claim]:
    bare = words.NOT_DENIALS.pattern and words.NOT_DENIALS.sub(" ", clause)
    places = list(re.finditer(MENTION, bare))
    claims = []
    for index, place in enumerate(places):
        pre = bare[places[index - 1].end() if index else 0 : place.start()]
        post = bare[place.end() : places[index + 1].start() if index + 1 < len(places) else len(bare)]
        mention = found.of(place.group(0))
        taken_out = words.EXCEPT.search(pre)
        denied = _denied(pre, post)
        if taken_out:
            rest = pre[: taken_out.start()] + (bare[: place.start()] if index else "") + post
            denied = not (
                words.DENIES.search(rest)
                or re.search(r"\b(?:all|every|everything|each)\b", rest, re.IGNORECASE) is None
            )
            claims.append(Claim(mention.options, Strength.STATED, number, denied=denied))
            continue
        if denied:
            claims.append(Claim(mention.options, Strength.MENTIONED, number, denied=True))
            continue
        strength = _strength(pre, post, before, sentence, bare, first=index == 0)
        doubted = (
            words.CONSIDERS.search(pre + " \u2026 " + post)
            or sentence.rstrip().endswith(("?", "？", "؟"))
            or re.match(r"\W*if\b", sentence, re.IGNORECASE)
        )
        if doubted and strength < Strength.FINAL:
            continue
        if not mention.options and strength < Strength.STATED:
            continue
        claims.append(Claim(mention.options, strength, number))
    if (
        not places
        and (after := words.FINAL.search(bare))
        and re.match(r"\s*[:=-]\s*\S|\s+is\s+(?:none|not\s+among)", bare[after.end() :])
    ):
        claims.append(Claim(frozenset(), Strength.FINAL, number))
    return claims


def _denied(pre: str, post: str) -> bool:
    return words.DENIES.search(pre) is not None or words.DENIES.search(post) is not None


_OPTION = re.compile(
    r"(?:option|choice|letter|statement|opcion|opcao|letra|lettera|opzione|proposition|pilihan|选项|選択肢)\s*$",
    re.IGNORECASE,
)


def _strength(pre: str, post: str, before: str, sentence: str, clause: str, *, first: bool) -> Strength:
    pre = _OPTION.sub("", pre)
    lead = f"{before} {pre}" if first else pre
    if words.FINAL.search(lead):
        return Strength.FINAL
    if re.search(r"\b(?:next|second|other|wrong|another)\s+(?:\w+\s+)?(?:choice|option|answer)", lead, re.IGNORECASE):
        return Strength.MENTIONED
    if words.ANSWER.search(lead) or words.CHOOSE.search(pre) or words.CHOOSE.search(before[-40:]):
        return Strength.STATED
    if (
        re.match(r"\s*(?:\w+\W+){0,3}?" + f"(?:{words.CORRECT.pattern})", post, re.IGNORECASE)
        or re.match(r"\s*(?:is|would|does|it is|fits)?\s*(?:best|most)\b", post)
        or re.fullmatch(r"\s*(?:is|would|does|it is|it has to be)\W*", post)
    ):
        return Strength.STATED
    if re.search(r"\b(?:best|most|well)\W*$", post) and re.search(r"\bfits?|matches|explains", post):
        return Strength.STATED
    if words.CONCLUDES.search(lead[-60:]) or words.CONCLUDES.search(post[:12]) or re.fullmatch(r"\W*then\W*", post):
        return Strength.CONCLUDED
    return Strength.CONCLUDED if re.fullmatch(rf"(?:[\W_]*\w+)?[\W_]*{MENTION}[\W_]*", sentence) else Strength.MENTIONED
