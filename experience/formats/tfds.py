"""Data sets of TensorFlow Datasets in the RLDS form, read and written without TensorFlow.

A folder of a version holds features.json, dataset_info.json and the shards of each split, one record an episode.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from experience.episode import FLAGS, Episode
from experience.formats.features import Feature, decode_record, encode_record, from_json, to_json
from experience.formats.foreign import Source, episode_from
from experience.formats.records import FileFormat, read_records, write_records
from experience.storage.schema import Spec
from experience.storage.values import encode_inline

EPISODES_PER_SHARD = 1000
"""As in rlds.tfds.EpisodeWriter."""

RAW_DTYPES = ("float64", "float16", "complex64", "complex128")
"""Written as they lie in memory: a record's own numbers are float32 and int64, and would round them."""

PLAIN_DTYPES = ("bool", "float32", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
"""Written as a record's own numbers, exactly."""


def is_tfds(folder: Path) -> bool:
    """Say whether a folder is a version of a TFDS data set."""
    return (folder / "features.json").is_file() and (folder / "dataset_info.json").is_file()


def read_tfds(folder: Path, split: str = "") -> Source:
    """Read a version of a TFDS data set.

    Args:
        folder: Holds features.json and dataset_info.json.
        split: Only this one; all by default.

    Raises:
        ValueError: A file is missing or broken, or there is no such split.
    """
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    feature = from_json(json.loads((folder / "features.json").read_text(encoding="utf-8")))
    if "steps" not in feature.fields:
        raise ValueError(f"{folder}: its records have no `steps`; expected episodes in the RLDS form")
    splits = {one["name"]: one for one in info["splits"]}
    if split and split not in splits:
        raise ValueError(f"{folder}: has no split {split!r}; expected one of {', '.join(splits)}")
    found: dict[str, str] = {}
    notes: list[str] = []
    wanted = {split: splits[split]} if split else splits
    return Source(_read(folder, info, feature, wanted, found, notes), found, notes)


def write_tfds(
    folder: Path, episodes: Iterable[Episode], specs: Mapping[str, Spec], metadata_specs: Mapping[str, Spec],
    *, name: str, splits: Mapping[str, str], file_format: FileFormat = "tfrecord",
) -> list[str]:  # fmt: skip
    """Write episodes as a version of a TFDS data set; return what is not as it was.

    Exceptions: a null becomes zero, empty or false; what TFDS has no feature for is a text of JSON; encoded pictures
    are byte strings, to be decoded by the reader.

    Args:
        folder: To be made: NAME/1.0.0.
        episodes: In the order of their splits.
        specs: Of the steps' columns.
        metadata_specs: Of the episodes' metadata.
        name: Of the data set: lower case and underscores.
        splits: Episode id to split.
        file_format: Of the shards.
    """
    folder.mkdir(parents=True)
    notes: dict[str, int] = defaultdict(int)
    converters = {column: _converter(column, spec, notes) for column, spec in specs.items()}
    of_episode = {column: _converter(column, spec, notes) for column, spec in metadata_specs.items()}
    step = {column: made.feature for column, made in converters.items()} | {
        flag: Feature("tensor", dtype="bool") for flag in FLAGS
    }
    fields = {"steps": Feature("sequence", item=Feature("dict", step), is_dataset=True), "episode_id": Feature("text")}
    feature = Feature("dict", fields | {column: made.feature for column, made in of_episode.items()})

    def record(episode: Episode) -> bytes:
        steps = [
            {column: made.value(row.get(column), row["is_last"]) for column, made in converters.items()}
            | {flag: row[flag] for flag in FLAGS}
            for row in (one.fields() for one in episode.steps)
        ]
        known = {column: made.value(episode.metadata.get(column), False) for column, made in of_episode.items()}
        return encode_record(feature, {"steps": steps, "episode_id": episode.episode_id, **known})

    shards = _write_shards(folder, name, episodes, splits, record, file_format)
    _write_json(folder / "features.json", to_json(feature))
    _write_json(folder / "dataset_info.json", _info(name, shards, file_format))
    return [f"{column}: {count} nulls are written as zero or empty" for column, count in notes.items()]


class _Converter:
    """A column's feature, and its values as the feature takes them."""

    def __init__(self, column: str, spec: Spec, feature: Feature, nulls: dict[str, int]) -> None:
        self.column, self.spec, self.feature, self.nulls = column, spec, feature, nulls

    def value(self, value: Any, is_last: bool) -> Any:
        """Return a value to be encoded; a null that RLDS calls meaningless is not counted."""
        meaningless = is_last and self.column in ("action", "reward", "discount")
        return _filled(self.feature, value, self.column, {} if meaningless else self.nulls)


def _converter(column: str, spec: Spec, nulls: dict[str, int]) -> _Converter:
    return _Converter(column, spec, _feature(spec), nulls)


def _feature(spec: Spec, in_list: bool = False) -> Feature:
    """The feature of a spec; a text of JSON where TFDS has none."""
    if spec.kind == "dict" and not spec.null:
        fields = {name: _feature(one, in_list) for name, one in spec.fields.items()}
        if not any(one.null == "absent" for one in spec.fields.values()):
            return Feature("dict", fields)
    if spec.kind == "list" and spec.item is not None and not spec.null:
        item = _feature(spec.item, True)
        if not _is_json(spec.item, item):
            return Feature("sequence", item=item)
    if spec.kind == "text":
        return Feature("text")
    if spec.kind == "bytes":
        return Feature("tensor", dtype="object")
    dtype = {"bool": "bool", "int": "int64", "float": "float64"}.get(spec.kind, spec.dtype)
    if spec.kind in ("bool", "int", "float", "scalar") and dtype in PLAIN_DTYPES:
        return Feature("tensor", dtype=dtype)
    if spec.kind in ("float", "scalar") and dtype in RAW_DTYPES and not in_list:
        return Feature("tensor", dtype=dtype, encoding="bytes")
    if spec.kind == "array" and spec.shape is not None and not in_list:
        plain = dtype in PLAIN_DTYPES and dtype not in ("uint8", "int8")
        if plain and None not in spec.shape:
            return Feature("tensor", dtype=dtype, shape=spec.shape)
        if plain and spec.shape == (None,):
            return Feature("sequence", item=Feature("tensor", dtype=dtype))
        if dtype in (*RAW_DTYPES, *PLAIN_DTYPES) and dtype not in ("uint32", "bool"):
            return Feature("tensor", dtype=dtype, shape=spec.shape, encoding="bytes")
    return JSON


JSON = Feature("text", dtype="json")
"""A text that holds JSON of `experience.storage.values`."""


def _is_json(spec: Spec, feature: Feature) -> bool:
    return feature == JSON or any(_is_json(spec, one) for one in feature.fields.values())


def _filled(feature: Feature, value: Any, column: str, nulls: dict[str, int]) -> Any:
    """A value with its nulls filled and counted."""
    if feature == JSON:
        return encode_inline(value)
    if value is None:
        nulls[column] = nulls.get(column, 0) + 1
    if feature.kind == "dict":
        held = value or {}
        return {name: _filled(one, held.get(name), f"{column}.{name}", nulls) for name, one in feature.fields.items()}
    if feature.kind == "sequence":
        assert feature.item is not None
        return [_filled(feature.item, one, column, nulls) for one in ([] if value is None else value)]
    if value is not None:
        return value
    if feature.kind == "text":
        return ""
    if feature.dtype == "object":
        return b""
    return np.zeros([size or 0 for size in feature.shape], np.dtype(feature.dtype))


def _read(
    folder: Path, info: Mapping[str, Any], feature: Feature, splits: Mapping[str, Any], found: dict[str, str],
    notes: list[str],
) -> Iterator[Episode]:  # fmt: skip
    file_format = info.get("fileFormat") or "tfrecord"
    for split, told in splits.items():
        number = 0
        for path in _shards(folder, info["name"], split, told, file_format):
            try:
                for record in read_records(path, file_format):
                    values = decode_record(feature, record)
                    episode = _episode(values, f"{info['name']}/{split}/{number}", found, notes)
                    found[episode.episode_id] = split
                    yield episode
                    number += 1
            except ValueError as fault:
                raise fault if str(path) in str(fault) else ValueError(f"{path}: episode {number}: {fault}") from fault
        expected = sum(int(count) for count in told.get("shardLengths", []))
        if expected != number:
            raise ValueError(f"{folder}: split {split} has {number} episodes; dataset_info.json says {expected}")


def _episode(values: dict[str, Any], otherwise: str, known: Mapping[str, str], notes: list[str]) -> Episode:
    steps = values.pop("steps")
    given = values.get("episode_id")
    if isinstance(given, str) and given and given not in known:
        del values["episode_id"]
        return episode_from(given, steps, values, notes)
    return episode_from(otherwise, steps, values, notes)


def _shards(folder: Path, name: str, split: str, told: Mapping[str, Any], file_format: str) -> list[Path]:
    count = len(told.get("shardLengths", []))
    template = told.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    said = {"{DATASET}": name, "{SPLIT}": split, "{FILEFORMAT}": file_format}
    for key, value in said.items():
        template = template.replace(key, value)
    return [
        folder
        / template.replace("{SHARD_X_OF_Y}", f"{number:05}-of-{count:05}")
        .replace("{SHARD_INDEX}", f"{number:05}")
        .replace("{NUM_SHARDS}", f"{count:05}")
        for number in range(count)
    ]


def _write_shards(
    folder: Path, name: str, episodes: Iterable[Episode], splits: Mapping[str, str], record: Any,
    file_format: FileFormat,
) -> dict[str, list[tuple[int, int]]]:  # fmt: skip
    """Write all shards and return the number of episodes and bytes of each, by split."""
    shards: dict[str, list[tuple[int, int]]] = defaultdict(list)
    drafts: dict[str, list[Path]] = defaultdict(list)
    for split, of_split in groupby(episodes, lambda episode: splits[episode.episode_id]):
        while chunk := list(islice(of_split, EPISODES_PER_SHARD)):
            path = folder / f"{split}-{len(drafts[split])}.partial"
            write_records(path, map(record, chunk), file_format)
            shards[split].append((len(chunk), path.stat().st_size))
            drafts[split].append(path)
    for split, paths in drafts.items():
        for number, path in enumerate(paths):
            path.replace(folder / f"{name}-{split}.{file_format}-{number:05}-of-{len(paths):05}")
    return shards


def _info(name: str, shards: Mapping[str, list[tuple[int, int]]], file_format: FileFormat) -> dict[str, Any]:
    return {
        "name": name,
        "version": "1.0.0",
        "fileFormat": file_format,
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(sum(size for _, size in held)),
                "shardLengths": [str(count) for count, _ in held],
            }
            for split, held in shards.items()
        ],
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
