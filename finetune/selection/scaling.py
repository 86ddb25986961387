"""States on one scale: each number less its mean, over its standard deviation, both of the demonstrations."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONSTANT = 1e-6
"""A standard deviation below this share of the mean is rounding: such a number is left on its own scale."""


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
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    return Scaling(mean, np.where(std > CONSTANT * np.abs(mean), std, 1.0))
