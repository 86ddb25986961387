"""A LeRobot v3 folder laid out by hand as its documentation says: two episodes, a picture, a video, tasks."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experience import EpisodeDataset, write_episodes
from experience.formats.sources import read_source
from experience.storage.values import sha256_of

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": [2]},
    "observation.images.wrist": {"dtype": "image", "shape": [2, 2, 3]},
    "observation.images.top": {"dtype": "video", "shape": [2, 2, 3]},
    "action": {"dtype": "float32", "shape": [1]},
    "next.reward": {"dtype": "float64", "shape": [1]},
    "next.done": {"dtype": "bool", "shape": [1]},
    **{name: {"dtype": "int64", "shape": [1]} for name in ("episode_index", "frame_index", "index", "task_index")},
    "timestamp": {"dtype": "float32", "shape": [1]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("meta/episodes/chunk-000", "data/chunk-000"):
        (tmp_path / "arm" / name).mkdir(parents=True)
    root = tmp_path / "arm"
    info = {
        "codebase_version": "v3.0",
        "robot_type": "arm",
        "fps": 10,
        "splits": {"train": "0:1", "val": "1:2"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": FEATURES,
    }
    (root / "meta" / "info.json").write_text(json.dumps(info))
    frames = [
        {
            "observation.state": [i / 3, -i],
            "observation.images.wrist": {"bytes": b"\x89PNG%d" % i, "path": None},
            "action": [float(i)],
            "next.reward": i / 3,
            "next.done": i in (2, 4),
            "episode_index": int(i > 2),
            "frame_index": i if i < 3 else i - 3,
            "index": i,
            "task_index": int(i > 2),
            "timestamp": (i if i < 3 else i - 3) / 10,
        }
        for i in range(5)
    ]
    schema = pa.Table.from_pylist(frames).schema
    for name in ("observation.state", "action"):
        schema = schema.set(schema.get_field_index(name), pa.field(name, pa.list_(pa.float32())))
    schema = schema.set(schema.get_field_index("timestamp"), pa.field("timestamp", pa.float32()))
    pq.write_table(pa.Table.from_pylist(frames, schema), root / "data/chunk-000/file-000.parquet")
    video = "videos/observation.images.top"
    episodes = [
        {
            "episode_index": n,
            "tasks": [("lift", "drop")[n]],
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": (0, 3)[n],
            "dataset_to_index": (3, 5)[n],
            f"{video}/chunk_index": 0,
            f"{video}/file_index": 0,
            f"{video}/from_timestamp": (0.0, 0.3)[n],
        }
        for n in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": ["lift", "drop"]})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    return root


def test_frames_become_steps(folder: Path, tmp_path: Path) -> None:
    source = read_source(folder)
    first, second = source.episodes
    assert (len(first.steps), len(second.steps)) == (3, 2) and source.splits == {"arm/0": "train", "arm/1": "val"}
    step = second.steps[1]
    assert np.array_equal(step.observation["state"], np.array([4 / 3, -4], "f4")) and step.action.dtype == np.float32
    assert step.observation["images.wrist"] == b"\x89PNG4" and (step.reward, step.is_last, step.is_terminal) == (
        4 / 3,
        True,
        True,
    )
    top = step.observation["images.top"]
    assert top["video"] == "videos/observation.images.top/chunk-000/file-000.mp4" and top["time_s"] == pytest.approx(
        0.4
    )
    assert step.metadata["task"] == "drop" and first.metadata["tasks"] == ["lift"]
    assert source.notes == ["observation.images.top is a video: its frames are named by file and time"]
    write_episodes(tmp_path / "ours", [first, second])
    assert [e.sha256 for e in EpisodeDataset(tmp_path / "ours").entries] == [sha256_of(first), sha256_of(second)]


def test_older_layouts_and_missing_parts_are_named(folder: Path) -> None:
    (folder / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"file-000.parquet: is missing, cut or broken"):
        list(read_source(folder).episodes)
    info = folder / "meta" / "info.json"
    info.write_text(info.read_text().replace("v3.0", "v2.1"))
    with pytest.raises(ValueError, match=r"layout v2.1; expected v3; convert it"):
        read_source(folder)
