"""What an item is asked besides itself: in other words and orders (stability), with other pictures (reliance)."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from evals.items import Item
from evals.running.runner import shuffle_pictures
from evals.tasks.option_orders import moved_orders, places_of, reordered, words_of

Kind = Literal["asked", "order", "wording", "negated", "no-picture", "blank-picture", "other-picture"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STABILITY: tuple[Kind, ...] = ("order", "wording", "negated")
RELIANCE: tuple[Kind, ...] = ("no-picture", "blank-picture", "other-picture")

REWORDED = ("{prompt}\nTake your time.", "Here is a question.\n{prompt}")
"""Frames that no recipe trains on and that ask the same, the cheaper first: it begins as the question does."""
NUM_ORDERS = 2
_PRESENCE = re.compile(r"^(Is|Are) there (?P<finding>[^?]+?)(?P<where> in (?:this|the) \w+)?\?")
_SEPARATOR = "#"


def probes(items: Sequence[Item], blank_dir: Path, seed: int = 0, num_orders: int = NUM_ORDERS) -> list[Item]:
    """Return every item with its probes, each kind's cheapest first; ids are `ITEM#KIND` and `ITEM#KIND2`.

    An item with lettered options is asked in other orders of them, one without in other words (not one whose
    continuations are compared: there is no place for a word); "Is there X?" is also asked as "Is X absent?". One with
    a picture is asked without it, with a grey one and with another group's.

    Args:
        items: Of one task.
        blank_dir: Where the grey pictures are written, one a group.
        seed: Of the orders and of the other pictures.
        num_orders: Orders drawn an item, all if the options have no more.

    Raises:
        ValueError: One group has more than half of the items, so that no other picture can be given; or there is
            nothing to change in any item.
    """
    with_pictures = [item for item in items if item.files]
    others = {item.item_id: item for item in shuffle_pictures(with_pictures, seed)} if with_pictures else {}
    group_of = {item.files: item.group for item in with_pictures}
    made = []
    for item in items:
        made += [_probe(item, "asked"), *_stability(item, seed, num_orders)]
        if item.item_id in others:
            other = others[item.item_id]
            made.append(replace(_probe(item, "no-picture"), files=()))
            made.append(replace(_probe(item, "blank-picture"), files=(_blank(blank_dir, item.group),)))
            made.append(replace(_probe(item, "other-picture"), files=other.files, group=group_of[other.files]))
    if len(made) == len(items):
        raise ValueError("the items have neither lettered options nor pictures to change, nor a question to reword")
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
    return words_of(probe).get(answer, answer).strip().lower()


def _probe(item: Item, kind: Kind, number: int = 1) -> Item:
    name = f"{item.item_id}{_SEPARATOR}{kind}{number if number > 1 else ''}"
    return replace(item, item_id=name, meta={**item.meta, "probe": kind, "probe_of": item.item_id})


def _stability(item: Item, seed: int, num_orders: int) -> list[Item]:
    if places_of(item):
        moved = [reordered(item, order) for order in moved_orders(item, num_orders, seed)]
        return [_probe(probe, "order", number) for number, probe in enumerate(moved, start=1)]
    if item.choices:
        return []
    made = [
        replace(_probe(item, "wording", number), prompt=frame.format(prompt=item.prompt))
        for number, frame in enumerate(REWORDED, start=1)
    ]
    if found := _PRESENCE.match(item.prompt):
        asked = f"{found[1]} {found['finding']} absent{found['where'] or ''}?"
        made.append(replace(_probe(item, "negated"), prompt=asked + item.prompt[found.end() :]))
    return made


def _blank(folder: Path, group: str) -> str:
    """Write a grey picture for a group, once; each has its own file, since a picture belongs to one group."""
    from PIL import Image

    path = folder / f"{hashlib.sha256(group.encode()).hexdigest()[:16]}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (128, 128, 128)).save(path)
    return str(path)
