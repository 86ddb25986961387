"""What the steps draw: every draw depends on the seed, the step or epoch, and the place in it, and on nothing else."""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
import torch

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Part(Generic[Drawn]):
    """One part of a step: what goes through the model at once (a micro-batch)."""

    drawn: Drawn
    weight: float = 1.0
    """What it adds to the step's denominator, such as its completion tokens; at 0 it counts for nothing."""
    places: tuple[str, ...] = ()
    """Where its rows stand, such as "films.csv:17": named when its loss is not finite."""


Draw = Callable[[int], Sequence[Part[Drawn]]]
"""A step to the parts of it that this process computes."""


def seed_of(seed: int, *names: object) -> int:
    """A number below 2**56 that is the same for the same seed and names, on every machine."""
    text = ":".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    """A generator that gives the same numbers for the same seed, stage and step, resumed or not."""
    return torch.Generator().manual_seed(seed_of(seed, stage, step))


def seed_streams(seed: int, *names: object) -> None:
    """Set the global generators of torch, NumPy and Python, which dropout and other people's transforms draw from."""
    number = seed_of(seed, *names)
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:  # the same on a CPU, without the stack trace that torch would write for an accelerator to come
        torch.default_generator.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


def rows_of_step(num_rows: int, rows_a_step: int, seed: int, step: int) -> list[int]:
    """The rows of a step: every row once an epoch, in an order drawn from the seed and the epoch.

    A step at the end of an epoch goes on with the next, so that none is short.
    """
    places = range(step * rows_a_step, (step + 1) * rows_a_step)
    return [_order(num_rows, seed, place // num_rows)[place % num_rows] for place in places]


@lru_cache(maxsize=2)
def _order(num_rows: int, seed: int, epoch: int) -> list[int]:
    order: list[int] = torch.randperm(num_rows, generator=step_generator(seed, "epoch", epoch)).tolist()
    return order


def named_places(places: Sequence[str], most: int = 5) -> str:
    """The first places of rows, and how many more there are; empty where none has a name."""
    named = list(dict.fromkeys(place for place in places if place))
    return ", ".join(named[:most]) + (f" and {len(named) - most} more" if len(named) > most else "")


def drawn_ahead(draw: Callable[[int], Drawn], steps: range, processes: int) -> Iterator[Drawn]:
    """What `draw` gives for every step, in order; with processes, made while the steps before it run."""
    from torch.utils.data import DataLoader, Dataset

    class Steps(Dataset[Drawn]):
        def __len__(self) -> int:
            return len(steps)

        def __getitem__(self, place: int) -> Drawn:
            return draw(steps[place])

    return iter(
        DataLoader(
            Steps(),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=processes,
            # forked: what draws is a closure over the corpus, which must be neither pickled nor copied
            multiprocessing_context="fork" if processes else None,
        )
    )


def _as_it_is(drawn: Drawn) -> Drawn:
    return drawn
