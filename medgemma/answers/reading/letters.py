"""The option that a plain reply chooses."""

import re
from collections.abc import Mapping

from medgemma.answers.reading.claims import Claim, Reading, Strength, claims_of, read
from medgemma.answers.reading.mentions import marked

_EXCEPTION = re.compile(r"\b(?:EXCEPT|NOT|LEAST|FALSE|INCORRECT)\b|\bexcept\b")
_NONE_OF_THEM = re.compile(r"none of (?:the above|these|them|the options)|no(?:ne)? of the", re.IGNORECASE)


def chosen_option(text: str, options: Mapping[str, str], question: str = "") -> Reading:
    """Return the option that a reply chooses.

    Args:
        text: From `plain.plain`.
        options: Letter to words; empty words are never matched.
        question: What was asked, if known.
    """
    told_apart = {letter: "" if re.fullmatch(r"\W*[A-Za-z]\W*", words) else words for letter, words in options.items()}
    found = marked(text, told_apart)
    claims, corrections = claims_of(found)
    claims += _none_of_them(claims, options)
    if _EXCEPTION.search(question):
        claims += _exception(claims, options)
    return read(_without_echo(claims, options), corrections)


def _without_echo(claims: list[Claim], options: Mapping[str, str]) -> list[Claim]:
    """Leave out a list of all options that stands in a reply with no word about them."""
    bare = [c for c in claims if not c.denied and c.strength is Strength.CONCLUDED]
    named = {next(iter(c.options)) for c in bare if len(c.options) == 1}
    if len(options) > 2 and len(named) >= len(options) - 1:
        return [c for c in claims if c not in bare]
    return claims


def _none_of_them(claims: list[Claim], options: Mapping[str, str]) -> list[Claim]:
    """An option that says none of the others, where all others are denied at once."""
    own = [letter for letter, words in options.items() if _NONE_OF_THEM.search(words)]
    if len(own) != 1:
        return []
    others = options.keys() - set(own)
    return [Claim(frozenset(own), Strength.STATED, c.clause) for c in claims if c.denied and c.options == others]


def _exception(claims: list[Claim], options: Mapping[str, str]) -> list[Claim]:
    """The option that is left where the exception was asked for and a clause says of all others that it holds."""
    left = [
        (options.keys() - c.options, c.clause) for c in claims if not c.denied and len(c.options) == len(options) - 1
    ]
    return [Claim(frozenset(rest), Strength.STATED, clause) for rest, clause in left]
