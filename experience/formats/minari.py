"""Data sets of Minari (Farama), read without it: HDF5 or Arrow, N + 1 observations beside N actions.

Source: minari 0.5.4, minari/dataset/_storages.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from experience.alignment import First, Transition, sar_steps
from experience.episode import Episode
from experience.formats.foreign import Source, note


def is_minari(folder: Path) -> bool:
    """Say whether a folder is a Minari data set."""
    return (folder / "data" / "metadata.json").is_file() or (folder / "data" / "main_data.hdf5").is_file()


def read_minari(folder: Path) -> Source:
    """Read a Minari data set.

    A terminated step ends the environment (discount 0); `infos` become fields of the steps; pictures that Minari coded
    as JPEG stay these bytes. What Minari knows of the data set becomes metadata of every episode.

    Raises:
        ValueError: It is broken, or h5py is needed and not installed.
    """
    data = folder / "data"
    told = data / "metadata.json"
    about = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
    notes: list[str] = []
    read = _read_hdf5 if (data / "main_data.hdf5").is_file() else _read_arrow
    return Source(_episodes(read(data), about, folder.name, notes), {}, notes)


def _episodes(
    found: Iterator[dict[str, Any]], about: Mapping[str, Any], name: str, notes: list[str]
) -> Iterator[Episode]:
    for number, held in enumerate(found):
        told = {**held["about"], **about}
        known = {
            "agent_id": str(told.get("algorithm_name", "")),
            "environment_config": str(told.get("env_spec", "")),
            "code_version": str(told.get("code_permalink", "")),
            "minari": json.dumps(told, default=str, sort_keys=True),
        }
        count = len(held["rewards"])
        for column in ("observations", "actions"):
            space = json.loads(told.get(column.removesuffix("s") + "_space", "{}"))
            held[column] = _in_space(space, _first(held[column], count + (column == "observations")))
        yield _episode(f"{told.get('dataset_id', name)}/{number}", held, known, notes)


def _episode(name: str, held: Mapping[str, Any], known: Mapping[str, Any], notes: list[str]) -> Episode:
    observations, actions = held["observations"], held["actions"]
    rewards, ended, cut = held["rewards"], held["terminations"], held["truncations"]
    count = len(rewards)
    infos = held.get("infos") or {}
    fits = bool(infos) and _length(infos) == count + 1
    if infos and not fits:
        note(notes, "infos do not have one value an observation, and are left out")
    rows: list[dict[str, Any]] = [{"infos": _at(infos, i)} if fits else {} for i in range(count + 1)]
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
    steps = tuple(sar_steps(First(_at(observations, 0), rows[0]), said))
    if not count:
        steps = (replace(steps[0], is_last=True),)
    return Episode(steps, name, {**known, **held["metadata"]})


def _in_space(space: Mapping[str, Any], values: Any) -> Any:
    """Values as the space has them: dicts, tuples, arrays of its shape; coded pictures as bytes."""
    kind = space.get("type", "")
    if kind == "Dict":
        return {name: _in_space(part, values[name]) for name, part in space["subspaces"].items()}
    if kind == "Tuple":
        return tuple(_in_space(part, values[str(place)]) for place, part in enumerate(space["subspaces"]))
    if kind not in ("Box", "MultiDiscrete", "MultiBinary") or not len(values):
        return values
    shape = space["shape"] if kind == "Box" else np.shape(space.get("nvec", np.zeros(space.get("n", 0))))
    if isinstance(values[0], bytes) or (space.get("dtype") == "uint8" and np.size(values[0]) != np.prod(shape)):
        return [bytes(one) for one in values]
    return np.asarray(values).reshape(len(values), *shape)


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
    return len(values)


def _first(values: Any, count: int) -> Any:
    """The first values of a tree; the last row of an Arrow file has an observation only."""
    if isinstance(values, Mapping):
        return {name: _first(one, count) for name, one in values.items()}
    return values[:count]


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item() if isinstance(value, np.generic) else value


def _read_hdf5(folder: Path) -> Iterator[dict[str, Any]]:
    try:
        import h5py
    except ImportError as fault:
        raise ValueError("Minari's HDF5 files need h5py; run `pip install 'open-medgemma[rlds]'`") from fault
    try:
        with h5py.File(folder / "main_data.hdf5", "r") as file:
            about = {name: _plain(value) for name, value in file.attrs.items()}
            for name in sorted(file, key=lambda one: int(one.rpartition("_")[2])):
                group = file[name]
                metadata = {key: _plain(value) for key, value in group.attrs.items()}
                yield {key: _hdf5_tree(one) for key, one in group.items()} | {"metadata": metadata, "about": about}
    except OSError as fault:
        raise ValueError(f"{folder / 'main_data.hdf5'}: is cut or broken ({fault}); get it again") from fault


def _hdf5_tree(node: Any) -> Any:
    """Arrays of an HDF5 group; a tuple's parts are named 0, 1, ... as Arrow's are."""
    if hasattr(node, "keys"):
        return {name.removeprefix("_index_"): _hdf5_tree(one) for name, one in node.items()}
    values = node[()]
    return [_plain(one) for one in values] if values.dtype.kind in "OS" else values


def _read_arrow(folder: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.dataset as ds

    for one in sorted((one for one in folder.iterdir() if one.name.isdecimal()), key=lambda one: int(one.name)):
        form = "parquet" if list(one.glob("*.parquet")) else "ipc"
        files = [str(path) for path in sorted(one.iterdir()) if path.suffix in (".arrow", ".parquet")]
        table = ds.dataset(files, format=form).to_table()
        held = {field.name: _arrow_tree(table[field.name].combine_chunks(), field) for field in table.schema}
        for name in ("rewards", "terminations", "truncations"):
            held[name] = held[name][: len(table) - 1]
        metadata = json.loads((one / "metadata.json").read_text(encoding="utf-8"))
        yield held | {"metadata": metadata, "about": {}}


def _arrow_tree(column: pa.Array, field: pa.Field) -> Any:
    if pa.types.is_struct(column.type):
        return {part.name: _arrow_tree(column.field(part.name), part) for part in column.type}
    if pa.types.is_fixed_size_list(column.type):
        flat = column.values.to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
        shape = (field.metadata or {}).get(b"shape")
        return flat if shape is None else flat.reshape(len(column), *(int(n) for n in shape.split(b",") if n))
    if pa.types.is_primitive(column.type) and not column.null_count:
        return column.to_numpy(zero_copy_only=False)
    return column.to_pylist()
