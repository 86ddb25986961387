"""Data sets of Minari (Farama), read without it: HDF5 or Arrow, N + 1 observations beside N actions.

Source: minari 0.5.4, minari/dataset/_storages.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experience.alignment import First, Transition, sar_steps
from experience.episode import Episode, Step
from experience.formats.foreign import Source, note


def is_minari(folder: Path) -> bool:
    """Say whether a folder is a Minari data set."""
    return (folder / "data" / "metadata.json").is_file() or (folder / "data" / "main_data.hdf5").is_file()


def read_minari(folder: Path) -> Source:
    """Read a Minari data set.

    A terminated step ends the environment (discount 0); `infos` become fields of the steps. What Minari knows of the
    data set (environment, algorithm, code) becomes metadata of every episode.

    Raises:
        ValueError: It is broken, or h5py is needed and not installed.
    """
    notes: list[str] = []
    read = _read_hdf5 if (folder / "data" / "main_data.hdf5").is_file() else _read_arrow
    return Source(read(folder / "data", notes), {}, notes)


def _episode(number: int, held: Mapping[str, Any], known: Mapping[str, Any], notes: list[str]) -> Episode:
    observations, actions = held["observations"], held["actions"]
    rewards, ended, cut = held["rewards"], held["terminations"], held["truncations"]
    count = len(rewards)
    infos = held.get("infos")
    rows = [{} if infos is None or _length(infos) != count + 1 else {"infos": _at(infos, i)} for i in range(count + 1)]
    if infos is not None and not rows[0]:
        note(notes, "infos do not have one value an observation, and are left out")
    said = [
        Transition(
            _at(actions, i),
            rewards[i],
            0.0 if ended[i] else 1.0,
            _at(observations, i + 1),
            i == count - 1,
            bool(ended[i]) and i == count - 1,
            rows[i + 1],
        )
        for i in range(count)
    ]
    if count and not (ended[-1] or cut[-1]):
        note(notes, "some episodes neither terminated nor were truncated; they are truncated here")
    steps: list[Step] = list(sar_steps(First(_at(observations, 0), rows[0]), said))
    metadata = {**known, **held.get("metadata", {})}
    return Episode(tuple(steps), f"{known['dataset_id']}/{number}", metadata)


def _at(values: Any, place: int) -> Any:
    """One step of a tree of arrays."""
    if isinstance(values, Mapping):
        return {name: _at(one, place) for name, one in values.items()}
    if isinstance(values, tuple):
        return tuple(_at(one, place) for one in values)
    return values[place]


def _length(values: Any) -> int:
    if isinstance(values, Mapping):
        return min(map(_length, values.values()), default=0)
    return _length(values[0]) if isinstance(values, tuple) else len(values)


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of the data set in RLDS' names."""
    told = {name: _plain(value) for name, value in attributes.items()}
    return {
        "dataset_id": str(told.get("dataset_id", "minari")),
        "agent_id": str(told.get("algorithm_name", "")),
        "environment_config": str(told.get("env_spec", "")),
        "code_version": f"minari {told.get('minari_version', '')}".strip(),
    }


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item() if isinstance(value, np.generic) else value


def _read_hdf5(folder: Path, notes: list[str]) -> Iterator[Episode]:
    try:
        import h5py
    except ImportError as fault:
        raise ValueError("Minari's HDF5 files need h5py; run `pip install h5py`") from fault
    try:
        with h5py.File(folder / "main_data.hdf5", "r") as file:
            known = _known(dict(file.attrs))
            for number, name in enumerate(sorted(file, key=lambda one: int(one.rpartition("_")[2]))):
                group = file[name]
                held = {key: _tree(one) for key, one in group.items()}
                held["metadata"] = {key: _plain(value) for key, value in group.attrs.items() if key in ("seed", "id")}
                yield _episode(number, held, known, notes)
    except OSError as fault:
        raise ValueError(f"{folder / 'main_data.hdf5'}: is cut or broken ({fault}); get it again") from fault


def _tree(node: Any) -> Any:
    """Arrays of an HDF5 group; groups named _index_N are tuples."""
    if not hasattr(node, "keys"):
        values = node[()]
        return [_plain(one) for one in values] if values.dtype.kind in "OS" else values
    parts = {name: _tree(one) for name, one in node.items()}
    if parts and all(name.startswith("_index_") for name in parts):
        return tuple(parts[f"_index_{place}"] for place in range(len(parts)))
    return parts


def _read_arrow(folder: Path, notes: list[str]) -> Iterator[Episode]:
    import pyarrow.dataset as ds

    known = _known(json.loads((folder / "metadata.json").read_text(encoding="utf-8")))
    folders = sorted(
        (one for one in folder.iterdir() if one.is_dir()), key=lambda one: int(one.name.rpartition("_")[2])
    )
    for number, one in enumerate(folders):
        table = ds.dataset([str(path) for path in sorted(one.glob("*.arrow"))], format="ipc").to_table()
        count = len(table) - 1
        held = {name: _arrow_tree(table[name].combine_chunks()) for name in table.column_names if name != "episode_id"}
        for name in ("actions", "rewards", "terminations", "truncations"):
            held[name] = _first(held[name], count)
        yield _episode(number, held, known, notes)


def _arrow_tree(column: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_struct(column.type):
        parts = {field.name: _arrow_tree(column.field(field.name)) for field in column.type}
        if parts and all(name.startswith("_index_") for name in parts):
            return tuple(parts[f"_index_{place}"] for place in range(len(parts)))
        return parts
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), size)
    if pa.types.is_string(column.type) or pa.types.is_list(column.type):
        return column.to_pylist()
    return column.to_numpy(zero_copy_only=False)


def _first(values: Any, count: int) -> Any:
    """The first values of a tree; the last row of an Arrow file has an observation only."""
    if isinstance(values, Mapping):
        return {name: _first(one, count) for name, one in values.items()}
    if isinstance(values, tuple):
        return tuple(_first(one, count) for one in values)
    kept: Sequence[Any] = values[:count]
    return kept
