"""`medgemma-eval run` on dialogues: with nano, and with servers in every role."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from evals.cli import app
from evals.outputs import read_outputs
from experience import read_episodes
from tests.medgemma.faulty_server import serving
from tests.nano import needs_nano

pytestmark = pytest.mark.kit


def run(kit: Path, out: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["run", *words, "--data", str(kit), "--out", str(out), "--quiet"])


def scores(out: Path, task: str) -> dict[str, float]:
    found = json.loads((out / "scores.json").read_text(encoding="utf-8"))[task]
    return {name: figure["value"] for name, figure in found.items() if "/" not in name}


def replies(lines: Sequence[tuple[str, str]]) -> Callable[[str, int], str]:
    """Say the line of the first key that the end of the conversation holds."""
    return lambda prompt, before: "say " + next(line for key, line in lines if key in prompt)


@pytest.mark.slow
@needs_nano
def test_nano_goes_through_consultations_records_and_safety(kit: Path, tmp_path: Path) -> None:
    tasks = ("agent-clinic-medqa", "ehr-tools", "safety")
    words = (*tasks, "--limit", "3", "--max-new-tokens", "4", "--device", "cpu")
    first = run(kit, tmp_path, *words)
    assert first.exit_code == 0, first.output
    assert scores(tmp_path, "agent-clinic-medqa")["doctor_replies"] == 20
    records = scores(tmp_path, "ehr-tools")
    assert [records[name] for name in ("answer_correct", "answered", "model_calls", "wrong_calls")] == [0, 0, 2, 2]
    assert all(0 < output.tokens <= 80 for output in read_outputs(tmp_path / "agent-clinic-medqa" / "outputs.jsonl"))
    episodes = list(read_episodes(tmp_path / "agent-clinic-medqa" / "episodes"))
    assert [episode.num_transitions for episode in episodes] == [20, 20, 20]
    before = {task: (tmp_path / task / "outputs.jsonl").read_bytes() for task in tasks}
    assert run(kit, tmp_path, *words).exit_code == 0
    assert {task: (tmp_path / task / "outputs.jsonl").read_bytes() for task in tasks} == before


def test_servers_in_every_role(kit: Path, tmp_path: Path) -> None:
    doctor = replies([("(Reply 3 of 20.)", "DIAGNOSIS READY: x"), ("(Reply 2", "REQUEST TEST: ECG"), ("", "Any pain?")])
    side = replies([("same disease", "No."), ("REQUEST TEST", "RESULTS: normal"), ("", "It hurts.")])
    with serving(doctor) as one, serving(side) as other:
        roles = [word for role in ("patient", "measurement", "moderator") for word in ("--role", f"{role}={other.url}")]
        ran = run(kit, tmp_path, "agent-clinic-medqa", "--limit", "4", "--endpoint", one.url, *roles)
    assert ran.exit_code == 0, ran.output
    found = scores(tmp_path, "agent-clinic-medqa")
    assert (found["diagnosis_moderator"], found["moderator_unclear"], found["gave_diagnosis"]) == (
        0,
        1,
        1,
    )  # a bare "No."
    assert (found["doctor_replies"], found["tests_ordered"]) == (3, 1)
    assert len(one.asked) == 4 * 3 and len(other.asked) == 4 * 3
    (output, *_) = read_outputs(tmp_path / "agent-clinic-medqa" / "outputs.jsonl")
    place = f"tiny at {other.url}/v1"
    assert output.model == f"tiny at {one.url}/v1 patient={place} measurement={place} moderator={place}"
    assert output.tokens == 9


def test_a_role_that_nobody_can_play_is_refused(kit: Path, tmp_path: Path) -> None:
    refused = run(kit, tmp_path, "agent-clinic-medqa", "--role", "patient=gpt")
    assert isinstance(refused.exception, ValueError) and "or a server's URL[#MODEL]" in str(refused.exception)
