"""Readers of HealthBench, its professional set and MedCalc-Bench, each on made-up items in the owners' layout."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from data_cards.readers.calculations import COLUMNS, date_of, read_medcalc_bench, weeks_and_days_of
from data_cards.readers.rubrics import Criterion, read_healthbench, read_healthbench_professional
from tests.data_cards.made import put, refuses

HEALTHBENCH: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "My knee hurts."}],
    "prompt_id": "made-up-1",
    "rubrics": [
        {"criterion": "Asks since when.", "points": 5, "tags": ["axis:context_awareness"]},
        {"criterion": "Names a drug.", "points": -3, "tags": []},
    ],
    "example_tags": ["theme:context_seeking", "physician_agreed_category:x"],
    "ideal_completions_data": None,
    "canary": "made up",
}
PROFESSIONAL: dict[str, Any] = {
    "conversation": [
        {"role": "user", "content": "Write a letter."},
        {"role": "assistant", "content": "To whom?"},
        {"role": "user", "content": "To a colleague."},
    ],
    "rubric_items": [{"criterion_text": "Is a letter.", "points": 4}],
    "use_case": "writing",
    "type": "good_faith",
    "difficulty": "typical",
    "specialty": "surgery",
    "physician_response": "Dear colleague",
}


def healthbench(folder: Path, *rows: dict[str, Any], name: str = "2025-05-07-06-14-12_oss_eval.jsonl") -> Path:
    put(folder / name, "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_healthbench_keeps_signs_and_theme(tmp_path: Path) -> None:
    (found,) = read_healthbench(healthbench(tmp_path, HEALTHBENCH))
    assert found.item_id == "made-up-1"
    assert found.messages == (("user", "My knee hurts."),)
    assert found.rubric == (Criterion("Asks since when.", 5.0), Criterion("Names a drug.", -3.0))
    assert found.labels == {"theme": "context_seeking"}
    healthbench(tmp_path, {**HEALTHBENCH, "prompt_id": "other"}, name="hard.jsonl")
    assert [row.item_id for row in read_healthbench(tmp_path, "hard")] == ["other"]


def test_the_professional_set_is_named_by_place(tmp_path: Path) -> None:
    put(tmp_path / "healthbench_professional.jsonl", json.dumps(PROFESSIONAL) + "\n")
    (found,) = read_healthbench_professional(tmp_path)
    assert found.item_id == "healthbench-professional-00001"
    assert found.messages[-1] == ("user", "To a colleague.")
    assert found.rubric == (Criterion("Is a letter.", 4.0),)
    assert found.labels["use_case"] == "writing" and found.labels["specialty"] == "surgery"


def test_a_record_that_cannot_be_scored_is_refused_by_number(tmp_path: Path) -> None:
    def read(**changes: Any) -> Any:
        return lambda: read_healthbench(healthbench(tmp_path, HEALTHBENCH, {**HEALTHBENCH, **changes}))

    only_harm = [{"criterion": "Names a drug.", "points": -3}]
    refuses(read(rubrics=only_harm), "record 2 has no criterion with positive points")
    refuses(read(rubrics=[{"criterion": "x"}]), "record 2 has no rubric of criterion and points")
    refuses(read(rubrics=None), "record 2 has no rubric of criterion and points")
    refuses(read(prompt=[{"role": "assistant", "content": "x"}]), "record 2 has no conversation")
    refuses(read(prompt="x"), "record 2 has no conversation")


MEDCALC = {
    "Row Number": "1",
    "Calculator ID": "2",
    "Calculator Name": "Made up",
    "Category": "lab test",
    "Output Type": "decimal",
    "Note ID": "n1",
    "Patient Note": "A note.",
    "Question": "What is it?",
    "Ground Truth Answer": "20.0",
    "Lower Limit": "19.0",
    "Upper Limit": "21.0",
}


def medcalc(folder: Path, *changes: dict[str, str], name: str = "test_data.csv") -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, "Note Type"])
    writer.writeheader()
    for number, change in enumerate(changes, start=1):
        writer.writerow({**MEDCALC, "Row Number": str(number), **change})
    put(folder / name, text.getvalue())
    return folder


def test_medcalc_reads_four_kinds_of_answer(tmp_path: Path) -> None:
    folder = medcalc(
        tmp_path,
        {},
        {"Output Type": "integer", "Ground Truth Answer": "4", "Lower Limit": "4", "Upper Limit": "4"},
        {"Output Type": "date", "Ground Truth Answer": "02/28/2021", "Note ID": "n2"},
        {"Output Type": "integer", "Ground Truth Answer": "('17 weeks', '4 days')", "Note ID": "n3"},
    )
    found = read_medcalc_bench(folder)
    assert [row.kind for row in found] == ["decimal", "integer", "date", "weeks-days"]
    assert [row.truth for row in found] == ["20.0", "4.0", "2021-02-28", "17+4"]
    assert (found[0].lower, found[0].upper) == (19.0, 21.0)
    assert found[0].group == found[1].group != found[2].group


def test_limits_of_a_negative_truth_are_put_in_order(tmp_path: Path) -> None:
    (found,) = read_medcalc_bench(
        medcalc(tmp_path, {"Ground Truth Answer": "-2", "Lower Limit": "-1.9", "Upper Limit": "-2.1"})
    )
    assert (found.lower, found.upper) == (-2.1, -1.9)


def test_an_answer_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    refuses(lambda: read_medcalc_bench(medcalc(tmp_path, {"Output Type": "text"})), "record 1 has output type 'text'")
    broken = {"Ground Truth Answer": "twenty"}
    refuses(lambda: read_medcalc_bench(medcalc(tmp_path, broken)), "record 1 has an answer or limit that is no number")


def test_two_dates_or_spans_are_none() -> None:
    assert date_of("on 2/3/2020") == "2020-02-03"
    assert date_of("2/3/2020 or 2/4/2020") is date_of("13/40/2020") is date_of("") is None
    assert weeks_and_days_of("17 weeks and 4 days") == weeks_and_days_of("(17 weeks, 4 days)") == "17+4"
    assert weeks_and_days_of("17 weeks") is weeks_and_days_of("1 week 2 days, then 3 weeks 4 days") is None
