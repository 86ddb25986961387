"""Records for ever, and says after every call what it was told is kept: a test runs it in a process and kills it."""

import os
from pathlib import Path

import numpy as np

from experience.recorder import EpisodeRecorder, Provenance
from experience.storage import writer as writer_module
from experience.storage.writer import EpisodeWriter

STEPS_AN_EPISODE = 5


def value(episode: int, step: int) -> np.ndarray:
    """What is seen at a step: 200 numbers that nobody could guess."""
    return np.random.default_rng([episode, step]).normal(size=200)


def record(folder: Path, said: int, first_episode: int) -> None:
    """Record into a data set; after each call a line with the episode's id and how many observations it has."""
    writer_module.JOURNAL_BYTES = 60_000  # so that compaction happens often, and is killed too
    with EpisodeWriter(folder) as writer:
        recorder = EpisodeRecorder(writer, Provenance("killed", {}))
        for episode in range(first_episode, first_episode + 100_000):
            name = recorder.reset(value(episode, 0), number=episode)
            os.write(said, f"{name} {episode} 1\n".encode())
            for step in range(1, STEPS_AN_EPISODE):
                last = step == STEPS_AN_EPISODE - 1
                recorder.step(value(episode, 100 + step), float(step), 1.0, value(episode, step), terminal=last)
                os.write(said, f"{name} {episode} {step + 1}\n".encode())
