"""Scripted sides and a small case, worked out by hand."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from evals.clinic.consultation import Case, Roles
from evals.clinic.dialogue import Backend, Message, Players
from evals.items import Item
from evals.running.options import RunOptions
from evals.running.runner import run_task
from evals.tasks.task import Task

CASE = Case(
    case_id="c1",
    diagnosis="Myasthenia gravis (MG)",
    doctor="DOCTOR",
    patient='PATIENT {"History": "She sees double."}',
    measurement='READER {"EMG": "Decrement."}',
    moderator="MODERATOR",
    opening="Begin.",
    counter="({turn}/{turns})",
    last_turn="Now.",
    question="The same?",
    max_turns=4,
    max_characters=1000,
)


class Script:
    """Says its lines one after the other and keeps what it heard; a line may be an exception, which is raised."""

    def __init__(self, *lines: str | BaseException) -> None:
        self.lines = list(lines)
        self.heard: list[list[dict[str, Any]]] = []

    def __call__(self, messages: Sequence[Message]) -> str:
        self.heard.append([dict(message) for message in messages])
        assert self.lines, f"nothing left to say to {messages[-1]}"
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line


def always(line: str) -> Backend:
    return lambda messages: line


def moderator(verdict: str, heard: list[list[dict[str, Any]]] | None = None) -> Backend:
    """A judge that gives its verdict as it is asked to, beside the nonce."""

    def answer(messages: Sequence[Message]) -> str:
        if heard is not None:
            heard.append([dict(message) for message in messages])
        nonce = re.findall(r"lines that hold (\w+)", messages[-1]["content"])[0]
        return json.dumps({"nonce": nonce, "verdict": verdict})

    return answer


def roles(doctor: Backend, **others: Backend) -> Roles:
    patient, measurement = others.get("patient", always("It hurts.")), others.get("measurement", always("RESULTS: x"))
    return Roles(doctor, patient, measurement, others.get("moderator"))


def run(task: Task, items: list[Item], who: Players, folder: Path, workers: int = 1) -> list[str]:
    """Run a dialogue task on made-up items into a folder of the task's name; return the items that failed."""
    made_up = replace(task, name=folder.name, items=lambda data_dir, options: items)
    with mock.patch("evals.running.record.data_hashes", lambda cards, data_dir: ({}, [])):
        ran = run_task(made_up, RunOptions(side="all"), "nowhere", folder.parent, who, "", "test", concurrency=workers)
    return [output.item_id for output in ran.failed]
