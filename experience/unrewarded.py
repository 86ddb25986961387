"""What was seen and done, without what it earned: a data set read by the columns named here, and by no other.

Rewards, discounts, outcomes and every further column stay unread, whatever they hold; a data set without them reads the
same. Who chooses a model by demonstrations reads them through here.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from experience.storage.columns import from_arrow
from experience.storage.layout import INDEX, specs_of
from experience.storage.shards import Shard, named, open_parquet, open_shard, read_rows

STEP_COLUMNS = ("observation", "action")
INDEX_COLUMNS = ("episode_id", "num_steps", "shard", "row", "invalid")
DENIED = ("reward", "return", "discount", "outcome", "success", "score", "grade", "correct")
"""No column whose name begins so is a group."""


class Unrewarded(NamedTuple):
    """An episode without its rewards."""

    episode_id: str
    group: str
    """What episodes that are not independent have in common; the episode's own id where the data set names none."""
    observations: tuple[Any, ...]
    """One more than actions: the last is what was seen in the end."""
    actions: tuple[Any, ...]


def read_unrewarded(folder: Path, group: str | None = None) -> Iterator[Unrewarded]:
    """Yield the episodes of a data set that were not cut, in its order.

    Args:
        folder: Of the data set.
        group: The metadata field that episodes which are not independent have in common, such as a patient; None is
            `group` where the data set has it, else every episode is a group of its own.

    Raises:
        ValueError: There is no data set, it lacks the group, or the group is a reward.
    """
    index = _index(folder, group)
    rows = zip(*(index[name] for name in (*INDEX_COLUMNS, "group")), strict=True)
    kept = [row for row in rows if not row[4]]
    for shard_name, of_shard in groupby(kept, lambda row: row[2]):
        shard = open_shard(folder / "steps" / shard_name)
        for _, near in groupby(of_shard, lambda row, shard=shard: shard.group_of(row[3])):  # type: ignore[misc]
            yield from _episodes(shard, list(near))


def _episodes(shard: Shard, rows: Sequence[tuple[Any, ...]]) -> Iterator[Unrewarded]:
    """Read the row groups of some neighbours once."""
    start = rows[0][3]
    table = read_rows(shard, start, rows[-1][3] + rows[-1][1], STEP_COLUMNS)
    columns = {
        name: [value for chunk in table[name].chunks for value in from_arrow(shard.specs[name], chunk)]
        for name in STEP_COLUMNS
    }
    for episode_id, num_steps, _, row, _, group in rows:
        of = slice(row - start, row - start + num_steps)
        yield Unrewarded(episode_id, group, tuple(columns["observation"][of]), tuple(columns["action"][of][:-1]))


def _index(folder: Path, group: str | None) -> Mapping[str, list[Any]]:
    """The columns of the index that are read, and `group`."""
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder}: no {INDEX} there; expected a data set of episodes; record or import one")
    file = open_parquet(folder / INDEX)
    specs = specs_of(file.schema_arrow)
    name = group or ("group" if "group" in specs else None)
    if name is not None and name.lower().startswith(DENIED):
        raise ValueError(
            f"{folder}: {name!r} tells what an episode earned; name a patient, a scenario or another group"
        )
    if name is not None and name not in specs:
        texts = sorted(key for key, spec in specs.items() if spec.kind in ("text", "int"))
        raise ValueError(f"{folder}: its episodes have no {name!r}; name one of {', '.join(texts) or 'none'}")
    with named(folder / INDEX):
        table = file.read(columns=[*INDEX_COLUMNS, *([name] if name else [])])
    found = {column: table[column].to_pylist() for column in INDEX_COLUMNS}
    groups = table[name].to_pylist() if name else found["episode_id"]
    return found | {"group": [_group(folder, name, *pair) for pair in zip(found["episode_id"], groups, strict=True)]}


def _group(folder: Path, name: str | None, episode_id: str, group: Any) -> str:
    if group in (None, ""):
        raise ValueError(f"{folder}: episode {episode_id!r} has no {name!r}; give it one, or name another group")
    return str(group)
