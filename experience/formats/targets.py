"""Handing a data set of episodes on: as TFDS/RLDS, or as a folder for the Hub."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from data_cards.split import side
from experience.dataset import EpisodeDataset, group_of
from experience.episode import Episode
from experience.storage.layout import Entry, metadata_specs
from experience.storage.schema import Spec

Form = Literal["tfds", "tfds-array-record", "hub"]


@dataclass(frozen=True)
class Wanted:
    """What is to be handed on, and under what name."""

    name: str = "episodes"
    valid_only: bool = False
    split_by: str = ""
    """Metadata field that names the group; train, held-out and final are divided by it. Empty: splits stay."""
    licence: str = ""
    description: str = ""


def export(dataset: EpisodeDataset, form: str, out: Path, wanted: Wanted) -> Iterator[str]:
    """Write a data set in another form; yield lines that say what was written, and what is not as it was.

    Raises:
        ValueError: The form or the name is none, nothing is left to write, or the folder is there already.
    """
    if form not in ("tfds", "tfds-array-record", "hub"):
        raise ValueError(f"got --format {form!r}; expected tfds, tfds-array-record or hub")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", wanted.name):
        raise ValueError(f"got the name {wanted.name!r}; expected lower case letters, digits and underscores")
    if out.exists():
        raise ValueError(f"{out}: is there already; name a folder that is not")
    entries = [entry for entry in dataset.entries if not (wanted.valid_only and entry.invalid)]
    if not entries:
        raise ValueError(f"{dataset.folder}: no episode is left to write")
    splits = {entry.episode_id: _split(entry, wanted) for entry in entries}
    episodes = _by_split(dataset, splits)
    if form == "hub":
        from experience.formats.hub import write_hub

        write_hub(out, episodes, splits, name=wanted.name, licence=wanted.licence, description=wanted.description)
    else:
        from experience.formats.tfds import write_tfds

        file_format: Literal["tfrecord", "array_record"] = "tfrecord" if form == "tfds" else "array_record"
        of_episodes = metadata_specs(entries)
        if any(entry.invalid is not None for entry in entries):
            of_episodes["invalid"] = Spec("bool")
        folder = out / wanted.name / "1.0.0"
        notes = write_tfds(
            folder, episodes, dataset.specs(), of_episodes, name=wanted.name, splits=splits, file_format=file_format
        )
        yield from (f"note: {line}" for line in notes)
    counts = ", ".join(f"{split} {list(splits.values()).count(split)}" for split in dict.fromkeys(splits.values()))
    yield f"{out}: {len(entries)} episodes ({counts})"


def _split(entry: Entry, wanted: Wanted) -> str:
    if not wanted.split_by:
        return entry.split
    return side(group_of(entry.metadata, entry.episode_id, wanted.split_by)).replace("-", "_")


def _by_split(dataset: EpisodeDataset, splits: Mapping[str, str]) -> Iterator[Episode]:
    for split in dict.fromkeys(splits.values()):
        yield from dataset.read(partial(_is_in, split, splits))


def _is_in(split: str, splits: Mapping[str, str], entry: Entry) -> bool:
    return splits.get(entry.episode_id) == split
