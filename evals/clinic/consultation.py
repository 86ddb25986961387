"""One consultation: a doctor asks a patient, orders tests from a measurement reader, and names a diagnosis.

The protocol is AgentClinic's: the doctor has a fixed number of replies, of which each asks the patient, orders a test
("REQUEST TEST: ...") or ends the consultation ("DIAGNOSIS READY: ..."); the patient hears results, the measurement
reader hears the patient; a moderator says whether the diagnosis is the right disease. Unlike there, thinking is
stripped before another side hears a reply, the count of replies stands in the messages (so that a prefix can be
cached), and the moderator is a judge that the doctor's words cannot talk to (evals/judging).

Source: Schmidgall et al., AgentClinic, arXiv:2405.07960; its code, MIT, commit b6570edefb. No text of it is used.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from evals.clinic.dialogue import Backend, BackendFailed, ContextFull, Message, call, chat, without_thinking
from evals.judging.judge import judge_text

Speaker = Literal["doctor", "patient", "measurement"]

Outcome = Literal["diagnosed", "out_of_turns", "out_of_characters", "out_of_context", "broken"]
"""Why it ended. Only `diagnosed` can be right; the next three are the doctor's failures and stay in n; `broken` is what
a side that failed left behind, and is not graded."""

TEST = re.compile(r"request\s+test\s*:?", re.IGNORECASE)
DIAGNOSIS = re.compile(r"diagnosis\s+ready\s*:?", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """All that is put to the four sides; the task's wording, the data set's facts."""

    case_id: str
    diagnosis: str
    doctor: str
    """System prompt, like the next three."""
    patient: str
    measurement: str
    moderator: str
    opening: str
    """What the doctor hears first."""
    counter: str
    """Ends every message to the doctor; has {turn} and {turns}."""
    last_turn: str
    """Ends the message before the doctor's last reply."""
    question: str
    """Put to the moderator, with the diagnosis and the doctor's reply as quoted data."""
    max_turns: int
    """Replies of the doctor."""
    max_characters: int
    """Of all the doctor's replies, thinking included. Characters bind models of different tokenizers alike; tokens of
    one reply are the backend's to limit."""


@dataclass(frozen=True)
class Turn:
    """One reply, as the others hear it."""

    speaker: Speaker
    text: str
    thinking: str | None = None
    """The doctor's is kept for the record; nobody hears it."""


@dataclass(frozen=True)
class Consultation:
    """What happened."""

    turns: tuple[Turn, ...]
    outcome: Outcome
    diagnosis: str = ""
    """What follows DIAGNOSIS READY."""
    verdict: Literal["yes", "no", "unclear", ""] = ""
    """The moderator's; empty if none was asked."""


@dataclass(frozen=True)
class Roles:
    """Who answers for each side."""

    doctor: Backend
    patient: Backend
    measurement: Backend
    moderator: Backend | None = None
    """None: nobody judges; the string match alone grades."""


def consult(case: Case, roles: Roles) -> Consultation:
    """Hold a consultation.

    Args:
        case: What each side knows, and the budgets.
        roles: Who answers.

    Raises:
        BackendFailed: A side raised, or a side other than the doctor ran out of context; `held` is what was said.
    """
    turns: list[Turn] = []
    try:
        return _consult(case, roles, turns)
    except BackendFailed as failure:
        failure.held = text_of(Consultation(tuple(turns), "broken"))
        raise


def text_of(consultation: Consultation) -> str:
    """Write a consultation as the text of an output."""
    return json.dumps(asdict(consultation), ensure_ascii=False)


def consultation_in(text: str) -> Consultation:
    """Read the consultation that an output's text holds."""
    row = json.loads(text)
    return Consultation(**{**row, "turns": tuple(Turn(**turn) for turn in row["turns"])})


def _consult(case: Case, roles: Roles, turns: list[Turn]) -> Consultation:
    written = 0
    for number in range(case.max_turns):
        try:
            reply = call("doctor", roles.doctor, doctor_messages(case, turns))
        except ContextFull:
            return Consultation(tuple(turns), "out_of_context")
        said = without_thinking(reply)
        turns.append(Turn("doctor", said.text, said.thinking))
        written += len(reply)
        if named := named_diagnosis(said.text):
            return Consultation(tuple(turns), "diagnosed", named, _judge(case, roles.moderator, said.text))
        if written > case.max_characters:
            return Consultation(tuple(turns), "out_of_characters")
        if number + 1 < case.max_turns:
            turns.append(_answer(case, roles, turns))
    return Consultation(tuple(turns), "out_of_turns")


def named_diagnosis(reply: str) -> str:
    """Return what follows DIAGNOSIS READY on its line, without brackets and asterisks; empty if there is nothing."""
    parts = DIAGNOSIS.split(reply, maxsplit=1)
    lines = parts[1].strip(" \n*:[").splitlines() if len(parts) > 1 else []
    return lines[0].strip(" *[].\"'") if lines else ""


def orders_test(reply: str) -> bool:
    """Say whether a reply of the doctor goes to the measurement reader and not to the patient."""
    return TEST.search(reply) is not None


def doctor_messages(case: Case, turns: Sequence[Turn]) -> list[Message]:
    """Return the conversation as the doctor knows it; what was said before stays as it was."""
    messages = chat(case.doctor, [("user", _counted(case, case.opening, 1))])
    asked = 0
    for turn in turns:
        if turn.speaker == "doctor":
            asked += 1
            messages.append({"role": "assistant", "content": turn.text})
        else:
            messages.append({"role": "user", "content": _counted(case, turn.text, asked + 1)})
    return messages


def patient_messages(case: Case, turns: Sequence[Turn]) -> list[Message]:
    """Return the conversation as the patient knows it: questions, results, its own answers."""
    known = [turn for turn in turns if not (turn.speaker == "doctor" and orders_test(turn.text))]
    return chat(case.patient, [("assistant" if t.speaker == "patient" else "user", t.text) for t in known])


def measurement_messages(case: Case, turns: Sequence[Turn]) -> list[Message]:
    """Return the conversation as the measurement reader knows it: orders, what the patient said, its own results."""
    known = [turn for turn in turns if turn.speaker != "doctor" or orders_test(turn.text)]
    return chat(case.measurement, [("assistant" if t.speaker == "measurement" else "user", t.text) for t in known])


def _answer(case: Case, roles: Roles, turns: Sequence[Turn]) -> Turn:
    """Let the side that the doctor turned to answer."""
    side: Speaker = "measurement" if orders_test(turns[-1].text) else "patient"
    backend = roles.measurement if side == "measurement" else roles.patient
    messages = measurement_messages(case, turns) if side == "measurement" else patient_messages(case, turns)
    return Turn(side, without_thinking(_called(side, backend, messages)).text)


def _judge(case: Case, moderator: Backend | None, reply: str) -> Literal["yes", "no", "unclear", ""]:
    if moderator is None:
        return ""
    judged = judge_text(
        lambda messages: _called("moderator", moderator, messages),
        system=case.moderator,
        question=case.question,
        text=reply,
        reference=case.diagnosis,
        seed=case.case_id,
    )
    return {True: "yes", False: "no", None: "unclear"}[judged.met]  # type: ignore[return-value]


def _called(side: str, backend: Backend, messages: Sequence[Message]) -> str:
    try:
        return call(side, backend, messages)
    except ContextFull as fault:
        raise BackendFailed(side, fault) from fault


def _counted(case: Case, text: str, turn: int) -> str:
    counter = case.counter.format(turn=turn, turns=case.max_turns)
    return "\n\n".join((text, counter, *([case.last_turn] if turn == case.max_turns else [])))
