"""Boxes that a model writes, in the pixels of the original picture, with the patient's side spelled out.

Boxes are [y0, x0, y1, x1] of what the model was shown, that is after the resize: from 0 to 1000 in Google's
localisation notebook, from 0 to 1 in the MedGemma 1.5 report.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from medgemma.answers.json_in_text import json_answer
from medgemma.answers.reading.stated_boxes import boxes_in_prose, named_edges, says_nothing_to_box
from medgemma.engine.request import FinishReason
from medsiglip.imaging import Picture, TechnicalTags
from medsiglip.imaging.resize import shown

BoxUnit = Literal["per_mille", "fraction"]
"""per_mille: 0 to 1000; fraction: 0 to 1."""

_FULL_SCALE: dict[BoxUnit, float] = {"per_mille": 1000.0, "fraction": 1.0}
_CORNERS = "four numbers [y0, x0, y1, x1] with y0 < y1 and x0 < x1"


class Box(NamedTuple):
    """A named box in fractions of the square that the model was shown, 0 to 1."""

    label: str
    y0: float
    x0: float
    y1: float
    x1: float


@dataclass(frozen=True)
class ParsedBoxes:
    """The boxes of an answer."""

    boxes: tuple[Box, ...]
    unit: BoxUnit | None = None
    """What the numbers were in; None without boxes."""
    reason: str | None = None
    """Why there are none, or why some were left out."""


class PixelBox(NamedTuple):
    """A box in the original picture: pixel edges, so that x1 - x0 is a width; (0, 0) is its upper left corner."""

    y0_px: float
    x0_px: float
    y1_px: float
    x1_px: float


Side = Literal["patient's right", "patient's left", "both sides of the midline"]
SideBasis = Literal["orientation", "convention"]


@dataclass(frozen=True)
class LocatedBox:
    """A box in the original picture and where it lies in the patient."""

    label: str
    pixels: PixelBox
    side: Side | None
    """Of the patient, not of the picture; None where the columns do not run from one side to the other."""
    side_from: SideBasis | None
    """The slice's own orientation, or the convention that a film is seen from the front, the patient's right at the
    picture's left; None without a side."""


def parse_boxes(text: str, unit: BoxUnit | None = None, finish_reason: FinishReason = "stop") -> ParsedBoxes:
    """The boxes of an answer: [{"box_2d": [y0, x0, y1, x1], "label": ...}], or how else it states them.

    Read too: edges by their names (ymin, top, ...), four numbers in brackets, a table under y0, x0, y1, x1. Of boxes
    in prose the last is meant. Pixels, and the example of a form, are no boxes.

    Args:
        text: an answer without its reasoning trace.
        unit: of the numbers; None tells it by the numbers: any above 1 is per_mille, any fraction is fraction.
        finish_reason: of the answer.

    Returns:
        Boxes inside the picture with an area; what is none is named in `reason`, which is None too where the answer
        says that there is nothing to box. Corners in the wrong order are not put right. Numbers that are all 0 or 1
        could be in either unit, and give none.
    """
    rows, reason = _stated_rows(text, finish_reason)
    if not rows:
        return ParsedBoxes((), reason=reason)
    numbers = [n for row in rows if _is_numbers(row["box_2d"]) for n in row["box_2d"]]
    unit = unit or _unit_of(numbers)
    if unit is None:
        return ParsedBoxes((), reason=f"no box has {_CORNERS} in a unit that can be told: {str(numbers)[:60]}")
    boxes, faults = [], []
    for number, row in enumerate(rows, 1):
        box = _box(row, _FULL_SCALE[unit])
        if box is None:
            faults.append(f"box {number} is not {_CORNERS} from 0 to {_FULL_SCALE[unit]:g}: {str(row['box_2d'])[:60]}")
        else:
            boxes.append(box)
    return ParsedBoxes(tuple(boxes), unit if boxes else None, "; ".join(faults) or None)


_NO_BOX = 'the JSON holds no boxes, expected [{"box_2d": [y0, x0, y1, x1], "label": ...}]'


def _stated_rows(text: str, finish_reason: FinishReason) -> tuple[list[Mapping[str, Any]], str | None]:
    """The boxes of an answer as rows, and why there are none."""
    answer = json_answer(text, finish_reason)
    rows = _rows(answer.value)
    if rows or finish_reason != "stop":
        return rows, answer.reason
    if re.search(r"\b(?:pixels?|px)\b", text, re.IGNORECASE):
        return [], "the numbers are pixels of a picture whose size is not given"
    rows = [{"box_2d": corners} for corners in boxes_in_prose(text)]
    if rows:
        return rows, None
    if (
        answer.value == []
        or (isinstance(answer.value, Mapping) and list(answer.value.values()) == [[]])
        or says_nothing_to_box(text)
    ):
        return [], None
    return [], answer.reason or _NO_BOX


def pixel_box(box: Box, height_px: int, width_px: int, resize_policy: str) -> PixelBox | None:
    """Where a box of the model's square lies in the original picture: the inverse of `resize`.

    Args:
        box: fractions of the square.
        height_px: rows of the picture before the resize.
        width_px: its columns.
        resize_policy: one of `RESIZE_POLICIES`.

    Returns:
        The part that lies in the picture; None for a box in the padding alone.

    Raises:
        ValueError: an unknown policy.
    """
    top, left, height, width = shown(height_px, width_px, resize_policy)
    y0, y1 = (min(max(top + y * height, 0.0), height_px) for y in (box.y0, box.y1))
    x0, x1 = (min(max(left + x * width, 0.0), width_px) for x in (box.x0, box.x1))
    return PixelBox(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None


def locate_boxes(parsed: ParsedBoxes, picture: Picture, resize_policy: str) -> tuple[list[LocatedBox], str | None]:
    """Boxes in the pixels of a picture, with the patient's side.

    Args:
        parsed: from `parse_boxes`.
        picture: as it was opened, before the resize.
        resize_policy: by which the model saw it.

    Returns:
        The boxes, and why some were left out (None when none was).
    """
    height_px, width_px = picture.pixels.shape[:2]
    located, faults = [], [parsed.reason] if parsed.reason else []
    for box in parsed.boxes:
        pixels = pixel_box(box, height_px, width_px, resize_policy)
        if pixels is None:
            faults.append(f"the box of {box.label!r} lies in the padding beside the picture")
            continue
        located.append(LocatedBox(box.label, pixels, *patient_side(pixels, width_px, picture.tags)))
    return located, "; ".join(faults) or None


def patient_side(box: PixelBox, width_px: int, tags: TechnicalTags) -> tuple[Side | None, SideBasis | None]:
    """On which side of the patient a box lies, as far as the picture tells.

    A slice knows the direction of its rows (LPS: +x is the patient's left). A film without one is taken as displayed
    by convention, from the front. A box that crosses the picture's vertical midline lies on both sides.
    """
    basis: SideBasis = "orientation" if tags.plane else "convention"
    towards_left = 1.0
    if tags.plane is not None:
        towards_left = tags.plane.row_direction[0]
        if abs(towards_left) < 0.7:  # sagittal: columns run from front to back
            return None, None
    middle = width_px / 2
    if box.x0_px < middle < box.x1_px:
        return "both sides of the midline", basis
    is_left = (box.x0_px >= middle) == (towards_left > 0)
    return "patient's left" if is_left else "patient's right", basis


def _rows(value: Any) -> list[Mapping[str, Any]]:
    """The entries that name a box, however they are wrapped."""
    if isinstance(value, Mapping):
        if "box_2d" in value or (edges := named_edges(value)):
            return [value if "box_2d" in value else {"label": value.get("label", ""), "box_2d": edges}]
        value = next((inner for inner in value.values() if isinstance(inner, list)), [])
    if not isinstance(value, list):
        return []
    found = [row for row in value if isinstance(row, Mapping)]
    return [r for row in found for r in ([row] if "box_2d" in row else _rows(row) if named_edges(row) else [])]


def _is_numbers(value: Any) -> bool:
    """Whether a JSON value is four finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in value)
    )


def _unit_of(numbers: list[float]) -> BoxUnit | None:
    if any(n > 1 for n in numbers):
        return "per_mille"
    return "fraction" if any(n != int(n) for n in numbers) else None


def _box(row: Mapping[str, Any], full_scale: float) -> Box | None:
    if not _is_numbers(row["box_2d"]):
        return None
    y0, x0, y1, x1 = (n / full_scale for n in row["box_2d"])
    inside = all(0 <= n <= 1 for n in (y0, x0, y1, x1))
    return Box(str(row.get("label", "")), y0, x0, y1, x1) if inside and y0 < y1 and x0 < x1 else None
