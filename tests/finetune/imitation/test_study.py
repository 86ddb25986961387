"""The tables of the study by hand, and its seal."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import choosing, choosing_table
from benchmarks.choosing_table import cases_of, page

EARNED = {"expert": [100.0, 0.0], "random": [0.0, 0.0]}
FACTS: dict[str, Any] = {"proxies_sha256": "abc", "tasks": {"A-v5": EARNED, "B-v5": EARNED}}


def line(task: str, draw: int, seed: int, last: float, first: float, error: float) -> dict[str, Any]:
    """A run of two checkpoints; every proxy but the error sees the true return, and the error is what is given."""
    proxies = {
        step: {"action_error": error, "state_distance": -earned, "support": earned, "imitation_return": -earned}
        for step, earned in (("500", first), ("1000", last))
    }
    names = {"task": task, "algorithm": "behaviour_cloning", "draw": draw, "seed": seed}
    return names | {"proxies": proxies, "returns": {"500": [first], "1000": [last - 1, last + 1]}}


LINES = [
    *[line("A-v5", draw, seed, 10.0 * draw, 10.0 * draw + 5, draw) for draw in range(5) for seed in (0, 1)],
    *[line("B-v5", draw, seed, 40.0 - 10 * draw, 0.0, draw) for draw in range(5) for seed in (0, 1)],
    line("B-v5", 5, 0, 99.0, 0.0, 0.0),  # its second seed is missing
]


def rows(text: str, title: str) -> list[list[str]]:
    part = text.split(title)[1].split("\n\n")[1]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in part.splitlines()[2:]]


def test_tables_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [FACTS, *LINES]))
    text = page(path)
    one, other = cases_of(LINES)
    assert one.draws == other.draws == [0, 1, 2, 3, 4]  # a setting without all seeds is left out
    assert one.returns.tolist() == [0, 10, 20, 30, 40]
    orders = rows(text, "Spearman")
    assert [cell.split()[0] for cell in orders[0][2:]] == ["-1.00", "1.00", "1.00", "-1.00"]
    assert [cell.split()[0] for cell in orders[1][2:]] == ["1.00", "1.00", "1.00", "-1.00"]
    lost = rows(text, "Normalised regret of")
    assert [cell.split()[0] for cell in lost[0][2:]] == ["1.00", "0.00", "0.00", "1.00", "0.50", "1.00"]
    assert [cell.split()[0] for cell in lost[1][2:]] == ["0.00", "0.00", "0.00", "1.00", "0.50", "0.00"]
    assert rows(text, "Chosen on one task")[0] == [
        "A-v5 → B-v5",
        "behaviour_cloning",
        "0.00",
        "1.00",
        "1.00",
        "0.00",
        "1.00",
    ]
    # A: the first checkpoint earns 5 more than the last: 0.25 on the mean of 0.20; the error cannot tell them apart
    assert rows(text, "Early stopping")[0][2:] == ["0.25", "0.25", "0.25", "0.20", "0.20", "0.25"]


def test_what_was_sealed_is_what_is_revealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = tmp_path / "sealed" / "A-v5" / "behaviour_cloning" / "draw-00-seed-0.json"
    name.parent.mkdir(parents=True)
    name.write_text('{"500": [1.0]}')
    told = line("A-v5", 0, 0, 1.0, 0.0, 0.0)
    del told["returns"]
    proxies = json.dumps(told | {"returns_sha256": hashlib.sha256(name.read_bytes()).hexdigest()}) + "\n"
    (tmp_path / "proxies.jsonl").write_text(proxies)
    monkeypatch.setattr(choosing, "_runs", lambda algorithm: 1)
    monkeypatch.setattr(choosing, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(choosing, "earned", lambda experts, task: EARNED)
    choosing.reveal(tmp_path, tmp_path)
    facts, found = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert found["returns"] == {"500": [1.0]} and "returns_sha256" not in found
    assert facts["proxies_sha256"] == hashlib.sha256(proxies.encode()).hexdigest()
    name.write_text('{"500": [2.0]}')
    with pytest.raises(SystemExit, match="not those that were sealed"):
        choosing.reveal(tmp_path, tmp_path)


def test_a_draw_is_the_same_for_every_task_and_none_is_twice() -> None:
    found = [choosing.drawn("behaviour_cloning", number) for number in range(choosing.DRAWS["behaviour_cloning"])]
    assert found == [choosing.drawn("behaviour_cloning", number) for number in range(len(found))]
    assert len({one.model_dump_json() for one in found}) == len(found) == 21
    assert found[0].learning_rate == 1e-3 and choosing_table.RESULTS.name == "choosing.jsonl"
