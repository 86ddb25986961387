"""One stable division of the development data by group, used by every recipe and every evaluation.

A group (patient, case, source tile, index block) is wholly on one side, whatever machine, order or subset of
the data it is met in: the side depends on nothing but the group's own key.

Three sides: recipes train on `train` and are decided by `held-out` (the development side); `final` is scored once,
when nothing is left to decide, and printed beside it.
"""

from hashlib import sha256
from typing import Literal, get_args

Side = Literal["train", "held-out", "final"]
SIDES: tuple[Side, ...] = get_args(Side)

KEPT_PERCENT = 25
"""Share of the groups that recipes never train on and evaluations score, in percent: `held-out` and `final`."""

FINAL_PERCENT = 50
"""Share of those that are the final side, in percent."""


def is_kept_from_training(group: str, share_percent: int) -> bool:
    """Say whether a group belongs to the share that no recipe trains on, the final side included.

    Args:
        group: The key that items which are not independent have in common; not empty.
        share_percent: Expected share of the groups kept, 0 to 100.

    Raises:
        ValueError: The group is empty or the share is outside 0 to 100.
    """
    if not group:
        raise ValueError("got an empty group; expected a key such as a patient number; fill the group column")
    if not 0 <= share_percent <= 100:
        raise ValueError(f"got share_percent={share_percent}; expected 0 to 100")
    return _percentile(f"medgemma-split-1:{group}") < share_percent


def side(group: str) -> Side:
    """Return the side of a group: `train`, or for KEPT_PERCENT of the groups `held-out` or `final`."""
    if not is_kept_from_training(group, KEPT_PERCENT):
        return "train"
    # 7: the first key under which both sides have every class of MedNIST, whose blocks are few
    return "final" if _percentile(f"medgemma-final-7:{group}") < FINAL_PERCENT else "held-out"


def _percentile(key: str) -> int:
    return int(sha256(key.encode()).hexdigest(), 16) % 100
