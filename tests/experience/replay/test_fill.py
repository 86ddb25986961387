"""Episodes become items, and items episodes."""

from pathlib import Path

import numpy as np
import pytest

from experience import Episode, EpisodeDataset, Step, write_episodes
from experience.replay import Pattern, RateLimited, Replay, Table
from experience.replay.fill import drain, fill


def episode(number: int, steps: int) -> Episode:
    made = [Step(np.full(2, 10 * number + i, "f4"), i, float(i), 1.0, i == 0) for i in range(steps)]
    return Episode((*made, Step(np.full(2, 10 * number + steps, "f4"), is_last=True, is_terminal=True)), f"e{number}")


def plain(step: dict[str, object]) -> dict[str, object]:
    return {"observation": step["observation"], "reward": step["reward"] or 0.0, "is_terminal": step["is_terminal"]}


def test_a_table_is_filled_from_a_data_set_and_drained_into_one(tmp_path: Path) -> None:
    cut = Episode((Step(np.zeros(2, "f4"), is_first=True),), "cut", {"invalid": True})
    write_episodes(tmp_path / "a", [episode(0, 3), cut, episode(1, 2)])
    replay = Replay([Table.queue("pairs", 100), Table.queue("ends", 100)])
    patterns = [
        Pattern("pairs", lambda s: {"o": s["observation"][-2], "next": s["observation"][-1], "r": s["reward"][-2]}),
        Pattern("ends", lambda s: {"observation": s["observation"][-3:], "reward": s["reward"][-3:]}, at_end=True),
    ]
    assert fill(replay, EpisodeDataset(tmp_path / "a"), patterns, plain) == 4 + 3
    pairs = replay.sample("pairs", 10, timeout=0).data
    assert pairs["o"][:, 0].tolist() == [0, 1, 2, 10, 11] and pairs["next"][:, 0].tolist() == [1, 2, 3, 11, 12]
    assert pairs["r"].tolist() == [0, 1, 2, 0, 1]
    write_episodes(tmp_path / "b", drain(replay, "ends", timeout=0))
    found = [[step.observation[0].item() for step in one.steps] for one in EpisodeDataset(tmp_path / "b")]
    assert sorted(found) == [[1, 2, 3], [10, 11, 12]] and replay.num_bytes == 0


def test_a_full_table_is_named() -> None:
    replay = Replay([Table.queue("q", 2)])
    pattern = Pattern("q", lambda s: s["reward"][-1])
    with pytest.raises(RateLimited, match=r"items of episode 'e0' were not taken in time; q: .*above max_diff 2"):
        fill(replay, [episode(0, 5)], [pattern], plain, timeout=0)
