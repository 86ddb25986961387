"""Episodes on disk beside tensorflow-datasets, Minari and LeRobot: writing, random access, streaming, bytes a step.

    python -m benchmarks.episodes --episodes 1000 --tfds PYTHON --minari PYTHON --lerobot PYTHON

Each peer runs in an environment of its own (PYTHON; one that is not named is `not measured`) on the same episodes:
20 steps of 17 float64 observations and 6 float32 actions. `--scale N` writes N episodes with ours, and measures in a
process of its own what opening the data set, random episodes and a stream take in time and memory.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NUM_STEPS = 20
NUM_READS = 300
WHAT = ("write_episodes_s", "random_ms", "stream_episodes_s", "bytes_step")


def values(number: int) -> tuple[Any, Any, Any]:
    """Observations, actions and rewards of an episode."""
    import numpy as np

    random = np.random.default_rng(number)
    observations = random.normal(size=(NUM_STEPS + 1, 17))
    return observations, random.normal(size=(NUM_STEPS, 6)).astype("f4"), random.normal(size=NUM_STEPS)


def ours(folder: Path, count: int) -> dict[str, float]:
    """EpisodeWriter (journal, synced at every episode's end, and compaction) and EpisodeDataset."""
    from experience import EpisodeDataset, EpisodeWriter

    def write() -> None:
        with EpisodeWriter(folder) as writer:
            for number in range(count):
                writer.write(episode(number))

    return measured(folder, count, write, lambda: EpisodeDataset(folder), lambda data, i: data[f"e{i}"], iter)


def episode(number: int) -> Any:
    """An episode of ours."""
    from experience import Episode, Step

    seen, done, rewards = values(number)
    steps = [Step(seen[i], done[i], rewards[i], 1.0, i == 0) for i in range(NUM_STEPS)]
    return Episode((*steps, Step(seen[NUM_STEPS], is_last=True, is_terminal=True)), f"e{number}")


def written(folder: Path, count: int) -> dict[str, float]:
    """Many episodes at once, without a journal."""
    from experience import write_episodes

    write_episodes(folder, map(episode, range(count)))
    return {"memory_mb": peak_mb()}


def opened(folder: Path, count: int) -> dict[str, float]:
    """A data set that is there."""
    from experience import EpisodeDataset

    before = peak_mb()
    begin = time.perf_counter()
    EpisodeDataset(folder)["e0"]
    first = {"before_mb": before, "open_s": time.perf_counter() - begin}
    found = measured(folder, count, lambda: None, lambda: EpisodeDataset(folder), lambda data, i: data[f"e{i}"], iter)
    return first | {name: found[name] for name in ("random_ms", "random_p99_ms", "stream_episodes_s", "memory_mb")}


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(
    folder: Path,
    count: int,
    write: Callable[[], None],
    opened: Callable[[], Any],
    read: Callable[[Any, int], Any],
    stream: Callable[[Any], Iterator[Any]],
) -> dict[str, float]:
    """Time the four; every read touches the observations."""
    import random

    begin = time.perf_counter()
    write()
    found = {"write_episodes_s": count / (time.perf_counter() - begin)}
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    data = opened()
    chosen = random.Random(0)
    read(data, 0)
    times = []
    for _ in range(NUM_READS):
        begin = time.perf_counter()
        read(data, chosen.randrange(count))
        times.append(1000 * (time.perf_counter() - begin))
    times.sort()
    begin = time.perf_counter()
    seen = sum(1 for _ in stream(data))
    assert seen == count, (seen, count)
    found |= {"stream_episodes_s": count / (time.perf_counter() - begin), "bytes_step": size / count / (NUM_STEPS + 1)}
    return found | {
        "random_ms": times[len(times) // 2],
        "random_p99_ms": times[-len(times) // 100],
        "memory_mb": peak_mb(),
    }


def tfds(folder: Path, count: int) -> dict[str, float]:
    """tensorflow-datasets with TensorFlow: SequentialWriter, as_dataset; a random episode by skipping to it."""
    import tensorflow as tf
    import tensorflow_datasets as tfds_

    step = {
        "observation": tfds_.features.Tensor(shape=(17,), dtype=tf.float64, encoding="bytes"),
        "action": tfds_.features.Tensor(shape=(6,), dtype=tf.float32),
        "reward": tfds_.features.Tensor(shape=(), dtype=tf.float64, encoding="bytes"),
        **dict.fromkeys(("is_first", "is_last", "is_terminal"), tf.bool),
    }
    features = tfds_.features.FeaturesDict({"steps": tfds_.features.Dataset(step)})
    identity = tfds_.core.dataset_info.DatasetIdentity(
        name="peer", version=tfds_.core.Version("1.0.0"), data_dir=str(folder), module_name="peer"
    )

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        writer = tfds_.core.SequentialWriter(tfds_.core.DatasetInfo(builder=identity, features=features), 1000)
        writer.initialize_splits(["train"])
        for number in range(count):
            seen, done, rewards = values(number)
            steps = [
                {
                    "observation": seen[i],
                    "action": done[i] if i < NUM_STEPS else done[0] * 0,
                    "reward": rewards[i] if i < NUM_STEPS else 0.0,
                    "is_first": i == 0,
                    "is_last": i == NUM_STEPS,
                    "is_terminal": i == NUM_STEPS,
                }
                for i in range(NUM_STEPS + 1)
            ]
            writer.add_examples({"train": [{"steps": steps}]})
        writer.close_splits(["train"])

    def opened() -> Any:
        builder = tfds_.builder_from_directory(str(folder))
        return builder.as_dataset(split="train", shuffle_files=False)

    def steps_of(episode: Any) -> list[Any]:
        return list(episode["steps"].as_numpy_iterator())

    return measured(
        folder,
        count,
        write,
        opened,
        lambda data, i: steps_of(next(iter(data.skip(i)))),
        lambda data: map(steps_of, data),
    )


def minari(folder: Path, count: int) -> dict[str, float]:
    """Minari's HDF5 storage."""
    import gymnasium
    import numpy as np
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    seen_space = gymnasium.spaces.Box(-np.inf, np.inf, (17,), np.float64)
    done_space = gymnasium.spaces.Box(-np.inf, np.inf, (6,), np.float32)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        storage = MinariStorage.new(folder, seen_space, done_space, data_format="hdf5")
        for number in range(count):
            seen, done, rewards = values(number)
            flags = [i == NUM_STEPS - 1 for i in range(NUM_STEPS)]
            storage.update_episodes(
                [
                    EpisodeBuffer(
                        id=number,
                        observations=list(seen),
                        actions=list(done),
                        rewards=list(rewards),
                        terminations=flags,
                        truncations=[False] * NUM_STEPS,
                    )
                ]
            )

    return measured(
        folder,
        count,
        write,
        lambda: MinariStorage.read(folder),
        lambda data, i: list(data.get_episodes([i])),
        lambda data: (one for i in range(count) for one in data.get_episodes([i])),
    )


def lerobot(folder: Path, count: int) -> dict[str, float]:
    """LeRobotDataset v3: add_frame and save_episode; its own items, frame by frame."""
    from tests.interop.episodes.dump import without_torchvision

    without_torchvision()
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {
        "observation.state": {"dtype": "float64", "shape": (17,), "names": None},
        "action": {"dtype": "float32", "shape": (6,), "names": None},
        "next.reward": {"dtype": "float64", "shape": (1,), "names": None},
    }

    def write() -> None:
        dataset = LeRobotDataset.create("peer/peer", fps=10, features=features, root=folder, use_videos=False)
        for number in range(count):
            seen, done, rewards = values(number)
            for i in range(NUM_STEPS + 1):
                last = i == NUM_STEPS
                dataset.add_frame(
                    {
                        "observation.state": seen[i],
                        "action": done[0] * 0 if last else done[i],
                        "next.reward": np.zeros(1) if last else rewards[i : i + 1],
                        "task": "peer",
                    }
                )
            dataset.save_episode()
        dataset.finalize()

    def frames(data: Any, number: int) -> list[Any]:
        return [data[number * (NUM_STEPS + 1) + i] for i in range(NUM_STEPS + 1)]

    return measured(
        folder,
        count,
        write,
        lambda: LeRobotDataset("peer/peer", root=folder),
        frames,
        lambda data: (frames(data, number) for number in range(count)),
    )


def main() -> None:
    """Measure, and print one row a library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--scale", type=int, default=0)
    for peer in ("tfds", "minari", "lerobot"):
        parser.add_argument(f"--{peer}", default="")
    parser.add_argument("--run", nargs=2, metavar=("WHAT", "FOLDER"), help="Internal: measure this one here.")
    asked = parser.parse_args()
    if asked.run:
        print(json.dumps(globals()[asked.run[0]](Path(asked.run[1]), asked.episodes)))
        return
    pythons = {"ours": sys.executable, "tfds": asked.tfds, "minari": asked.minari, "lerobot": asked.lerobot}
    if asked.scale:
        with tempfile.TemporaryDirectory() as folder:
            for what in ("written", "opened"):
                print(f"{asked.scale} {what}: {run(sys.executable, what, asked.scale, Path(folder) / 'data')}")
        return
    print(f"{'':10}" + "".join(f"{name:>20}" for name in WHAT))
    for name, python in pythons.items():
        with tempfile.TemporaryDirectory() as folder:
            found = run(python, name, asked.episodes, Path(folder) / "data") if python else {}
        row = "".join(f"{found[what]:>20.4g}" for what in WHAT) if found else f"{'not measured':>20}"
        print(f"{name:10}{row}")


def run(python: str, name: str, count: int, folder: Path) -> dict[str, float]:
    """Measure one library in its environment."""
    command = [python, str(Path(__file__)), "--run", name, str(folder), "--episodes", str(count)]
    root = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | root)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
