"""Data sets of LeRobot v3 (Hugging Face), read without it: Parquet tables, and pictures inside them.

Every frame is a step with an observation and an action; the last frame's action is as LeRobot has it. Videos are not
decoded: their frames are named by file and time.

Source: lerobot 0.4.4, lerobot/datasets (codebase version v3.0).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experience.episode import Episode
from experience.formats.foreign import Source, episode_from, note

PLACES = ("episode_index", "frame_index", "index", "task_index", "next.done")


def is_lerobot(folder: Path) -> bool:
    """Say whether a folder is a LeRobot data set."""
    return (folder / "meta" / "info.json").is_file()


def read_lerobot(folder: Path) -> Source:
    """Read a LeRobot data set.

    Raises:
        ValueError: It is of an older layout, or broken.
    """
    info = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))
    if not str(info.get("codebase_version", "")).startswith("v3"):
        raise ValueError(
            f"{folder}: is of LeRobot's layout {info.get('codebase_version')}; expected v3; convert it with "
            "lerobot.datasets.v30.convert_dataset_v21_to_v30"
        )
    notes: list[str] = []
    splits: dict[str, str] = {}
    return Source(_read(folder, info, splits, notes), splits, notes)


def _read(folder: Path, info: Mapping[str, Any], splits: dict[str, str], notes: list[str]) -> Iterator[Episode]:
    episodes = _rows(folder / "meta" / "episodes")
    tasks = _tasks(folder)
    ranges = {name: tuple(map(int, said.split(":"))) for name, said in info.get("splits", {}).items() if ":" in said}
    held: tuple[Path, pa.Table] | None = None
    for row in sorted(episodes, key=lambda one: int(one["episode_index"])):
        number = int(row["episode_index"])
        place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        path = folder / info["data_path"].format(**place)
        if held is None or held[0] != path:
            held = (path, _table(path))
        first = held[1]["index"][0].as_py()
        start, stop = row["dataset_from_index"] - first, row["dataset_to_index"] - first
        frames = held[1].slice(start, stop - start)
        steps = list(_steps(frames, info["features"], row, folder, info, tasks, notes))
        name = f"{folder.name}/{number}"
        splits[name] = next((split for split, (a, b) in ranges.items() if a <= number < b), "train")
        metadata = {"episode_index": number, "tasks": list(row.get("tasks") or []), "agent_id": ""}
        config = {name: info.get(name) for name in ("robot_type", "fps", "codebase_version")}
        yield episode_from(name, steps, {**metadata, "environment_config": json.dumps(config)}, notes)


def _steps(
    frames: pa.Table,
    features: Mapping[str, Any],
    row: Mapping[str, Any],
    folder: Path,
    info: Mapping[str, Any],
    tasks: Mapping[int, str],
    notes: list[str],
) -> Iterator[dict[str, Any]]:
    columns = {name: _values(frames[name], features.get(name, {})) for name in frames.column_names}
    for name in (name for name, told in features.items() if told["dtype"] == "video"):
        note(notes, f"{name} is a video: its frames are named by file and time")
        columns[name] = _video_places(name, row, folder, info, columns["timestamp"])
    last = len(frames) - 1
    for i in range(len(frames)):
        held = {name: values[i] for name, values in columns.items()}
        observation = {
            name.removeprefix("observation."): v for name, v in held.items() if name.startswith("observation.")
        }
        done = bool(held.get("next.done", False))
        step = {
            "observation": observation,
            "action": held.get("action"),
            "reward": held.get("next.reward"),
            "is_first": i == 0,
            "is_last": i == last,
            "is_terminal": i == last and done,
            "task": tasks.get(int(held["task_index"])) if "task_index" in held else None,
        }
        others = {name: v for name, v in held.items() if name not in (*PLACES, "action", "next.reward")}
        yield step | {n.replace(".", "_"): v for n, v in others.items() if not n.startswith("observation.")}


def _values(column: pa.ChunkedArray, told: Mapping[str, Any]) -> list[Any]:
    dtype, shape = told.get("dtype", ""), tuple(told.get("shape", ()))
    if dtype in ("image", "video"):
        return [one["bytes"] if isinstance(one, dict) else one for one in column.to_pylist()]
    if dtype == "string" or not dtype:
        return list(column.to_pylist())
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return [np.array(one.as_py(), dtype).reshape(shape) for one in column]
    numbers = column.to_numpy().astype(dtype)
    return list(numbers)


def _video_places(
    name: str, row: Mapping[str, Any], folder: Path, info: Mapping[str, Any], times: list[Any]
) -> list[dict[str, Any]]:
    place = {"chunk_index": row[f"videos/{name}/chunk_index"], "file_index": row[f"videos/{name}/file_index"]}
    file = info["video_path"].format(video_key=name, **place)
    begin = float(row.get(f"videos/{name}/from_timestamp") or 0.0)
    return [{"video": file, "time_s": begin + float(time)} for time in times]


def _tasks(folder: Path) -> dict[int, str]:
    path = folder / "meta" / "tasks.parquet"
    if not path.is_file():
        return {}
    rows = _table(path).to_pylist()
    return {int(row["task_index"]): str(row.get("task", row.get("__index_level_0__", ""))) for row in rows}


def _rows(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.rglob("*.parquet"))
    if not paths:
        raise ValueError(f"{folder}: holds no Parquet file; the data set is not whole; get it again")
    return [row for path in paths for row in _table(path).to_pylist()]


def _table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as fault:
        raise ValueError(f"{path}: is missing, cut or broken ({' '.join(str(fault).split())})") from fault
