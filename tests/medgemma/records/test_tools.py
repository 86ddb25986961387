import json
from collections.abc import Mapping
from typing import Any

import pytest

from medgemma.records.elements import Resource
from medgemma.records.tools import MOST_PAGES, ToolError, fetch, local_search, manifest


def coded(kind: str, number: int, code: str, display: str, **fields: Any) -> Resource:
    concept = {"coding": [{"code": code, "display": display}]}
    return {"resourceType": kind, "id": f"{kind[0].lower()}{number}", "code": concept, "meta": {"x": 1}, **fields}


VITAL = [{"coding": [{"code": "vital-signs"}]}]
RECORD: list[Resource] = [
    {"resourceType": "Patient", "id": "p1", "text": "who"},
    *[coded("Observation", n, "8302-2", "Body Height", category=VITAL) for n in range(7)],
    coded("Observation", 7, "718-7", "Hemoglobin", category=[{"coding": [{"code": "laboratory"}]}]),
    coded("AllergyIntolerance", 0, "300916003", "Latex allergy", category=["food"]),
    {"resourceType": "MedicationRequest", "id": "r0", "medicationReference": {"reference": "Medication/m0"}},
    {"resourceType": "MedicationRequest", "id": "r1", "medicationReference": {"reference": "urn:uuid:m0"}},
    {
        "resourceType": "MedicationRequest",
        "id": "r2",
        "medicationCodeableConcept": {"coding": [{"code": "197319", "display": "Allopurinol, 100 MG"}]},
    },
    {"resourceType": "Medication", "id": "m0", "code": {"coding": [{"code": "1049630", "display": "Diphenhydramine"}]}},
    {"resourceType": "Claim", "id": "c0"},
]


class Watched:
    """A search that keeps what it was asked."""

    def __init__(self, page_count: int = 3) -> None:
        self.search = local_search(RECORD, page_count)
        self.asked: list[dict[str, str]] = []

    def __call__(self, parameters: Mapping[str, str]) -> Mapping[str, Any]:
        self.asked.append(dict(parameters))
        return self.search(parameters)


def ids(resources: list[Resource]) -> list[str]:
    return [resource["id"] for resource in resources]


def test_the_manifest_lists_types_and_codes() -> None:
    assert manifest(Watched(), "Patient/p1", "p1") == {
        "Patient": [],
        "Observation": ["Body Height=8302-2", "Hemoglobin=718-7"],
        "AllergyIntolerance": ["Latex allergy=300916003"],
        "MedicationRequest": ["Allopurinol, 100 MG=197319", "Diphenhydramine=1049630"],
    }


def test_all_pages_are_followed() -> None:
    watched = Watched()
    found = fetch(watched, "p1", "Observation", ["8302-2"], "p1")
    assert ids(found.resources) == [f"o{n}" for n in range(7)] and found.note == ""
    assert [asked.get("_offset") for asked in watched.asked] == [None, "3", "6"]
    assert {asked["code"] for asked in watched.asked} == {"8302-2"}
    assert {asked["patient"] for asked in watched.asked} == {"Patient/p1"}


@pytest.mark.parametrize(
    "codes", [["718-7"], "718-7", ["Hemoglobin=718-7"], "Hemoglobin=718-7", ["718-7", "none-such"], [" 718-7 ", ""]]
)
def test_codes_in_any_spelling(codes: object) -> None:
    assert ids(fetch(Watched(), "p1", "Observation", codes, "p1").resources) == ["o7"]


def test_a_display_with_a_comma_is_no_two_codes() -> None:
    assert ids(fetch(Watched(), "p1", "MedicationRequest", "Allopurinol, 100 MG=197319", "p1").resources) == ["r2"]


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [("Observation", "laboratory", ["o7"]), ("AllergyIntolerance", "FOOD", ["a0"]), ("Observation", "xyz", [])],
)
def test_what_no_code_has_is_looked_for_as_a_category(kind: str, code: str, expected: list[str]) -> None:
    watched = Watched(page_count=50)
    found = fetch(watched, "p1", kind, [code], "p1")
    assert ids(found.resources) == expected and ("category" in watched.asked[1]) and len(watched.asked) == 2
    assert found.note == ("found by category, not by code" if expected else "nothing has these codes or categories")


def test_medications_come_with_their_requests_once() -> None:
    found = fetch(Watched(page_count=50), "p1", "MedicationRequest", None, "p1")
    assert ids(found.resources) == ["r0", "r1", "r2", "m0"]
    by_code = fetch(Watched(page_count=50), "p1", "MedicationRequest", ["1049630"], "p1")
    assert ids(by_code.resources) == ["r0", "r1", "m0"]
    assert not any("_include" in asked for asked in _asked_for("Observation"))


def _asked_for(kind: str) -> list[dict[str, str]]:
    watched = Watched()
    fetch(watched, "p1", kind, [], "p1")
    return watched.asked


def test_meta_and_text_are_left_out() -> None:
    assert "meta" not in json.dumps(fetch(Watched(), "p1", "Observation", [], "p1").resources)
    assert fetch(Watched(), "p1", "Patient", [], "p1").resources == [{"resourceType": "Patient", "id": "p1"}]


@pytest.mark.parametrize(
    ("patient", "kind", "codes", "message"),
    [
        ("p2", "Observation", [], "patient 'p2' cannot be read here; the patient is p1"),
        (None, "Observation", [], "cannot be read here"),
        ("p1", "Claim", [], "resource_type 'Claim' is none of Patient"),
        ("p1", ["Observation"], [], "is none of"),
        ("p1", "Observation", {"code": "x"}, "must be a list of texts"),
        ("p1", "Observation", [["x"]], "must be a list of texts"),
    ],
)
def test_wrong_calls_are_explained(patient: object, kind: object, codes: object, message: str) -> None:
    watched = Watched()
    with pytest.raises(ToolError, match=message):
        fetch(watched, patient, kind, codes, "p1")
    assert watched.asked == []
    if patient != "p1":
        with pytest.raises(ToolError, match="cannot be read here"):
            manifest(watched, str(patient), "p1")


def test_another_patients_search_finds_nothing() -> None:
    assert local_search(RECORD)({"_type": "Observation", "patient": "Patient/p2"})["total"] == 0


def test_a_record_without_end_is_cut_and_says_so() -> None:
    def endless(parameters: Mapping[str, str]) -> Mapping[str, Any]:
        return {
            "entry": [{"resource": RECORD[1]}],
            "link": [{"relation": "next", "url": "?_type=Observation&_offset=1"}],
        }

    found = fetch(endless, "p1", "Observation", [], "p1")
    assert len(found.resources) == MOST_PAGES and "cut off after 40 pages" in found.note
