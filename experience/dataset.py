"""A data set of episodes on disk: any episode by its id, or all of them one after another in flat memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_cards.split import Side, side
from experience.episode import Episode
from experience.storage.commit import commit, journals
from experience.storage.index import open_index
from experience.storage.layout import INDEX, Entry, episodes_in
from experience.storage.schema import Spec
from experience.storage.shards import open_shard, read_rows
from experience.storage.values import sha256_of

OPEN_SHARDS = 8


class EpisodeDataset:
    """The episodes that the index of a folder names.

    Indexing by id or number reads the row groups of that episode. Iterating holds a row group at a time.
    """

    def __init__(self, folder: Path) -> None:
        """Open a data set.

        Raises:
            ValueError: There is none, or its index is broken.
        """
        self.folder = folder
        if not (folder / INDEX).is_file():
            left = len(journals(folder))
            do = f"run `medgemma-episodes recover {folder}` for its {left} journals" if left else "record or import one"
            raise ValueError(f"{folder}: no {INDEX} there; expected a data set of episodes; {do}")
        self.entries = open_index(folder / INDEX)
        """What the index says of each episode."""
        self._shard = lru_cache(OPEN_SHARDS)(lambda name: open_shard(folder / "steps" / name))

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, episode_id: object) -> bool:
        return isinstance(episode_id, str) and self.entries.place_of(episode_id) is not None

    def __getitem__(self, key: int | str) -> Episode:
        """Return an episode by number or id.

        Raises:
            ValueError: There is no such episode, or its shard is broken.
        """
        entry = self.entry(key)
        (episode,) = episodes_in(self.table(key), self._shard(entry.shard).specs, [entry])
        return episode

    def __iter__(self) -> Iterator[Episode]:
        return self.read()

    def id_of(self, said: str) -> str:
        """Return the id of an episode from what a user says: an id, or a number from 0.

        Raises:
            ValueError: There is no such episode.
        """
        return self.entry(int(said) if said.isdecimal() and said not in self else said).episode_id

    def entry(self, key: int | str) -> Entry:
        """Return what the index says of an episode, by number or id.

        Raises:
            ValueError: There is no such episode.
        """
        place = self.entries.place_of(key) if isinstance(key, str) else key
        if place is None:
            raise ValueError(f"{self.folder}: holds no episode {key!r}; `medgemma-episodes stats --ids` lists them")
        if not -len(self) <= place < len(self):
            raise ValueError(f"{self.folder}: got episode {key}; expected 0 to {len(self) - 1}")
        return self.entries[place]

    def table(self, key: int | str) -> pa.Table:
        """Return the steps of an episode as they lie in Parquet."""
        return self._rows([self.entry(key)])

    def tables(self) -> Iterator[pa.Table]:
        """Yield the steps of all episodes, some whole episodes at a time."""
        for entries in self._batches(self.entries):
            yield self._rows(entries)

    def read(self, choose: Callable[[Entry], bool] = lambda entry: True) -> Iterator[Episode]:
        """Yield episodes in the order of the index.

        Args:
            choose: Which ones, by what the index says: `lambda entry: not entry.invalid`, `on_side("train")`.
        """
        return self._read(entry for entry in self.entries if choose(entry))

    def _read(self, chosen: Iterable[Entry]) -> Iterator[Episode]:
        for entries in self._batches(chosen):
            yield from episodes_in(self._rows(entries), self._shard(entries[0].shard).specs, entries)

    def specs(self) -> dict[str, Spec]:
        """Return the spec of every column of the steps, over all shards."""
        return self.entries.steps_specs()

    def check(self) -> Iterator[str]:
        """Yield one line for each thing that is wrong: broken shards, changed episodes, journals left."""
        for path in journals(self.folder):
            yield f"{path}: was never taken in; run `medgemma-episodes recover {self.folder}`"
        for shard, entries in groupby(self.entries, lambda entry: entry.shard):
            try:
                held = list(entries)
                for episode, entry in zip(self._read(held), held, strict=True):
                    if sha256_of(episode) != entry.sha256:
                        yield f"episode {entry.episode_id}: its content is not what was written; get {shard} again"
            except ValueError as fault:
                yield str(fault)

    def _rows(self, entries: Sequence[Entry]) -> pa.Table:
        first, last = entries[0], entries[-1]
        return read_rows(self._shard(first.shard), first.row, last.row + last.num_steps)

    def _batches(self, entries: Iterable[Entry]) -> Iterator[list[Entry]]:
        """Divide entries into neighbours of one shard that begin in one row group."""
        batch: list[Entry] = []
        for entry in entries:
            if batch and not self._goes_on(batch, entry):
                yield batch
                batch = []
            batch.append(entry)
        if batch:
            yield batch

    def _goes_on(self, batch: Sequence[Entry], entry: Entry) -> bool:
        before, group_of = batch[-1], self._shard(entry.shard).group_of
        neighbours = before.shard == entry.shard and before.row + before.num_steps == entry.row
        return neighbours and group_of(entry.row) == group_of(batch[0].row)


def write_episodes(folder: Path, episodes: Iterable[Episode], *, split: Callable[[Episode], str] | None = None) -> int:
    """Make a data set of episodes, or let it hold nothing but them from now on; return how many.

    Raises:
        ValueError: Two different episodes have one id; a data set that was there stays what it was.
    """
    return commit(folder, episodes, split=split, replace=True)


def read_episodes(folder: Path) -> Iterator[Episode]:
    """Yield the episodes of a data set, the invalid ones too."""
    yield from EpisodeDataset(folder)


def on_side(wanted: Side, group: str = "group") -> Callable[[Entry], bool]:
    """Return what chooses the episodes on a side of the division by group (`data_cards.split`).

    Args:
        wanted: train, held-out or final.
        group: The metadata field that episodes which are not independent have in common.
    """
    return lambda entry: side(group_of(entry.metadata, entry.episode_id, group)) == wanted


def group_of(metadata: Mapping[str, Any], episode_id: str, group: str) -> str:
    """Return the group of an episode.

    Raises:
        ValueError: It has none.
    """
    if not metadata.get(group):
        raise ValueError(f"episode {episode_id!r} has no {group!r} in its metadata; say which field is the group")
    return str(metadata[group])
