"""Calibration, boxes, JSON fields, RadGraph and CheXbert: by hand, scikit-learn, and stand-ins for absent packages."""

import json
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score

from evals.metrics.boxes import Box, box_from, iou, mean_iou
from evals.metrics.fields import field_counts, fields, micro_f1, parse_document
from evals.metrics.reports import CHEXBERT_14, chexbert_f1, radgraph_f1
from medsiglip.metrics.calibration import (
    bins_of_equal_mass,
    bins_of_equal_width,
    brier_score,
    brier_score_multiclass,
    expected_calibration_error_equal_mass,
    expected_calibration_error_equal_width,
)
from medsiglip.metrics.estimates import brier_estimate, calibration_error_estimate
from medsiglip.metrics.statistics import grouped_bootstrap_ci


def test_calibration_error_by_hand() -> None:
    """Two bins of width 1/2. Low: probabilities 0.1, 0.3, events 0, 1; gap |0.4 - 1| = 0.6.
    High: 0.9, 0.8, 0.7, events 1, 1, 0; gap |2.4 - 2| = 0.4. Sum of gaps over 5 items = 0.2.
    """
    p, y = [0.1, 0.3, 0.9, 0.8, 0.7], [0, 1, 1, 1, 0]
    assert expected_calibration_error_equal_width(p, y, 2) == pytest.approx(1.0 / 5)
    # equal mass: the median 0.7 closes the lower bin: 0.1, 0.3, 0.7 with 1 event: |1.1 - 1| = 0.1;
    # 0.8, 0.9 with 2 events: |1.7 - 2| = 0.3
    assert expected_calibration_error_equal_mass(p, y, 2) == pytest.approx(0.4 / 5)
    assert expected_calibration_error_equal_width(p, y, 1) == pytest.approx(abs(2.8 - 3) / 5)


def test_bins_meet_at_their_upper_edge() -> None:
    binned = bins_of_equal_width([0.0, 0.5, 0.500001, 1.0], [0, 0, 1, 1], 2)
    assert binned.columns[:, :2].tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert len(bins_of_equal_mass([0.5] * 6, [0, 1] * 3, 10).edges) <= 3


def test_calibrated_and_extreme_answers() -> None:
    """A constant prevalence is calibrated; a certain model is off by the share of its errors."""
    y = [1] * 3 + [0] * 7
    assert expected_calibration_error_equal_width([0.3] * 10, y) == pytest.approx(0)
    assert expected_calibration_error_equal_mass([0.3] * 10, y) == pytest.approx(0)
    assert expected_calibration_error_equal_width([0.0, 1.0], [1, 0]) == 1.0 == brier_score([0.0, 1.0], [1, 0])
    assert expected_calibration_error_equal_width([1.0] * 10, y) == pytest.approx(0.7)


def test_brier_by_hand_and_by_scikit_learn() -> None:
    assert brier_score([0.8, 0.4], [1, 0]) == pytest.approx((0.04 + 0.16) / 2)
    assert brier_score([0.5] * 4, [1, 0, 0, 1]) == 0.25
    rng = np.random.default_rng(0)
    p, y = rng.random(50), rng.random(50) < 0.5
    assert brier_score(p, y) == pytest.approx(brier_score_loss(y, p))
    table = np.stack([1 - p, p], axis=1)
    names = np.where(y, "b", "a").tolist()
    assert brier_score_multiclass(table, names, ("a", "b")) == pytest.approx(2 * brier_score(p, y))
    # one item, classes 0.7, 0.2, 0.1, truth the second: 0.49 + 0.64 + 0.01
    assert brier_score_multiclass([[0.7, 0.2, 0.1]], ["b"], "abc") == pytest.approx(1.14)


def test_calibration_interval_holds_its_bins() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(300)
    y = rng.random(300) < p
    patients = [str(i // 3) for i in range(300)]
    found = calibration_error_estimate(bins_of_equal_width(p, y), patients)
    assert found.value == pytest.approx(expected_calibration_error_equal_width(p, y))
    brier = brier_estimate(p, y, patients)
    assert brier.value == pytest.approx(brier_score(p, y)) and brier.ci95.low < brier.value < brier.ci95.high
    assert found.n_groups == brier.n_groups == 100 and 0 < found.ci95.low < found.ci95.high < 0.2


@pytest.mark.parametrize(("p", "y"), [([1.2], [1]), ([-0.1], [0]), ([0.5], [2]), ([float("nan")], [1])])
def test_calibration_refuses_what_is_no_probability(p: list[float], y: list[float]) -> None:
    for metric in (brier_score, expected_calibration_error_equal_width, expected_calibration_error_equal_mass):
        with pytest.raises(ValueError, match="outside their range"):
            metric(p, y)
    with pytest.raises(ValueError, match="at least one"):
        brier_score([], [])


def test_iou_by_hand() -> None:
    """Two squares of side 1/2 that share a quarter: 1/16 over 1/4 + 1/4 - 1/16 = 1/7."""
    one, other = Box(0, 0, 0.5, 0.5), Box(0.25, 0.25, 0.75, 0.75)
    assert iou(one, other) == iou(other, one) == pytest.approx(1 / 7)
    assert iou(one, one) == 1.0 and iou(one, Box(0.5, 0.5, 1, 1)) == 0.0 and iou(None, one) == 0.0
    inside = Box(0.1, 0.1, 0.2, 0.3)
    assert iou(inside, one) == pytest.approx(0.02 / 0.25)


def test_units_are_converted_before_anything_is_compared() -> None:
    fraction = box_from([0.1, 0.2, 0.5, 0.6], "fraction")
    assert fraction == box_from([100, 200, 500, 600], "per_mille")
    assert fraction == box_from([20, 80, 100, 240], "px", height_px=200, width_px=400)
    assert box_from([0.1, 0.2, 0.5, 0.6], "per_mille") == pytest.approx((0.0001, 0.0002, 0.0005, 0.0006))
    with pytest.raises(ValueError, match="without the picture's size"):
        box_from([1, 1, 2, 2], "px")


def test_a_unit_taken_for_the_other_scores_nothing_and_is_counted() -> None:
    reference = Box(0.1, 0.2, 0.5, 0.6)
    wrong = box_from([100, 200, 500, 600], "fraction")
    assert wrong is None and mean_iou([wrong], [reference]).n_invalid == 1


@pytest.mark.parametrize(
    "numbers",
    [None, [], [0, 0, 1], [0.5, 0, 0.5, 1], [0.6, 0, 0.5, 1], [0, 0, 1.1, 1], [-0.1, 0, 1, 1], [0, 0, float("nan"), 1]],
)
def test_what_is_no_box(numbers: list[float] | None) -> None:
    assert box_from(numbers, "fraction") is None


def test_mean_iou_counts_invalid_boxes() -> None:
    whole, half = Box(0, 0, 1, 1), Box(0, 0, 1, 0.5)
    found = mean_iou([whole, half, None], [whole, whole, whole])
    assert found.value == pytest.approx((1 + 0.5 + 0) / 3) and found.n_invalid == 1 and found.per_item == [1, 0.5, 0]
    for wrong in (([], []), ([whole], [])):
        with pytest.raises(ValueError, match="as many of each"):
            mean_iou(*wrong)


REPORT = {
    "patient": {"sex": "F"},
    "results": [
        {"name": "Hemoglobin", "result": "13.20", "unit": "g/dL"},
        {"name": "Glucose", "result": 98, "unit": "mg/dL"},
    ],
}


def test_fields_of_a_lab_report_by_hand() -> None:
    """Reference: 7 fields (sex, and name, result, unit of two analytes). Rows in another order, a unit wrong, one row
    more of one field, hemoglobin 13.2 as a number: right 6, predicted 8: F1 = 12/15.
    """
    predicted = {
        "Patient": {"SEX": " f "},
        "results": [
            {"name": "glucose", "result": "98.0", "unit": "mmol/L"},
            {"name": "HEMOGLOBIN", "result": 13.2, "unit": "g/dL", "note": None},
            {"name": "Sodium", "range": ""},
        ],
    }
    counts = field_counts(predicted, REPORT)
    assert (counts.right, counts.predicted, counts.reference) == (6, 8, 7)
    assert counts.f1 == pytest.approx(12 / 15)
    assert field_counts(REPORT, REPORT).f1 == 1.0 and field_counts(None, REPORT) == (0, 0, 7)
    assert field_counts({}, {}).f1 == 1.0 and field_counts({}, REPORT).f1 == 0.0


def test_macro_and_micro_over_documents_by_hand() -> None:
    """F1 per document 1, 0 (not parsed), 1/2; micro: right 1 + 0 + 1 = 2, predicted 1 + 0 + 2, reference 1 + 4 + 2."""
    predicted = [{"a": 1}, None, {"a": 1, "b": 2}]
    reference = [{"a": 1}, {"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 3}]
    counts = [field_counts(*pair) for pair in zip(predicted, reference, strict=True)]
    assert [count.f1 for count in counts] == [1, 0, 0.5]
    whole, first_twice = micro_f1(counts)(np.array([[1.0, 1, 1], [2, 0, 1]]))
    assert whole == pytest.approx(2 * 2 / (3 + 7)) and first_twice == pytest.approx(2 * 3 / (4 + 4))


def test_field_values_are_compared_by_value() -> None:
    assert list(fields({"a": True, "b": "TRUE", "c": "1e2", "d": 100, "e": "nan"})) == [
        (("a",), "true"),
        (("b",), "true"),
        (("c",), "100.0"),
        (("d",), "100.0"),
        (("e",), "nan"),
    ]


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Here it is:\n```json\n[{"a": 1}]\n```\nDone.', [{"a": 1}]),
        ('The report {"a": {"b": 2}} as asked', {"a": {"b": 2}}),
        ("no json", None),
        ("", None),
        ('{"a": 1', None),
        ("3", None),
        ("[" * 100_000, None),
    ],
)
def test_documents_are_found_in_answers(text: str, document: Any) -> None:
    assert parse_document(text) == document


def test_absent_packages_are_one_line_with_the_name_for_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "radgraph", None)
    monkeypatch.setitem(sys.modules, "f1chexbert", None)
    with pytest.raises(ValueError, match="run `pip install radgraph`") as absent:
        radgraph_f1(["clear"], ["clear"])
    assert "\n" not in str(absent.value)
    with pytest.raises(ValueError, match="run `pip install f1chexbert`"):
        chexbert_f1(["clear"], ["clear"])


class FakeF1RadGraph:
    """As radgraph 0.1.18: prints, and returns means, lists by level, annotations."""

    def __init__(self, reward_level: str, model_type: str) -> None:
        print("Using device: cpu")  # noqa: T201
        assert reward_level == "all" and model_type == "radgraph"

    def __call__(self, refs: list[str], hyps: list[str]) -> tuple[Any, ...]:
        same = [float(r == h and bool(r)) for r, h in zip(refs, hyps, strict=True)]
        return (0, 0, 0), (same, [0.5 * s for s in same], [0.25 * s for s in same]), [], []


def test_radgraph_f1_of_each_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake = ModuleType("radgraph")
    fake.F1RadGraph = FakeF1RadGraph  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "radgraph", fake)
    found = radgraph_f1(["clear", "", "edema", "x"], ["clear", "y", "edema", "z"])
    assert (found.simple, found.partial, found.complete) == ([1, 0, 1, 0], [0.5, 0, 0.5, 0], [0.25, 0, 0.25, 0])
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="as many of each"):
        radgraph_f1(["clear"], [])


class FakeF1CheXbert:
    """Labels a report with the conditions it names, in CheXbert's order."""

    def __init__(self, device: str) -> None:
        assert device == "cpu"

    def get_label(self, report: str) -> list[int]:
        assert report, "an empty report was labelled"
        return [int(name in report.split("; ")) for name in CHEXBERT_14]


def test_chexbert_f1_over_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("f1chexbert")
    fake.F1CheXbert = FakeF1CheXbert  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "f1chexbert", fake)
    # Edema: TP 1, FN 1 -> 2/3; Fracture (not among the 5): TP 1 -> 1; Cardiomegaly: FP 1, nobody has it;
    # No Finding: FN 1 -> 0
    predicted = ["Edema; Fracture", "Cardiomegaly", ""]
    references = ["Edema; Fracture", "Edema", "No Finding"]
    found = {name: statistic(np.ones((1, 3)))[0] for name, statistic in chexbert_f1(predicted, references).items()}
    assert found["chexbert_f1_macro_14"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["chexbert_f1_micro_14"] == pytest.approx(2 * 2 / (3 + 4))
    assert found["chexbert_f1_macro_5"] == pytest.approx(2 / 3)
    assert found["chexbert_f1_micro_5"] == pytest.approx(2 * 1 / (2 + 2))
    rows = [
        [FakeF1CheXbert("cpu").get_label(r) if r else [0] * 14 for r in reports] for reports in (references, predicted)
    ]
    assert found["chexbert_f1_micro_14"] == pytest.approx(
        f1_score(np.array(rows[0]), np.array(rows[1]), average="micro")
    )


def test_results_are_json() -> None:
    from evals.results.scores import as_json

    found = grouped_bootstrap_ci([field_counts({"a": 1}, {"a": 1}).f1], ["p"])
    assert json.loads(json.dumps(as_json(found), allow_nan=False))["ci95"] == [None, None]
