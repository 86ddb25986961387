"""Demonstrations are read without their rewards, whatever lies in those columns."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from experience import Episode, EpisodeDataset, Step, write_episodes
from finetune.selection.demonstrations import Demonstrations, demand_same_space, read_demonstrations
from finetune.selection.dialogues import read_dialogues
from finetune.selection.holding_out import hold_out


def episode(name: str, states: list[list[float]], group: str = "", **metadata: object) -> Episode:
    """States (T + 1, d); the action is the first number of the state, twice."""
    last = len(states) - 1
    steps = [
        Step(
            np.array(state, np.float32),
            None if n == last else np.array([state[0]] * 2, np.float32),
            None if n == last else 100.0 + n,
            None if n == last else 1.0,
            n == 0,
            n == last,
        )
        for n, state in enumerate(states)
    ]
    return Episode(tuple(steps), name, {"group": group or name, "reward.task": 7.0, "outcome": "right", **metadata})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_episodes(
        tmp_path / "set",
        [
            episode("a", [[1, 2], [3, 4], [5, 6]], "ward-1"),
            episode("b", [[7, 8], [9, 9]], "ward-1"),
            episode("c", [[0, 1], [1, 1]], "ward-2"),
            episode("cut", [[1, 1], [1, 1]], "ward-3", invalid=True),
        ],
    )
    return tmp_path / "set"


def test_states_and_actions_of_whole_episodes_come_back(folder: Path) -> None:
    found = read_demonstrations(folder)
    assert found.observations.tolist() == [[1, 2], [3, 4], [7, 8], [0, 1]]
    assert found.actions.tolist() == [[1, 1], [3, 3], [7, 7], [0, 0]]
    assert found.observations.dtype == found.actions.dtype == np.float32
    assert found.episodes.tolist() == [0, 0, 1, 2]
    assert (found.episode_ids, found.groups) == (("a", "b", "c"), ("ward-1", "ward-1", "ward-2"))


def without(folder: Path, out: Path, denied: tuple[str, ...]) -> None:
    """Copy a data set, these columns taken out of every table."""
    shutil.copytree(folder, out)
    for path in out.rglob("*.parquet"):
        table = pq.read_table(path)
        kept = [name for name in table.column_names if name not in denied]
        pq.write_table(table.select(kept), path)


def poisoned(folder: Path, out: Path, denied: tuple[str, ...]) -> None:
    """Copy a data set, the bytes of these columns overwritten: whoever reads one of them gets an error."""
    shutil.copytree(folder, out)
    for path in out.rglob("*.parquet"):
        meta, data = pq.ParquetFile(path).metadata, bytearray(path.read_bytes())
        for group in range(meta.num_row_groups):
            for place in range(meta.num_columns):
                column = meta.row_group(group).column(place)
                if column.path_in_schema in denied:
                    start = column.dictionary_page_offset or column.data_page_offset
                    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        path.write_bytes(bytes(data))


DENIED = ("reward", "discount", "reward.task", "outcome")


@pytest.mark.parametrize("damage", [without, poisoned])
def test_rewards_are_not_read(folder: Path, tmp_path: Path, damage: Callable[..., None]) -> None:
    """Removed or unreadable, they change no byte of what is read."""
    damage(folder, tmp_path / "other", DENIED)
    with pytest.raises((ValueError, KeyError, OSError)):
        list(EpisodeDataset(tmp_path / "other"))  # whoever reads all does meet them
    one, other = read_demonstrations(folder), read_demonstrations(tmp_path / "other")
    for name in ("observations", "actions", "episodes"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    assert (one.episode_ids, one.groups) == (other.episode_ids, other.groups)


@pytest.mark.parametrize("damage", [without, poisoned])
def test_rewards_of_conversations_are_not_read(tmp_path: Path, damage: Callable[..., None]) -> None:
    told = {"messages": [{"role": "user", "content": "q"}]}
    steps = (Step(told, {"text": "a"}, 3.0, 0.0, True), Step({"messages": []}, is_last=True))
    write_episodes(
        tmp_path / "set", [Episode(steps, f"e{n}", {"group": f"p{n}", "outcome": "right"}) for n in range(3)]
    )
    damage(tmp_path / "set", tmp_path / "other", DENIED)
    assert read_dialogues(tmp_path / "other") == read_dialogues(tmp_path / "set")


def test_a_reward_is_no_group(folder: Path) -> None:
    with pytest.raises(ValueError, match="'reward.task' tells what an episode earned"):
        read_demonstrations(folder, "reward.task")
    with pytest.raises(ValueError, match="its episodes have no 'patient'; name one of group, outcome"):
        read_demonstrations(folder, "patient")


def test_without_a_group_an_episode_is_one(tmp_path: Path) -> None:
    write_episodes(tmp_path, [Episode((Step(1.5, 2, is_first=True), Step(2.5, is_last=True)), "only", {})])
    found = read_demonstrations(tmp_path)
    assert found.groups == ("only",) and found.is_discrete and found.actions.tolist() == [2]
    assert found.observations.tolist() == [[1.5]]


def test_dicts_are_flattened_by_key(tmp_path: Path) -> None:
    seen = {"z": np.float32(1), "a": np.array([[2, 3], [4, 5]], np.float32)}
    write_episodes(tmp_path, [Episode((Step(seen, 0.5, is_first=True), Step(seen, is_last=True)), "one", {})])
    found = read_demonstrations(tmp_path)
    assert found.observations.tolist() == [[2, 3, 4, 5, 1]] and found.actions.tolist() == [[0.5]]


def test_a_group_is_on_one_side(folder: Path) -> None:
    found = read_demonstrations(folder)
    sides = [hold_out(found, 0.5, seed) for seed in range(6)]
    for kept, held_out in sides:
        assert not set(kept.groups) & set(held_out.groups)
        assert sorted(kept.episode_ids + held_out.episode_ids) == ["a", "b", "c"]
        assert held_out.episodes.tolist() == ([0, 0, 1] if "a" in held_out.episode_ids else [0])
    assert {side.held_out.groups for side in sides} == {("ward-1", "ward-1"), ("ward-2",)}
    with pytest.raises(ValueError, match="all 1 demonstrations are of one group"):
        hold_out(found.of_episodes([2]), 0.5)
    with pytest.raises(ValueError, match="got a share of 1"):
        hold_out(found, 1)


def test_other_spaces_are_named(folder: Path) -> None:
    found = read_demonstrations(folder)
    choosing = Demonstrations(
        found.observations, np.array([0, 1, 1, 0]), found.episodes, found.episode_ids, found.groups
    )
    with pytest.raises(ValueError, match="run-3: its actions are one of several, the demonstrations' 2 numbers"):
        demand_same_space(found, choosing, "run-3")
    wide = Demonstrations(np.ones((4, 3), np.float32), found.actions, found.episodes, found.episode_ids, found.groups)
    with pytest.raises(ValueError, match="run-3: its states have 3 numbers, the demonstrations' 2"):
        demand_same_space(found, wide, "run-3")


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    steps = (Step({"messages": []}, {"text": "ok"}, is_first=True), Step({"messages": []}, is_last=True))
    write_episodes(tmp_path / "said", [Episode(steps, "one", {})])
    with pytest.raises(
        ValueError, match="observations are no numbers but list; of conversations read `read_dialogues`"
    ):
        read_demonstrations(tmp_path / "said")
    write_episodes(tmp_path / "nan", [episode("a", [[1, float("nan")], [1, 1]])])
    with pytest.raises(ValueError, match="episode 'a' holds observations that are not finite; leave it out"):
        read_demonstrations(tmp_path / "nan")
    with pytest.raises(ValueError, match="an observation is no conversation; expected {'messages': "):
        read_dialogues(tmp_path / "nan")
    silent = {"messages": [{"role": "user"}]}
    steps = (Step(silent, {"text": "ok"}, is_first=True), Step(silent, is_last=True))
    write_episodes(tmp_path / "silent", [Episode(steps, "one", {})])
    with pytest.raises(ValueError, match="silent: a message without a role or content; expected both"):
        read_dialogues(tmp_path / "silent")
    with pytest.raises(ValueError, match=r"no episodes.parquet there"):
        read_demonstrations(tmp_path)
