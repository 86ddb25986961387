"""State distance: how far the states that a policy visits are from those of demonstrations. Smaller is better.

The 1-Wasserstein distance of both sets, every number on the scale of the demonstrations (`scaling`). Small sets are
solved exactly, large ones by Sinkhorn's algorithm in bounded memory, within some hundredths.

Source: Hussenot et al., Hyperparameter Selection for Imitation Learning, arXiv:2105.12034 (2021).
"""

import numpy as np

from finetune.selection.demonstrations import Demonstrations
from finetune.selection.scaling import scaling_of
from finetune.selection.scores import Score
from finetune.selection.transport.exact import Transport, exact, is_small
from finetune.selection.transport.sinkhorn import sinkhorn

MOST_STATES = 10_000
"""Of either set; of more, evenly spaced ones are taken."""


def state_distance(rollouts: Demonstrations, held_out: Demonstrations) -> Score:
    """Score a policy by its rollouts.

    An episode's share of the distance is what it costs to carry its states to the demonstrations'.

    Args:
        rollouts: Of the policy.
        held_out: Demonstrations that it has not learned from.

    Raises:
        ValueError: States have another size.
    """
    scaling = scaling_of(held_out.observations)
    rows = _spaced(len(rollouts.observations))
    own, theirs = rollouts.observations[rows], held_out.observations[_spaced(len(held_out.observations))]
    carried = transport(scaling(own), scaling(theirs))
    episodes, number = rollouts.episodes[rows], len(rollouts.episode_ids)
    totals, there = (
        np.bincount(episodes, of, number).astype(np.float64)
        for of in (carried.by_point * len(rows), np.ones(len(rows)))
    )
    return Score(totals, there, rollouts.groups, larger_is_better=False)


def transport(x: np.ndarray, y: np.ndarray) -> Transport:
    """The distance of (N, d) from (M, d): exact for small sets."""
    return exact(x, y) if is_small(len(x), len(y)) else sinkhorn(x, y)


def _spaced(number: int) -> np.ndarray:
    """Rows that are used."""
    return np.linspace(0, number - 1, min(number, MOST_STATES)).round().astype(np.int64)
