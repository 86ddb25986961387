"""The task: items, grades worked out by hand, runs, resuming, episodes, what a constant doctor gets."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from data_cards.readers.agents import ClinicScenario, read_agentclinic
from evals.clinic.backends import remote
from evals.clinic.casting import cast, local_players, roles_of, server_players
from evals.clinic.consultation import Consultation, Outcome, Turn, text_of
from evals.clinic.dialogue import Backend, ContextFull, Message, Meter, Players, without_thinking
from evals.clinic.running import MAX_BROKEN_IN_A_ROW, play_items
from evals.generation import Generation
from evals.items import Item
from evals.outputs import Output, read_outputs
from evals.results.scores import score_dir
from evals.running.options import RunOptions
from evals.running.runner import run_task
from evals.tasks import agent_clinic
from evals.tasks.catalogue import TASKS
from experience import Step, read_episodes
from experience.storage.commit import recover
from medgemma.endpoint import Endpoint, EndpointFault, EndpointRefused
from tests.evals.clinic.scripts import Script, always, moderator, run
from tests.medgemma.faulty_server import serving
from tests.nano import needs_nano

TASK = TASKS["agent-clinic-medqa"]
assert TASK.dialogue is not None
DIALOGUE = TASK.dialogue
NONE = "m patient=x measurement=x moderator=none"
CONVERSATION = [{"role": "system", "content": "Be one."}, {"role": "user", "content": "Well?"}]
JUDGED = "m patient=x measurement=x moderator=y"


def item(number: int = 1, diagnosis: str = "Chronic lymphocytic leukemia (CLL)") -> Item:
    facts = {"History": "Tired."}, {"Pulse": "80"}, {"WBC": "90"}
    scenario = ClinicScenario(f"case-{number}", "Assess the patient.", *facts, diagnosis, True, "g")
    return agent_clinic.item_of(scenario)


def held(*turns: str, outcome: Outcome = "diagnosed", diagnosis: str = "", verdict: str = "") -> str:
    """Turns as `d:`, `p:` or `m:` and text."""
    speakers = {"d": "doctor", "p": "patient", "m": "measurement"}
    made = tuple(Turn(speakers[t[0]], t[2:]) for t in turns)  # type: ignore[arg-type]
    return text_of(Consultation(made, outcome, diagnosis, verdict))  # type: ignore[arg-type]


def grades(text: str, model: str = NONE) -> dict[str, float]:
    return agent_clinic.grade(item(), Output("case-1", "", model, text=text))


def players(doctor: Backend, **others: Backend) -> Players:
    sides = {"patient": always("It hurts."), "measurement": always("RESULTS: 1"), **others}
    return Players(doctor, "doc", sides, {side: "script" for side in sides})


@pytest.mark.parametrize(
    ("diagnosis", "match", "named"),
    [
        ("Chronic lymphocytic leukemia (CLL)", 1, 1),
        ("chronic lymphocytic leukemia.", 1, 1),
        ("The chronic lymphocytic leukemia", 1, 1),
        ("CLL", 1, 1),
        ("chronic-lymphocytic leukemia", 1, 1),
        ("Flu, COPD or chronic lymphocytic leukemia", 0, 1),
        ("Acute lymphocytic leukemia", 0, 0),
        ("CLLX", 0, 0),
    ],
)
def test_the_string_match(diagnosis: str, match: int, named: int) -> None:
    found = grades(held(f"d:DIAGNOSIS READY: {diagnosis}", diagnosis=diagnosis))
    assert (found["diagnosis_match_norm"], found["diagnosis_named_norm"]) == (match, named)
    assert "diagnosis_moderator" not in found and found["gave_diagnosis"] == 1


def test_a_case_without_a_diagnosis_is_wrong_and_counts() -> None:
    found = grades(held("d:Is it CLL?", "p:Yes, CLL.", outcome="out_of_turns"), JUDGED)
    right = ("diagnosis_match_norm", "diagnosis_named_norm", "diagnosis_moderator", "moderator_unclear")
    assert [found[name] for name in right] == [0, 0, 0, 0] and found["gave_diagnosis"] == 0
    assert found["doctor_replies"] == 1 and found["patient_named_diagnosis"] == 0


@pytest.mark.parametrize(("verdict", "right", "unclear"), [("yes", 1, 0), ("no", 0, 0), ("unclear", 0, 1)])
def test_the_moderator_stands_under_its_own_name(verdict: str, right: int, unclear: int) -> None:
    found = grades(held("d:DIAGNOSIS READY: blood cancer", diagnosis="blood cancer", verdict=verdict), JUDGED)
    assert (found["diagnosis_moderator"], found["moderator_unclear"], found["diagnosis_match_norm"]) == (
        right,
        unclear,
        0,
    )


@pytest.mark.parametrize(
    ("turns", "patient", "results"),
    [
        (("d:What?", "p:They said chronic lymphocytic leukemia.", "d:DIAGNOSIS READY: CLL"), 1, 0),
        (("d:What?", "p:I have CLL!", "d:DIAGNOSIS READY: CLL"), 1, 0),
        (("d:REQUEST TEST: smear", "m:RESULTS: typical of CLL", "d:What?", "p:CLL?", "d:DIAGNOSIS READY: CLL"), 0, 1),
        (("d:Could it be CLL?", "p:What is CLL?", "d:DIAGNOSIS READY: CLL"), 0, 0),
        (("d:What?", "p:A leukemia.", "d:DIAGNOSIS READY: CLL"), 0, 0),
    ],
)
def test_who_leaks_the_diagnosis(turns: Sequence[str], patient: int, results: int) -> None:
    found = grades(held(*turns, diagnosis="CLL"))
    assert (found["patient_named_diagnosis"], found["results_named_diagnosis"]) == (patient, results)


def test_a_case_goes_into_its_item_and_out_again() -> None:
    case = agent_clinic.case_in(item())
    assert case.max_turns == 20 and "You have 20 replies" in case.doctor and "Assess the patient." in case.doctor
    assert case.patient.endswith('What you know: {"History": "Tired."}')
    assert case.measurement.endswith('Findings: {"Pulse": "80", "tests": {"WBC": "90"}}')
    assert "CLL" not in case.doctor + case.patient + case.measurement
    assert item(diagnosis="COPD (emphysema)").group == item(2, "copd").group != item(3, "PD").group


def test_a_broken_case_is_named_counted_and_held_again(tmp_path: Path) -> None:
    """Case 2's patient fails in its second answer; the others are finished, and only case 2 is held again."""
    folder, items = tmp_path / TASK.name, [item(n, "flu") for n in (1, 2, 3)]
    two = ("Any pain?", "Since when?")
    doctor = Script("DIAGNOSIS READY: flu", *two, "DIAGNOSIS READY: gout")
    assert run(TASK, items, players(doctor, patient=Script("Yes.", OSError("connection lost"))), folder) == ["case-2"]
    broken = read_outputs(folder / "outputs.jsonl")[1]
    assert broken.error == "the patient failed: connection lost"
    figure = score_dir(tmp_path)[TASK.name]["diagnosis_match_norm"]
    assert (figure["value"], figure["n"], figure["n_failed"]) == (pytest.approx(1 / 3), 3, 1)
    assert (figure["value_of_answered"], figure["n_failed_counted_wrong"]) == (0.5, 1)
    episodes = {str(e.metadata["item_id"]): e for e in read_episodes(folder / "episodes")}
    assert [episodes[f"case-{n}"].metadata["invalid"] for n in (1, 2, 3)] == [False, True, False]
    left = episodes["case-2"]
    assert [s.action["text"] for s in left.steps[:-1]] == list(two) and left.is_truncated and left.total_reward == 0
    again = Script("DIAGNOSIS READY: flu")
    assert run(TASK, items, players(again), folder) == [] and len(again.heard) == 1
    figure = score_dir(tmp_path)[TASK.name]["diagnosis_match_norm"]
    assert (figure["value"], figure["n"], figure["n_failed"]) == (pytest.approx(2 / 3), 3, 0)
    assert not any(e.metadata["invalid"] for e in read_episodes(folder / "episodes"))


def test_an_interrupted_run_goes_on_and_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    items = [item(n, "flu") for n in range(4)]
    lines = [line for n in range(4) for line in (f"Question {n}?", "DIAGNOSIS READY: " + ("flu", "gout")[n % 2])]
    folder, whole = tmp_path / "cut", tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        run(TASK, items, players(Script(*lines[:5], KeyboardInterrupt())), folder)
    outputs = folder / "outputs.jsonl"
    assert len(read_outputs(outputs)) == 2
    with outputs.open("a") as file:
        file.write('{"item_id": "case-2", "te')  # a line that a kill tore
    assert run(TASK, items, players(Script(*lines[4:])), folder) == []
    run(TASK, items, players(Script(*lines)), whole)

    def texts(at: Path) -> list[tuple[str, str]]:
        return [(o.item_id, o.text) for o in read_outputs(at / "outputs.jsonl")]

    assert texts(folder) == texts(whole)
    assert _told(folder) == _told(whole)


def _told(folder: Path) -> list[object]:
    kept = (one for one in read_episodes(folder / "episodes") if not one.is_invalid)
    return [(e.episode_id, e.steps, e.metadata["outcome"]) for e in kept]


def test_a_killed_run_keeps_what_was_said(tmp_path: Path) -> None:
    """The patient's second answer never comes: two questions and what the doctor was told are there, marked cut."""
    said = ["<think>hm</think>Any pain?", "Since when?"]

    def killed() -> str:
        os._exit(9)

    patient = iter([lambda: "It hurts.", killed])
    items = [item(n) for n in (1, 2)]
    if not (child := os.fork()):
        try:
            run(
                TASK,
                items,
                players(Script("DIAGNOSIS READY: x", *said), patient=lambda heard: next(patient)()),
                tmp_path,
            )
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert recover(tmp_path / "episodes") == 1
    (cut,) = read_episodes(tmp_path / "episodes")
    assert cut.is_invalid and (cut.metadata["item_id"], cut.metadata["environment"]) == ("case-2", TASK.name)
    run(TASK, items, players(Script(*said, "DIAGNOSIS READY: x")), tmp_path)
    first, again, whole = sorted(
        read_episodes(tmp_path / "episodes"), key=lambda one: (not one.is_invalid, one.metadata["item_id"])
    )
    assert first == cut and whole.metadata["item_id"] == "case-2"
    assert list(map(step_as_told, cut.steps)) == list(map(step_as_told, whole.steps[:2]))
    assert cut.metadata["environment_config"] == whole.metadata["environment_config"]


def step_as_told(step: Step) -> Any:
    return step.observation, step.action, step.reward, step.discount


def test_what_was_told_is_kept_before_it_is_answered(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(TASK, [item()], players(Script("Any pain?", KeyboardInterrupt())), tmp_path)
    (cut,) = read_episodes(tmp_path / "episodes")
    assert [step.action and step.action["text"] for step in cut.steps] == ["Any pain?", None]
    assert cut.steps[1].observation == {"messages": [{"role": "user", "content": "It hurts.\n\n(Reply 2 of 20.)"}]}
    assert cut.is_invalid and not cut.steps[1].is_last


def test_another_patient_needs_another_folder(tmp_path: Path) -> None:
    run(TASK, [item()], players(always("DIAGNOSIS READY: flu")), tmp_path)
    other = replace(players(always("x")), names={"patient": "gpt", "measurement": "script"})
    with pytest.raises(ValueError, match="patient=script .* got doc patient=gpt"):
        run(TASK, [item()], other, tmp_path)


def test_an_episode_is_the_doctors_side(tmp_path: Path) -> None:
    doctor = Script("<think>hm</think>Any pain?", "REQUEST TEST: WBC", "DIAGNOSIS READY: CLL")
    run(TASK, [item()], players(doctor, moderator=moderator("yes")), tmp_path)
    (episode,) = read_episodes(tmp_path / "episodes")
    first, second, third, last = episode.steps
    assert [m["role"] for m in first.observation["messages"]] == ["system", "user"]
    assert first.action == {"text": "Any pain?", "thinking": "hm", "tool_calls": []}
    assert second.observation["messages"] == [{"role": "user", "content": "It hurts.\n\n(Reply 2 of 20.)"}]
    assert third.observation["messages"] == [{"role": "user", "content": "RESULTS: 1\n\n(Reply 3 of 20.)"}]
    assert [(s.reward, s.discount) for s in (first, second, third)] == [(0, 1), (0, 1), (1, 0)]
    assert last.is_terminal and last.observation == {"messages": []}
    assert (episode.metadata["outcome"], episode.metadata["verdict"]) == ("diagnosed", "yes")
    assert episode.metadata["agent_id"] == "doc patient=script measurement=script moderator=script"


def test_an_episode_that_ran_out_of_replies_is_truncated(tmp_path: Path) -> None:
    run(TASK, [item()], players(always("Any pain?")), tmp_path)
    (episode,) = read_episodes(tmp_path / "episodes")
    assert (episode.num_transitions, episode.is_truncated, episode.total_reward) == (20, True, 0)
    assert [step.discount for step in episode.steps] == [1.0] * 20 + [None]


def test_several_conversations_at_once_give_the_same_outputs(tmp_path: Path) -> None:
    items = [item(n, "flu") for n in range(6)]

    def doctor(messages: Sequence[Message]) -> str:
        return "Any pain?" if len(messages) < 4 else "DIAGNOSIS READY: flu"

    run(TASK, items, players(doctor), tmp_path / "one")
    run(TASK, items, players(doctor), tmp_path / "more", workers=3)
    one, more = (
        {o.item_id: o.text for o in read_outputs(tmp_path / name / "outputs.jsonl")} for name in ("one", "more")
    )
    assert one == more and len(one) == 6


def test_a_server_that_fails_in_the_middle_breaks_that_case_only(tmp_path: Path) -> None:
    """The server plays the patient and answers status 500 to one case's question, however often it is asked."""

    def fault(prompt: str, before: int) -> str:
        return "status 500" if "case-1" in prompt else "say <think>I hide</think>It hurts."

    def doctor(messages: Sequence[Message]) -> str:
        return f"Any pain, {case}?" if len(messages) < 4 else "DIAGNOSIS READY: CLL"

    items = [item(n) for n in range(3)]
    with serving(fault) as server, Endpoint(server.url, retries=2, sleep=lambda s: None) as endpoint:
        patient = remote(endpoint, Generation(max_new_tokens=8), Meter())
        failed = []
        for case, one in ((one.item_id, one) for one in items):
            failed += run(TASK, [one], players(doctor, patient=patient), tmp_path / case)
    assert failed == ["case-1"] and len(server.asked) == 1 + 3 + 1
    (broken,) = read_outputs(tmp_path / "case-1" / "outputs.jsonl")
    assert broken.error == "the patient failed: HTTP 500: says no (attempts: 3)"
    (output,) = read_outputs(tmp_path / "case-0" / "outputs.jsonl")
    assert json.loads(output.text)["turns"][1] == {"speaker": "patient", "text": "It hurts.", "thinking": None}


def test_thinking_is_asked_for_in_the_conversations_own_system_turn() -> None:
    how = Generation(max_new_tokens=8, thinking=True, thinking_tokens=100)
    with serving(lambda *_: "say <unused94>thought\nhm<unused95>Yes") as server, Endpoint(server.url) as endpoint:
        reply = remote(endpoint, how, Meter())(CONVERSATION)
    (body,) = server.asked
    assert body["messages"][0]["content"] == "SYSTEM INSTRUCTION: think silently if needed. Be one."
    assert body["messages"][1:] == CONVERSATION[1:] and body["max_tokens"] == 108
    assert without_thinking(reply) == ("Yes", "hm")


def test_a_wrong_key_stops_the_run_and_not_one_case(tmp_path: Path) -> None:
    with serving(lambda *_: "status 401") as server, Endpoint(server.url) as endpoint:
        doctor = remote(endpoint, Generation(8), Meter())
        with pytest.raises(EndpointRefused, match="set MEDGEMMA_ENDPOINT_KEY"):
            run(TASK, [item(1), item(2)], players(doctor), tmp_path / "run")
    assert len(server.asked) == 1 and read_outputs(tmp_path / "run" / "outputs.jsonl") == []


def test_a_server_says_that_a_conversation_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "HTTP 400: This model's maximum context length is 10 tokens."  # vLLM
    with serving() as server, Endpoint(server.url) as endpoint:
        monkeypatch.setattr(Endpoint, "chat", mock.Mock(side_effect=EndpointFault(reason, 1)))
        with pytest.raises(ContextFull, match="maximum context length"):
            remote(endpoint, Generation(8), Meter())(CONVERSATION)
        monkeypatch.setattr(Endpoint, "chat", mock.Mock(side_effect=EndpointFault("HTTP 400: bad role", 1)))
        with pytest.raises(EndpointFault, match="bad role"):
            remote(endpoint, Generation(8), Meter())(CONVERSATION)


def test_what_a_local_model_cannot_do_is_said_first() -> None:
    cannot_think = SimpleNamespace(name="nano", asking=SimpleNamespace(markers=None))
    with pytest.raises(ValueError, match="nano has no thinking tokens and cannot think"):
        local_players(cannot_think, roles_of([]), Generation(8, thinking=True, thinking_tokens=9))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="agent-clinic-medqa: its answers cannot be voted on"):
        RunOptions(n_samples=3, temperature=0.7).generation(TASK)


def test_an_empty_answer_of_a_server_is_an_empty_reply() -> None:
    with serving(lambda *_: "empty") as server, Endpoint(server.url, retries=0) as endpoint:
        assert remote(endpoint, Generation(8), Meter())(CONVERSATION) == ""


def test_a_backend_that_is_down_stops_the_run(tmp_path: Path) -> None:
    items = [item(n) for n in range(MAX_BROKEN_IN_A_ROW + 5)]
    down = players(Script(*[OSError("refused")] * len(items)))
    with pytest.raises(ValueError, match="20 conversations in a row broke, the last: the doctor failed: refused"):
        run(TASK, items, down, tmp_path / "run")
    assert len(read_outputs(tmp_path / "run" / "outputs.jsonl")) == MAX_BROKEN_IN_A_ROW
    assert run(TASK, items, players(always("DIAGNOSIS READY: x")), tmp_path / "run") == []


def test_tokens_are_counted_by_conversation(tmp_path: Path) -> None:
    with serving(lambda *_: "say DIAGNOSIS READY: x") as server, Endpoint(server.url) as endpoint:
        who = server_players(endpoint, roles_of(["moderator=model"]), Generation(8))
        run(TASK, [item(1), item(2)], who, tmp_path / "run", workers=2)
    # the server says 3 tokens an answer: the diagnosis, and the verdict on it
    assert [output.tokens for output in read_outputs(tmp_path / "run" / "outputs.jsonl")] == [6, 6]


def test_casting() -> None:
    assert roles_of([]) == {"patient": "rules", "measurement": "rules", "moderator": "none", "judge": "none"}
    asked = roles_of(["patient=http://h/v1#big", "moderator=model"])
    opened: list[str] = []

    def server(address: str) -> tuple[Backend, str]:
        opened.append(address)
        return always("It hurts."), "big at http://h/v1"

    mine = always("yes")
    who = cast(mine, "ab12", {**asked, "measurement": "http://h/v1#big"}, server)
    assert opened == ["http://h/v1#big"] and who.others["moderator"] is mine
    expected = "ab12 patient=big at http://h/v1 measurement=big at http://h/v1 moderator=model"
    assert who.fingerprint_for(DIALOGUE.roles) == expected
    assert "moderator" not in cast(mine, "ab12", roles_of([]), server).others
    for wrong, message in (
        ("nurse=rules", "patient, measurement, moderator"),
        ("patient=none", "expected model, rules"),
    ):
        with pytest.raises(ValueError, match=message):
            roles_of([wrong])


@pytest.mark.kit
def test_a_doctor_who_always_says_pneumonia_gets_exactly_its_share(kit: Path, tmp_path: Path) -> None:
    who = cast(always("DIAGNOSIS READY: Pneumonia"), "constant", roles_of([]), lambda address: (always(""), ""))
    ran = run_task(TASK, RunOptions(side="all"), kit, tmp_path, who, "constant", "test")
    assert ran.failed == [] and ran.data_differs_from_card == []
    scores = score_dir(tmp_path)[TASK.name]
    share = sum(s.diagnosis == "Pneumonia" for s in read_agentclinic(kit / "agentclinic-medqa")) / 150
    assert share == 2 / 150
    assert scores["diagnosis_match_norm"]["value"] == scores["diagnosis_named_norm"]["value"] == share
    assert scores["gave_diagnosis"]["value"] == scores["doctor_replies"]["value"] == 1
    assert (scores["diagnosis_match_norm"]["n"], scores["diagnosis_match_norm"]["n_groups"]) == (150, 127)


@pytest.mark.kit
def test_the_patients_facts_and_the_doctors_task_never_name_the_disease(kit: Path) -> None:
    """Measured on the kit: no patient knows a spelling of the diagnosis; test results of some cases name it."""
    items = agent_clinic.items(kit, "all")
    cases = [agent_clinic.case_in(one) for one in items]
    assert not [c.case_id for c in cases if agent_clinic.names(c.patient + c.doctor, c.diagnosis)]
    named = [c.case_id for c in cases if agent_clinic.names(c.measurement, c.diagnosis)]
    assert len(named) == 22
    sizes = Counter(one.group for one in items)
    assert sizes["agentclinic_neuroleptic malignant syndrome"] == 3
    sides = [one.item_id for side in ("held-out", "train", "final") for one in agent_clinic.items(kit, side)]
    assert sorted(sides) == sorted(one.item_id for one in items)
    with pytest.raises(ValueError, match="expected one of held-out"):
        agent_clinic.items(kit, "test")


@pytest.mark.slow
@needs_nano
@pytest.mark.kit
def test_nano_as_the_doctor_runs_out_of_context_or_turns_and_never_crashes(kit: Path) -> None:
    from medgemma import MedGemma

    items = agent_clinic.items(kit, "all")
    who = local_players(MedGemma.from_pretrained("nano", device="cpu"), roles_of(["moderator=model"]), Generation(4))
    short = replace(items[0], prompt=json.dumps({**json.loads(items[0].prompt), "max_turns": 2}))
    long = replace(items[1], prompt=json.dumps({**json.loads(items[1].prompt), "doctor": "a b " * 3000}))
    outcomes = [json.loads(DIALOGUE.hold(one, who))["outcome"] for one in (short, long)]
    assert outcomes == ["out_of_turns", "out_of_context"]


@pytest.mark.slow
@needs_nano
@pytest.mark.kit
def test_conversations_held_together_are_those_held_alone(kit: Path, tmp_path: Path) -> None:
    from medgemma import MedGemma

    items = agent_clinic.items(kit, "all")[:4]
    short = [replace(one, prompt=json.dumps({**json.loads(one.prompt), "max_turns": 3})) for one in items]
    together = local_players(MedGemma.from_pretrained("nano", device="cpu"), roles_of([]), Generation(6))
    assert together.at_once > 1
    run(TASK, short, together, tmp_path / "together")
    run(TASK, short, replace(together, at_once=1), tmp_path / "alone")
    found = [
        {o.item_id: (o.text, o.tokens) for o in read_outputs(tmp_path / n / "outputs.jsonl")}
        for n in ("together", "alone")
    ]
    assert found[0] == found[1] and len(found[0]) == 4


def test_a_stopped_run_does_not_wait_for_whole_conversations(tmp_path: Path) -> None:
    """Ctrl-C while other threads talk: each ends with its next reply, and what was finished is kept."""
    asked = Counter[str]()

    def doctor(messages: Sequence[Message]) -> str:
        asked["all"] += 1
        return "DIAGNOSIS READY: x" if asked["all"] == 1 else "Any pain?"

    who = replace(players(doctor), at_once=2)
    played = play_items([item(n) for n in range(50)], DIALOGUE, who, tmp_path)
    next(played)
    played.close()
    assert asked["all"] < 50 * 20


def test_threads_share_one_engine() -> None:
    """A fake engine that answers each request after two steps, fails once as a whole, and refuses one request."""
    from concurrent.futures import ThreadPoolExecutor

    from medgemma.shared_engine import SharedEngine

    class Asked(str):
        sampling = SimpleNamespace(num_samples=1)

    class Engine:
        def __init__(self) -> None:
            self.running: dict[int, list[object]] = {}
            self.tickets = count()
            self.most = 0
            self.fail = False

        def submit(self, request: str) -> int:
            if request == "bad":
                raise ValueError("refused")
            ticket = next(self.tickets)
            self.running[ticket] = [request, 2]
            return ticket

        def cancel(self, ticket: int) -> None:
            self.running.pop(ticket)

        def step(self) -> list[object]:
            if self.fail:
                self.fail = False
                raise RuntimeError("out of memory")
            self.most = max(self.most, len(self.running))
            done = []
            for ticket, entry in list(self.running.items()):
                entry[1] -= 1  # type: ignore[operator]
                if not entry[1]:
                    done.append(SimpleNamespace(ticket=ticket, completion=f"to {entry[0]}"))
                    del self.running[ticket]
            return done

    engine = Engine()
    shared = SharedEngine(engine)  # type: ignore[arg-type]
    assert shared.complete(Asked("a")) == "to a"  # type: ignore[arg-type, comparison-overlap]
    with pytest.raises(ValueError, match="refused"):
        shared.complete(Asked("bad"))  # type: ignore[arg-type]
    engine.fail = True
    with pytest.raises(RuntimeError, match="out of memory"):
        shared.complete(Asked("b"))  # type: ignore[arg-type]
    with ThreadPoolExecutor(8) as pool:
        names = [Asked(n) for n in range(200)]
        assert list(pool.map(shared.complete, names)) == [f"to {name}" for name in names]  # type: ignore[arg-type]
    assert not engine.running and engine.most > 1
