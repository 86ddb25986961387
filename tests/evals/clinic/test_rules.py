import json
from pathlib import Path

import pytest

from evals.clinic import rules
from evals.clinic.dialogue import Message
from evals.tasks import agent_clinic

FACTS = {
    "Demographics": "35-year-old female",
    "History": "She has seen double for a month. Climbing stairs is hard.",
    "Symptoms": {"Primary_Symptom": "Double vision", "Secondary_Symptoms": ["Weak arms", "Better after rest"]},
    "Social_History": "Smokes. Drinks wine.",
}
FINDINGS = {
    "Vital_Signs": {"Heart_Rate": "72 bpm", "Blood_Pressure": "125/80"},
    "tests": {"Blood_Tests": {"WBC": 9, "Antibodies": ["AChR", "MuSK"]}, "Chest_CT": {"Findings": "No thymoma."}},
}


def ask(facts: object, *said: str) -> list[Message]:
    """Said: the other side and this side in turn."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    return [{"role": "system", "content": f"You are one. What you know: {json.dumps(facts)}"}, *turns]


def test_the_patient_answers_from_its_facts_and_says_nothing_twice() -> None:
    assert rules.patient(ask(FACTS, "Do you smoke?")) == "Smokes."
    assert rules.patient(ask(FACTS, "Is climbing stairs hard?")) == "Climbing stairs is hard."
    assert rules.patient(ask(FACTS, "Do you smoke?", "Smokes.", "Do you smoke?")) == rules.NOT_KNOWN
    assert rules.patient(ask(FACTS, "Hello!")) == "She has seen double for a month."
    assert rules.patient(ask(FACTS, "Hello!", "Hi.", "And?")) == rules.NOT_KNOWN
    assert "Weak arms" in rules.patient(ask(FACTS, "Which symptoms do you have?"))


def test_the_reader_reports_what_was_ordered_or_normal() -> None:
    assert rules.measurement(ask(FINDINGS, "REQUEST TEST: Chest_CT")) == "RESULTS: Chest CT Findings: No thymoma."
    vital = "RESULTS: Vital Signs Heart Rate: 72 bpm; Vital Signs Blood Pressure: 125/80"
    assert rules.measurement(ask(FINDINGS, "Fine. request test: [vital signs]")) == vital
    blood = rules.measurement(ask(FINDINGS, "REQUEST TEST: blood"))
    assert "WBC: 9" in blood and 'Antibodies: ["AChR", "MuSK"]' in blood and "Blood Pressure" in blood
    assert rules.measurement(ask(FINDINGS, "REQUEST TEST: colonoscopy")) == rules.NORMAL


def test_without_facts_there_is_nothing_to_answer_from() -> None:
    with pytest.raises(ValueError, match="no JSON object of facts"):
        rules.patient([{"role": "system", "content": "You are a patient."}, {"role": "user", "content": "Well?"}])


@pytest.mark.kit
def test_every_case_of_the_kit_gives_facts_to_answer_from(kit: Path) -> None:
    for item in agent_clinic.items(kit, "all"):
        case = agent_clinic.case_in(item)
        first = rules.patient(ask_with(case.patient, "What brings you in today?"))
        assert first and first != rules.NOT_KNOWN, case.case_id
        vital = rules.measurement(ask_with(case.measurement, "REQUEST TEST: vital signs temperature"))
        assert vital.startswith("RESULTS: "), case.case_id


def ask_with(system: str, text: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]
