"""JSON, boxes and lab reports in answers: what is found, where it lies in the original picture, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from medgemma.answers import (
    Box,
    LabResult,
    PixelBox,
    json_answer,
    locate_boxes,
    parse_boxes,
    parse_lab_report,
    pixel_box,
)
from medgemma.answers.boxes import patient_side
from medsiglip.imaging import RESIZE_POLICIES, Picture, Plane, TechnicalTags, resize

CLAVICLE = '[{"box_2d": [140, 110, 340, 470], "label": "right clavicle"}]'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("[1, 2]", [1, 2]),
        ('Here it is:\n```json\n{"a": [1]}\n```\nDone.', {"a": [1]}),
        ('```\n{"a": 1}\n```\nno:\n```json\n{"a": 2}\n```', {"a": 2}),
        ('First {"a": 1}. **Final Answer:** {"a": 2} as said', {"a": 2}),
        ('Set {x} gives {"a": 2}', {"a": 2}),
        ("[see above] gives [3]", [3]),
        ('Final Answer: see the fence\n```json\n{"a": 1}\n```', {"a": 1}),
        ('```json\n{"a": 1}\n```\nFinal Answer: as above', {"a": 1}),
    ],
)
def test_json_is_found(text: str, value: object) -> None:
    assert json_answer(text).value == value
    assert json_answer(text).reason is None


def test_json_that_is_not_there_or_not_whole_is_refused() -> None:
    assert json_answer("no idea").reason == "the answer holds no JSON object or list"
    assert json_answer('{"a": ').reason == "the answer holds no JSON that parses"
    cut = json_answer('{"a": 1}', "length")
    assert cut.value is None and cut.reason == "the answer was cut by its limit of tokens, so its JSON may not be whole"
    assert json_answer("[" * 100_000).reason == "the answer holds no JSON that parses"


# Boxes


@pytest.mark.parametrize(
    "text",
    [
        CLAVICLE,
        f"I look for it.\nFinal Answer: {CLAVICLE}",
        f"```json\n{CLAVICLE}\n```",
        CLAVICLE[1:-1],
        f'{{"boxes": {CLAVICLE}}}',
        '[{"box_2d": [0.14, 0.11, 0.34, 0.47], "label": "right clavicle"}]',
    ],
)
def test_boxes_in_both_units(text: str) -> None:
    parsed = parse_boxes(text)
    assert parsed.boxes == (Box("right clavicle", 0.14, 0.11, 0.34, 0.47),)
    assert parsed.unit == ("fraction" if "0.14" in text else "per_mille")
    assert parsed.reason is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"box_2d": [0, 0, 1, 1], "label": "x"}]', "in a unit that can be told"),
        ('[{"box_2d": [340, 110, 140, 470], "label": "x"}]', "is not four numbers"),
        ('[{"box_2d": [1, 2, 3], "label": "x"}]', "in a unit that can be told"),
        ('[{"box_2d": [0, 0, 1001, 5], "label": "x"}]', "from 0 to 1000"),
        ('[{"box_2d": ["1", 2, 3, 4], "label": "x"}]', "in a unit that can be told"),
        ('[{"label": "x"}]', "the JSON holds no boxes"),
        ("the right clavicle", "no JSON object or list"),
    ],
)
def test_what_is_no_box_is_refused(text: str, reason: str) -> None:
    parsed = parse_boxes(text)
    assert parsed.boxes == () and parsed.unit is None
    assert parsed.reason is not None and reason in parsed.reason


def test_a_given_unit_is_not_told_by_the_numbers() -> None:
    assert parse_boxes('[{"box_2d": [0, 0, 1, 1], "label": "x"}]', "fraction").boxes == (Box("x", 0, 0, 1, 1),)
    assert parse_boxes('[{"box_2d": [0, 0, 1, 1], "label": "x"}]', "per_mille").boxes == (Box("x", 0, 0, 0.001, 0.001),)


def test_a_bad_box_does_not_take_the_good_ones_along() -> None:
    parsed = parse_boxes(CLAVICLE[:-1] + ', {"box_2d": [5, 5, 5, 9], "label": "line"}]')
    assert [box.label for box in parsed.boxes] == ["right clavicle"]
    assert parsed.reason is not None and parsed.reason.startswith("box 2 is not four numbers")


@pytest.mark.parametrize("policy", RESIZE_POLICIES)
@pytest.mark.parametrize(("height", "width"), [(300, 480), (481, 300), (333, 333)])
def test_a_box_is_found_again_in_the_original(policy: str, height: int, width: int) -> None:
    """A white rectangle goes through the real resize; where it comes out is its box."""
    top, left, bottom, right = 90, 60, 210, 240
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    square = resize(pixels, 448, policy)[:, :, 0] >= 128
    rows, columns = np.flatnonzero(square.any(1)), np.flatnonzero(square.any(0))
    box = Box("rectangle", rows[0] / 448, columns[0] / 448, (rows[-1] + 1) / 448, (columns[-1] + 1) / 448)
    found = pixel_box(box, height, width, policy)
    assert found is not None
    assert np.abs(np.array(found) - (top, left, bottom, right)).max() <= max(height, width) / 448 + 0.5


def test_the_inverse_of_another_policy_is_another_place() -> None:
    """Control: a squashed film read as a padded one moves the box."""
    box = Box("x", 0.25, 0.25, 0.5, 0.5)
    assert pixel_box(box, 200, 400, "huggingface") == PixelBox(50, 100, 100, 200)
    assert pixel_box(box, 200, 400, "report") == PixelBox(0, 100, 100, 200)  # 100 rows of padding above
    assert pixel_box(box, 400, 200, "container") == PixelBox(100, 0, 200, 100)
    with pytest.raises(ValueError, match="unknown resize policy 'stretch'"):
        pixel_box(box, 200, 400, "stretch")


def test_a_box_in_the_padding_is_nowhere() -> None:
    parsed = parse_boxes('[{"box_2d": [0, 0, 200, 1000], "label": "nothing"}]')
    picture = Picture.from_array(np.zeros((200, 400), np.uint8))
    assert locate_boxes(parsed, picture, "report") == (
        [],
        "the box of 'nothing' lies in the padding beside the picture",
    )
    assert pixel_box(parsed.boxes[0], 200, 400, "huggingface") == PixelBox(0, 0, 40, 400)


def plane(row_x: float) -> TechnicalTags:
    return TechnicalTags(plane=Plane((0, 0, 0), (row_x, (1 - row_x**2) ** 0.5, 0), (0, 0, 1)))


@pytest.mark.parametrize(
    ("x0", "x1", "tags", "side", "basis"),
    [
        (10, 40, TechnicalTags(), "patient's right", "convention"),
        (60, 90, TechnicalTags(), "patient's left", "convention"),
        (40, 60, TechnicalTags(), "both sides of the midline", "convention"),
        (10, 50, TechnicalTags(), "patient's right", "convention"),
        (10, 40, plane(1), "patient's right", "orientation"),
        (60, 90, plane(1), "patient's left", "orientation"),
        (10, 40, plane(-1), "patient's left", "orientation"),
        (60, 90, plane(-1), "patient's right", "orientation"),
        (10, 40, plane(0), None, None),
    ],
)
def test_the_side_is_the_patients(x0: float, x1: float, tags: TechnicalTags, side: str | None, basis: str) -> None:
    assert patient_side(PixelBox(0, x0, 10, x1), 100, tags) == (side, basis)


def test_a_located_box_has_pixels_and_a_side() -> None:
    picture = replace(Picture.from_array(np.zeros((1000, 500), np.uint8)), tags=plane(-1))
    [box], reason = locate_boxes(parse_boxes(CLAVICLE), picture, "huggingface")
    assert box.pixels == pytest.approx((140, 55, 340, 235))
    assert (box.label, box.side, box.side_from, reason) == ("right clavicle", "patient's left", "orientation", None)


# Lab reports

ROW = {"name": "Haemoglobin", "result": 13.2, "unit": "g/dL", "range": "13-17", "panel": "CBC", "method": None,
       "specimen": "blood", "sample_collection_time": "03-02-2024 08:15:00"}  # fmt: skip


def test_a_lab_report_is_rows() -> None:
    row = LabResult("Haemoglobin", "13.2", "g/dL", "13-17", "CBC", None, "blood", "03-02-2024 08:15:00")
    for value in ([ROW], {"results": [ROW]}, ROW):
        report = parse_lab_report(f"```json\n{json.dumps(value)}\n```")
        assert report.results == (row,) and report.reason is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"value": 3}, "result 2: unknown keys value"),
        ({"name": ""}, "result 2: no name or no result"),
        ({"result": None}, "result 2: no name or no result"),
        ({"unit": ["g"]}, "result 2: unit is no text"),
        ({"sample_collection_time": "2024-02-03"}, "result 2: sample_collection_time is not DD-MM-YYYY HH:MM:SS"),
        ({"sample_collection_time": "31-02-2024 08:15:00"}, "result 2: sample_collection_time is not"),
    ],
)
def test_a_bad_row_is_named_and_the_good_kept(change: dict[str, object], reason: str) -> None:
    report = parse_lab_report(json.dumps([ROW, {**ROW, **change}]))
    assert len(report.results) == 1
    assert report.reason is not None and report.reason.startswith(reason)


def test_what_is_no_lab_report_is_refused() -> None:
    assert parse_lab_report('{"a": [1], "b": [2]}').reason == "expected a list of results, got an object"
    assert parse_lab_report("[3]").reason == "result 1: expected an object, got a number"
    assert parse_lab_report("none").reason == "the answer holds no JSON object or list"
    assert parse_lab_report(json.dumps([ROW]), "length").results == ()
