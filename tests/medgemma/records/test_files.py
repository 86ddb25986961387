"""Bundles, folders and bulk exports to one record a patient; refusals that say where, and nothing of a patient."""

import json
from pathlib import Path
from typing import Any

import pytest

from medgemma.records import read_records
from medgemma.records.files import BROKEN, NOBODYS

SECRET = "Zyxwv"


def patient(name: str) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": name, "name": [{"family": SECRET}]}


def condition(of: str, text: str = "Gout", **fields: Any) -> dict[str, Any]:
    return {"resourceType": "Condition", "id": text, "code": {"text": text}, "subject": {"reference": of}, **fields}


DRUG = {"resourceType": "Medication", "id": "m", "code": {"text": "Warfarin"}}


def bundle(*resources: Any) -> str:
    return json.dumps({"resourceType": "Bundle", "entry": [{"resource": one} for one in resources]})


def read(path: Path) -> dict[str, list[str]]:
    return {one.patient_id: [str(r["id"]) for r in one.resources] for one in read_records(path)}


def test_a_bundle_of_one_patient_is_taken_whole(tmp_path: Path) -> None:
    """Synthea's references are urn:uuid; entries that hold nothing are counted."""
    text = json.loads(bundle(patient("a"), condition("urn:uuid:a"), DRUG))
    text["entry"] += [{}, {"resource": None}, {"resource": {"id": "untyped"}}]
    (tmp_path / "a.json").write_text(json.dumps(text))
    [record] = read_records(tmp_path / "a.json")
    assert [r["id"] for r in record.resources] == ["a", "Gout", "m"] and record.left_out == {BROKEN: 3}


def test_a_bundle_of_several_patients_is_divided(tmp_path: Path) -> None:
    """A server's searchset: each gets what refers to it, and what is nobody's; what is of a third one is counted."""
    text = bundle(patient("a"), patient("b"), condition("Patient/a"), condition("https://h/fhir/Patient/b", "Flu"),
                  condition("Patient/gone"), DRUG)  # fmt: skip
    (tmp_path / "all.json").write_text(text)
    assert read(tmp_path / "all.json") == {"a": ["a", "Gout", "m"], "b": ["b", "Flu", "m"]}
    assert next(iter(read_records(tmp_path / "all.json"))).left_out == {NOBODYS: 1}


def test_syntheas_folder_is_read_without_its_hospitals(tmp_path: Path) -> None:
    (tmp_path / "fhir").mkdir()
    (tmp_path / "fhir" / "hospitalInformation1.json").write_text("not even read")
    for name in "ba":
        (tmp_path / "fhir" / f"{name}.json").write_text(bundle(patient(name)))
    assert list(read(tmp_path)) == ["a", "b"]


def test_a_bulk_export_is_gathered_over_its_files(tmp_path: Path) -> None:
    lines = {
        "Condition.ndjson": [condition("Patient/a"), condition("Patient/b", "Flu"), condition("Patient/a", "Ulcer")],
        "Medication.ndjson": [DRUG],
        "Patient.ndjson": [patient("b"), patient("a")],
        "Immunization.ndjson": [{"resourceType": "Immunization", "id": "i", "patient": {"reference": "Patient/a"},
                                 "vaccineCode": {"text": "Tetanus"}}, condition("Patient/gone")],
    }  # fmt: skip
    for name, resources in lines.items():
        (tmp_path / name).write_text("\n".join(json.dumps(one) for one in resources) + "\n\n")
    records = {one.patient_id: one for one in read_records(tmp_path)}
    assert list(records) == ["b", "a"]
    assert sorted(str(r["id"]) for r in records["a"].resources) == ["Gout", "Ulcer", "a", "i", "m"]
    assert sorted(str(r["id"]) for r in records["b"].resources) == ["Flu", "b", "m"]
    assert records["a"].left_out == {NOBODYS: 1}


def test_a_bundle_a_line(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_text(f"{bundle(patient('a'))}\n{bundle(patient('b'), condition('Patient/b'))}\n")
    assert read(tmp_path / "all.jsonl") == {"a": ["a"], "b": ["b", "Gout"]}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"resourceType": "Bundle", "entry": [' + SECRET, "a.json: is no JSON .line 1, column 38.; export"),
        ("a.json", json.dumps(patient("a")), "a.json: is no FHIR Bundle"),
        ("a.json", "[1]", "is no FHIR Bundle"),
        ("a.json", bundle(condition("Patient/a", SECRET)), "holds no Patient with an id"),
        ("a.ndjson", json.dumps(patient("a")) + "\n{" + SECRET, "a.ndjson: line 2: is no JSON"),
        ("a.ndjson", json.dumps({"id": SECRET}), "a.ndjson: line 1 is no FHIR resource; mend or drop the line"),
        ("a.ndjson", bundle(patient("a")) + "\n" + bundle(), "a.ndjson line 2: holds no Patient"),
        ("a.zip", "x", r"expected .json, .ndjson or .jsonl; unpack archives first"),
    ],
)
def test_refusals_name_the_place_and_nothing_of_the_patient(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        list(read_records(tmp_path / name))
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ValueError, match="is no JSON"):
        list(read_records(tmp_path / "a.json"))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        list(read_records(tmp_path / "none.json"))
    with pytest.raises(ValueError, match="holds no .json, .ndjson or .jsonl file"):
        list(read_records(tmp_path))
