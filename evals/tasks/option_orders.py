"""An item's lettered options in other orders, and a reply to such an item read as one to the item itself."""

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import replace

from evals.items import Item
from evals.tasks.final_answer import parse_letter
from evals.tasks.multiple_choice import options_of

_FORMS = ("({letter})", "{letter}.", "{letter}:", "{letter})")
_LINES = re.compile(r"(?:^[A-Z][:.)] [^\n]+$\n?){2,}", re.MULTILINE)
_LINE = re.compile(r"^([A-Z])[:.)] ([^\n]+?) *$", re.MULTILINE)

MOST_LISTED = 6
"""Of options whose orders are listed, 720; of more they are drawn."""

Order = tuple[int, ...]
"""At each letter's place, the place where its option stood before."""


def places_of(item: Item) -> list[tuple[int, int]]:
    """Return where the options' texts stand in a prompt, (start, end) in the order of the letters; empty for none.

    Read are "(A) text", "A. text", "A: text" and "A) text", those that stand last: worked examples keep theirs.
    """
    options = options_of(item)
    if options:
        return _places_of_known(item.prompt, options)
    blocks = list(_LINES.finditer(item.prompt))
    lines = [line for block in blocks[-1:] for line in _LINE.finditer(item.prompt, block.start(), block.end())]
    in_order = [line[1] for line in lines] == [chr(ord("A") + place) for place in range(len(lines))]
    return [line.span(2) for line in lines] if in_order else []


def texts_of(item: Item) -> list[str]:
    """Return the options' texts as the prompt has them."""
    return [item.prompt[start:end] for start, end in places_of(item)]


def words_of(item: Item) -> dict[str, str]:
    """Return letter to text of the options, as the data has them where it is known; empty for none."""
    written = {_letter(place): text for place, text in enumerate(texts_of(item))}
    return options_of(item) or written if written else {}


def reordered(item: Item, order: Order) -> Item:
    """Return the item with its options in another order; reference and `option_` entries follow.

    Raises:
        ValueError: The prompt has no lettered options, or another number of them.
    """
    places = places_of(item)
    if sorted(order) != list(range(len(places))) or not places:
        raise ValueError(f"{item.item_id}: has {len(places)} lettered options; got an order of {len(order)}")
    texts, prompt = texts_of(item), item.prompt
    for (start, end), moved_from in reversed(list(zip(places, order, strict=True))):
        prompt = prompt[:start] + texts[moved_from] + prompt[end:]
    options, letters = options_of(item), [_letter(place) for place in range(len(order))]
    words = {letter: options.get(_letter(source), texts[source]) for letter, source in zip(letters, order, strict=True)}
    reference = item.reference
    if reference in letters:
        reference = letters[order.index(letters.index(reference))]
    meta = {**item.meta, **{f"option_{letter}": text for letter, text in words.items()}}
    return replace(item, prompt=prompt, reference=reference, meta=meta)


def letter_before(order: Order, letter: str) -> str:
    """Return the letter that an option had before it was moved; empty for none."""
    place = ord(letter) - ord("A") if len(letter) == 1 else -1
    return _letter(order[place]) if 0 <= place < len(order) else ""


def letter_chosen(item: Item, order: Order, text: str) -> str:
    """Return the letter of the item that a reply to `reordered(item, order)` chooses; empty if none or several."""
    moved = reordered(item, order)
    return letter_before(order, parse_letter(text, words_of(moved), moved.prompt))


def drawn_orders(item: Item, number: int, seed: int) -> list[Order]:
    """Draw orders, the item's own being one of all: over as many as there are options each stands once at each letter.

    None is better than the others, so that a vote's ties, which go to the first, favour no letter.
    """
    size, draw = len(places_of(item)), random.Random(f"vote:{seed}:{item.item_id}")
    found: list[Order] = []
    while size and len(found) < number:
        first = draw.sample(range(size), size)
        shifts = draw.sample(range(size), size)
        found += [tuple(first[shift:] + first[:shift]) for shift in shifts]
    return found[:number]


def moved_orders(item: Item, number: int, seed: int) -> list[Order]:
    """Draw unlike orders in each of which every option has another letter; all of them if there are no more."""
    draw, size = random.Random(f"orders:{seed}:{item.item_id}"), len(places_of(item))
    if size > MOST_LISTED:
        found: dict[Order, None] = {}
        while len(found) < number:
            order = tuple(draw.sample(range(size), size))
            if _moves_all(order):
                found[order] = None
        return list(found)
    moved = [order for order in itertools.permutations(range(size)) if order and _moves_all(order)]
    return draw.sample(moved, min(number, len(moved)))


def _moves_all(order: Order) -> bool:
    return all(source != place for place, source in enumerate(order))


def _places_of_known(prompt: str, options: dict[str, str]) -> list[tuple[int, int]]:
    for form in _FORMS:
        pattern = r"\s+".join(
            rf"{re.escape(form.format(letter=letter))}\s+({_written(text)})" for letter, text in options.items()
        )
        found = list(re.finditer(rf"(?<!\w){pattern}", prompt))
        if found:
            return [found[-1].span(place) for place in range(1, len(options) + 1)]
    return []


def _written(text: str) -> str:
    """An option as some prompt writes it: underscores may stand as spaces."""
    words: Sequence[str] = text.replace("_", " ").split()
    return r"[\s_]+".join(map(re.escape, words))


def _letter(place: int) -> str:
    return chr(ord("A") + place)
