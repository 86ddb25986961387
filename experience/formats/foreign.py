"""What every importer needs: steps and metadata of others in our names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experience.episode import CORE_FIELDS, INDEX_FIELDS, PLACE_FIELDS, Episode, Step


@dataclass(frozen=True)
class Source:
    """Episodes of others, being read."""

    episodes: Iterator[Episode]
    splits: dict[str, str] = field(default_factory=dict)
    """Episode id to split, filled while the episodes are read."""
    notes: list[str] = field(default_factory=list)
    """What came in otherwise than it was, filled while the episodes are read."""

    @property
    def split_of(self) -> Callable[[Episode], str]:
        """The split of an episode that was read; `train` where there are none."""
        return lambda episode: self.splits.get(episode.episode_id, "train")


def episode_from(
    episode_id: str, steps: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any], notes: list[str]
) -> Episode:
    """Return an episode of foreign steps, everything in them kept.

    A field whose name is kept here gets an underscore behind it. An episode without a last step is invalid: it was cut.
    One whose flags break the rules of RLDS otherwise gets them from the steps' places. The notes say so.
    """
    rows = _flagged([{**dict.fromkeys(CORE_FIELDS), **step} for step in steps], notes)
    made = [
        Step(
            **{name: row[name] for name in CORE_FIELDS},
            metadata=_renamed(row, CORE_FIELDS, PLACE_FIELDS, "step field", notes),
        )
        for row in rows
    ]
    ended = bool(rows) and rows[-1]["is_last"]
    if not ended:
        note(notes, "some episodes have no last step: they were cut, and are marked invalid")
    known = metadata if ended else {**metadata, "invalid": True}
    return Episode(tuple(made), episode_id, _renamed(known, (), INDEX_FIELDS, "episode field", notes))


def note(notes: list[str], line: str) -> None:
    """Add a line that is not there yet."""
    if line not in notes:
        notes.append(line)


def _flagged(rows: Sequence[dict[str, Any]], notes: list[str]) -> Sequence[dict[str, Any]]:
    last = len(rows) - 1
    ended = bool(rows and rows[-1]["is_terminal"])
    for name, place, there in (("is_first", 0, True), ("is_last", last, True), ("is_terminal", last, ended)):
        expected = [there and number == place for number in range(len(rows))]
        if any(row[name] is None for row in rows):
            note(notes, f"the steps have no {name}; it is taken from their places")
        elif name == "is_last" and not any(row[name] for row in rows):
            expected = [False] * len(rows)
        elif [bool(row[name]) for row in rows] != expected:
            note(notes, f"{name} is not where RLDS demands it in some episodes; the original is {name}_original")
            for row in rows:
                row[f"{name}_original"] = bool(row[name])
        for row, flag in zip(rows, expected, strict=True):
            row[name] = flag
    return rows


def _renamed(
    fields: Mapping[str, Any], left_out: Sequence[str], kept: Sequence[str], what: str, notes: list[str]
) -> dict[str, Any]:
    found = {}
    for name, value in fields.items():
        if name in left_out:
            continue
        if name in kept:
            note(notes, f"the {what} {name} is {name}_ here")
            name = f"{name}_"
        found[name] = value
    return found
