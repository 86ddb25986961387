"""Where a reply names an option, by its letter or by its words.

Every place is replaced by one character of the private-use plane, so that what follows reads clauses and not letters:
"C. difficile", "vitamin A" or "Both A and B" as an option's own words are one mention, never a letter.
"""

# ruff: noqa: E501  (patterns are lists of words)

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from medgemma.answers.reading.plain import folded
from medgemma.answers.reading.words import AND, OR

FIRST = 0xE000
MENTION = "[\ue000-\uf8ff]"

_TOKEN = re.compile(r"\w+|[%<>≤≥+±°=]")
_NOUNS_BEFORE = re.compile(
    r"(?:vitamins?|hepatitis|hep|dr\.?|vit\.?|types?|groups?|grades?|plans?|factors?|proteins?|influenza|stages?|class(?:es)?|categor(?:y|ies)|"
    r"phases?|troponin|immunoglobulins?|ig|h[ae]moglobin|h[ae]mophilia|strep\w*|coenzyme|leads?|zones?|figures?|fig\.?|panels?|tables?|"
    r"patients?|parts?|appendix|child-pugh|blood|nerves?|lines?|steps?|sections?|bundle|complement|levels?|arms?|cohorts?|drugs?|"
    r"slides?|images?|wave|interval|vitamina|epatite|hepatite|vitamine|schedule|kategorie|gruppe|grad|typ)\s+$",
    re.IGNORECASE,
)
_WORD_AFTER = re.compile(
    r" +(?:cells?|lymphocytes?|antigens?|streptococc\w*|fib\w*|waves?|lines?\b|positive|negative|\d)", re.IGNORECASE
)
_VERB_AFTER = re.compile(
    r"\s+(?:is|isn't|was|are|has|had|would|can|can't|cannot|could|should|does|doesn't|did|do|fits?|seems?|looks?|raises?|lowers?|"
    r"describes?|means|and|or|nor|because|since|as|but|may|might|will|won't|remains?|wins|explains?|shows|here|now|it|over|"
    r"in|for|at|to|only|being|then|too|alone|instead|after|on|by|from|if|when|requires?|needs?|causes?|leads?|represents?|"
    r"corresponds?|matches|und|oder|ist|ou|est|o|oppure|es|e|atau|adalah|se|yw|neu|por|ose|ni|au|na|bali)\b",
)
_LETTER_NOUN = re.compile(
    r"(?:option|answer|choice|letter|statement|alternative|distractor|proposition|opci[oó]n|letra|lettera|opzione|respuesta|"
    r"r[ée]ponse|antwort|jawaban|jibu|ateb|is|be|was|choose|pick|select|with|on|say|than|not|nor|neither|either|both|or|and|"
    r"except|between|of|so|hence|thus|therefore|then|to|la|l'|il|el|ist|est|es|adalah|ni|yw|de|nicht|pas|nid|jo|bukan|chose|"
    r"withdraw|against|out|eliminate|exclude|reject|drop|for|consider|in|put)\s*$",
    re.IGNORECASE,
)


_NONE_OF_THEM = re.compile(
    r"\bnone\s+of\s+(?:the\s+(?:above|options|choices|others?)|these|them|those)(?:\s+\w+)?\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Mention:
    """One place that names options."""

    options: frozenset[str]
    """Usually one letter; several for "A and B"; empty for a letter that was not offered."""
    is_letter: bool


@dataclass
class Marked:
    """A reply whose mentions are single characters."""

    text: str
    mentions: list[Mention] = field(default_factory=list)

    def mark(self, options: frozenset[str], is_letter: bool) -> str:
        """Return the character that stands for a new mention."""
        self.mentions.append(Mention(options, is_letter))
        return chr(FIRST + len(self.mentions) - 1)

    def of(self, character: str) -> Mention:
        """Return what a character stands for."""
        return self.mentions[ord(character) - FIRST]


def marked(text: str, options: Mapping[str, str]) -> Marked:
    """Replace every mention of an option in a plain reply by a character.

    Args:
        text: From `plain.plain`.
        options: Letter to the option's words; words may be empty.
    """
    found = Marked(folded(re.sub("[\ue000-\uf8ff]", " ", text)))
    _mark_words(found, options)
    _mark_letters(found, options)
    _join_letter_and_words(found)
    found.text = re.sub(rf"(?<={MENTION})\s*\([^()\n]*{MENTION}[^()\n]*\)", "", found.text)  # an aside
    _join_lists(found, options)
    return found


def _mark_words(found: Marked, options: Mapping[str, str]) -> None:
    texts = [" ".join(_TOKEN.findall(folded(text).lower())) for text in options.values()]
    patterns = [
        (len(text), letter, pattern)
        for letter, text in options.items()
        if texts.count(" ".join(_TOKEN.findall(folded(text).lower()))) == 1
        for pattern in _patterns_of(folded(text), [folded(other).lower() for other in options.values()])
    ]
    for _, letter, pattern in sorted(patterns, key=lambda row: -row[0]):
        found.text = _sub_mark(pattern, found, letter)
    for letter, text in options.items():
        if not re.search(MENTION, found.text):
            _mark_reordered(found, letter, [part.split() for part in re.split(r"[,;]", folded(text)) if part.strip()])


def _sub_mark(pattern: re.Pattern[str], found: Marked, letter: str) -> str:
    return pattern.sub(lambda _: found.mark(frozenset(letter), False), found.text)


def _mark_reordered(found: Marked, letter: str, parts: Sequence[Sequence[str]]) -> None:
    """Mark a sentence that has all parts of an option ("TSH high, T4 low"), each with its words in any order."""
    if len(parts) < 2 or any(len(part) > 3 for part in parts):
        return
    orders = [["\\s+".join(map(re.escape, order)) for order in permutations(part)] for part in parts]
    all_of = "".join(rf"(?=.*\b(?:{'|'.join(part)})\b)" for part in orders)
    found.text = re.sub(rf"(?mi)^{all_of}.*$", lambda _: found.mark(frozenset(letter), False), found.text)


def _patterns_of(text: str, all_texts: Sequence[str]) -> Iterator[re.Pattern[str]]:
    """The option's words, and a species by the initial of its genus."""
    if _NONE_OF_THEM.match(text):
        yield _NONE_OF_THEM
    words = re.sub(r"^(?:an?|the)\s+", "", text.strip().rstrip("."), flags=re.IGNORECASE)
    if len(words) < 2 and not words.isdigit():
        return
    tokens = _TOKEN.findall(words)
    gaps = _TOKEN.split(words)[1:-1]
    body = re.escape(tokens[0]) if tokens else ""
    for gap, token in zip(gaps, tokens[1:], strict=True):
        spaced = (
            r"[\s'-]*"
            if not gap.strip()
            else rf"\s*{re.escape(gap.strip())}?\s*"
            if gap.strip() not in ".:/"
            else rf"\s*{re.escape(gap.strip())}\s*"
        )
        body += (spaced if gap.strip() or not (tokens and token.isalnum()) else r"[\s-]+") + re.escape(token)
    if not body:
        return
    article = r"(?:\b(?:[Aa]n?|[Tt]he)\s+)?" if words != text.strip().rstrip(".") else ""
    before = r"(?<![A-Za-z0-9.,])" if body[0].isdigit() else r"(?<![A-Za-z0-9])"
    yield re.compile(rf"{article}{before}{body}(?:e?s)?(?![A-Za-z0-9]|[.,]\d)", re.IGNORECASE)
    if species := re.fullmatch(r"([A-Z])[a-z]{3,} ([a-z]{4,})(?: .*)?", words):  # noqa: SIM102
        if not any(other.startswith(species[2]) for other in all_texts):
            yield re.compile(rf"(?<![A-Za-z]){species[1]}\.?\s*{species[2][:4]}[a-z]*")


def _mark_letters(found: Marked, options: Mapping[str, str]) -> None:
    text = found.text

    def letter(match: re.Match[str]) -> str:
        if not _is_letter(match, found, text, options):
            return match.group(0)
        name = match.group("letter").upper()
        return found.mark(frozenset({name} & options.keys()), True)

    found.text = re.sub(
        r"(?P<open>[(\[<]\s*)?(?<![A-Za-z0-9])(?P<letter>[A-Za-z])(?![A-Za-z0-9])(?P<close>\s*[)\]>])?", letter, text
    )


def _is_letter(match: re.Match[str], found: Marked, text: str, options: Mapping[str, str]) -> bool:
    """Whether a letter that stands alone names an option, and is no article, pronoun, name or unit."""
    name, before, after = match.group("letter"), text[: match.start()], text[match.end() :]
    is_part_of_word = re.match(r"-\w|'\w|\.\s?[a-z]{3,}|\.[A-Za-z0-9]|/[a-z]", after) or re.search(
        r"[A-Za-z0-9]['-]$|(?<![A-Za-z0-9])[A-Za-z]\.$|[\d°]\s?$", before[-4:]
    )
    if is_part_of_word and not (re.match(r"'s\b", after) or match.group("open") or match.group("close")):
        return False
    if _NOUNS_BEFORE.search(before) or (name.isupper() and _WORD_AFTER.match(after)):
        return False
    enclosed = bool(match.group("open") and match.group("close"))
    line_start = not before.rpartition("\n")[2].strip()
    ends = re.match(r"\s*(?:$|[\n.,;:!?)\]|。，；：、]|-\s)", after) is not None
    announced = re.search(r"[:=：]\s*$", before) is not None or _LETTER_NOUN.search(before) is not None
    if name.islower():
        at_start = line_start and (match.group("close") or not after.strip() or re.match(r"[.:)](?:\s|$)", after))
        return bool(
            enclosed or at_start or (announced and ends and name not in "sm") or (announced and match.group("close"))
        )
    if name.upper() not in options:
        return bool((enclosed or (announced and ends) or (line_start and ends)) and name != "I")
    if enclosed or match.group("close") or after[:1] in "。はがをではのと가는은이입" and after:
        return True
    if name == "I" and re.search(r"(?:option|choice|letter|answer:?|answer\s+is)\s*$", before, re.IGNORECASE):
        return True
    if name == "I":
        return bool(re.match(r"\s*(?:$|[\n.:;)\]|]|and\b|or\b)", after) and (line_start or announced)) or bool(
            re.search(f"(?:{AND}|{OR}|,)\\s*$", before) and re.match(r"\s*(?:$|[.,;:\n]|is\b|first\b)", after)
        )
    if name == "A" and (named := re.match(f"\\s*({MENTION})", after)):
        return found.of(named.group(1)).options == {"A"}
    if name == "A" and not (ends or re.match(f"\\s*(?:{AND}|{OR})(?![a-z])", after)):
        return (
            re.match(r"\s*[\u0370-\udfff]", after) is not None
            or bool(_VERB_AFTER.match(after))
            or ((announced or line_start) and not re.match(r"\s+[a-z0-9]", after))
        )
    return True


def _join_letter_and_words(found: Marked) -> None:
    """Make "B. Pneumonia" and "Pneumonia (B)" one mention; a letter with another option's words names both."""

    def joined(match: re.Match[str]) -> str:
        one, other = found.of(match.group(1)), found.of(match.group(2))
        if one.is_letter == other.is_letter or (one.is_letter is False and one.options != other.options):
            return match.group(0)
        if not one.options or not other.options:
            return match.group(0)
        return found.mark(one.options | other.options, True)

    between = r"\s*(?:[).:\]/=,-]+\s*|\s\(?\s*(?:a|an|the)?\s*|\(\s*(?:option\s+)?)?"
    found.text = re.sub(f"({MENTION}){between}({MENTION})(?:\\s*\\))?", joined, found.text)


def _join_lists(found: Marked, options: Mapping[str, str]) -> None:
    """Make "A, B and D" one mention of several options, "A to D" of all between."""
    names = list(options)

    def span(match: re.Match[str]) -> str:
        first, last = (min(found.of(m).options, default="") for m in match.group(1, 2))
        if first not in names or last not in names or first > last or not found.of(match.group(1)).is_letter:
            return match.group(0)
        return found.mark(frozenset(names[names.index(first) : names.index(last) + 1]), True)

    found.text = re.sub(f"({MENTION})\\s*(?:to|through|-|bis|a|a|至|到)\\s*({MENTION})", span, found.text)

    def several(match: re.Match[str]) -> str:
        mentions = [found.of(character) for character in re.findall(MENTION, match.group(0))]
        named: frozenset[str] = frozenset().union(*(m.options for m in mentions))
        if not re.search(f"\\s(?:{OR})\\s|/", match.group(0)):
            named = together.get(named, named)
        return found.mark(named, any(m.is_letter for m in mentions))

    together = {}
    for letter, text in options.items():
        if both := re.fullmatch(r"\W*(?:both\s+)?([A-Z])\s*(?:and|&|\+)\s*([A-Z])(?:\s+only)?\W*", text, re.IGNORECASE):
            together[frozenset(both.groups())] = frozenset(letter)

    last = f"\\s*(?:,\\s*)?(?:(?:{AND})|(?:{OR})|&|/|\\+)(?:\\s+(?:the|an?|option|la|le|el|de))?\\s*"
    either = f"{MENTION}(?:\\s*[,、،]\\s*{MENTION})*(?:{last}{MENTION})+"
    commas = f"{MENTION}(?:\\s*[,、،]\\s*{MENTION}){{2,}}|{MENTION}\\s*[,、،]\\s*{MENTION}(?=\\s*(?:$|[.;\\n]))"
    found.text = re.sub(f"{either}|{commas}", several, found.text)
