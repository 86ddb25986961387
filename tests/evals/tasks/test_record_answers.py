from typing import Any

import pytest

from data_cards.readers.records import ANSWER_TYPES
from evals.tasks.record_answers import dates_in, is_right, numbers_in

LATEST = {"value": 29.3, "unit": "pg", "date": "2020-08-05"}


@pytest.mark.parametrize(
    ("kind", "value", "right", "wrong"),
    [
        (
            "date",
            "1980-07-30",
            ["1980-07-30", "Born on July 30, 1980.", "30 July 1980", "1980-07-30T08:00:00+00:00"],
            ["1980-07-03", "1980", "1980-07-30 or 1980-07-31", "", "July 1980"],
        ),
        ("boolean", False, ["No", "no, it does not"], ["Yes", "", "yes and no"]),
        ("boolean", True, ["Yes."], ["No", "perhaps"]),
        ("integer", 5, ["5", "There were 5 visits on 2012-03-05 and later.", "5."], ["15", "5 or 6", "five", ""]),
        ("integer", 1200, ["1,200"], ["1", "200"]),
        ("choice", "increase", ["increase", "It increased."], ["decrease", "increase or decrease", "up", ""]),
        ("choice", "active", ["Active", "still active"], ["resolved", "active, then resolved", "inactive"]),
        ("string", "Newton", ["Newton", "The patient lives in Newton, MA."], ["Newtonville", "Boston", ""]),
        (
            "list",
            ["Latex allergy", "Shellfish allergy"],
            [
                "Shellfish allergy; latex allergy",
                "- Latex allergy\n- Shellfish allergy.",
                "1. Latex allergy\n2) Shellfish allergy",
            ],
            ["Latex allergy", "Latex allergy; Shellfish allergy; Dander", "Latex allergy, Shellfish allergy", "none"],
        ),
        ("list", [], ["none", "No known allergies", "None documented."], ["Latex allergy", "", "not sure: nothing"]),
        (
            "quantity",
            LATEST,
            ["29.3 pg on 2020-08-05", "2020-08-05: 29.30 pg", "29.26 pg (August 5, 2020)"],
            ["29.3 pg", "29.3 pg on 2020-08-06", "29.4 pg on 2020-08-05", "2020-08-05", ""],
        ),
        ("quantity", {"value": 5.4, "unit": "10*6/uL"}, ["5.4 10*6/uL", "5.4"], ["10*6/uL", "5.5 10*6/uL"]),
        (
            "bp",
            {"systolic": 118, "diastolic": 74},
            ["118/74 mmHg", "118 / 74.2"],
            ["74/118", "118", "118/74, then 120/80"],
        ),
        (
            "date+string",
            {"date": "2021-02-12", "type": "Consultation for treatment"},
            ["2021-02-12: Consultation for treatment", "Consultation for treatment on February 12, 2021"],
            ["2021-02-12", "Consultation for treatment", "2021-02-13: Consultation for treatment"],
        ),
    ],
)
def test_right_and_wrong_answers(kind: str, value: Any, right: list[str], wrong: list[str]) -> None:
    assert [answer for answer in right if not is_right(answer, kind, value)] == []
    assert [answer for answer in wrong if is_right(answer, kind, value)] == []


def test_every_kind_of_the_reader_has_a_comparison() -> None:
    values: dict[str, Any] = {"quantity": LATEST, "bp": {"systolic": 1, "diastolic": 2}, "integer": 3, "list": ["x"]}
    for kind in ANSWER_TYPES:
        default: Any = {"date": "2020-01-01", "type": "x"} if kind == "date+string" else "x"
        assert not is_right("", kind, values.get(kind, default))
    with pytest.raises(ValueError, match="got the answer type 'essay'"):
        is_right("", "essay", "")


def test_dates_and_numbers() -> None:
    assert dates_in("on 2020-01-02, 3rd March 2021 and Apr. 4, 2022; not 2020-1-2") == {
        "2020-01-02",
        "2021-03-03",
        "2022-04-04",
    }
    assert numbers_in("-1.5 of 2,000 on 2020-01-02, B12, v1.2") == [-1.5, 2000.0]
