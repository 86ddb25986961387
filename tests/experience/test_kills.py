"""kill -9 at random points while recording: whatever was acknowledged is back, and the cut episode is marked."""

import os
import random
import signal
import time
from pathlib import Path

from experience import EpisodeDataset
from experience.storage.commit import recover
from experience.storage.values import same
from tests.experience.recording import STEPS_AN_EPISODE, record, value


def killed(folder: Path, first_episode: int, after_s: float) -> dict[str, tuple[int, int]]:
    """Record in a process, kill it, and return what it acknowledged: id to number and count of observations."""
    heard, said = os.pipe()
    child = os.fork()
    if not child:
        os.close(heard)
        record(folder, said, first_episode)
        os._exit(1)
    os.close(said)
    lines = b""
    first = os.read(heard, 100_000)  # it has begun
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(heard, 100_000):
        lines += more
    os.close(heard)
    acknowledged = {}
    for line in (first + lines).decode().splitlines():
        name, number, count = line.split()
        acknowledged[name] = (int(number), int(count))
    return acknowledged


def kill_and_recover(folder: Path, kills: int, seed: int) -> int:
    """Check that nothing acknowledged is lost; return how many episodes were cut."""
    chosen = random.Random(seed)
    acknowledged: dict[str, tuple[int, int]] = {}
    for number in range(kills):
        acknowledged |= killed(folder, 1_000 * number, chosen.random() * 0.03)
        if number % 10 == 0:
            recover(folder)  # else the next recorder does
    recover(folder)
    once = {path.name: path.read_bytes() for path in folder.rglob("*.parquet")}
    recover(folder)
    assert {path.name: path.read_bytes() for path in folder.rglob("*.parquet")} == once
    dataset = EpisodeDataset(folder)
    assert list(dataset.check()) == []
    for name, (number, count) in acknowledged.items():
        episode = dataset[name]
        assert len(episode.steps) in (count, count + 1), "a step is lost"  # what was cut off was its acknowledgement
        assert all(same(step.observation, value(number, place)) for place, step in enumerate(episode.steps))
        assert [step.reward for step in episode.steps] == [*map(float, range(1, len(episode.steps))), None]
        assert episode.is_invalid == (not episode.steps[-1].is_last)
        assert episode.is_invalid or len(episode.steps) == STEPS_AN_EPISODE
    assert len(dataset) >= len(acknowledged) >= kills
    return sum(bool(entry.invalid) for entry in dataset.entries)


def test_kills_at_random_points(tmp_path: Path) -> None:
    """A hundred; `make test-faults` sets EPISODE_KILLS."""
    seeds = range(int(os.environ.get("EPISODE_KILLS", "100")) // 50)
    assert sum(kill_and_recover(tmp_path / str(seed), 50, seed) for seed in seeds) > 0, "no kill cut an episode"
