"""The other readers of the gauntlet's table run in their environments and read what their own tasks ask for."""

import os

import pytest

from benchmarks.gauntlet import ANSWERS, peer_reader
from evals.gauntlet.replies import LabelledReply, labelled_replies
from evals.gauntlet.scoring import score

ASKED = {
    "lm-eval": {"letter": "So the answer is (B).", "number": "It measures 12.5 mm"},
    "inspect": {"letter": "ANSWER: B", "yes_no": "ANSWER: yes", "number": "ANSWER: 12.5"},
}
"""A reply in the form that each asks for, by kind of answer."""
SAID = {"letter": "B", "yes_no": "yes", "number": 12.5}


def python_of(name: str) -> str:
    return os.environ[{"lm-eval": "LM_EVAL_PYTHON", "inspect": "INSPECT_PYTHON"}[name]]


@pytest.mark.parametrize("name", ASKED)
def test_a_peer_reads_the_form_that_it_asks_for(name: str) -> None:
    options = {"A": "gout", "B": "asthma", "C": "croup", "D": "sepsis"}
    of_kind = {kind: next(row for row in labelled_replies("development") if row.answer == kind) for kind in ASKED[name]}
    rows = [_with(of_kind[kind], reply, options) for kind, reply in ASKED[name].items()]
    read = peer_reader(name, python_of(name), rows)
    assert {row.answer: read(row) for row in rows} == {kind: SAID[kind] for kind in ASKED[name]}


@pytest.mark.parametrize("name", ASKED)
def test_a_peer_answers_every_reply_of_the_development_half(name: str) -> None:
    rows = [row for row in labelled_replies("development") if row.answer in ANSWERS[name]]
    scores = score(peer_reader(name, python_of(name), rows), rows)
    assert scores.num_replies == len(rows) and 0 < scores.num_found < scores.num_readable


def _with(row: LabelledReply, reply: str, options: dict[str, str]) -> LabelledReply:
    return row.model_copy(update={"reply": reply, "options": options if row.answer == "letter" else row.options})
