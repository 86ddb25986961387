"""Sums of weights by blocks: changed and drawn from in vectors, and exact, since every sum is taken anew."""

from typing import Any

import numpy as np

LEAST_WIDTH = 32
"""Of a block: a draw looks at one whole block, a change at all sums of blocks."""


class BlockSums:
    """Weights in places from 0, drawn in proportion.

    Places lie in blocks. Changing a weight marks its block; the sums of marked blocks are taken anew before the next
    draw, so that no rounding error adds up.
    """

    def __init__(self, size: int = 64) -> None:
        self._flat = np.zeros(0)
        self._marked = np.zeros(0, bool)
        self._resize(size)

    @property
    def size(self) -> int:
        """Number of places; the same weights in as many places are drawn alike to the last bit."""
        return int(self._flat.size)

    def make_room(self, count: int) -> None:
        """Have so many places at least."""
        if count > self._flat.size:
            self._resize(2 * count - 2)

    def set(self, place: int, weight: float) -> None:
        """Set the weight of a place."""
        self._flat[place] = weight
        self._marked[place // self._width] = self._changed = True

    def set_many(self, places: Any, weights: Any) -> None:
        """Set weights; (k,) each. Of several for one place the last counts."""
        self._flat[places] = weights
        self._marked[places // self._width] = self._changed = True

    def get(self, places: Any) -> Any:
        """Return the weights of places."""
        return self._flat[places]

    def get_one(self, place: int) -> float:
        """Return the weight of a place."""
        return self._flat.item(place)

    @property
    def total(self) -> float:
        """Sum of all weights."""
        if self._changed:
            self._sum()
        return float(self._tops.item(-1))

    def draw(self, uniform: float) -> int:
        """Return the place that a number in [0, 1) falls on; the total must be above 0."""
        target = uniform * self.total
        tops = self._tops
        block = min(int(tops.searchsorted(target, "right")), self._last)
        inner = self._inner[block]
        rest = max(target - (tops.item(block) - inner.item(-1)), 0.0)
        place = int(inner.searchsorted(rest, "right"))
        if place == self._width:  # by rounding: the last weight of the block
            place = int(inner.searchsorted(inner[-1], "left"))
        return block * self._width + place

    def draw_many(self, uniform: Any) -> Any:
        """Return the places that numbers in [0, 1) fall on, (k,) int64."""
        target = uniform * self.total
        block = np.minimum(self._tops.searchsorted(target, "right"), self._last)
        inner = self._inner[block]
        rest = np.maximum(target - (self._tops[block] - inner[:, -1]), 0.0)
        rest = np.minimum(rest, np.nextafter(inner[:, -1], 0.0))
        return block * self._width + (inner <= rest[:, None]).argmin(axis=1)

    def _sum(self) -> None:
        blocks = self._marked.nonzero()[0]
        self._inner[blocks] = self._blocks[blocks].cumsum(axis=1)
        self._tops = self._inner[:, -1].cumsum()
        positive = self._inner[:, -1].nonzero()[0]
        self._last = int(positive[-1]) if len(positive) else 0
        self._marked[blocks] = self._changed = False

    def _resize(self, size: int) -> None:
        self._width = max(LEAST_WIDTH, int(np.sqrt(size)) // 16)
        count = -(-size // self._width)
        flat = np.zeros(count * self._width)
        flat[: self._flat.size] = self._flat
        self._flat = flat
        self._blocks = flat.reshape(count, self._width)
        self._inner = np.zeros((count, self._width))
        """Of each place the sum of its block up to it."""
        self._tops = np.zeros(count)
        """Of each block the sum up to it."""
        self._last = 0
        """Block above 0."""
        self._marked = np.ones(count, bool)
        """Blocks whose weights have changed since they were summed."""
        self._changed = True
