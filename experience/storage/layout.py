"""The tables of a data set on disk: steps in Parquet shards, an index with one row an episode, and their Arrow schemas.

episodes.parquet             the index; what it does not name is not there, so replacing it is the moment of commit
steps/<split>-00000.parquet  a row a step: episode_id, step, the fields of RLDS, further fields
annotations/<name>.parquet   a column added later, with author and time
journal/                     what is being recorded
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from experience.episode import CORE_FIELDS, FLAGS, Episode, Step
from experience.storage.columns import ABSENT, from_arrow, to_arrow
from experience.storage.schema import Spec, from_json, merged, settled, spec_of, to_json

INDEX = "episodes.parquet"
METADATA_KEY = b"open_medgemma.episodes"
STEPS_KEY = b"open_medgemma.episodes.steps"
FORMAT_VERSION = 1

STEP_PLACE = {"episode_id": pa.large_string(), "step": pa.int64(), **dict.fromkeys(FLAGS, pa.bool_())}
"""Columns of the steps that have no spec."""

INDEX_PLACE: dict[str, pa.DataType] = {
    "episode_id": pa.large_string(),
    "num_steps": pa.int64(),
    "split": pa.large_string(),
    "shard": pa.large_string(),
    "row": pa.int64(),
    "sha256": pa.large_string(),
    "invalid": pa.bool_(),
}
"""Columns of the index that have no spec; `row` is the episode's first in the shard."""


class Entry(NamedTuple):
    """What the index says of an episode."""

    episode_id: str
    num_steps: int
    split: str
    shard: str
    row: int
    sha256: str
    invalid: bool | None
    """None where nobody said."""
    metadata: Mapping[str, Any]


def spec_of_steps(episodes: Iterable[Episode]) -> dict[str, Spec]:
    """Return the spec of every column that the steps of some episodes have."""
    return _specs(
        {name: value for name, value in step.fields().items() if name not in FLAGS}
        for episode in episodes
        for step in episode.steps
    )


def merged_specs(one: Mapping[str, Spec], other: Mapping[str, Spec]) -> dict[str, Spec]:
    """Return the specs of the columns of both; a column that one lacks is null there."""
    whole = merged(Spec("dict", fields=one), Spec("dict", fields=other)) if one and other else None
    return dict(whole.fields) if whole else dict(one or other)


class Row(NamedTuple):
    """A step and its place."""

    episode_id: str
    number: int
    step: Step


def rows_of(episode: Episode) -> Iterator[Row]:
    """Yield the steps of an episode with their places."""
    return (Row(episode.episode_id, number, step) for number, step in enumerate(episode.steps))


def steps_table(rows: Sequence[Row], specs: Mapping[str, Spec]) -> pa.Table:
    """Return steps as a table with the columns of `specs`."""
    steps = [row.step.fields() for row in rows]
    place: dict[str, Sequence[Any]] = {
        "episode_id": [row.episode_id for row in rows],
        "step": [row.number for row in rows],
        **{name: [step[name] for step in steps] for name in FLAGS},
    }
    return _table(STEP_PLACE, place, settled_specs(specs), steps)


def episodes_in(table: pa.Table, specs: Mapping[str, Spec], entries: Sequence[Entry]) -> Iterator[Episode]:
    """Yield the episodes whose steps are the rows of a table, one after another."""
    columns = {name: _values(spec, table[name]) for name, spec in specs.items()}
    columns |= {name: table[name].to_pylist() for name in FLAGS}
    further = [name for name in columns if name not in CORE_FIELDS]
    start = 0
    for entry in entries:
        steps = []
        for row in range(start, start + entry.num_steps):
            metadata = {name: columns[name][row] for name in further if columns[name][row] is not ABSENT}
            core = {name: columns[name][row] for name in CORE_FIELDS}
            steps.append(Step(**core, metadata=metadata))
        yield Episode(tuple(steps), entry.episode_id, entry.metadata)
        start += entry.num_steps


def metadata_specs(entries: Iterable[Entry]) -> dict[str, Spec]:
    """Return the specs of the metadata of episodes; `invalid` is a column of the index itself."""
    rows = ({name: value for name, value in one.metadata.items() if name not in INDEX_PLACE} for one in entries)
    return settled_specs(_specs(rows))


def index_table(
    entries: Sequence[Entry], steps_specs: Mapping[str, Spec], specs: Mapping[str, Spec] | None = None
) -> pa.Table:
    """Return the index of a data set; it also says what the columns of the steps are, over all shards.

    Args:
        entries: Of the episodes.
        steps_specs: Of the columns of the steps.
        specs: Of the metadata; found from the entries if not given.
    """
    specs = metadata_specs(entries) if specs is None else specs
    place = {name: [getattr(entry, name) for entry in entries] for name in INDEX_PLACE}
    table = _table(INDEX_PLACE, place, specs, [entry.metadata for entry in entries])
    return table.replace_schema_metadata({**table.schema.metadata, STEPS_KEY: schema_metadata(steps_specs)})


def entries_in(table: pa.Table) -> list[Entry]:
    """Return what an index says; `invalid` is in the metadata where it was given."""
    specs = specs_of(table.schema)
    place = {name: table[name].to_pylist() for name in INDEX_PLACE}
    columns = {name: _values(spec, table[name]) for name, spec in specs.items()}
    entries = []
    for row in range(len(table)):
        metadata = {name: column[row] for name, column in columns.items() if column[row] is not ABSENT}
        if place["invalid"][row] is not None:
            metadata["invalid"] = place["invalid"][row]
        entries.append(Entry(**{name: column[row] for name, column in place.items()}, metadata=metadata))
    return entries


def settled_specs(specs: Mapping[str, Spec]) -> dict[str, Spec]:
    """Return specs that Parquet can hold."""
    return {name: settled(spec) for name, spec in specs.items()}


def schema_metadata(specs: Mapping[str, Spec]) -> str:
    """Return what a schema says of specs, under METADATA_KEY."""
    return json.dumps({"format": FORMAT_VERSION, "columns": {name: to_json(spec) for name, spec in specs.items()}})


def steps_specs_of(schema: pa.Schema) -> dict[str, Spec]:
    """Return the specs of the columns of the steps, from the schema of an index."""
    return specs_of(schema, STEPS_KEY)


def specs_of(schema: pa.Schema, key: bytes = METADATA_KEY) -> dict[str, Spec]:
    """Return the specs that an Arrow schema of ours carries.

    Raises:
        ValueError: It carries none, or of a newer version.
    """
    held = (schema.metadata or {}).get(key)
    if held is None:
        raise ValueError("the table is none of ours: its schema says nothing of episodes; use `import`")
    row = json.loads(held)
    if row["format"] > FORMAT_VERSION:
        raise ValueError(f"the table is of format {row['format']}; this version reads {FORMAT_VERSION}; update it")
    return {name: from_json(spec) for name, spec in row["columns"].items()}


def _specs(rows: Iterable[Mapping[str, Any]]) -> dict[str, Spec]:
    found: Spec | None = None
    for row in rows:
        one = Spec("dict", fields={name: spec_of(value) for name, value in row.items()})
        found = merged(found, one)
    return dict(found.fields) if found else {}


def _table(
    types: Mapping[str, pa.DataType],
    place: Mapping[str, Sequence[Any]],
    specs: Mapping[str, Spec],
    rows: Sequence[Mapping[str, Any]],
) -> pa.Table:
    columns = {name: pa.array(values, types[name]) for name, values in place.items()}
    columns |= {name: to_arrow(spec, [row.get(name, ABSENT) for row in rows]) for name, spec in specs.items()}
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: schema_metadata(specs)})


def _values(spec: Spec, column: pa.ChunkedArray) -> list[Any]:
    return [value for chunk in column.chunks for value in from_arrow(spec, chunk)]
