"""AgentClinic-MedQA: a doctor finds a diagnosis by asking a patient and ordering tests.

The protocol is AgentClinic's (evals/clinic/consultation.py), the wording is ours. Published figures were made with
GPT-4o as the patient and the measurement reader, on 215 cases; figures compare only where those sides are the same.

The extended set tells some vignettes twice: among the kit's 150 cases 14 pairs share the diagnosis and 41 to 63 % of
the words of what the patient knows. Cases of one diagnosis are therefore one group: they fall on one side, and
intervals resample them together.
"""

import json
import random
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

from data_cards.readers.agents import ClinicScenario, read_agentclinic
from data_cards.readers.tables import find_set
from data_cards.split import side as side_of
from evals.clinic.consultation import (
    Case,
    Consultation,
    Roles,
    consult,
    consultation_in,
    doctor_messages,
    text_of,
)
from evals.clinic.dialogue import Dialogue, Players
from evals.clinic.episodes import Reply, episode_of
from evals.items import Item
from evals.metrics.answers import normalise
from evals.outputs import Output
from evals.tasks.task import Task, checked_side, of_side_and_seed
from experience import Episode

CARD = "agentclinic-medqa"
NAME = "agent-clinic-medqa"

MAX_TURNS = 20
"""The doctor's replies, as in the paper."""
MAX_CHARACTERS = 60_000

ItemSide = Literal["held-out", "train", "final", "all"]
SIDES: tuple[ItemSide, ...] = get_args(ItemSide)

DOCTOR = """You are a doctor seeing a patient. Speak only as the doctor, in one to three sentences at a time.
You have {turns} replies in all. Each reply does one of three things:
- asks the patient a question;
- orders one test or examination, written as REQUEST TEST: [test], for example REQUEST TEST: Chest_X-Ray;
- ends the consultation with your diagnosis, written as DIAGNOSIS READY: [diagnosis].
Find out by asking and testing what the patient has. Your task: {objective}"""

PATIENT = """You are a patient talking to a doctor. Speak only as the patient, in one to three sentences at a time.
Answer what you are asked from what you know, and add nothing to it. Never name your disease; describe only what you
feel and what has happened. What you know: {facts}"""

MEASUREMENT = """You report the results of medical tests and examinations. Answer every order in the form
RESULTS: [results], from the findings below and nothing else. If they do not hold what is ordered, answer
RESULTS: NORMAL READINGS. Findings: {facts}"""

MODERATOR = "You decide whether two diagnoses name the same disease."

QUESTION = "Does the judged text name the same disease as the reference?"
"""The judge's frame (evals/judging) puts both as quoted data."""

OPENING = "The patient has come in. Begin."
COUNTER = "(Reply {turn} of {turns}.)"
LAST_TURN = "This is your last reply: give your diagnosis now."


def case_of(scenario: ClinicScenario, max_turns: int = MAX_TURNS, max_characters: int = MAX_CHARACTERS) -> Case:
    """Put a scenario into words for each side."""
    findings = {**scenario.physical_examination, "tests": scenario.test_results}
    return Case(
        case_id=scenario.item_id,
        diagnosis=scenario.diagnosis,
        doctor=DOCTOR.format(turns=max_turns, objective=scenario.objective),
        patient=PATIENT.format(facts=_json(scenario.patient)),
        measurement=MEASUREMENT.format(facts=_json(findings)),
        moderator=MODERATOR,
        opening=OPENING,
        counter=COUNTER,
        last_turn=LAST_TURN,
        question=QUESTION,
        max_turns=max_turns,
        max_characters=max_characters,
    )


def items(data_dir: str | Path, side: str = "held-out", seed: int = 0) -> list[Item]:
    """Make an item a case, in a seeded order; its prompt is the whole `Case` as JSON, so that its hash covers it.

    Args:
        data_dir: A folder with the folder `agentclinic-medqa`, or that folder.
        side: `held-out`, `train` or `final` groups, or `all` cases, as in published figures.
        seed: Of the order.

    Raises:
        ValueError: The set is missing or broken, or the side is unknown.
    """
    checked_side(side, SIDES)
    found = [item_of(scenario) for scenario in read_agentclinic(find_set(data_dir, CARD))]
    chosen = [item for item in found if side in ("all", side_of(item.group))]
    random.Random(seed).shuffle(chosen)
    return chosen


def item_of(scenario: ClinicScenario) -> Item:
    """Make the item of a case."""
    group = f"agentclinic_{_plain(_without_brackets(scenario.diagnosis))}"
    return Item(
        item_id=scenario.item_id,
        files=(),
        prompt=_json(asdict(case_of(scenario))),
        reference=scenario.diagnosis,
        kind="open",
        group=group,
        meta={"card": CARD, "part": "base" if scenario.in_base else "extension"},
    )


def case_in(item: Item) -> Case:
    """Return the case of an item."""
    return Case(**json.loads(item.prompt))


def grade(item: Item, output: Output) -> dict[str, float]:
    """Grade one consultation: metric name to value; a case without a diagnosis is wrong and stays in n.

    `diagnosis_match_norm`: the diagnosis is the reference after `normalise`, with or without what either has in
    brackets; `diagnosis_named_norm`: the last reply holds it as whole words, so a list of guesses can have it;
    `diagnosis_moderator`: the moderator said yes (only if there was one; `moderator_unclear`: neither yes nor no).
    `gave_diagnosis`, `doctor_replies`, `tests_ordered` describe; `patient_named_diagnosis` and
    `results_named_diagnosis` are leaks: that side said it before the doctor did.
    """
    held = consultation_in(output.text)
    last = held.turns[-1].text if held.outcome == "diagnosed" else ""
    asked = [turn for turn in held.turns if turn.speaker == "doctor"]
    values = {
        "diagnosis_match_norm": float(bool(forms(held.diagnosis) & forms(item.reference))),
        "diagnosis_named_norm": float(names(last, item.reference)),
        "gave_diagnosis": float(held.outcome == "diagnosed"),
        "doctor_replies": float(len(asked)),
        "tests_ordered": float(sum(turn.speaker == "measurement" for turn in held.turns)),
        "patient_named_diagnosis": float(leaks(held, item.reference, "patient")),
        "results_named_diagnosis": float(leaks(held, item.reference, "measurement")),
    }
    if "moderator=none" not in output.model:
        values["diagnosis_moderator"] = float(held.verdict == "yes")
        values["moderator_unclear"] = float(held.verdict == "unclear")
    return values


def forms(diagnosis: str) -> frozenset[str]:
    """Return the normalised spellings of a diagnosis: whole, without its brackets, and what they hold."""
    inside = re.findall(r"\(([^()]*)\)", diagnosis)
    spellings = (diagnosis, _without_brackets(diagnosis), *inside)
    return frozenset(form for text in spellings if (form := _plain(text)))


def names(text: str, diagnosis: str) -> bool:
    """Say whether a text holds a spelling of the diagnosis as whole words; spellings of one or two letters are not."""
    words = f" {_plain(text)} "
    return any(f" {form} " in words for form in forms(diagnosis) if len(form) > 2)


def leaks(held: Consultation, diagnosis: str, speaker: Literal["patient", "measurement"]) -> bool:
    """Say whether a side named the diagnosis before the doctor did."""
    for turn in held.turns:
        if names(turn.text, diagnosis):
            return turn.speaker == speaker
    return False


def hold(item: Item, players: Players) -> str:
    """Hold the consultation of an item; the measured model is the doctor."""
    roles = Roles(
        players.model, players.others["patient"], players.others["measurement"], players.others.get("moderator")
    )
    return text_of(consult(case_in(item), roles))


def episode(item: Item, output: Output) -> Episode | None:
    """Return the doctor's side; its reward is the moderator's yes, without a moderator the string match."""
    if not output.text:
        return None
    case, held = case_in(item), consultation_in(output.text)
    replies, told = [], 0
    for place, turn in enumerate(held.turns):
        if turn.speaker == "doctor":
            messages = doctor_messages(case, held.turns[:place])
            replies.append(Reply([m for m in messages[told:] if m["role"] != "assistant"], turn.text, turn.thinking))
            told = len(messages)
    grades = grade(item, output)
    reward = grades.get("diagnosis_moderator", grades["diagnosis_match_norm"])
    answered = (
        [] if held.turns[-1:] and held.turns[-1].speaker == "doctor" else doctor_messages(case, held.turns)[told:]
    )
    after = [message for message in answered if message["role"] == "user"]
    ended = held.outcome == "diagnosed"
    said = {"outcome": held.outcome, "verdict": held.verdict}
    return episode_of(item, output, replies, after, reward, ended, NAME, **said)


def _without_brackets(text: str) -> str:
    return re.sub(r"\([^()]*\)", " ", text)


def _plain(text: str) -> str:
    return normalise(re.sub(r"[-/–—]", " ", text.replace("’", "").replace("'", "")))


def _json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=False)


def _wording() -> list[str]:
    return [
        DOCTOR,
        PATIENT,
        MEASUREMENT,
        MODERATOR,
        QUESTION,
        OPENING,
        COUNTER,
        LAST_TURN,
        f"{MAX_TURNS} {MAX_CHARACTERS}",
    ]


ROWS = (
    Task(
        NAME,
        (CARD,),
        "a doctor asks a simulated patient, orders tests and names the disease",
        "dialogue",
        "long",
        items=of_side_and_seed(items),
        grade=grade,
        wording=_wording,
        sides=SIDES,
        main_metric="diagnosis_match_norm",
        breakdown="part",
        max_new_tokens=128,
        dialogue=Dialogue(NAME, hold, episode, ("patient", "measurement", "moderator")),
        version=2,
    ),
)
