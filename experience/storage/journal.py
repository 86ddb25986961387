"""The journal that a recorder writes: frames, each an Arrow record batch of events."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from experience.alignment import First, Transition, sar_steps
from experience.episode import Episode, Step, step_of
from experience.storage.frames import FrameFile, frames
from experience.storage.values import decode, encode

SUFFIX = ".journal"
SCHEMA = pa.schema(
    {"event": pa.string(), "episode_id": pa.string(), "value": pa.string(), "buffers": pa.list_(pa.large_binary())}
)
EventName = Literal["begin", "seen", "step", "first", "transition", "drop", "end"]


class Event(NamedTuple):
    """Something that happened in an episode."""

    name: EventName
    """begin, with the metadata; first and transition, as an environment speaks, or steps, before each perhaps what was
    seen before the action; end, with more metadata, or drop: the episode is not to be kept."""
    episode_id: str
    value: Mapping[str, Any]


class Journal(FrameFile):
    """One journal being written, by one process; a second one is refused by a lock."""

    def write(self, events: Sequence[Event], *, sync: bool = False) -> None:
        """Write events, all or none.

        Raises:
            OSError: The disk is full or broken; what was written before is kept.
        """
        self.append([memoryview(_batch(events).serialize())], sync=sync)


def read_events(path: Path) -> Iterator[Event]:
    """Yield the events of every whole frame."""
    for payload in frames(path):
        for row in pa.ipc.read_record_batch(pa.py_buffer(payload), SCHEMA).to_pylist():
            yield Event(row["event"], row["episode_id"], decode(row["value"], row["buffers"]))


def episodes_of(events: Iterable[Event]) -> Iterator[Episode]:
    """Yield episodes as they end, and at last those that did not: without a last step they are marked `invalid`."""
    open_: dict[str, list[Event]] = {}
    for event in events:
        if event.name == "begin":
            open_[event.episode_id] = []
        open_[event.episode_id].append(event)
        if event.name == "end":
            yield _episode(open_.pop(event.episode_id))
        elif event.name == "drop":
            del open_[event.episode_id]
    for left in open_.values():
        yield _episode(left)


def events_of(episode: Episode) -> list[Event]:
    """Return the events that a whole episode is written as."""
    name = episode.episode_id
    steps = [Event("step", name, step.fields()) for step in episode.steps]
    return [Event("begin", name, dict(episode.metadata)), *steps, Event("end", name, {})]


def _batch(events: Sequence[Event]) -> pa.RecordBatch:
    rows = [(event, encode(event.value)) for event in events]
    columns = [
        pa.array([event.name for event, _ in rows], SCHEMA.field(0).type),
        pa.array([event.episode_id for event, _ in rows], SCHEMA.field(1).type),
        pa.array([value.text for _, value in rows], SCHEMA.field(2).type),
        pa.array([value.buffers for _, value in rows], SCHEMA.field(3).type),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _episode(events: Sequence[Event]) -> Episode:
    begin, *middle = events
    ended = bool(middle) and middle[-1].name == "end"
    metadata = {**begin.value, **(middle.pop().value if ended else {})}
    build: Callable[[Sequence[Event]], Iterable[Step]] = _shifted if middle and middle[0].name == "first" else _as_is
    steps = list(build(middle))
    if ended and steps and not steps[-1].is_last:
        steps[-1] = replace(steps[-1], is_last=True)  # closed by a reset: truncated
    cut = not ended and not (steps and steps[-1].is_last)
    return Episode(tuple(steps), begin.episode_id, metadata | ({"invalid": True} if cut else {}))


def _as_is(events: Sequence[Event]) -> Iterator[Step]:
    last = len(events) - 1  # a step repeats what was seen before it; the last one may have come to no action
    return (step_of(event.value) for place, event in enumerate(events) if event.name == "step" or place == last)


def _shifted(events: Sequence[Event]) -> Iterator[Step]:
    first, *others = events
    return sar_steps(First(**first.value), (Transition(**event.value) for event in others))
