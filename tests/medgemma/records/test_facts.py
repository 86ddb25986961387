"""Resources as dated facts: what is said, what gives no fact and why, odd and missing fields."""

from pathlib import Path
from typing import Any

import pytest

from data_cards.readers.records import read_synthea_bundles
from medgemma.records import Fact, facts_of, record_text
from medgemma.records.elements import date_text, reference_id

BUNDLE: list[dict[str, Any]] = [
    {"resourceType": "Condition", "id": "c", "code": {"text": "Gout"}, "onsetDateTime": "2001-02-03T00:00:00Z",
     "clinicalStatus": {"coding": [{"code": "resolved"}]}, "abatementDateTime": "2001-03-04"},
    {"resourceType": "Patient", "id": "p", "birthDate": "1960-01-02", "gender": "male", "address": [{"city": "Newton"}],
     "name": [{"family": "Doe"}]},
    {"resourceType": "MedicationRequest", "id": "m", "status": "active", "authoredOn": "2000-05-06",
     "medicationCodeableConcept": {"coding": [{"display": "Colchicine"}]},
     "reasonReference": [{"reference": "urn:uuid:c"}]},
    {"resourceType": "Observation", "id": "o", "status": "final", "effectiveDateTime": "2002-01-01",
     "code": {"text": "Blood Pressure"},
     "component": [{"code": {"text": "Systolic"}, "valueQuantity": {"value": 120, "unit": "mm[Hg]"}}]},
    {"resourceType": "Observation", "id": "u", "status": "final", "effectiveDateTime": "2002-01-02",
     "code": {"text": "Urate"}, "valueQuantity": {"value": 7.1, "unit": "mg/dL"}},
    {"resourceType": "AllergyIntolerance", "id": "a", "code": {"text": "Latex allergy"}},
]  # fmt: skip


def only(resource: dict[str, Any], *others: dict[str, Any]) -> Fact:
    return next(fact for fact in facts_of([resource, *others]).facts if fact.category == resource["resourceType"])


def test_a_record_is_one_line_a_resource_oldest_first() -> None:
    assert record_text(BUNDLE).splitlines() == [
        "Patient | born 1960-01-02 | gender male | city Newton",
        "2000-05-06 | MedicationRequest | Colchicine | active | reason Gout",
        "2001-02-03 | Condition | Gout | resolved | ended 2001-03-04",
        "2002-01-01 | Observation | Blood Pressure | Systolic 120 mm[Hg] | final",
        "2002-01-02 | Observation | Urate | 7.1 mg/dL | final",
        "AllergyIntolerance | Latex allergy",
    ]
    assert [line.split(" | ")[0] for line in record_text(BUNDLE, ["Condition"]).splitlines()] == [
        "Patient",
        "2001-02-03",
    ]


def test_a_fact_keeps_value_unit_and_where_it_stands() -> None:
    fact = only(BUNDLE[4])
    assert (fact.date, fact.text, fact.value, fact.unit) == ("2002-01-02", "Urate", "7.1", "mg/dL")
    assert fact.reference == "Observation/u"
    low = only({"resourceType": "Observation", "valueQuantity": {"value": 5, "comparator": "<", "code": "ng/L"}})
    assert (low.value, low.unit, low.reference) == ("<5", "ng/L", "")


@pytest.mark.parametrize(
    ("recorded", "read"),
    [
        ("2001-02-03T10:11:12+01:00", "2001-02-03"),
        ("2001-02", "2001-02"),
        ("2001", "2001"),
        ("2001-13-40", ""),
        ("0000-00-00", ""),
        ("20010203", ""),
        ("last week", ""),
        (20010203, ""),
        (None, ""),
    ],
)
def test_a_date_is_as_exact_as_recorded_or_none(recorded: object, read: str) -> None:
    assert date_text(recorded) == read
    assert only({"resourceType": "Condition", "code": {"text": "Gout"}, "onsetDateTime": recorded}).date == read


def test_details_are_said() -> None:
    high = {**BUNDLE[4], "interpretation": [{"coding": [{"code": "H", "display": "High"}]}]}
    assert only(high).line == "2002-01-02 | Observation | Urate | 7.1 mg/dL | High | final"
    rash = {**BUNDLE[5], "reaction": [{"manifestation": [{"text": "Rash"}, {"text": "Fever"}]}]}
    assert only(rash).line == "AllergyIntolerance | Latex allergy | reaction Rash; Fever"
    between = {"resourceType": "Observation", "valueRange": {"low": {"value": 1, "unit": "cm"}, "high": {"value": 2}}}
    assert (only(between).value, only(between).unit) == ("1 to 2", "cm")
    assert only({"resourceType": "Patient", "deceasedBoolean": True}).text == "died yes"
    assert only({"resourceType": "Observation", "valueBoolean": False}).value == "False"


def test_what_is_wrongly_dated_comes_last_and_is_kept() -> None:
    wrong = {"resourceType": "Condition", "code": {"text": "Flu"}, "onsetDateTime": "9999-99-99"}
    assert [fact.text for fact in facts_of([wrong, BUNDLE[0]]).facts] == ["Gout", "Flu"]


def test_what_gives_no_fact_is_counted_by_its_reason() -> None:
    found = facts_of(
        [
            {"resourceType": "Claim", "id": "x"},
            {"resourceType": "Organization", "id": "y", "name": "Clinic"},
            {"id": "z"},
            {"resourceType": "Observation", "code": {"text": "Urate"}, "status": "entered-in-error"},
            {"resourceType": "Condition", "code": {"text": "Flu"},
             "verificationStatus": {"coding": [{"code": "entered-in-error"}]}},
            {"resourceType": "Basic"},
        ]
    )  # fmt: skip
    assert found.facts == ()
    assert found.left_out == {
        "of billing, administration or naming": 2,
        "without a resource type": 1,
        "entered in error": 2,
        "without a name, a value or a status": 1,
    }


def test_what_turns_a_fact_round_is_said() -> None:
    """A refuted condition, a procedure that was not done and a drug that must not be given are not their opposites."""
    refuted = {"coding": [{"code": "refuted"}]}
    assert only({"resourceType": "Condition", "code": {"text": "Gout"}, "verificationStatus": refuted}).line == (
        "Condition | Gout | refuted"
    )
    assert "not-done" in only({"resourceType": "Procedure", "code": {"text": "Biopsy"}, "status": "not-done"}).line
    given = {"resourceType": "MedicationRequest", "medicationCodeableConcept": {"text": "Aspirin"}, "status": "active"}
    assert only({**given, "doNotPerform": True}).line == "MedicationRequest | Aspirin | active, not to be given"


def test_names_are_found_where_others_hold_them() -> None:
    drug = {"resourceType": "Medication", "id": "m1", "code": {"text": "Warfarin"}}
    asked = {"resourceType": "MedicationRequest", "medicationReference": {"reference": "Medication/m1"}}
    assert only(asked, drug).text == "Warfarin"
    inside = {**asked, "contained": [{**drug, "id": "in"}], "medicationReference": {"reference": "#in"}}
    assert only(inside).text == "Warfarin"
    assert (
        only({"resourceType": "MedicationRequest", "medication": {"concept": {"text": "Warfarin"}}}).text == "Warfarin"
    )
    family = {"resourceType": "FamilyMemberHistory", "relationship": {"text": "Mother"},
              "condition": [{"code": {"text": "Stroke"}}]}  # fmt: skip
    assert only(family).text == "Mother: Stroke"
    assert reference_id({"reference": "https://h/fhir/Condition/9/_history/2"}) == "9"
    assert reference_id({"reference": "Practitioner?identifier=http://npi|1"}) == ""


@pytest.mark.parametrize("odd", [None, 7, "text", [], [None], {}, {"coding": None}, {"coding": [None, 3]}, [[{}]]])
@pytest.mark.parametrize(
    "field",
    ["code", "valueQuantity", "component", "reasonReference", "reasonCode", "activity", "period", "clinicalStatus",
     "verificationStatus", "category", "type", "contained", "reaction", "id", "status", "address"],
)  # fmt: skip
def test_no_odd_field_breaks_a_record(field: str, odd: object) -> None:
    for kind in ("Observation", "Condition", "Patient", "CarePlan", "AllergyIntolerance"):
        facts_of([{"resourceType": kind, "code": {"text": "x"}, field: odd}, *BUNDLE])


def test_no_name_of_a_patient_is_in_a_fact() -> None:
    assert "Doe" not in record_text(BUNDLE)


@pytest.mark.kit
def test_every_resource_of_the_kit_is_a_fact(kit: Path) -> None:
    for record in read_synthea_bundles(kit / "synthea-fhir-r4", "val"):
        found = facts_of(record.resources)
        assert len(found.facts) == len(record.resources) and not found.left_out
        assert found.facts[0].category == "Patient"
        dates = [fact.date for fact in found.facts[1:] if fact.date]
        assert dates == sorted(dates) and all(len(date) == 10 for date in dates)
