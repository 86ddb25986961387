"""Keys and values of several prompts: global layers keep every position, local ones only their window.

Rows are independent and left-aligned: position p of a row is p, so no padding ever enters the cache. A local layer
holds position p at slot p mod W; RoPE is applied before, so the order of slots does not matter.

Letters: R rows, A key-value heads, L positions, W window, D head width, T tokens of a chunk.
"""

from collections.abc import Sequence
from typing import Any

import torch

GROWTH_POSITIONS = 64
"""A cache grows by so many positions or an eighth, whichever is more: each growth copies what is held."""


class KeyValueCache:
    """The memory of R prompts in every layer.

    Args:
        config: a Gemma 3 text config.
        row_capacity: rows there is room for; it grows when more are added.
    """

    def __init__(self, config: Any, row_capacity: int = 0) -> None:
        self.config = config
        self.window = int(config.sliding_window)
        self.is_local = tuple(kind == "sliding_attention" for kind in config.layer_types)
        self.lengths: list[int] = []
        """Positions held, a row."""
        self.row_capacity = row_capacity
        self.length_capacity = 0
        self.keys: list[torch.Tensor | None] = [None] * len(self.is_local)
        """Of each layer: (row capacity, A, slots, D)."""
        self.values: list[torch.Tensor | None] = [None] * len(self.is_local)

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.lengths)

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return sum(2 * keys.numel() * keys.element_size() for keys in self.keys if keys is not None)

    def slots(self, layer: int, length: int | None = None) -> int:
        """Slots of one layer for so many positions (None: the present capacity)."""
        length = self.length_capacity if length is None else length
        return min(self.window, length) if self.is_local[layer] else length

    def reserve(self, rows: int, length: int) -> None:
        """Make room for so many rows of so many positions; what is held stays."""
        rows = max(rows, self.row_capacity)
        if length > self.length_capacity:
            step = max(GROWTH_POSITIONS, self.length_capacity // 8)
            length = max(-(-length // GROWTH_POSITIONS) * GROWTH_POSITIONS, self.length_capacity + step)
        length = max(length, self.length_capacity)
        if (rows, length) == (self.row_capacity, self.length_capacity):
            return
        for layer, keys in enumerate(self.keys):
            if keys is not None:
                self.keys[layer] = _grown(keys, rows, self.slots(layer, length))
                self.values[layer] = _grown(self._held(self.values, layer), rows, self.slots(layer, length))
        self.row_capacity, self.length_capacity = rows, length

    def buffers(self, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (row capacity, A, slots, D) of a layer, made on its own device at first use."""
        keys = self.keys[layer]
        if keys is None:
            shape = (self.row_capacity, like.shape[1], self.slots(layer), like.shape[3])
            self.keys[layer], self.values[layer] = like.new_zeros(shape), like.new_zeros(shape)
        return self._held(self.keys, layer), self._held(self.values, layer)

    def select(self, rows: Sequence[int], length: int = 0) -> "KeyValueCache":
        """A new cache with copies of these rows, in this order, repeats allowed.

        Args:
            rows: indices.
            length: positions to have room for.
        """
        chosen = KeyValueCache(self.config, len(rows))
        chosen.length_capacity = -(-max([length, *(self.lengths[r] for r in rows)]) // 8) * 8
        chosen.lengths = [self.lengths[row] for row in rows]
        for layer, keys in enumerate(self.keys):
            if keys is None:
                continue
            held, slots = min(keys.shape[2], chosen.slots(layer)), chosen.slots(layer)
            index = torch.tensor(rows, device=keys.device)
            chosen.keys[layer] = _widened(keys[:, :, :held].index_select(0, index), slots)
            values = self._held(self.values, layer)[:, :, :held].index_select(0, index)
            chosen.values[layer] = _widened(values, slots)
        return chosen

    def append(self, other: "KeyValueCache", rows: Sequence[int]) -> None:
        """Add copies of another cache's rows behind this one's."""
        first = self.num_rows
        length = max(other.lengths[row] for row in rows)
        grown = first + len(rows)
        self.reserve(grown if grown <= self.row_capacity else max(grown, 2 * self.row_capacity), length)
        for layer, keys in enumerate(other.keys):
            if keys is None:
                continue
            index = torch.tensor(rows, device=keys.device)
            mine = self.buffers(layer, keys)
            for to, source in zip(mine, (keys, other._held(other.values, layer)), strict=True):
                held = min(to.shape[2], source.shape[2], self.slots(layer, length))
                to[first:grown, :, :held] = source[:, :, :held].index_select(0, index)
        self.lengths += [other.lengths[row] for row in rows]

    def remove(self, rows: Sequence[int]) -> list[int]:
        """Drop rows; the last ones move into the holes.

        Returns:
            For each row that is left, in the new order, its old index.
        """
        order = list(range(self.num_rows))
        for row in sorted(rows, reverse=True):
            order[row] = order[-1]
            order.pop()
        moves = [(new, old) for new, old in enumerate(order) if new != old]
        for buffer in [b for b in [*self.keys, *self.values] if b is not None and moves]:
            new, old = zip(*moves, strict=True)
            buffer[list(new)] = buffer[list(old)]
        self.lengths = [self.lengths[old] for old in order]
        return order

    def erase_free_rows(self) -> None:
        """Zero what no row holds: a NaN left there would reach the next row through weights of zero."""
        for buffer in [*self.keys, *self.values]:
            if buffer is not None:
                buffer[self.num_rows :] = 0

    @staticmethod
    def _held(buffers: Sequence[torch.Tensor | None], layer: int) -> torch.Tensor:
        buffer = buffers[layer]
        assert buffer is not None
        return buffer


class PrefillStep:
    """One chunk of each row enters the cache; a transformers layer calls `update` with its keys and values.

    Keys that a layer attends to are what the row holds already, then the chunk itself. Everything is as wide as the
    longest row; masks (`medgemma.engine.masks`) hide the rest.

    Args:
        cache: R rows.
        counts: tokens of each row's chunk that are kept, from its left; what is behind them is seen in this pass only.
    """

    def __init__(self, cache: KeyValueCache, counts: Sequence[int]) -> None:
        self.cache, self.counts = cache, tuple(counts)
        self.starts = tuple(cache.lengths)
        self.past = max(self.starts)
        cache.reserve(cache.num_rows, max(s + n for s, n in zip(self.starts, counts, strict=True)))
        self._places = [_places(self.starts, counts, None), _places(self.starts, counts, cache.window)]

    def past_slots(self, layer_is_local: bool) -> int:
        """Slots of a layer that come before the chunk's keys."""
        return min(self.past, self.cache.window) if layer_is_local else self.past

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take a layer's new keys and values (R, A, T, D); return all that its queries may look at."""
        cache, local = self.cache, self.cache.is_local[layer_idx]
        past, rows = self.past_slots(local), cache.num_rows
        row, token, slot = (index.to(keys.device) for index in self._places[local])
        seen = []
        for buffer, new in zip(cache.buffers(layer_idx, keys), (keys, values), strict=True):
            seen.append(
                torch.cat([buffer[:rows, :, :past], new], 2) if past else new
            )  # a copy: the ring is written next
            buffer[row, :, slot] = new[row, :, token]
        return seen[0], seen[1]

    def finish(self) -> None:
        """Count the chunk in, after the last layer."""
        self.cache.lengths = [s + n for s, n in zip(self.starts, self.counts, strict=True)]


class DecodeStep:
    """One token of each row enters the cache. See `PrefillStep`.

    Args:
        cache: at least `rows` rows of capacity.
        rows: rows that decode: the first so many.
        positions: (rows,) int64, of the token in each row.
        width: slots that global layers look at; local ones look at `min(width, W)`.
    """

    def __init__(self, cache: KeyValueCache, rows: int, positions: torch.Tensor, width: int) -> None:
        self.cache, self.rows, self.width = cache, rows, width
        self.positions = positions
        self.local_positions = positions % cache.window
        self.index = torch.arange(rows, device=positions.device)

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take (rows, A, 1, D); return (rows, A, slots, D)."""
        local = self.cache.is_local[layer_idx]
        held = self.cache.buffers(layer_idx, keys)
        index = self.index.to(keys.device)
        slot = (self.local_positions if local else self.positions).to(keys.device)
        width = min(self.width, self.cache.window) if local else self.width
        for buffer, new in zip(held, (keys, values), strict=True):
            buffer[index, :, slot] = new[:, :, 0]
        return held[0][: self.rows, :, :width], held[1][: self.rows, :, :width]


def _places(starts: Sequence[int], counts: Sequence[int], window: int | None) -> tuple[torch.Tensor, ...]:
    """Row, index in the chunk, and slot of each token that is kept: all, or the last `window` of a row."""
    token = torch.arange(max(counts))
    count = torch.tensor(counts)[:, None]
    kept = token < count if window is None else (token < count) & (token >= count - window)
    row, token = kept.nonzero(as_tuple=True)
    position = torch.tensor(starts)[row] + token
    return row, token, position if window is None else position % window


def _grown(buffer: torch.Tensor, rows: int, slots: int) -> torch.Tensor:
    grown = buffer.new_zeros((rows, buffer.shape[1], slots, buffer.shape[3]))
    grown[: buffer.shape[0], :, : buffer.shape[2]] = buffer
    return grown


def _widened(buffer: torch.Tensor, slots: int) -> torch.Tensor:
    return buffer if buffer.shape[2] == slots else _grown(buffer, buffer.shape[0], slots)
