"""Sentences from patterns: many wordings of one thing, some of which no recipe may train on."""

import itertools
import re
import string
from typing import Literal, NamedTuple

Wordings = Literal["train", "held-out"]


class Phrasings(NamedTuple):
    """The phrasings of one question or caption."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, wordings: Wordings) -> tuple[str, ...]:
        """Return the training or the held-out phrasings."""
        return self.train if wordings == "train" else self.held_out


def phrasings(*patterns: str, held_out: tuple[str, ...]) -> Phrasings:
    """Write patterns out for training; sentences that are held out, however written, are left out of them.

    Args:
        patterns: As for `written_out`.
        held_out: Whole sentences.
    """
    hidden = {canonical(sentence) for sentence in held_out}
    made: dict[str, str] = {}
    for pattern in patterns:
        for sentence in written_out(pattern):
            made.setdefault(canonical(sentence), sentence)
    return Phrasings(tuple(sentence for key, sentence in made.items() if key not in hidden), held_out)


def written_out(pattern: str) -> list[str]:
    """Write out the alternatives of a pattern: `a [CT|CT scan] of the head` gives two sentences, in this order.

    An alternative may be empty; `{fields}` of str.format are left as they are.

    Raises:
        ValueError: A bracket has no partner.
    """
    parts = re.split(r"\[([^\[\]]*)\]", pattern)
    if any("[" in part or "]" in part for part in parts):
        raise ValueError(f"got the pattern {pattern!r}; expected every [ with its ], and none inside another")
    choices = [part.split("|") if number % 2 else [part] for number, part in enumerate(parts)]
    return [" ".join("".join(chosen).split()).replace(" ,", ",") for chosen in itertools.product(*choices)]


def canonical(sentence: str) -> str:
    """Lower case without punctuation: two sentences that are equal so are the same to SigLIP's tokenizer."""
    return " ".join(sentence.lower().translate(str.maketrans("", "", string.punctuation)).split())
