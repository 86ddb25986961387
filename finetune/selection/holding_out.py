"""Demonstrations divided by group, never by step."""

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar, cast

import numpy as np

from finetune.selection.demonstrations import Demonstrations
from finetune.selection.dialogues import Dialogues

Of = TypeVar("Of", bound=Demonstrations | Dialogues)


class Divided(NamedTuple, Generic[Of]):
    """Two sides that have no group in common."""

    kept: Of
    held_out: Of


def hold_out(demonstrations: Of, share: float, seed: int = 0) -> Divided[Of]:
    """Divide: episodes of one patient, scenario or start state are on one side.

    Args:
        demonstrations: All.
        share: Of the groups that are held out, above 0 and below 1; at least one group, and at least one is kept.
        seed: Of the draw.

    Raises:
        ValueError: There is one group only, or the share is out of range.
    """
    held = _held_out_groups(demonstrations.groups, share, seed)
    sides: tuple[list[int], list[int]] = ([], [])
    for number, group in enumerate(demonstrations.groups):
        sides[group in held].append(number)
    kept, held_out = (cast(Of, demonstrations.of_episodes(side)) for side in sides)
    return Divided(kept, held_out)


def _held_out_groups(groups: Sequence[str], share: float, seed: int) -> set[str]:
    if not 0 < share < 1:
        raise ValueError(f"got a share of {share}; expected above 0 and below 1, such as 0.2")
    names = sorted(set(groups))
    if len(names) < 2:
        raise ValueError(
            f"all {len(groups)} demonstrations are of one group ({names[0]!r}); none can be held out: "
            "record another episode, or name another group"
        )
    size = min(max(1, round(share * len(names))), len(names) - 1)
    return set(np.random.default_rng(seed).permutation(names)[:size].tolist())
