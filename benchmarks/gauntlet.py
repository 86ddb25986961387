"""Readers of answers on both halves of the gauntlet: ours, lm-evaluation-harness's, inspect_ai's.

LM_EVAL_PYTHON and INSPECT_PYTHON name the pythons of environments that have them; without one its row is left out.
Run it when the reader is done: whoever changes a reader by what it says of the held-back half spoils that half.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from evals.gauntlet.replies import Half, LabelledReply, labelled_replies
from evals.gauntlet.scoring import GauntletScore, Read, own_reader, score_by_answer

PEERS = {"lm-eval": "LM_EVAL_PYTHON", "inspect": "INSPECT_PYTHON"}
ANSWERS = {"lm-eval": ("letter", "number"), "inspect": ("letter", "yes_no", "number")}
"""The kinds of answer that a peer has a reader for."""
HALVES: tuple[Half, ...] = ("development", "held-back")


def peer_reader(name: str, python: str, replies: Sequence[LabelledReply]) -> Read:
    """Return what a peer reads, all replies put to one process of its environment."""
    rows = "".join(
        json.dumps({"id": r.id, "answer": r.answer, "reply": r.reply, "options": r.options}) + "\n" for r in replies
    )
    script = Path(__file__).with_name("gauntlet_peers.py")
    ran = subprocess.run([python, str(script), name], input=rows, capture_output=True, text=True, check=True)
    said = {row["id"]: row["said"] for row in map(json.loads, ran.stdout.splitlines())}
    return lambda reply: said[reply.id]


def lines(name: str, half: str, scores: dict[str, GauntletScore]) -> list[str]:
    """Return table rows: reader, half, answer, n, found of readable with interval, misread of all with interval."""
    return [
        f"| {name} | {half} | {kind} | {s.num_replies} | {s.num_found} of {s.num_readable}: {s.found:.3f} "
        f"[{s.found_ci95[0]:.3f}, {s.found_ci95[1]:.3f}] | {s.num_misread}: {s.misread:.3f} "
        f"[{s.misread_ci95[0]:.3f}, {s.misread_ci95[1]:.3f}] |"
        for kind, s in scores.items()
    ]


def main() -> None:
    """Print the table."""
    table = ["| reader | half | answer | replies | found [95 % CI] | misread [95 % CI] |", "|---|---|---|---|---|---|"]
    for half in HALVES:
        replies = labelled_replies(half)
        table += lines("this package", half, dict(score_by_answer(own_reader, replies)))
        for name, variable in PEERS.items():
            if python := os.environ.get(variable):
                asked = [reply for reply in replies if reply.answer in ANSWERS[name]]
                scores = dict(score_by_answer(peer_reader(name, python, asked), asked))
                scores.pop("all")
                table += lines(name, half, scores)
    print("\n".join(table))  # noqa: T201


if __name__ == "__main__":
    main()
