"""A shift between sites: do new pictures lie further out than the site's own did?"""

from collections.abc import Sequence

import numpy as np

from medsiglip.gate.gate import Gate
from medsiglip.metrics.delong import DeLongEstimate, delong_auroc

LEAST_PICTURES = 10


def shift(gate: Gate, vectors: np.ndarray, groups: Sequence[str] | None = None) -> DeLongEstimate | None:
    """The chance that a new picture lies further from its nearest kind than one of the gate's own lies from its kind.

    0.5 is no shift; above, the pictures are stranger than the site's own. Of a site's own pictures it is a little below
    0.5, for the nearest kind is never further than the right one.

    Args:
        gate: the gate.
        vectors: (N, D) float32 unit vectors of pictures that are thought to be of the gate's kinds.
        groups: N patients, cases or files.

    Returns:
        With DeLong's 95 % interval over groups; None of fewer than LEAST_PICTURES.
    """
    if len(vectors) < LEAST_PICTURES:
        return None
    own, new = gate.own_relative_distances(), gate.relative_distances(vectors).min(axis=1)
    named = [f"own {place}" for place in range(len(own))] + [f"new {g}" for g in groups or range(len(new))]
    return delong_auroc(np.concatenate([own, new]), np.arange(len(named)) >= len(own), named)


def shift_in_words(gate: Gate, found: DeLongEstimate | None) -> str:
    """One line for the person at the terminal."""
    own = gate.site or "the gate's site"
    if found is None:
        return f"too few pictures to tell a shift from {own}; {LEAST_PICTURES} are needed"
    low, high = found.ci95
    said = f"{found.value:.2f} ({low:.2f} to {high:.2f})"
    if low > 0.5:
        return (
            f"a shift from {own}: one of these pictures lies further out than one of its own with the chance {said}, "
            "0.5 being none; levels and probabilities may not hold here: calibrate on these pictures' own site"
        )
    return f"no shift from {own} seen: one of these lies further out than one of its own with the chance {said}"
