"""Episodes into tables, and what was inserted into a table out as episodes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from uuid import uuid4

from experience.episode import Episode
from experience.formats.foreign import episode_from
from experience.replay.data.errors import RateLimited
from experience.replay.data.structure import unflatten
from experience.replay.replay import Replay
from experience.replay.structured import Pattern
from experience.transformations.steps import as_rlds


def fill(
    replay: Replay,
    episodes: Iterable[Episode],
    patterns: Sequence[Pattern],
    prepare: Callable[[dict[str, Any]], Any] = lambda step: step,
    timeout: float | None = None,
) -> int:
    """Write the items that patterns make of episodes, and return how many steps were read.

    Args:
        replay: Where they go.
        episodes: `EpisodeDataset(folder)`, or what its `read` chooses; invalid ones are passed over.
        patterns: What is made of the steps, no item over the end of an episode.
        prepare: Makes of a step (the fields of RLDS) what is appended: all steps must have the same fields, none None.
        timeout: Seconds to wait for the tables at the end of each episode; None: without end.

    Raises:
        RateLimited: The tables did not take the items of an episode in time.
    """
    count = 0
    with replay.structured_writer(patterns) as writer:
        for episode in episodes:
            if episode.is_invalid:
                continue
            for step in as_rlds(episode)["steps"]:
                writer.append(prepare(step))
                count += 1
            if not writer.end_episode(timeout=timeout):
                why = [f"{name}: {info.why_no_insert}" for name, info in replay.info().items() if info.why_no_insert]
                raise RateLimited(
                    f"the items of episode {episode.episode_id!r} were not taken in time; {'; '.join(why)}"
                )
    return count


def drain(replay: Replay, table: str, timeout: float) -> Iterator[Episode]:
    """Yield episodes of the items of a table whose data are whole episodes: each column has an axis of steps.

    Fields of RLDS that are missing are filled from the places of the steps. Write them with `write_episodes`, or
    `EpisodeWriter.write`.

    Args:
        replay: Where they are.
        table: A queue: what is sampled from another table stays in it, and comes again.
        timeout: Seconds without an item after which it ends.
    """
    notes: list[str] = []
    while True:
        try:
            batch = replay.sample(table, timeout=timeout)
        except RateLimited:
            return
        structure, leaves = batch.flat(0)
        steps = [unflatten(structure, [leaf[number] for leaf in leaves]) for number in range(len(leaves[0]))]
        yield episode_from(uuid4().hex, steps, {}, notes)
