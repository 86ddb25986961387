"""Asking each item in several orders of its options, and one vote over the answers (`run --vote-orders`).

Source: voting over orders gives MedGemma four points on shuffled options (arXiv:2603.25960).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from evals.items import Item, item_sha256
from evals.outputs import Output
from evals.tasks.option_orders import Order, drawn_orders, letter_chosen, places_of, reordered
from evals.tasks.task import Task

TIE = 1e-6
"""Probabilities of choices that differ by less are equal; of equals the one that the first order favours wins."""

Ask = Callable[[Sequence[Item]], Iterable[Output]]


def demand_orders(task: Task, items: Sequence[Item]) -> None:
    """Refuse a vote over orders where there are none.

    Raises:
        ValueError: The task's answers are no letters or likelihoods, or no item has lettered options in its prompt.
    """
    votes = task.answers == "choices" or (task.answers == "text" and task.parse is not None)
    if not votes or not any(places_of(item) for item in items):
        raise ValueError(f"task {task.name}: its items have no lettered options; run it without --vote-orders")


def ask_in_orders(ask: Ask, number: int, seed: int, items: Sequence[Item]) -> Iterator[Output]:
    """Ask every item in so many orders; an output holds the answers to all. An item without options is asked once.

    Args:
        ask: Answers items, in any order.
        number: Orders an item.
        seed: Of the orders.
        items: What is asked.
    """
    orders = {item.item_id: drawn_orders(item, number, seed) for item in items}
    asked: dict[str, tuple[Item, int]] = {}
    variants = []
    for item in items:
        moved = [reordered(item, order) for order in orders[item.item_id]] or [item]
        for place, variant in enumerate(moved):
            variants.append(replace(variant, item_id=f"{item.item_id}#{place}"))
            asked[variants[-1].item_id] = item, place
    open_items: dict[str, dict[int, Output]] = {item.item_id: {} for item in items}
    for output in ask(variants):
        item, place = asked[output.item_id]
        got = open_items[item.item_id]
        got[place] = output
        if len(got) == max(1, len(orders[item.item_id])):
            yield _together(item, [got[place] for place in sorted(got)], orders[item.item_id])
            del open_items[item.item_id]


def vote(item: Item, output: Output) -> Output:
    """Return an output whose text is the answer that the most orders give, as a letter of the item's own order.

    An order without an answer has no vote; ties go to the earliest, which is drawn. No text if none has an answer.
    """
    orders = [_order_of(letters) for letters in output.orders]
    said = [letter_chosen(item, order, text) for order, text in zip(orders, output.samples, strict=True)]
    counts = Counter(answer for answer in said if answer)
    winner = max(counts, key=lambda answer: (counts[answer], -said.index(answer)), default="")
    return replace(output, text=winner)


def _together(item: Item, outputs: Sequence[Output], orders: Sequence[Order]) -> Output:
    """One output of all orders' answers; if one of them failed the item has, and is asked again."""
    made = replace(
        outputs[0],
        item_id=item.item_id,
        item_sha256=item_sha256(item),
        error=next((output.error for output in outputs if output.error), ""),
        orders=tuple("".join(chr(ord("A") + place) for place in order) for order in orders),
        seconds=round(sum(output.seconds for output in outputs), 4),
        tokens=sum(output.tokens for output in outputs),
        n_cut=sum(output.n_cut for output in outputs),
        attempts=sum(output.attempts for output in outputs),
    )
    if not orders or made.error:
        return made
    if item.choices:
        return replace(made, log_likelihoods=_mean_of_choices([o.log_likelihoods for o in outputs], orders))
    return replace(made, samples=tuple(output.text for output in outputs))


def _mean_of_choices(scores: Sequence[Sequence[float]], orders: Sequence[Order]) -> tuple[float, ...]:
    """Each option's mean probability over the orders, as a logarithm, in the item's own order."""
    means = [0.0] * len(orders[0])
    for of_order, order in zip(scores, orders, strict=True):
        weights = [math.exp(score - max(of_order)) for score in of_order]
        for weight, source in zip(weights, order, strict=True):
            means[source] += weight / sum(weights) / len(orders)
    favoured = orders[0][max(range(len(means)), key=lambda place: scores[0][place])]
    means[favoured] += TIE if means[favoured] + TIE >= max(means) else 0.0
    return tuple(math.log(max(mean, 1e-300)) for mean in means)


def _order_of(letters: str) -> Order:
    return tuple(ord(letter) - ord("A") for letter in letters)
