"""Annotations: columns added to a data set later, each value with its author and time.

One Parquet file a name, beside the episodes: `episode_id`, `step` (null: the whole episode), `value`, `author`,
`time_utc`. Nothing that was recorded changes. Of several values for one place the newest counts; all are kept.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from experience.dataset import EpisodeDataset
from experience.episode import CORE_FIELDS, INDEX_FIELDS, PLACE_FIELDS, Episode
from experience.storage.columns import from_arrow, to_arrow
from experience.storage.layout import METADATA_KEY, schema_metadata, specs_of
from experience.storage.schema import Spec, merged, settled, spec_of
from experience.storage.shards import open_parquet, write_shard

PLACE = {"episode_id": pa.large_string(), "step": pa.int64(), "author": pa.large_string()}
TIME = pa.timestamp("us", tz="UTC")


class Annotation(NamedTuple):
    """One value."""

    episode_id: str
    step: int | None
    """None: it is of the whole episode."""
    value: Any
    author: str
    time_utc: datetime


def annotate(dataset: EpisodeDataset, name: str, author: str, values: Sequence[tuple[str, int | None, Any]]) -> None:
    """Add values to an annotation, all or none.

    Args:
        dataset: What is annotated.
        name: Of the annotation; letters, digits and underscores, no name that steps or episodes have.
        author: Who says so.
        values: Episode id, step or None, value.

    Raises:
        ValueError: The name is taken or malformed, nobody is the author, or an episode or step is not there.
    """
    taken = {*CORE_FIELDS, *PLACE_FIELDS, *INDEX_FIELDS, *dataset.specs()}
    if not re.fullmatch(r"[A-Za-z]\w*", name) or name in taken:
        raise ValueError(f"got the annotation {name!r}; expected letters, digits and _, and none of the columns' names")
    if not author:
        raise ValueError("got no author; expected a name or initials; say who annotates")
    for episode_id, step, _ in values:
        num_steps = dataset.entry(episode_id).num_steps
        if step is not None and not 0 <= step < num_steps:
            raise ValueError(f"episode {episode_id!r} has no step {step}; expected 0 to {num_steps - 1}")
    now = datetime.now(UTC)
    rows = annotations(dataset, name) + [Annotation(*value, author, now) for value in values]
    path = _path(dataset, name)
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(path.name + ".partial")
    write_shard(draft, [_table(rows)])
    draft.replace(path)


def annotations(dataset: EpisodeDataset, name: str) -> list[Annotation]:
    """Return the values of an annotation, oldest first; none if there is no such annotation."""
    path = _path(dataset, name)
    if not path.exists():
        return []
    table = open_parquet(path).read()
    columns = {column: table[column].to_pylist() for column in (*PLACE, "time_utc")}
    values = from_arrow(specs_of(table.schema)["value"], table["value"].combine_chunks())
    return [
        Annotation(*row)
        for row in zip(
            columns["episode_id"], columns["step"], values, columns["author"], columns["time_utc"], strict=True
        )
    ]


def annotation_names(dataset: EpisodeDataset) -> list[str]:
    """Return the names of all annotations, sorted."""
    return sorted(path.stem for path in (dataset.folder / "annotations").glob("*.parquet"))


def values_in(path: Path) -> list[tuple[str, int | None, Any]]:
    """Read values to annotate with from JSON lines: `episode_id`, `value`, and `step` where it is of one.

    Raises:
        ValueError: A line is something else.
    """
    values = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            values.append((row["episode_id"], row.get("step"), row["value"]))
        except (ValueError, KeyError, AttributeError, TypeError) as fault:
            raise ValueError(
                f"{path}: line {number} is no value ({fault}); expected episode_id, step, value"
            ) from fault
    return values


def annotated(episode: Episode, name: str, values: Sequence[Annotation]) -> Episode:
    """Return an episode with an annotation in its metadata and in that of its steps; None where there is no value."""
    newest = {one.step: one.value for one in values if one.episode_id == episode.episode_id}
    steps = tuple(
        replace(step, metadata={**step.metadata, name: newest.get(number)}) for number, step in enumerate(episode.steps)
    )
    return Episode(steps, episode.episode_id, {**episode.metadata, name: newest.get(None)})


def _path(dataset: EpisodeDataset, name: str) -> Path:
    return dataset.folder / "annotations" / f"{name}.parquet"


def _table(rows: Sequence[Annotation]) -> pa.Table:
    found: Spec | None = None
    for row in rows:
        found = merged(found, spec_of(row.value))
    spec = settled(found)
    columns = {name: pa.array([getattr(row, name) for row in rows], type_) for name, type_ in PLACE.items()}
    columns |= {"time_utc": pa.array([row.time_utc for row in rows], TIME)}
    table = pa.table(columns | {"value": to_arrow(spec, [row.value for row in rows])})
    return table.replace_schema_metadata({METADATA_KEY: schema_metadata({"value": spec})})
