"""What was drawn from a table, and what is known of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experience.replay.data.arena import Cells
from experience.replay.data.items import Data, joined_data


class SampleInfo(NamedTuple):
    """What is known of a sampled item; of a batch, an array a field."""

    key: Any
    """Names the item in its table. int64."""
    probability: Any
    """With which it was drawn; with which its group was. float64."""
    table_size: Any
    """Items when it was drawn; of a table with a group_size, complete groups. int64."""
    priority: Any
    """float64."""
    times_sampled: Any
    """This time included. int64."""
    rate_limited: Any
    """Whether the call had to wait for it."""
    policy_version: Any = -1
    """Of the policy that made it; -1 where it is not known. int64."""
    staleness: Any = 0
    """By how many versions the newest policy is newer; 0 where that is not known. int64."""
    tokens: Any = 0
    """int64."""
    group: Any = None
    """Its name, or None. Objects."""


class Drawn(NamedTuple):
    """What was selected, (n,) each."""

    rows: Any
    """int64."""
    probabilities: Any
    """float64, of each draw; 1 where the selector leaves nothing to chance."""


class Draw(NamedTuple):
    """Items that were drawn."""

    data: Sequence[Data] | Cells
    info: SampleInfo
    gone: list[Data]
    """Data of those that are in the table no more, whose references are the caller's now."""
    num_draws: int
    """Of items, or of groups."""


TYPES = (np.int64, np.float64, np.int64, np.float64, np.int64, np.bool_, np.int64, np.int64, np.int64, object)


def together(infos: Sequence[SampleInfo]) -> SampleInfo:
    """Return what is known of several items as arrays."""
    columns = zip(*infos, strict=True) if infos else [()] * len(TYPES)
    return SampleInfo(*(np.array(column, kind) for column, kind in zip(columns, TYPES, strict=True)))


def joined(draws: Sequence[Draw]) -> Draw:
    """Return draws, one after another, as one."""
    if len(draws) == 1:
        return draws[0]
    data, infos, gone, num_draws = zip(*draws, strict=True)
    info = SampleInfo(*map(np.concatenate, zip(*infos, strict=True)))
    return Draw(joined_data(data), info, [one for some in gone for one in some], sum(num_draws))


def earlier(rows: Any) -> Any:
    """Return how often each row stands before, (n,) int64."""
    order = np.argsort(rows, kind="stable")
    ordered, place = rows[order], np.arange(len(rows))
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    found = np.empty(len(rows), np.int64)
    found[order] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return found
