"""Adding episodes to a data set on disk: new shards first, then the index in one rename.

Until the index is replaced the data set is what it was; afterwards it holds every new episode. Shards that no index
names are what a crash left behind, and the next commit removes them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from experience.episode import Episode
from experience.storage.durable import lock, sync_folder
from experience.storage.index import Index, grown, open_index
from experience.storage.journal import SUFFIX, episodes_of, read_events
from experience.storage.layout import (
    INDEX,
    Entry,
    Row,
    episodes_in,
    index_table,
    merged_specs,
    rows_of,
    settled_specs,
    spec_of_steps,
    steps_table,
)
from experience.storage.schema import Spec
from experience.storage.shards import Shard, open_shard, read_rows, write_shard
from experience.storage.values import digest_of

SHARD_BYTES = 16 << 20
"""Of the values of a shard, and so of what is held in memory while writing, a larger episode apart."""

GROUP_BYTES = 1 << 18
"""Of the values of the episodes that share a row group: what a random access reads."""

LONG_GROUP_BYTES = 1 << 20
"""Of the values of a row group that a long episode is divided into."""

Split = Callable[[Episode], str]


class _Sized(NamedTuple):
    episode: Episode
    num_bytes: int
    """Of its values."""


def commit(folder: Path, episodes: Iterable[Episode], *, split: Split | None = None, replace: bool = False) -> int:
    """Add episodes to a data set and return how many were new.

    Args:
        folder: Of the data set; made if it is not there.
        episodes: Those that the data set holds already, equal in every bit, are passed over.
        split: The split of an episode; `train` if none is given.
        replace: Hold nothing but these episodes afterwards.

    Raises:
        ValueError: Two different episodes have one id; the data set stays what it was.
    """
    (folder / "steps").mkdir(parents=True, exist_ok=True)
    with _folder_lock(folder):
        nothing = Index(index_table([], {}))
        old = open_index(folder / INDEX) if (folder / INDEX).exists() else nothing
        _remove_unnamed(folder, set(old.shards()))
        kept = nothing if replace else old
        known: dict[str, str] = {}
        fresh: list[Entry] = []
        first = 1 + max((int(shard[-13:-8]) for shard in old.shards()), default=-1)
        for number, chunk in enumerate(_chunks(_unknown(episodes, known, kept, folder)), start=first):
            for name in dict.fromkeys(_name(split, one.episode) for one in chunk):
                group = [one for one in chunk if _name(split, one.episode) == name]
                fresh += _write(folder, f"{name}-{number:05}.parquet", name, group, known)
        index = _alike(folder, kept, fresh)
        write_shard(folder / (INDEX + ".partial"), [index])
        sync_folder(folder / "steps")
        (folder / (INDEX + ".partial")).replace(folder / INDEX)
        sync_folder(folder)
        _remove_unnamed(folder, set(Index(index).shards()))
    return len(fresh)


def recover(folder: Path) -> int:
    """Take what dead recorders left in their journals into the data set; return how many episodes were new.

    An episode that was cut is kept with every whole step, marked `invalid`. A living recorder keeps its journal.
    """
    found = 0
    for path in sorted((folder / "journal").glob(f"*{SUFFIX}")):
        with path.open("rb") as file:
            if lock(file):
                found += commit(folder, episodes_of(read_events(path)))
                path.unlink()
    return found


def journals(folder: Path) -> list[Path]:
    """Return the journals of a data set whose episodes are not in its index yet."""
    return sorted((folder / "journal").glob(f"*{SUFFIX}"))


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    (folder / "journal").mkdir(exist_ok=True)
    with (folder / "journal" / "lock").open("wb") as file:
        lock(file, wait=True)
        yield


def _remove_unnamed(folder: Path, named: set[str]) -> None:
    for path in (folder / "steps").iterdir():
        if path.name not in named:
            path.unlink()


def _unknown(episodes: Iterable[Episode], known: dict[str, str], kept: Index, folder: Path) -> Iterator[_Sized]:
    """Yield episodes that are neither known nor kept yet, with their bytes, and know them."""
    for episode in episodes:
        digest, num_bytes = digest_of(episode)
        before = known.get(episode.episode_id) or kept.sha256_of(episode.episode_id)
        if before and before != digest:
            raise ValueError(f"{folder}: got two different episodes {episode.episode_id!r}; give each its own id")
        if not before:
            known[episode.episode_id] = digest
            yield _Sized(episode, num_bytes)


def _chunks(episodes: Iterable[_Sized]) -> Iterator[list[_Sized]]:
    chunk: list[_Sized] = []
    num_bytes = 0
    for one in episodes:
        chunk.append(one)
        num_bytes += one.num_bytes
        if num_bytes >= SHARD_BYTES:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def _name(split: Split | None, episode: Episode) -> str:
    return split(episode) if split else "train"


def _write(folder: Path, shard: str, split: str, episodes: Sequence[_Sized], sha256: Mapping[str, str]) -> list[Entry]:
    specs = settled_specs(spec_of_steps(one.episode for one in episodes))
    entries: list[Entry] = []
    row = 0
    for one, _ in episodes:
        invalid = one.metadata.get("invalid")
        digest = sha256[one.episode_id]
        entries.append(Entry(one.episode_id, len(one.steps), split, shard, row, digest, invalid, one.metadata))
        row += len(one.steps)
    draft = folder / "steps" / f"{shard}.partial"
    write_shard(draft, _tables(episodes, specs))
    draft.replace(folder / "steps" / shard)
    return entries


def _tables(episodes: Iterable[_Sized], specs: Mapping[str, Spec]) -> Iterator[pa.Table]:
    """Yield row groups: some whole episodes, or a part of a long one."""
    rows: list[Row] = []
    held = 0.0
    yielded = False
    for episode, num_bytes in episodes:
        for row in rows_of(episode):
            rows.append(row)
            held += num_bytes / len(episode.steps)
            if held >= LONG_GROUP_BYTES:
                yield steps_table(rows, specs)
                rows, held, yielded = [], 0.0, True
        if held >= GROUP_BYTES:
            yield steps_table(rows, specs)
            rows, held, yielded = [], 0.0, True
    if rows or not yielded:
        yield steps_table(rows, specs)


def _alike(folder: Path, kept: Index, fresh: Sequence[Entry]) -> pa.Table:
    """Return the index of all, and write again, under new names, the shards whose columns differ in type from the rest.

    A shard that merely lacks columns stays: every reader fills them with nulls. Old shards are looked at only if a type
    changes.
    """
    opened = {name: open_shard(folder / "steps" / name) for name in dict.fromkeys(entry.shard for entry in fresh)}
    before = kept.steps_specs() if kept else {}
    specs = dict(before)
    for one in opened.values():
        specs = merged_specs(specs, one.specs)
    specs = settled_specs(specs)
    wanted = steps_table([], specs).schema
    if _differs(steps_table([], before).schema, wanted):
        opened |= {name: open_shard(folder / "steps" / name) for name in kept.shards()}
    differing = {name: one for name, one in opened.items() if _differs(one.file.schema_arrow, wanted)}
    if not differing:
        return grown(kept, fresh, specs) if kept else index_table(fresh, specs)
    entries = [*kept, *fresh]
    renamed = {}
    for name, one in differing.items():
        renamed[name] = f"{name.removesuffix('.parquet')[:-6]}-{_next_number(folder):05}.parquet"
        _rewrite(one, folder / "steps" / renamed[name], [e for e in entries if e.shard == name], specs)
    return index_table([entry._replace(shard=renamed.get(entry.shard, entry.shard)) for entry in entries], specs)


def _differs(schema: pa.Schema, wanted: pa.Schema) -> bool:
    return any(wanted.field(column.name).type != column.type for column in schema)


def _next_number(folder: Path) -> int:
    return 1 + max(int(path.name[-13:-8]) for path in (folder / "steps").glob("*.parquet"))


def _rewrite(shard: Shard, path: Path, entries: Sequence[Entry], specs: Mapping[str, Spec]) -> None:
    def tables() -> Iterator[pa.Table]:
        for _, group in groupby(entries, lambda entry: shard.group_of(entry.row)):
            held = list(group)
            rows = read_rows(shard, held[0].row, held[-1].row + held[-1].num_steps)
            again = [row for episode in episodes_in(rows, shard.specs, held) for row in rows_of(episode)]
            yield steps_table(again, specs)

    draft = path.with_name(path.name + ".partial")
    write_shard(draft, tables())
    draft.replace(path)
