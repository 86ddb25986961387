"""Values of another library as one .npz file, leaf by leaf: run by the environments of tests/interop."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def put(into: dict[str, Any], name: str, value: Any) -> None:
    """Add the leaves of a value under dotted names; a ragged value row by row."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            put(into, f"{name}/{key}", one)
    elif hasattr(value, "to_list") and not hasattr(value, "dtype_name") and type(value).__name__ == "RaggedTensor":
        put(into, name, value.to_list())
    elif isinstance(value, (list, tuple)):
        into[f"{name}/#"] = np.array(len(value))
        for place, one in enumerate(value):
            put(into, f"{name}/{place}", one)
    else:
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        if array.dtype.kind in "OS":
            array = np.frombuffer(json.dumps([bytes(one).hex() for one in array.ravel()]).encode(), np.uint8)
            name = f"{name}/$bytes"
        into[name] = array


def read_with_tensorflow(folder: Path) -> dict[str, Any]:
    """Every split by tensorflow-datasets as TensorFlow reads it."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder))
    found: dict[str, Any] = {}
    for split in builder.info.splits:
        put_episodes(found, split, builder.as_dataset(split=split, shuffle_files=False))
    return found


def read_without_tensorflow(folder: Path) -> dict[str, Any]:
    """Every split by tensorflow-datasets where TensorFlow is not installed."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder))
    found: dict[str, Any] = {}
    for split in builder.info.splits:
        put_episodes(found, split, builder.as_data_source(split=split))
    assert "tensorflow" not in sys.modules
    return found


def put_episodes(found: dict[str, Any], split: str, episodes: Iterable[Any]) -> None:
    for number, episode in enumerate(episodes):
        metadata = {name: value for name, value in episode.items() if name != "steps"}
        put(found, f"{split}/{number}", metadata)
        for place, step in enumerate(episode["steps"]):
            put(found, f"{split}/{number}/steps/{place}", step)


def transformed_by_rlds(folder: Path) -> dict[str, Any]:
    """What rlds' own transformations make of a data set."""
    import rlds
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from rlds import transformations as made

    episodes = tfds.builder_from_directory(str(folder)).as_dataset(split="train", shuffle_files=False)
    first = ("reward", "discount")
    found: dict[str, Any] = {}

    def of_each(name: str, function: Any) -> None:
        for number, episode in enumerate(episodes):
            for place, one in enumerate(function(episode[rlds.STEPS])):
                put(found, f"{name}/{number}/{place}", one)

    of_each("batch 2 1 1", lambda steps: made.batch(steps, 2, 1, 1))
    of_each("batch 2 1 2", lambda steps: made.batch(steps, 2, 1, 2))
    of_each("batch 3 3 1 drop", lambda steps: made.batch(steps, 3, drop_remainder=True))
    of_each("batch 2 4 1", lambda steps: made.batch(steps, 2, 4, 1))
    of_each("shift 1", lambda steps: made.shift_keys(steps, first, 1, batch_size=6))
    of_each("shift -2", lambda steps: made.shift_keys(steps, first, -2, batch_size=6))
    of_each("truncate", lambda steps: made.truncate_after_condition(steps, lambda step: step["reward"] > 0.5))
    extra = lambda step: tf.data.Dataset.from_tensors({"is_terminal": False})  # noqa: E731
    of_each("absorbing", lambda steps: made.concat_if_terminal(steps, lambda step: extra(step)))
    of_each("zeros", made.zero_dataset_like)
    of_each("negated", lambda steps: made.map_steps(steps, lambda step: {"reward": -step["reward"]}))
    mean, std = made.mean_and_std(episodes, made.sar_fields_mask)
    put(found, "mean", mean)
    put(found, "std", std)
    put(found, "sum", made.sum_nested_steps(episodes, lambda step: step["reward"]))
    for number, episode in enumerate(episodes):
        put(found, f"length/{number}", made.episode_length(episode[rlds.STEPS]))
        put(found, f"final/{number}", made.final_step(episode[rlds.STEPS]))
        put(found, f"return/{number}", made.sum_dataset(episode[rlds.STEPS], lambda step: step["reward"]))
    pattern = lambda step: {"o": step["observation"]["x"][-3:], "r": step["reward"][-2]}  # noqa: E731
    for place, one in enumerate(made.pattern_map_from_transform(episodes, pattern)):
        put(found, f"pattern/{place}", one)
    for place, one in enumerate(made.pattern_map_from_transform(episodes, pattern, respect_episode_boundaries=False)):
        put(found, f"pattern across/{place}", one)
    return found


def write_with_tensorflow(folder: Path) -> dict[str, Any]:
    """A data set by tfds' own writer; returns what it was given."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    folder.mkdir(parents=True)
    step = {
        "observation": {
            "state": tfds.features.Tensor(shape=(3,), dtype=tf.float32),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "tokens": tfds.features.Sequence(tf.int32),
        },
        "action": tfds.features.Tensor(shape=(1,), dtype=tf.float32),
        "reward": tfds.features.Tensor(shape=(), dtype=tf.float64, encoding="zlib"),
        "discount": tfds.features.Scalar(dtype=tf.float32),
        "is_first": tf.bool,
        "is_last": tf.bool,
        "is_terminal": tf.bool,
        "large": tf.uint64,
        "half": tf.float16,
        "text": tfds.features.Text(),
    }
    features = tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step), "episode_id": tfds.features.Text()})
    info = tfds.core.DatasetInfo(
        builder=tfds.core.dataset_info.DatasetIdentity(
            name="theirs", version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name="made"
        ),
        features=features,
    )
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2)
    writer.initialize_splits(["train", "test"])
    random, given = np.random.default_rng(5), {}
    for number in range(5):
        split, last = ("test" if number == 3 else "train"), number
        steps = [
            {
                "observation": {
                    "state": np.array([-0.0, np.nan, random.normal()], np.float32),
                    "image": random.integers(0, 255, (2, 3, 3)).astype(np.uint8),
                    "tokens": np.arange(i, dtype=np.int32),
                },
                "action": np.ones(1, np.float32),
                "reward": np.float64(1 / 3),
                "discount": np.float32(0.99),
                "is_first": i == 0,
                "is_last": i == last,
                "is_terminal": i == last,
                "large": np.uint64(2**64 - 1 - i),
                "half": np.float16(1 / 3),
                "text": "Ä“\U0001f600”",
            }
            for i in range(last + 1)
        ]
        for place, one in enumerate(steps):
            put(given, f"e{number}/{place}", {**one, "text": one["text"].encode()})
        writer.add_examples({split: [{"steps": steps, "episode_id": f"e{number}"}]})
    writer.close_splits(["train", "test"])
    return given


def write_with_minari(folder: Path) -> dict[str, Any]:
    """Data sets by Minari's own storages, HDF5 and Arrow; returns what they were given."""
    import gymnasium
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    spaces = gymnasium.spaces
    both = (spaces.Discrete(5), spaces.Text(9))
    seen = {
        "x": spaces.Box(-9, 9, (2, 3), np.float32),
        "both": spaces.Tuple(both),
        "picture": spaces.Box(0, 255, (32, 32, 3), np.uint8),
    }
    given: dict[str, Any] = {}
    for form in ("hdf5", "arrow"):
        data = folder / form / "data"
        data.mkdir(parents=True)
        storage = MinariStorage.new(
            data, spaces.Dict(seen), spaces.Box(-1, 1, (1,), np.float32), data_format=form, jpeg_encoding=True
        )
        for number in range(3):
            count = 2 + number
            x = np.arange((count + 1) * 6, dtype=np.float32).reshape(-1, 2, 3)
            rewards = np.arange(count) / 3
            buffer = EpisodeBuffer(
                id=number,
                seed=7 + number,
                observations={
                    "x": x,
                    "both": (np.arange(count + 1), [f"s{i}" for i in range(count + 1)]),
                    "picture": np.full((count + 1, 32, 32, 3), number, np.uint8),
                },
                actions=np.arange(count, dtype=np.float32).reshape(-1, 1),
                rewards=list(rewards),
                terminations=[i == count - 1 and number != 1 for i in range(count)],
                truncations=[i == count - 1 and number == 1 for i in range(count)],
                infos={"k": np.arange(count + 1) * 2, "m": np.ones((count + 1, 2, 2))},
            )
            storage.update_episodes([buffer])
            for i in range(count + 1):
                put(given, f"{form}/{number}/{i}", {"x": x[i], "0": np.int64(i), "1": f"s{i}".encode()})
                if i < count:
                    put(given, f"{form}/{number}/{i}", {"action": np.array([i], np.float32), "reward": rewards[i]})
        storage.update_metadata({"dataset_id": f"made/{form}-v0", "algorithm_name": "counting", "env_spec": "{}"})
    return given


def write_with_lerobot(folder: Path) -> dict[str, Any]:
    """A data set by LeRobotDataset itself, with pictures and a video; returns what it was given.

    `make test-interop` installs LeRobot without torchvision, which it imports and needs for training alone: its names
    are empty classes here.
    """
    without_torchvision()
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    numbers = {
        "observation.state": ("float32", (3,)),
        "observation.table": ("float64", (2, 3)),
        "observation.count": ("int64", (1,)),
        "action": ("float32", (2,)),
        "next.reward": ("float64", (1,)),
        "next.done": ("bool", (1,)),
    }
    features = {name: {"dtype": dtype, "shape": shape, "names": None} for name, (dtype, shape) in numbers.items()}
    features["words"] = {"dtype": "string", "shape": (1,), "names": None}
    pictures = {"dtype": "image", "shape": (64, 64, 3), "names": ["height", "width", "channels"]}
    features |= {"observation.images.wrist": pictures, "observation.images.top": {**pictures, "dtype": "video"}}
    dataset = LeRobotDataset.create("made/theirs", fps=10, features=features, root=folder, vcodec="h264")
    random, given = np.random.default_rng(5), {}
    for number in range(3):
        for i in range(2 + number):
            frame = {
                "observation.state": np.array([-0.0, np.nan, random.normal()], np.float32),
                "observation.table": random.normal(size=(2, 3)),
                "observation.count": np.array([2**62 + i]),
                "action": random.normal(size=2).astype(np.float32),
                "next.reward": random.normal(size=1),
                "next.done": np.array([i == 1 + number and number != 1]),
                "words": f"Ä{number}.{i}\U0001f600",
                "observation.images.wrist": random.integers(0, 255, (64, 64, 3), np.uint8),
                "observation.images.top": np.full((64, 64, 3), 9 * i, np.uint8),
            }
            put(given, f"{number}/{i}", {**frame, "words": frame["words"].encode()})
            dataset.add_frame({**frame, "task": ("lift", "drop")[number % 2]})
        dataset.save_episode()
    dataset.finalize()
    return given


def without_torchvision() -> None:
    """Let LeRobot import where torchvision is not installed."""
    import datasets  # looks whether torchvision is there: before it seems to be

    class Empty(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    assert datasets.config.TORCHVISION_AVAILABLE is False
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2"):
        sys.modules[name] = Empty(name)
    for name in ("torchvision.transforms.functional", "torchvision.transforms.v2.functional"):
        sys.modules[name] = Empty(name)
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
    sys.modules["torchvision.transforms"].v2 = sys.modules["torchvision.transforms.v2"]  # type: ignore[attr-defined]


if __name__ == "__main__":
    what, where, out = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    np.savez(out, **globals()[what](where))
