"""What an item is asked besides itself: in other words and orders (stability), with other pictures (reliance)."""

import hashlib
import itertools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from evals.items import Item
from evals.running.runner import shuffle_pictures
from evals.tasks import multiple_choice

Kind = Literal["asked", "order", "wording", "negated", "other-picture", "blank-picture", "no-picture"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STABILITY: tuple[Kind, ...] = ("order", "wording", "negated")
RELIANCE: tuple[Kind, ...] = ("other-picture", "blank-picture", "no-picture")

REWORDED = ("Here is a question.\n{prompt}", "{prompt}\nTake your time.")
"""Frames that no recipe trains on and that ask the same."""
NUM_ORDERS = 2
_PRESENCE = re.compile(r"^(Is|Are) there (?P<finding>[^?]+?)(?P<where> in (?:this|the) \w+)?\?")
_SEPARATOR = "#"


def probes(items: Sequence[Item], blank_dir: Path, seed: int = 0, num_orders: int = NUM_ORDERS) -> list[Item]:
    """Return every item with its probes; ids are `ITEM#KIND` and `ITEM#KIND2`.

    An item with lettered options is asked in other orders of them, one without in other words; "Is there X?" is also
    asked as "Is X absent?". One with a picture is asked with another group's, with a grey one and with none.

    Args:
        items: Of one task.
        blank_dir: Where the grey pictures are written, one a group.
        seed: Of the orders and of the other pictures.
        num_orders: Orders drawn an item, all if the options have no more.

    Raises:
        ValueError: One group has more than half of the items, so that no other picture can be given.
    """
    with_pictures = [item for item in items if item.files]
    others = {item.item_id: item for item in shuffle_pictures(with_pictures, seed)} if with_pictures else {}
    group_of = {item.files: item.group for item in with_pictures}
    made = []
    for item in items:
        made += [_probe(item, "asked"), *_stability(item, seed, num_orders)]
        if item.item_id in others:
            other = others[item.item_id]
            made.append(replace(_probe(item, "other-picture"), files=other.files, group=group_of[other.files]))
            made.append(replace(_probe(item, "blank-picture"), files=(_blank(blank_dir, item.group),)))
            made.append(replace(_probe(item, "no-picture"), files=()))
    return made


def kind_of(probe: Item) -> Kind:
    """Return what a probe changes."""
    return next(kind for kind in KINDS if kind == probe.meta["probe"])


def item_of(probe: Item) -> str:
    """Return the id of the item that a probe is of."""
    return probe.meta["probe_of"]


def meaning(probe: Item, answer: str) -> str:
    """Return what an answer means, comparable over the probes of an item; empty for none.

    A letter means its option's words; yes to a negated question means no.
    """
    if kind_of(probe) == "negated":
        return {"yes": "no", "no": "yes"}.get(answer.lower(), "")
    return multiple_choice.options_of(probe).get(answer, answer).strip().lower()


def _probe(item: Item, kind: Kind, number: int = 1) -> Item:
    name = f"{item.item_id}{_SEPARATOR}{kind}{number if number > 1 else ''}"
    return replace(item, item_id=name, meta={**item.meta, "probe": kind, "probe_of": item.item_id})


def _stability(item: Item, seed: int, num_orders: int) -> list[Item]:
    options = multiple_choice.options_of(item)
    written = _lettered(options)
    if options and written in item.prompt:
        return [
            _reordered(item, options, order, number)
            for number, order in enumerate(_orders(item.item_id, list(options.values()), seed, num_orders), start=1)
        ]
    made = [
        replace(_probe(item, "wording", number), prompt=frame.format(prompt=item.prompt))
        for number, frame in enumerate(REWORDED, start=1)
    ]
    if found := _PRESENCE.match(item.prompt):
        asked = f"{found[1]} {found['finding']} absent{found['where'] or ''}?"
        made.append(replace(_probe(item, "negated"), prompt=asked + item.prompt[found.end() :]))
    return made


def _orders(item_id: str, texts: list[str], seed: int, num_orders: int) -> list[list[str]]:
    """Other orders of the options, in each of which every option has another letter where that can be."""
    draw = random.Random(f"orders:{seed}:{item_id}")
    moved = [
        [texts[place] for place in order]
        for order in itertools.islice(itertools.permutations(range(len(texts))), 5040)
        if all(place != at for at, place in enumerate(order))
    ]
    return draw.sample(moved, min(num_orders, len(moved)))


def _reordered(item: Item, options: Mapping[str, str], texts: Sequence[str], number: int) -> Item:
    new = dict(zip(options, texts, strict=True))
    reference = next((letter for letter, text in new.items() if text == options.get(item.reference)), item.reference)
    probe = _probe(item, "order", number)
    meta = {**probe.meta, **{f"option_{letter}": text for letter, text in new.items()}}
    head, _, tail = item.prompt.rpartition(_lettered(options))  # the last: worked examples keep theirs
    return replace(probe, prompt=f"{head}{_lettered(new)}{tail}", reference=reference, meta=meta)


def _lettered(options: Mapping[str, str]) -> str:
    return multiple_choice.prompt("", options, instruction="").strip()


def _blank(folder: Path, group: str) -> str:
    """Write a grey picture for a group, once; each has its own file, since a picture belongs to one group."""
    from PIL import Image

    path = folder / f"{hashlib.sha256(group.encode()).hexdigest()[:16]}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (128, 128, 128)).save(path)
    return str(path)
