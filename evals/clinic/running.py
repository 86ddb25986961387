"""Playing the items of a dialogue task: one output a line, and the model's side as episodes beside them."""

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path

from evals.clinic.dialogue import BackendFailed, Dialogue, Message, Players
from evals.clinic.episodes import provenance
from evals.clinic.recording import ConversationJournal
from evals.items import Item, item_sha256, read_items
from evals.outputs import Output, latest, read_outputs
from experience import Episode, EpisodeDataset, EpisodeWriter, write_episodes
from experience.storage.commit import recover
from experience.storage.layout import INDEX

MAX_BROKEN_IN_A_ROW = 20
"""So many, and what answers is taken to be down."""


def play_items(
    items: Sequence[Item], dialogue: Dialogue, players: Players, folder: Path, workers: int = 1
) -> Iterator[Output]:
    """Play every item.

    Args:
        items: Played in order; with several workers, outputs come as they are done.
        dialogue: How.
        players: Who answers; with several workers they are called from threads.
        folder: Of the run; in its episodes stays what was said in a conversation that is cut.
        workers: Conversations held at once; `players.at_once` if that is more.

    Returns:
        One output an item. Of an item whose conversation broke it holds the reason and what was said.

    Raises:
        ValueError: MAX_BROKEN_IN_A_ROW conversations broke, one after another.
    """
    writer = EpisodeWriter(folder / "episodes")
    with (
        ConversationJournal(writer, dialogue, provenance(folder)) as journal,
        closing(_played(items, dialogue, players, workers, journal)) as played,
    ):
        for output in _unless_all_break(played):
            yield output
            journal.done(output.item_id)  # whoever took the output has written it


def _unless_all_break(outputs: Iterable[Output]) -> Iterator[Output]:
    broken_in_a_row = 0
    for output in outputs:
        yield output
        broken_in_a_row = broken_in_a_row + 1 if output.error else 0
        if broken_in_a_row == MAX_BROKEN_IN_A_ROW:
            said = f"{broken_in_a_row} conversations in a row broke, the last: {output.error}"
            raise ValueError(f"{said}; mend what answers and run again")


def write_dialogue_episodes(folder: Path, dialogue: Dialogue) -> int:
    """Write what a run's outputs hold as a data set of episodes, and return how many; a broken one is `invalid`.

    Conversations that were cut stay in it.
    """
    items = read_items(folder / "items.jsonl")
    outputs = latest(read_outputs(folder / "outputs.jsonl"), items)
    found = (dialogue.episode(item, outputs[item.item_id]) for item in items if item.item_id in outputs)
    known = provenance(folder)
    kept = (Episode(one.steps, one.episode_id, {**known, **one.metadata}) for one in found if one is not None)
    return write_episodes(folder / "episodes", chain(kept, _cut(folder / "episodes")))


def _cut(folder: Path) -> Iterator[Episode]:
    """Conversations that were recorded and never came to an output."""
    recover(folder)
    if (folder / INDEX).is_file():
        yield from EpisodeDataset(folder).read(lambda entry: "outcome" not in entry.metadata)


class _Stopped(BaseException):
    """The run ends: no backend's fault."""


def _played(
    items: Sequence[Item], dialogue: Dialogue, players: Players, workers: int, journal: ConversationJournal
) -> Generator[Output]:
    model = players.identity_for(dialogue.roles)
    if max(workers, players.at_once) == 1:
        yield from (_play(item, dialogue, players, model, journal) for item in items)
        return
    stop = threading.Event()

    def until_stopped(messages: Sequence[Message]) -> str:
        if stop.is_set():
            raise _Stopped
        return players.model(messages)

    pool = ThreadPoolExecutor(max(workers, players.at_once), thread_name_prefix="conversation")
    stoppable = replace(players, model=until_stopped)
    try:
        started: list[Future[Output]] = [
            pool.submit(_play, item, dialogue, stoppable, model, journal) for item in items
        ]
        yield from (done.result() for done in as_completed(started))
    finally:
        stop.set()  # a conversation that goes on ends with its next reply
        pool.shutdown(wait=True, cancel_futures=True)


def _play(item: Item, dialogue: Dialogue, players: Players, model: str, journal: ConversationJournal) -> Output:
    started = time.perf_counter()
    players.meter.take()

    def output(text: str, error: str = "") -> Output:
        seconds = round(time.perf_counter() - started, 4)
        counted = players.meter.take()
        return Output(item.item_id, item_sha256(item), model, text=text, error=error, seconds=seconds, tokens=counted)

    if item.fault:
        return output("", item.fault)
    recorded = replace(players, model=journal.recorded(item, model, players.model))
    try:
        return output(dialogue.hold(item, recorded))
    except BackendFailed as failure:
        return output(failure.held, str(failure))
