"""What a proxy says of a policy: a figure, what each episode adds to it, and its interval over groups.

Letters: E episodes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medsiglip.metrics.bootstrap import ratio
from medsiglip.metrics.statistics import Estimate, grouped_totals_ci


class Score(NamedTuple):
    """A proxy of one policy: the sum of `totals` over that of `counts`."""

    totals: NDArray[np.float64]
    """(E,) what each episode adds: a summed error, a return."""
    counts: NDArray[np.float64]
    """(E,) of what: steps, tokens, or 1 an episode."""
    groups: tuple[str, ...]
    """(E,) patients, scenarios, start states: those of two policies with the same groups are paired."""
    larger_is_better: bool

    @property
    def value(self) -> float:
        """The figure."""
        return float(self.totals.sum() / self.counts.sum())

    @property
    def per_episode(self) -> NDArray[np.float64]:
        """(E,) the figure of each episode."""
        return ratio(self.totals, self.counts)

    def estimate(self) -> Estimate:
        """The figure with its 95 % intervals; whole groups are drawn with replacement."""
        columns = np.stack([self.totals, self.counts], axis=1)  # (E, 2)
        return grouped_totals_ci(lambda sums: ratio(sums[:, 0], sums[:, 1]), columns, self.groups)
