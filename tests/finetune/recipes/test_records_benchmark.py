"""Whether an answer stands in a record, by hand: rounded numbers, their date, all entries of a list."""

import json
from typing import Any

import pytest

from benchmarks.records import stands_in_record
from evals.items import Item

RECORD = "Patient | born 1960-01-02\nObservation | Urate | 2002-01-02 | 7.149 mg/dL\nObservation | BP | S 119.6; D 80\n"


@pytest.mark.parametrize(
    ("answer_type", "value", "there"),
    [
        ("date", "2002-01-02", True),
        ("date", "2002-01-03", False),
        ("quantity", {"value": 7.1, "unit": "mg/dL"}, True),
        ("quantity", {"value": 7.2, "unit": "mg/dL"}, False),
        ("quantity", {"value": 1.0, "unit": "mg/dL"}, False),  # of 2002-01-02
        ("quantity", {"value": 7.1, "unit": "mg/dL", "date": "2001-01-02"}, False),
        ("bp", {"systolic": 120, "diastolic": 80}, True),
        ("bp", {"systolic": 120, "diastolic": 81}, False),
        ("list", ["Urate", "BP"], True),
        ("list", ["Urate", "Weight"], False),
        ("list", [], True),
        ("date+string", {"date": "2002-01-02", "type": "Urate"}, True),
        ("string", "Weight", False),
    ],
)
def test_an_answer_stands_in_the_record_or_not(answer_type: str, value: Any, there: bool) -> None:
    prompt = f"--- begin of the record ---\n{RECORD}--- end of the record ---\n\nWeight 7.2 2002-01-03?"
    meta = {"answer_type": answer_type, "answer_value": json.dumps(value)}
    assert stands_in_record(Item("q", (), prompt, "", "open", "p", meta)) == there
