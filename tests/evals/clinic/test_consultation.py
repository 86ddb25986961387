from dataclasses import replace

import pytest

from evals.clinic.consultation import Consultation, Turn, consult, consultation_in, named_diagnosis, text_of
from evals.clinic.dialogue import Backend, BackendFailed, ContextFull, without_thinking
from tests.evals.clinic.scripts import CASE, Script, always, moderator, roles


def said(held: Consultation) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.text) for turn in held.turns]


def test_a_consultation_goes_to_the_right_sides_and_each_hears_its_part() -> None:
    doctor = Script("What is wrong?", "REQUEST TEST: EMG", "Since when?", "DIAGNOSIS READY: [Myasthenia gravis].")
    patient, reader, heard = Script("I see double.", "A month."), Script("RESULTS: decrement"), []
    held = consult(CASE, roles(doctor, patient=patient, measurement=reader, moderator=moderator("yes", heard)))
    assert said(held) == [
        ("doctor", "What is wrong?"),
        ("patient", "I see double."),
        ("doctor", "REQUEST TEST: EMG"),
        ("measurement", "RESULTS: decrement"),
        ("doctor", "Since when?"),
        ("patient", "A month."),
        ("doctor", "DIAGNOSIS READY: [Myasthenia gravis]."),
    ]
    assert (held.outcome, held.diagnosis, held.verdict) == ("diagnosed", "Myasthenia gravis", "yes")
    assert doctor.heard[3] == [
        {"role": "system", "content": "DOCTOR"},
        {"role": "user", "content": "Begin.\n\n(1/4)"},
        {"role": "assistant", "content": "What is wrong?"},
        {"role": "user", "content": "I see double.\n\n(2/4)"},
        {"role": "assistant", "content": "REQUEST TEST: EMG"},
        {"role": "user", "content": "RESULTS: decrement\n\n(3/4)"},
        {"role": "assistant", "content": "Since when?"},
        {"role": "user", "content": "A month.\n\n(4/4)\n\nNow."},
    ]
    assert [m[: len(n)] for m, n in zip(doctor.heard[1:], doctor.heard, strict=False)] == doctor.heard[:3]
    assert [m["content"] for m in patient.heard[1][1:]] == [
        "What is wrong?",
        "I see double.",
        "RESULTS: decrement\n\nSince when?",
    ]
    assert [(m["role"], m["content"]) for m in reader.heard[0][1:]] == [("user", "I see double.\n\nREQUEST TEST: EMG")]
    asked = heard[0][1]["content"]
    assert asked.startswith("The same?") and "reference begins ---\nMyasthenia gravis (MG)\n" in asked
    assert "text begins ---\nDIAGNOSIS READY: [Myasthenia gravis].\n" in asked
    assert consultation_in(text_of(held)) == held


def test_out_of_turns_after_exactly_so_many_replies() -> None:
    doctor, patient = Script("a", "b", "c", "d"), Script("1", "2", "3")
    held = consult(CASE, roles(doctor, patient=patient))
    assert (held.outcome, held.diagnosis, held.verdict) == ("out_of_turns", "", "")
    assert [turn.text for turn in held.turns] == ["a", "1", "b", "2", "c", "3", "d"]


def test_a_diagnosis_in_the_last_reply_counts() -> None:
    held = consult(CASE, roles(Script("a", "b", "c", "diagnosis ready: flu")))
    assert (held.outcome, held.diagnosis) == ("diagnosed", "flu")


def test_characters_are_counted_with_the_thinking() -> None:
    thought = "<think>" + "x" * 40 + "</think>ok"
    case = replace(CASE, max_characters=2 * len(thought) - 1)
    held = consult(case, roles(Script(thought, thought)))
    assert (held.outcome, len(held.turns)) == ("out_of_characters", 3)
    enough = consult(replace(case, max_characters=4 * len(thought)), roles(always(thought)))
    assert enough.outcome == "out_of_turns"


def test_a_diagnosis_beyond_the_budget_still_counts() -> None:
    held = consult(replace(CASE, max_characters=3), roles(always("DIAGNOSIS READY: flu")))
    assert held.outcome == "diagnosed"


def test_what_the_doctor_thinks_is_kept_and_heard_by_nobody() -> None:
    secret = "<unused94>thought\nI suspect SECRET<unused95>"
    doctor = Script(
        f"{secret}Any pain?", f"{secret}REQUEST TEST: EMG", "<think>SECRET never closed", "DIAGNOSIS READY: x"
    )
    patient, reader, judge = Script("No.", "<think>SECRET</think>Yes."), Script("RESULTS: 1"), Script("no")
    held = consult(CASE, roles(doctor, patient=patient, measurement=reader, moderator=judge))
    for side in (doctor, patient, reader, judge):
        assert "SECRET" not in str(side.heard) and "unused9" not in str(side.heard)
    assert [turn.thinking for turn in held.turns if turn.speaker == "doctor"] == [
        "I suspect SECRET",
        "I suspect SECRET",
        "SECRET never closed",
        None,
    ]
    assert said(held)[4:6] == [("doctor", ""), ("patient", "Yes.")]


@pytest.mark.parametrize(
    ("reply", "text", "thinking"),
    [
        ("plain", "plain", None),
        ("<think>a</think>b", "b", "a"),
        ("a</think>b", "b", "a"),
        ("thought\na<unused95>b", "b", "a"),
        ("b<think>a", "b", "a"),
        ("<think>a</think>b<think>c</think>d", "d", "a</think>b<think>c"),
        ("<think>a</think>b<think>c", "b", "a\nc"),
    ],
)
def test_thinking_is_cut_off_whatever_its_form(reply: str, text: str, thinking: str | None) -> None:
    assert without_thinking(reply) == (text, thinking)


@pytest.mark.parametrize(
    ("reply", "diagnosis"),
    [
        ("DIAGNOSIS READY: Flu", "Flu"),
        ("I am sure.\n**DIAGNOSIS READY:** [Crohn's disease].\nThank you.", "Crohn's disease"),
        ("Diagnosis ready\nFlu", "Flu"),
        ("DIAGNOSIS READY:", ""),
        ("The diagnosis is flu", ""),
    ],
)
def test_the_diagnosis_of_a_reply(reply: str, diagnosis: str) -> None:
    assert named_diagnosis(reply) == diagnosis


def test_a_doctor_out_of_context_fails_but_a_side_out_of_context_breaks() -> None:
    held = consult(CASE, roles(Script("Any pain?", ContextFull("too long"))))
    assert (held.outcome, len(held.turns)) == ("out_of_context", 2)
    with pytest.raises(BackendFailed, match="the patient failed: too long"):
        consult(CASE, roles(always("Any pain?"), patient=Script(ContextFull("too long"))))


@pytest.mark.parametrize("fault", [ValueError("no\n answer"), OSError("no answer"), RuntimeError("no answer")])
def test_a_side_that_fails_is_named_and_what_was_said_is_kept(fault: Exception) -> None:
    with pytest.raises(BackendFailed, match="^the measurement failed: no answer$") as caught:
        consult(CASE, roles(Script("Any pain?", "REQUEST TEST: EMG"), measurement=Script(fault)))
    left = consultation_in(caught.value.held)
    assert left.outcome == "broken" and said(left)[-1] == ("doctor", "REQUEST TEST: EMG") and len(left.turns) == 3


def test_a_stopped_run_is_not_a_failed_side() -> None:
    with pytest.raises(KeyboardInterrupt):
        consult(CASE, roles(Script(KeyboardInterrupt())))


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        (moderator("yes"), "yes"),
        (moderator("no"), "no"),
        (moderator("maybe"), "unclear"),
        (always("Yes."), "unclear"),  # no nonce: anybody could have written it
    ],
)
def test_verdicts(judge: Backend, expected: str) -> None:
    held = consult(CASE, roles(always("DIAGNOSIS READY: x"), moderator=judge))
    assert held.verdict == expected and held.turns == (Turn("doctor", "DIAGNOSIS READY: x"),)
