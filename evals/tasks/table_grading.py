"""Grading answers about a user's table by kind. An item that failed, or a row that cannot be used, is wrong."""

import json
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evals.items import Item
from evals.measures import Answered, Measure, of_confusion, of_statistic
from evals.metrics.answers import closed_match, exact_match_norm, token_f1_squad
from evals.metrics.boxes import Box, matches
from evals.metrics.fields import FieldCounts, micro_f1
from evals.metrics.text_overlap import rouge_l_f1
from evals.outputs import Output
from evals.tasks import chest_films, multiple_choice, vqa_rad
from evals.tasks.final_answer import parse_number, parse_yes_no, spoken
from medgemma.answers import json_answer, parse_boxes
from medsiglip.metrics.bootstrap import ratio
from medsiglip.metrics.classification import balanced_accuracy_of_counts, macro_f1_of_counts, weighted_f1_of_counts

TableKind = Literal["classes", "findings", "numbers", "boxes", "choices", "answers", "texts"]

METRICS: dict[TableKind, tuple[str, ...]] = {
    "classes": ("accuracy", "unparsed"),
    "findings": ("accuracy", "unparsed"),
    "numbers": ("within_10_percent", "exact", "unparsed"),
    "boxes": ("detection_f1", "unparsed"),
    "choices": ("accuracy", "unparsed"),
    "answers": ("accuracy", "token_f1_squad"),
    "texts": ("rouge_l_f1", "token_f1_squad", "exact_match_norm"),
}
"""Kind to the metrics of one item, 0 to 1 each, the main one first."""

TOLERANCE = 0.1
"""Of `within_10_percent`, as a share of the right number."""
IOU_AT = 0.5
"""Boxes that overlap so much are the same."""


def parse(item: Item, text: str) -> str:
    """Return the answer in a reply: a class or choice by its name, yes or no, a number, a short text."""
    kind = item.meta["table_kind"]
    if kind in ("classes", "choices"):
        options = multiple_choice.options_of(item)
        return options.get(multiple_choice.parse(item, text), "")
    if kind == "findings":
        return parse_yes_no(text)
    if kind == "numbers":
        number = parse_number(text)
        return "" if number is None else number_text(number)
    return vqa_rad.parse_answer(spoken(text)) if kind == "answers" else spoken(text)


def number_text(number: float) -> str:
    """Return a number as a reference or an answer has it, whole numbers without a point."""
    return str(int(number)) if number.is_integer() else repr(number)


def grade(kind: TableKind, item: Item, output: Output) -> dict[str, float]:
    """Grade one reply by the kind of its table; what cannot be parsed is wrong."""
    if item.fault:
        return {name: float(name == "unparsed") for name in METRICS[kind]}
    if kind == "boxes":
        is_told = _boxes(output) is not None
        return {"detection_f1": _found(item, output).f1 if is_told else 0.0, "unparsed": float(not is_told)}
    said = parse(item, output.text)
    if kind == "numbers":
        return _number_grades(said, float(item.reference))
    if kind == "answers":
        return {"accuracy": closed_match(said, item.reference), "token_f1_squad": token_f1_squad(said, item.reference)}
    if kind == "texts":
        return {
            "rouge_l_f1": rouge_l_f1(said, item.reference),
            "token_f1_squad": token_f1_squad(said, item.reference),
            "exact_match_norm": exact_match_norm(said, item.reference),
        }
    return {"accuracy": float(said == item.reference), "unparsed": float(not said)}


def pooled(kind: TableKind, answered: Sequence[Answered]) -> dict[str, Measure]:
    """Return the metrics that are no means of items, over the rows that could be used."""
    usable = [pair for pair in answered if not pair.item.fault]
    if not usable:
        return {}
    if kind == "classes":
        return _by_label(usable)
    if kind == "findings":
        conditions = tuple(dict.fromkeys(pair.item.meta["condition"] for pair in usable))
        return chest_films.over_conditions(conditions)(usable) | {"micro_f1": _micro_f1(usable)}
    if kind == "numbers":
        return _errors(usable)
    if kind == "boxes":
        return {"detection_f1_micro": of_statistic(usable, micro_f1([_found(*pair) for pair in usable]))}
    return {}


def _by_label(answered: Sequence[Answered]) -> dict[str, Measure]:
    """F1s of classes, of each label column by its name where there are several."""
    rates = {
        "macro_f1": macro_f1_of_counts,
        "weighted_f1": weighted_f1_of_counts,
        "balanced_accuracy": balanced_accuracy_of_counts,
    }
    labels = list(dict.fromkeys(pair.item.meta["label"] for pair in answered))
    found: dict[str, Measure] = {}
    for label in labels:
        pairs = [pair for pair in answered if pair.item.meta["label"] == label]
        said = [parse(*_said(pair)) for pair in pairs]
        ending = f"/{label}" if len(labels) > 1 else ""
        found |= {f"{name}{ending}": of_confusion(pairs, said, rate) for name, rate in rates.items()}
    return found


def _said(pair: Answered) -> tuple[Item, str]:
    return pair.item, pair.output.text


def _micro_f1(answered: Sequence[Answered]) -> Measure:
    """F1 of "present" over all findings together."""
    present = [(parse(*_said(pair)) == "yes", pair.item.reference == "yes") for pair in answered]
    return of_statistic(answered, micro_f1([FieldCounts(said and true, said, true) for said, true in present]))


def _number_grades(said: str, right: float) -> dict[str, float]:
    number = float(said) if said else math.nan
    return {
        "within_10_percent": float(abs(number - right) <= TOLERANCE * abs(right)),
        "exact": float(number == right),
        "unparsed": float(not said),
    }


def _errors(answered: Sequence[Answered]) -> dict[str, Measure]:
    """The errors of the answers that are numbers; `unparsed` says how many are not."""
    told = [(pair, parse(*_said(pair))) for pair in answered]
    pairs = [pair for pair, said in told if said]
    if not pairs:
        return {}
    errors = np.array([float(said) - float(pair.item.reference) for pair, said in told if said])

    def root_mean_square(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        squares: NDArray[np.float64] = ratio(weights @ errors**2, weights.sum(axis=1))
        return np.sqrt(squares)

    ids, groups = [pair.item.item_id for pair in pairs], [pair.item.group for pair in pairs]
    return {
        "mean_absolute_error": Measure(ids, groups, np.abs(errors).tolist()),
        "mean_error": Measure(ids, groups, errors.tolist()),
        "root_mean_square_error": of_statistic(pairs, root_mean_square),
    }


def _found(item: Item, output: Output) -> FieldCounts:
    """Boxes of the same name that overlap, boxes said, boxes there."""
    truths = [(str(label), Box(*corners)) for label, *corners in json.loads(item.reference)]
    guesses = _boxes(output) or []
    if all(not name for name, _ in truths):  # the table does not name its boxes
        guesses = [("", box) for _, box in guesses]
    names = {name.casefold() for name, _ in truths}
    right = sum(matches(_named(guesses, name), _named(truths, name), IOU_AT) for name in names)
    return FieldCounts(right, len(guesses), len(truths))


def _named(boxes: Sequence[tuple[str, Box]], name: str) -> list[Box]:
    return [box for label, box in boxes if label.casefold() == name]


def _boxes(output: Output) -> list[tuple[str, Box]] | None:
    """The boxes of an answer; none if it holds no list of boxes, an empty list if it says so."""
    said = spoken(output.text)
    found = parse_boxes(said).boxes
    if not found and json_answer(said).value != []:
        return None
    return [(box.label, Box(*box[1:])) for box in found]
