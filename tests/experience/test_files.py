import json
from pathlib import Path

import pytest

from experience import Episode, Step, read_episodes, write_episodes
from experience.files import to_json


def episode(name: str = "e1", **metadata: object) -> Episode:
    steps = (
        Step({"heard": "Ä “o0”"}, {"said": ""}, 0.1 + 0.2, is_first=True, metadata={"tokens": 3}),
        Step([1, None, 2.5], "a1", -0.0, discount=0.0, metadata={"tokens": 0}),
        Step("o2", "left over", 9.0, 0.5, is_last=True, is_terminal=True, metadata={"tokens": 1}),
    )
    return Episode(steps, name, {"agent_id": "m1", **metadata})


def test_episodes_survive_the_file_but_for_what_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    assert write_episodes(path, [episode(), episode("e2", invalid=True)]) == 2
    first, second = read_episodes(path)
    assert first.steps[:2] == episode().steps[:2] and str(first.steps[1].reward) == "-0.0"
    assert first.steps[2] == Step("o2", is_last=True, is_terminal=True, metadata={"tokens": 1})
    assert (first.episode_id, second.metadata) == ("e1", {"agent_id": "m1", "invalid": True})
    last = json.loads(path.read_text().splitlines()[0])["steps"][2]
    assert (last["action"], last["reward"], last["discount"]) == (None, None, None)


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    write_episodes(path, [episode()])
    with pytest.raises(ValueError, match="'e1' twice"):
        write_episodes(path, [episode(), episode()])
    assert [e.episode_id for e in read_episodes(path)] == ["e1"]


@pytest.mark.parametrize("thing", [float("nan"), {1, 2}, Path("x")])
def test_what_json_cannot_hold_is_refused(thing: object) -> None:
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        to_json(Episode((Step(thing, is_first=True, is_last=True),), "e"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"is_first": true', '"is_first": false'),
        ('"reward": 0.30000000000000004', '"reward": null'),
        ('"episode_id"', '"id"'),
        ('"steps": [', '"steps": 3, "x": ['),
        ("{", ""),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "episodes.jsonl"
    line = to_json(episode())
    assert old in line
    path.write_text(line + "\n" + line.replace(old, new, 1) + "\n")
    with pytest.raises(ValueError, match="line 2 is no episode"):
        list(read_episodes(path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        list(read_episodes(tmp_path / "none"))
