import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.items import Item, item_sha256
from evals.measures import Answered
from evals.outputs import Output
from evals.results.scores import measures, value_of
from evals.running.options import RunOptions
from evals.running.record import run_record
from evals.tasks.catalogue import TASKS
from evals.tasks.jsonl import Row
from evals.tasks.owners_rows import OWNERS
from evals.tasks.task import ItemOptions

CHOICE = {
    "id": "q1",
    "split": "test",
    "group": "p1",
    "kind": "choice",
    "question": "Which?",
    "options": {"A": "one", "B": "two"},
    "answer": "B",
    "category": "anatomy",
}
FINDING = {**CHOICE, "kind": "yes-no", "question": "", "answer": "yes", "category": "edema", "images": ["a.png"]}
FINDING.pop("options")


def put(folder: Path, name: str, rows: list[Mapping[str, Any] | str], split: str = "test") -> Path:
    place = folder / OWNERS[name].card
    place.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (place / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place


def items_of(folder: Path, name: str, split: str = "test") -> list[Item]:
    return TASKS[name].items(folder, ItemOptions(split))


def figures(name: str, items: list[Item], texts: Mapping[str, str]) -> dict[str, float]:
    said = [
        Output(item.item_id, item_sha256(item), "m", error=item.fault)
        if item.fault
        else Output(item.item_id, item_sha256(item), "m", text=texts[item.item_id])
        for item in items
    ]
    answered = [Answered(item, output) for item, output in zip(items, said, strict=True)]
    return {metric: value_of(measure) for metric, measure in measures(TASKS[name], answered).items()}


def test_a_choice_row_becomes_a_prompt(tmp_path: Path) -> None:
    put(tmp_path, "mmlu-pro", [CHOICE])
    (item,) = items_of(tmp_path, "mmlu-pro")
    assert item.prompt.startswith("Which?\n(A) one (B) two\n\nSolve")
    assert (item.reference, item.group, item.meta["category"]) == ("B", "p1", "anatomy")
    assert figures("mmlu-pro", [item], {"q1": "Final Answer: two"})["accuracy"] == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "bad"', "is no JSON (Expecting ',' delimiter at column 13)"),
        ("[1]", "is a JSON list; expected an object"),
        (json.dumps({**CHOICE, "id": "bad", "answer": "C"}), "row: answer must be one of the letters of options"),
        (json.dumps({**CHOICE, "id": "bad", "options": {"A": "x"}}), "options must be A, B, C, ... in order"),
        (json.dumps({**CHOICE, "id": "bad", "anwser": "C"}), "anwser: Extra inputs are not permitted"),
        (json.dumps({k: v for k, v in CHOICE.items() if k != "group"} | {"id": "bad"}), "group: Field required"),
        (json.dumps({**CHOICE, "id": "bad", "question": ""}), "has no question; this task needs it"),
        (json.dumps({**CHOICE, "id": "bad", "category": ""}), "has no category; this task needs it"),
        (json.dumps({**FINDING, "id": "bad", "question": "?"}), "is of kind yes-no; this task takes choice"),
        (json.dumps({**CHOICE, "id": "bad", "images": ["no.png"]}), "names no.png, which is not there; add the file"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_stays_in_n(tmp_path: Path, line: str, reason: str) -> None:
    put(tmp_path, "mmlu-pro", [CHOICE, line])
    items = items_of(tmp_path, "mmlu-pro")
    (bad,) = [item for item in items if item.fault]
    assert len(items) == 2
    assert bad.fault.startswith("test.jsonl: line 2 ") and reason in bad.fault
    found = figures("mmlu-pro", items, {"q1": "Final Answer: (B)"})
    assert (found["accuracy"], found["unparsed"]) == (0.5, 0.5)


def test_the_reason_does_not_show_what_the_row_holds(tmp_path: Path) -> None:
    put(tmp_path, "mmlu-pro", [CHOICE, {**CHOICE, "id": "bad", "age": "Jane Doe", "sex": "Doe"}])
    (bad,) = [item for item in items_of(tmp_path, "mmlu-pro") if item.fault]
    assert "age" in bad.fault and "sex" in bad.fault and "Doe" not in bad.fault


def test_the_wrong_file_is_refused_whole(tmp_path: Path) -> None:
    put(tmp_path, "mmlu-pro", [CHOICE, {**CHOICE, "id": "q2", "split": "train"}])
    with pytest.raises(ValueError, match=r"1 row\(s\) are of another split, such as q2; expected split 'test'"):
        items_of(tmp_path, "mmlu-pro")
    with pytest.raises(ValueError, match=r"validation.jsonl: no such file"):
        items_of(tmp_path, "mmlu-pro", "validation")


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "mmlu-pro", [CHOICE])
    put(tmp_path, "mmlu-pro", [{**CHOICE, "id": "t1", "split": "train"}], "train")
    with pytest.raises(ValueError, match=r"1 group\(s\) \(patients\) are in train.jsonl too"):
        items_of(tmp_path, "mmlu-pro")


def test_an_item_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    from evals.running.checks import check_items

    put(tmp_path, "mmlu-pro", [CHOICE, CHOICE])
    with pytest.raises(ValueError, match="q1 is there more than once"):
        check_items(items_of(tmp_path, "mmlu-pro"), {"task": "mmlu-pro", "side": "test"}, "here")


def test_no_usable_line_and_another_encoding(tmp_path: Path) -> None:
    place = put(tmp_path, "mmlu-pro", ["{"])
    with pytest.raises(ValueError, match=r"no line can be used \(test.jsonl: line 1 is no JSON"):
        items_of(tmp_path, "mmlu-pro")
    (place / "test.jsonl").write_bytes('{"id": "ä"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="is no UTF-8"):
        items_of(tmp_path, "mmlu-pro")


def test_conditions_of_volumes(tmp_path: Path) -> None:
    place = put(
        tmp_path,
        "ct-rate",
        [
            {**FINDING, "id": f"{condition}{number}", "group": f"p{number}", "split": "validation",
             "images": ["series"], "category": condition, "answer": answer}
            for condition, answers in (("edema", ("yes", "no")), ("mass", ("yes", "yes")))
            for number, answer in enumerate(answers)
        ],
        "validation",
    )  # fmt: skip
    (place / "series").mkdir()
    items = items_of(tmp_path, "ct-rate", "validation")
    assert {item.prompt.splitlines()[0] for item in items} == {
        "Is there edema in the chest CT volume?",
        "Is there mass in the chest CT volume?",
    }
    found = figures("ct-rate", items, {item.item_id: "Final Answer: yes" for item in items})
    assert found["macro_precision"] == 0.75 and found["macro_recall"] == 1
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["accuracy_mean_over_categories"] == 0.75


def test_change_of_findings_averages_classes_before_findings(tmp_path: Path) -> None:
    options = {"A": "improved", "B": "stable", "C": "worsened"}
    rows = [("edema", "A"), ("edema", "A"), ("edema", "B"), ("effusion", "C")]
    place = put(
        tmp_path,
        "ms-cxr-t",
        [
            {**CHOICE, "id": str(number), "options": options, "answer": letter, "category": finding, "question": "",
             "images": ["a.png", "b.png"]}
            for number, (finding, letter) in enumerate(rows)
        ],
    )  # fmt: skip
    for name in ("a.png", "b.png"):
        (place / name).write_bytes(b"x")
    items = items_of(tmp_path, "ms-cxr-t")
    assert [Path(file).name for file in items[0].files] == ["a.png", "b.png"]
    found = figures("ms-cxr-t", items, dict.fromkeys("0123", "Final Answer: (A)"))
    assert found["class_recall_mean_over_categories"] == pytest.approx((1 / 2 + 0) / 2)
    assert found["accuracy_mean_over_categories"] == pytest.approx((2 / 3 + 0) / 2)


def test_boxes_are_scored_in_either_unit(tmp_path: Path) -> None:
    row = {**FINDING, "kind": "boxes", "category": "right clavicle", "answer": [0.0, 0.0, 0.5, 0.5]}
    place = put(tmp_path, "chest-imagenome", [{**row, "id": str(number)} for number in range(4)])
    (place / "a.png").write_bytes(b"x")
    items = items_of(tmp_path, "chest-imagenome")
    said = {
        "0": '```json\n[{"box_2d": [0, 0, 500, 500], "label": "right clavicle"}]\n```',
        "1": 'Final Answer: [{"box_2d": [0.0, 0.0, 0.5, 0.25], "label": "right clavicle"}]',
        "2": "I see no clavicle.",
        "3": '[{"box_2d": [500, 500, 0, 0], "label": "right clavicle"}]',
    }
    found = figures("chest-imagenome", items, said)
    assert found["iou"] == pytest.approx((1 + 0.5 + 0 + 0) / 4) and found["unparsed"] == 0.5


def test_laboratory_reports_have_both_averages(tmp_path: Path) -> None:
    first, second = [{"name": "Na", "result": "140"}], [{"name": "K", "result": "4"}, {"name": "Cl", "result": "100"}]
    rows = [{**FINDING, "id": str(n), "kind": "json", "answer": answer} for n, answer in enumerate((first, second))]
    place = put(tmp_path, "lab-reports", rows)
    (place / "a.png").write_bytes(b"x")
    items = items_of(tmp_path, "lab-reports")
    found = figures("lab-reports", items, {"0": json.dumps(first), "1": '[{"name": "K", "result": 4}]'})
    assert found["field_f1"] == pytest.approx((1 + 2 * 2 / (2 + 4)) / 2)  # a row is two fields: name and result
    assert found["field_f1_micro"] == pytest.approx(2 * 4 / (4 + 6))


def test_slides_have_rouge_l(tmp_path: Path) -> None:
    place = put(tmp_path, "wsi-path", [{**FINDING, "kind": "text", "answer": "tubular adenoma"}])
    (place / "a.png").write_bytes(b"x")
    items = items_of(tmp_path, "wsi-path")
    assert figures("wsi-path", items, {"q1": "A tubular adenoma."})["rouge_l_f1"] == pytest.approx(0.8)


def test_records_stand_between_delimiters(tmp_path: Path) -> None:
    row = {**CHOICE, "kind": "short", "answer": "2020-01-02", "context": "2020-01-02 tetanus vaccine"}
    put(tmp_path, "ehrqa", [{k: v for k, v in row.items() if k != "options"}])
    (item,) = items_of(tmp_path, "ehrqa")
    assert "--- begin of the record ---\n2020-01-02 tetanus vaccine\n--- end" in item.prompt
    assert figures("ehrqa", [item], {"q1": "2020-01-02"})["accuracy"] == 1


def test_the_file_is_hashed_into_the_record(tmp_path: Path) -> None:
    put(tmp_path, "mmlu-pro", [CHOICE])
    model = type("Model", (), {"fingerprint": "ab", "identity": "ab"})()
    record = run_record(
        TASKS["mmlu-pro"], items_of(tmp_path, "mmlu-pro"), tmp_path, RunOptions(), model, "m", "command"
    )
    assert list(record.data_sha256) == ["mmlu-pro/test.jsonl"]


@pytest.mark.parametrize("name", OWNERS)
def test_a_broken_line_is_wrong_in_every_row(tmp_path: Path, name: str) -> None:
    bad = Item("x", (), "", "", "closed", "g", {"card": "c"}, fault="line 1 is no JSON")
    graded = TASKS[name].grade(bad, Output("x", "s", "m", error=bad.fault))
    assert graded and all(value == float(metric == "unparsed") for metric, value in graded.items())
    assert TASKS[name].pooled is not None and TASKS[name].pooled([Answered(bad, Output("x", "s", "m"))]) == {}


def test_the_page_shows_the_schema_and_rows_that_pass(repository: Path) -> None:
    page = (repository / "docs" / "evals-jsonl.md").read_text(encoding="utf-8")
    assert not [name for name in Row.model_fields if f"`{name}`" not in page]
    assert not [name for name in OWNERS if f"`{name}`" not in page]
    shown = [line for line in page.splitlines() if line.startswith('{"')]
    rows = [Row.model_validate_json(line) for line in shown]
    assert {row.kind for row in rows} == {"choice", "yes-no", "short", "text", "json", "boxes"}
    assert np.all([row.id for row in rows])
