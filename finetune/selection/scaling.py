"""States on one scale: each number less its mean, over its standard deviation, both of the demonstrations."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SMALLEST_STD = 1e-3
"""Of the largest; what varies less counts as if it varied so much, lest its noise outweigh everything."""


class Scaling(NamedTuple):
    """What is taken off, and what is divided by."""

    mean: NDArray[np.float64]
    """(d,)."""
    std: NDArray[np.float64]
    """(d,)."""

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, d) values on the scale.

        Raises:
            ValueError: They have more or fewer numbers than the demonstrations.
        """
        if values.shape[1] != len(self.mean):
            raise ValueError(f"got {values.shape[1]} numbers a step; the demonstrations have {len(self.mean)}")
        scaled: NDArray[np.float32] = ((values - self.mean) / self.std).astype(np.float32)
        return scaled


def scaling_of(values: NDArray[np.float32]) -> Scaling:
    """The scale of (N, d) values."""
    std = values.std(axis=0, dtype=np.float64)
    largest = float(std.max())
    return Scaling(
        values.mean(axis=0, dtype=np.float64), np.maximum(std, SMALLEST_STD * largest) if largest else std + 1
    )
