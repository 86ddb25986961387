"""Grading the rows of jsonl.py by their kind. A line that could not be used is wrong, whatever it held."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evals.items import Item
from evals.measures import Answered, Measure, mean_over_parts, of_statistic
from evals.metrics.answers import closed_match, exact_match_norm, token_f1_squad
from evals.metrics.boxes import Box, iou
from evals.metrics.fields import FieldCounts, field_counts, micro_f1
from evals.metrics.text_overlap import rouge_l_f1
from evals.outputs import Output
from evals.tasks import chest_films, multiple_choice
from evals.tasks.final_answer import parse_short, parse_yes_no, spoken
from evals.tasks.jsonl import RowKind
from medgemma.answers import json_answer, parse_boxes
from medsiglip.metrics.bootstrap import ratio

METRICS: dict[RowKind, tuple[str, ...]] = {
    "choice": ("accuracy", "unparsed"),
    "yes-no": ("accuracy", "unparsed"),
    "short": ("accuracy", "unparsed"),
    "text": ("rouge_l_f1", "token_f1_squad", "exact_match_norm"),
    "json": ("field_f1", "unparsed"),
    "boxes": ("iou", "unparsed"),
}
"""Kind of row to the metrics of one item, 0 to 1 each; `unparsed` is 1 where an answer holds none of the kind."""


def parse(item: Item, text: str) -> str:
    """Return the answer in a reply: a letter, yes or no, a short text; of other kinds the reply without its trace."""
    kind = item.meta.get("row_kind", "")
    if kind == "choice":
        return multiple_choice.parse(item, text)
    if kind == "yes-no":
        return parse_yes_no(text)
    return parse_short(text) if kind == "short" else spoken(text)


def grade(kind: RowKind, item: Item, output: Output) -> dict[str, float]:
    """Grade one reply.

    Args:
        kind: The task's first kind; a line that could not be used is graded as one of it.
        item: One that owners_rows.py made.
        output: What came back.
    """
    if item.fault:
        return {name: float(name == "unparsed") for name in METRICS[kind]}
    kind_of_row = item.meta["row_kind"]
    if kind_of_row == "text":
        said = spoken(output.text)
        return {
            "rouge_l_f1": rouge_l_f1(said, item.reference),
            "token_f1_squad": token_f1_squad(said, item.reference),
            "exact_match_norm": exact_match_norm(said, item.reference),
        }
    if kind_of_row == "json":
        return {"field_f1": _fields(item, output).f1, "unparsed": float(_document(output) is None)}
    if kind_of_row == "boxes":
        box = _box(output)
        return {"iou": iou(box, Box(*json.loads(item.reference))), "unparsed": float(box is None)}
    said = parse(item, output.text)
    right = closed_match(said, item.reference) if kind_of_row == "short" else float(said == item.reference)
    return {"accuracy": right, "unparsed": float(not said)}


def pooled(kind: RowKind, named: Sequence[str], answered: Sequence[Answered]) -> dict[str, Measure]:
    """Return the metrics that are no means of items, over the lines that could be used.

    Args:
        kind: The task's first kind.
        named: The conditions of macro F1 of yes/no rows; all that occur if empty.
        answered: Items and outputs.
    """
    usable = [pair for pair in answered if not pair.item.fault]
    found: dict[str, Measure] = {}
    if not usable:
        return found
    categories = [pair.item.meta.get("category", "") for pair in usable]
    if kind in ("choice", "yes-no", "short") and len(set(categories)) > 1:
        right = [grade(kind, *pair)["accuracy"] for pair in usable]
        found["accuracy_mean_over_categories"] = mean_over_parts(usable, right, categories)
    if kind == "choice" and len(set(categories)) > 1 and all(pair.item.meta["row_kind"] == "choice" for pair in usable):
        found["class_recall_mean_over_categories"] = _class_recall(usable, categories)
    if kind == "yes-no":
        conditions = tuple(named) or tuple(dict.fromkeys(categories))
        found |= chest_films.over_conditions(conditions)(usable)
    if kind == "json":
        found["field_f1_micro"] = of_statistic(usable, micro_f1([_fields(*pair) for pair in usable]))
    return found


def _class_recall(answered: Sequence[Answered], categories: Sequence[str]) -> Measure:
    """The mean over categories of the mean over their classes (options by text) of the recall."""
    names = sorted(set(categories))
    classes = [multiple_choice.options_of(pair.item)[pair.item.reference].strip().lower() for pair in answered]
    right = np.array([grade("choice", *pair)["accuracy"] for pair in answered])
    cells = sorted(set(zip(categories, classes, strict=True)))
    member = np.array(
        [[cell == pair for cell in cells] for pair in zip(categories, classes, strict=True)], dtype=np.float64
    )
    of_category = np.array([[cell[0] == name for name in names] for cell in cells], dtype=np.float64)

    def recall(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        counts = weights @ member  # (R, cells)
        recalls = np.nan_to_num(ratio((weights * right) @ member, counts))
        means = np.nan_to_num(ratio(recalls @ of_category, (counts > 0) @ of_category))
        there = ((counts > 0) @ of_category > 0).sum(axis=1).astype(np.float64)
        return ratio(means.sum(axis=1), there)

    return of_statistic(answered, recall)


def _fields(item: Item, output: Output) -> FieldCounts:
    return field_counts(_document(output), json.loads(item.reference))


def _document(output: Output) -> Any:
    return json_answer(spoken(output.text)).value


def _box(output: Output) -> Box | None:
    """The first box of an answer, in whichever of the two units its numbers tell."""
    boxes = parse_boxes(spoken(output.text)).boxes
    return Box(*boxes[0][1:]) if boxes else None
