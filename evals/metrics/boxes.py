"""Overlap of boxes, in whatever unit a model wrote them.

The MedGemma 1.5 report says boxes are [y0, x0, y1, x1] from 0 to 1; the notebook of the same release asks for 0 to
1000. Both are converted to fractions of the picture before anything is compared.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

BoxUnit = Literal["fraction", "per_mille", "px"]
"""fraction: 0 to 1; per_mille: 0 to 1000; px: pixels of a picture whose size is given."""

FULL_SCALE = {"fraction": 1.0, "per_mille": 1000.0}


class Box(NamedTuple):
    """A box with an area, in fractions of the picture's height and width, 0 to 1."""

    y0: float
    x0: float
    y1: float
    x1: float


class MeanIou(NamedTuple):
    """The overlaps of all items and their mean."""

    value: float
    per_item: list[float]
    """Give these to `statistics.grouped_bootstrap_ci`."""
    n_invalid: int
    """Predictions that are no box (not parsed, no area, outside the picture); each has overlap 0."""


def box_from(
    numbers: Sequence[float] | None, unit: BoxUnit, height_px: float | None = None, width_px: float | None = None
) -> Box | None:
    """Return the box of [y0, x0, y1, x1], None if it is none.

    Args:
        numbers: What was parsed from the answer; None if nothing was.
        unit: Of the numbers; it is never guessed, since [0, 0, 1, 1] is a box in each.
        height_px: Picture height, for px.
        width_px: Picture width, for px.

    Returns:
        None unless there are four finite numbers, inside the picture, with y0 < y1 and x0 < x1. Corners in the wrong
        order are not put right.

    Raises:
        ValueError: The unit is px and the picture's size is missing.
    """
    height, width = _full_scale(unit, height_px, width_px)
    if numbers is None or len(numbers) != 4 or not all(math.isfinite(number) for number in numbers):
        return None
    y0, x0, y1, x1 = numbers
    box = Box(y0 / height, x0 / width, y1 / height, x1 / width)
    if not all(0 <= side <= 1 for side in box) or box.y0 >= box.y1 or box.x0 >= box.x1:
        return None
    return box


def iou(predicted: Box | None, reference: Box) -> float:
    """Return the area of the intersection over that of the union, 0 to 1; 0 if there is no predicted box.

    Source: Jaccard (1901); Everingham et al., Int. J. Comput. Vis. 88, 303 (2010), without their added pixel.
    """
    if predicted is None:
        return 0.0
    height = min(predicted.y1, reference.y1) - max(predicted.y0, reference.y0)
    width = min(predicted.x1, reference.x1) - max(predicted.x0, reference.x0)
    shared = max(0.0, height) * max(0.0, width)
    return shared / (_area(predicted) + _area(reference) - shared)


def mean_iou(predicted: Sequence[Box | None], reference: Sequence[Box]) -> MeanIou:
    """Return the mean overlap over items of one box each, 0 to 1; what is no box counts 0 and is counted.

    Raises:
        ValueError: There are no items, or the lengths differ.
    """
    if len(predicted) != len(reference) or not reference:
        raise ValueError(
            f"got {len(predicted)} predicted and {len(reference)} reference boxes; expected as many of each, "
            "at least one (None for an answer without a box)"
        )
    overlaps = [iou(guess, truth) for guess, truth in zip(predicted, reference, strict=True)]
    return MeanIou(sum(overlaps) / len(overlaps), overlaps, sum(guess is None for guess in predicted))


def matches(predicted: Sequence[Box], reference: Sequence[Box], iou_at: float) -> int:
    """Return how many boxes can be paired, each once, so that every pair overlaps by `iou_at` (0 to 1) or more.

    Source: the matching of detection F1; COCO's is greedy by confidence, of which text answers have none.
    """
    if not predicted or not reference:
        return 0
    from scipy.optimize import linear_sum_assignment

    overlap = [[float(iou(guess, truth) >= iou_at) for truth in reference] for guess in predicted]
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return int(sum(overlap[row][column] for row, column in zip(rows, columns, strict=True)))


def _area(box: Box) -> float:
    return (box.y1 - box.y0) * (box.x1 - box.x0)


def _full_scale(unit: BoxUnit, height_px: float | None, width_px: float | None) -> tuple[float, float]:
    if unit != "px":
        return FULL_SCALE[unit], FULL_SCALE[unit]
    if not height_px or not width_px:
        raise ValueError("got boxes in px without the picture's size; expected height_px and width_px above 0")
    return height_px, width_px
