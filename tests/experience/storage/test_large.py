"""Long episodes; under `make test-faults LONG=1` a column of more than 4 GiB."""

import os
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest

from experience import Episode, EpisodeDataset, Step, write_episodes
from experience.storage.values import sha256_of


@pytest.mark.slow
def test_an_episode_of_a_hundred_thousand_steps(tmp_path: Path) -> None:
    last = 99_999
    steps = (
        Step(np.float32(i), None if i == last else i, float(i % 7), 1.0, i == 0, i == last, i == last)
        for i in range(last + 1)
    )
    episode = Episode(tuple(steps), "long")
    write_episodes(tmp_path, [episode])
    found = EpisodeDataset(tmp_path)[0]
    assert len(found.steps) == 100_000 and sha256_of(found) == sha256_of(episode)


@pytest.mark.slow
def test_a_column_of_more_than_four_gib(tmp_path: Path) -> None:
    """In one episode of 65 observations; a hundredth of it unless asked."""
    size = (64 << 20) + 1 if os.environ.get("EPISODE_LARGE") == "1" else 700_000
    blocks = [np.random.default_rng(i).bytes(1000) * (size // 1000) + b"x" * (size % 1000) for i in range(5)]

    def episodes() -> Iterator[Episode]:
        yield Episode(tuple(Step(blocks[i % 5], None, None, None, i == 0, i == 64) for i in range(65)), "large")
        yield Episode((Step(b"after", is_first=True, is_last=True),), "after")

    write_episodes(tmp_path, episodes())
    dataset = EpisodeDataset(tmp_path)
    assert all(step.observation == blocks[i % 5] for i, step in enumerate(dataset["large"].steps))
    assert dataset["after"].steps[0].observation == b"after"
    rmtree(tmp_path)  # the search for patient data would read all of it as text
