"""Texts that are copies: in other case, punctuation or order of options, with words changed, cut, or wrapped in more.

A row becomes the set of its pairs of neighbouring words, each option by itself, so that their order is no difference.
A pair counts by its rarity over both tables: "of the following" is no evidence. Two rows are alike by the share of the
smaller one's weight that the other has too.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

FEWEST_WORDS = 5
"""Shorter texts say too little to be told from another of the same form."""
LEAST_SHARE = 0.5
"""docs/tables.md says what it finds and what it takes for a copy."""
MOST_ROWS = 500
"""A pair of words that more evaluation rows have suggests none of them."""

Pair = tuple[str, str]


class SharedText(NamedTuple):
    """A row of the table and one of an evaluation set, by their places."""

    mine: int
    theirs: int
    share: float


def pairs_of(parts: Sequence[str]) -> frozenset[Pair]:
    """Return the pairs of neighbouring words of a row's parts (question, each option); none for too short a row."""
    words = [_words(part) for part in parts]
    if sum(map(len, words)) < FEWEST_WORDS:
        return frozenset()
    return frozenset(pair for part in words for pair in zip(part, part[1:], strict=False))


def find_shared(
    mine: Sequence[frozenset[Pair]], theirs: Sequence[frozenset[Pair]], least: float = LEAST_SHARE
) -> list[SharedText]:
    """Return the rows of `mine` that share a text with one of `theirs`, each with the one it shares most with."""
    rows_with = Counter(pair for row in (*mine, *theirs) for pair in row)
    total = len(mine) + len(theirs)
    weight = {pair: math.log1p(total / count) for pair, count in rows_with.items()}
    sums = [sum(weight[pair] for pair in row) for row in theirs]
    index: dict[Pair, list[int]] = defaultdict(list)
    for place, row in enumerate(theirs):
        for pair in row:
            index[pair].append(place)
    found = []
    for place, row in enumerate(mine):
        shared: dict[int, float] = defaultdict(float)
        for pair in row:
            if len(index.get(pair, ())) <= MOST_ROWS:
                for other in index.get(pair, ()):
                    shared[other] += weight[pair]
        own = sum(weight[pair] for pair in row)
        best = max(shared, key=lambda other: shared[other] / min(own, sums[other]), default=None)
        if best is not None and (share := shared[best] / min(own, sums[best])) >= least:
            found.append(SharedText(place, best, min(share, 1.0)))
    return found


def _words(text: str) -> list[str]:
    """Lower case, without marks on letters or punctuation."""
    bare = unicodedata.normalize("NFKD", text.casefold())
    return re.findall(r"\w+", "".join(letter for letter in bare if not unicodedata.combining(letter)))
