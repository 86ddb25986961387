"""What `medgemma-data overlap` finds of planted copies under eight edits each, and what it takes for copies.

    python -m benchmarks.overlap DATA

It has no peer. Half of the rows and pictures of the kit stand for evaluation sets; copies of them are edited as in
tests/data_cards/overlap; the other half, of other groups, are no copies. docs/tables.md has the figures.
"""

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from data_cards.overlap.pictures import find_copies, maps_of, read_grey
from data_cards.overlap.texts import find_shared, pairs_of
from data_cards.table import read_table
from data_cards.table.cards import read_card
from medsiglip.metrics.statistics import wilson_interval
from tests.data_cards.overlap.test_overlap import PICTURE_EDITS, TEXT_EDITS

Drawn = TypeVar("Drawn")

TEXTS = ("medqa-usmle", "medmcqa", "pubmedqa", "mmlu-medical", "k-qa", "medquad")
PICTURES = ("cxr-nih14", "derm-ham10000", "histo-lc25000-lung", "fundus-dr")
MOST_ROWS, MOST_PICTURES = 400, 80


def main(data: Path) -> None:
    """Print a line an edit and a line a set."""
    rows = {name: _drawn(read_card(name, data).rows, MOST_ROWS) for name in TEXTS}
    parts = [[row.question, *(row.choices or [row.answer])] for name in TEXTS for row in rows[name]]
    sets = [name for name in TEXTS for _ in rows[name]]
    theirs = [pairs_of(part) for part in parts[::2]]
    for name, edit in TEXT_EDITS.items():
        mine = [pairs_of(edit(part)) for part in parts[::2]]
        _say(f"text, {name}", sum(one.theirs == one.mine for one in find_shared(mine, theirs)), len(mine))
    others, names = [pairs_of(part) for part in parts[1::2]], sets[1::2]
    wrong = [names[one.mine] for one in find_shared(others, theirs)]
    for name in TEXTS:
        _say(f"text, no copy, {name}", wrong.count(name), names.count(name))
    pictures(data)


def pictures(data: Path) -> None:
    """Print the lines of pictures."""
    greys, sets = [], []
    for name in PICTURES:
        first = {row.group: row.files[0] for row in read_table(data / name / "labels.csv").rows}
        chosen = _drawn(sorted(first.values()), MOST_PICTURES)
        greys += [read_grey(file) for file in chosen]
        sets += [name] * len(chosen)
    maps = [maps_of(grey) for grey in greys]
    theirs = maps[::2]
    for edit_name, edit in PICTURE_EDITS.items():
        mine = [maps_of(edit(grey)) for grey in greys[::4]]
        found = sum(one.theirs == 2 * one.mine for one in find_copies(mine, theirs))
        _say(f"picture, {edit_name}", found, len(mine))
    names = sets[1::2]
    wrong = [names[one.mine] for one in find_copies(maps[1::2], theirs)]
    for name in dict.fromkeys(sets):
        _say(f"picture, no copy, {name}", wrong.count(name), names.count(name))
    small(data)


def small(data: Path) -> None:
    """Pictures of 64 px: MedNIST's nine blocks of slices, one half of the blocks against the other."""
    rows = _drawn(read_table(data / "modality-mednist" / "labels.csv").rows, 4 * MOST_PICTURES)
    blocks = sorted({row.group for row in rows})
    sides = [[read_grey(row.files[0]) for row in rows if row.group in blocks[place::2]] for place in (0, 1)]
    theirs, others = ([maps_of(grey) for grey in side] for side in sides)
    for edit_name, edit in PICTURE_EDITS.items():
        mine = [maps_of(edit(grey)) for grey in sides[0][::4]]
        found = sum(one.theirs == 4 * one.mine for one in find_copies(mine, theirs))
        _say(f"picture of 64 px, {edit_name}", found, len(mine))
    _say("picture of 64 px, no copy", len(find_copies(others, theirs)), len(others))


def _drawn(values: Sequence[Drawn], most: int) -> list[Drawn]:
    drawn = list(values)
    random.Random(0).shuffle(drawn)
    return drawn[:most]


def _say(what: str, hits: int, of: int) -> None:
    low, high = wilson_interval(hits, of)
    print(f"{what}: {hits} of {of}, {hits / of:.3f} [{low:.3f}, {high:.3f}]", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
