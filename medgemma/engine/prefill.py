"""Prompts into the cache: shared beginnings once, long ones in chunks, unlike lengths side by side.

Letters: R rows, T tokens of a chunk, I tokens of one picture, H decoder width, V vocabulary.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch

from medgemma.engine.cache import KeyValueCache, PrefillStep
from medgemma.engine.masks import Chunk
from medgemma.engine.network import Network
from medgemma.engine.prefixes import Stretch, Symbols, shared_stretches
from medgemma.prompts.chat import Prompt

Branches = tuple[tuple[int, ...], ...]
"""Continuations of one prompt that do not see each other, packed behind it in one pass."""
TOKENS_A_PASS = 4096
"""Padding included, so that neither masks nor activations of a pass grow with the prompts."""


@dataclass(frozen=True)
class Prepared:
    """A prompt with its pictures' features."""

    prompt: Prompt
    features: tuple[torch.Tensor, ...]
    """(I, H) of each picture, in the order of its slots."""
    symbols: Symbols
    """See `medgemma.engine.prefixes.symbols_of`."""


class Place(NamedTuple):
    """One row of a cache."""

    cache: KeyValueCache
    row: int


@dataclass(frozen=True)
class Prefilled:
    """Prompts in caches, in the order given."""

    places: tuple[Place, ...]
    """Where each prompt stands; equal prompts share one."""
    hidden: tuple[torch.Tensor, ...]
    """(H,) of each prompt's last token."""
    branches: tuple[tuple[torch.Tensor, ...], ...]
    """(tokens, H) of each continuation of each prompt; nothing where none was given."""


class PrefixStore:
    """Rows of prefixes used last, for prompts that come later.

    Args:
        capacity_bytes: the oldest go when more are held.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._rows: OrderedDict[tuple[Hashable, Symbols], KeyValueCache] = OrderedDict()

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()

    def put(self, adapter: str | None, symbols: Symbols, cache: KeyValueCache, row: int) -> None:
        """Keep a copy of one row, which holds exactly these symbols."""
        if (adapter, symbols) in self._rows or not symbols:
            return
        copy = cache.select([row])
        if copy.num_bytes <= self.capacity_bytes:
            self._rows[adapter, symbols] = copy
        while sum(held.num_bytes for held in self._rows.values()) > self.capacity_bytes:
            self._rows.popitem(last=False)

    def longest(self, adapter: str | None, symbols: Symbols) -> tuple[int, Place | None]:
        """Length and row of the longest prefix that is held and leaves at least one token to compute."""
        best: tuple[Hashable, Symbols] | None = None
        for key in self._rows:
            fits = key[0] == adapter and len(key[1]) < len(symbols) and symbols[: len(key[1])] == key[1]
            if fits and (best is None or len(key[1]) > len(best[1])):
                best = key
        if best is None:
            return 0, None
        self._rows.move_to_end(best)
        return len(best[1]), Place(self._rows[best], 0)


def prefill(
    network: Network,
    prompts: Sequence[Prepared],
    *,
    store: PrefixStore | None = None,
    adapter: str | None = None,
    branches: Sequence[Branches] = (),
) -> Prefilled:
    """Compute prompts, level by level of the tree of what they share.

    Args:
        network: see `Network`.
        prompts: at least one.
        store: prefixes held from earlier calls; what is shared here is added to it.
        adapter: the active one: prefixes of another are not used.
        branches: of each prompt, continuations that are computed behind it but do not enter the cache; or nothing.
    """
    return _Prefill(network, prompts, store, adapter, branches).run()


class _Prefill:
    def __init__(
        self,
        network: Network,
        prompts: Sequence[Prepared],
        store: PrefixStore | None,
        adapter: str | None,
        branches: Sequence[Branches],
    ) -> None:
        self.network, self.prompts, self.store, self.adapter = network, prompts, store, adapter
        self.branches = branches or [()] * len(prompts)
        self.pictures = [_pictures(p.prompt) for p in prompts]
        self.places: dict[int, Place] = {}
        self.hidden: dict[int, torch.Tensor] = {}
        self.scored: dict[int, tuple[torch.Tensor, ...]] = {}

    def run(self) -> Prefilled:
        held = [self.store.longest(self.adapter, p.symbols) if self.store else (0, None) for p in self.prompts]
        roots = shared_stretches([p.symbols for p in self.prompts], [length for length, _ in held])
        level = [(root, held[root.prompts[0]][1]) for root in roots]
        while level:
            following: list[tuple[Stretch, Place | None]] = []
            for batch in _batches([(stretch, self._length(stretch)) for stretch, _ in level]):
                stretches = [level[i][0] for i in batch]
                cache = self._started([level[i][1] for i in batch], max(s.end for s in stretches))
                self._run(cache, stretches)
                following += [(child, Place(cache, r)) for r, s in enumerate(stretches) for child in s.children]
            level = following
        order = range(len(self.prompts))
        return Prefilled(
            tuple(self.places[i] for i in order),
            tuple(self.hidden[i] for i in order),
            tuple(self.scored[i] for i in order),
        )

    def _length(self, stretch: Stretch) -> int:
        return stretch.end - stretch.start + sum(map(len, self._behind(stretch)))

    def _behind(self, stretch: Stretch) -> Branches:
        """The continuations of all prompts that end with a stretch."""
        return tuple(tokens for index in stretch.ending for tokens in self.branches[index])

    def _started(self, places: Sequence[Place | None], length: int) -> KeyValueCache:
        """A cache whose rows are copies of where each stretch begins."""
        known = [place for place in places if place is not None]
        if len(known) == len(places) and all(place.cache is known[0].cache for place in known):
            return known[0].cache.select([place.row for place in known], length)
        cache = self.network.new_cache(len(places))
        for place in places:
            if place is None:
                cache.lengths.append(0)
            else:
                cache.append(place.cache, [place.row])
        return cache

    def _run(self, cache: KeyValueCache, stretches: Sequence[Stretch]) -> None:
        """Compute one batch of stretches; the cache's rows end where they end."""
        *before, last = _pieces(stretches, [self.prompts[s.prompts[0]].prompt for s in stretches])
        for pieces in before:
            self._pass(cache, stretches, pieces, [()] * len(stretches))
        hidden = self._pass(cache, stretches, last, [self._behind(stretch) for stretch in stretches])
        for row, (stretch, (start, end)) in enumerate(zip(stretches, last, strict=True)):
            self._keep(stretch, Place(cache, row), hidden[row, : end - start], hidden[row, end - start :])

    def _keep(self, stretch: Stretch, place: Place, hidden: torch.Tensor, behind: torch.Tensor) -> None:
        """Keep what one stretch gave: its row, (T, H) of its last piece, and of the branches packed behind it."""
        lengths = [len(tokens) for tokens in self._behind(stretch)]
        branches = iter(torch.split(behind[: sum(lengths)], lengths) if lengths else ())
        for index in stretch.ending:
            self.places[index], self.hidden[index] = place, hidden[-1]
            self.scored[index] = tuple(islice(branches, len(self.branches[index])))
        if self.store is not None and len(stretch.prompts) > 1 and stretch.children:
            symbols = self.prompts[stretch.prompts[0]].symbols[: stretch.end]
            self.store.put(self.adapter, symbols, place.cache, place.row)

    def _pass(
        self,
        cache: KeyValueCache,
        stretches: Sequence[Stretch],
        pieces: Sequence[tuple[int, int]],
        behind: Sequence[Branches],
    ) -> torch.Tensor:
        """Hidden states (R, T, H) of one piece of every row, branches packed behind it."""
        counts = [end - start for start, end in pieces]
        totals = [n + sum(map(len, b)) for n, b in zip(counts, behind, strict=True)]
        width = max(totals)
        ids, positions, pictures, branch = torch.zeros((4, len(pieces), width), dtype=torch.int64)
        pictures.fill_(-1)
        features: list[torch.Tensor] = []
        for row, (stretch, (start, end)) in enumerate(zip(stretches, pieces, strict=True)):
            index, filled = stretch.prompts[0], end - start
            ids[row, :filled] = torch.tensor(self.prompts[index].prompt.input_ids[start:end])
            positions[row, :filled] = torch.arange(start, end)
            pictures[row, :filled] = self.pictures[index][start:end]
            seen = pictures[row, :filled].unique()
            features += [self.prompts[index].features[i] for i in seen[seen >= 0].tolist()]
            for number, tokens in enumerate(behind[row], 1):
                columns = slice(filled, filled + len(tokens))
                ids[row, columns] = torch.tensor(tokens)
                positions[row, columns] = torch.arange(end, end + len(tokens))
                branch[row, columns] = number
                filled += len(tokens)
        device = self.network.device
        chunk = Chunk(positions.to(device), pictures.to(device), branch.to(device), torch.tensor(totals, device=device))
        step = PrefillStep(cache, counts)
        return self.network.prefill(step, self.network.embed(ids.to(device), chunk.pictures, features), chunk)


def _pictures(prompt: Prompt) -> torch.Tensor:
    """(T,) int64: which picture each token belongs to, -1 on text."""
    types = torch.tensor(prompt.token_type_ids)
    begins = (types == 1) & (torch.cat([types.new_zeros(1), types[:-1]]) != 1)
    return torch.where(types == 1, begins.cumsum(0) - 1, -1)


def _batches(stretches: Sequence[tuple[Stretch, int]]) -> list[list[int]]:
    """Indices of stretches computed together: of like length, and not too many tokens."""
    batches: list[list[int]] = []
    for index in sorted(range(len(stretches)), key=lambda i: stretches[i][1]):  # ascending: the newest is the widest
        if batches and (len(batches[-1]) + 1) * stretches[index][1] <= TOKENS_A_PASS:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _pieces(stretches: Sequence[Stretch], prompts: Sequence[Prompt]) -> list[list[tuple[int, int]]]:
    """(start, end) of every row in every pass; a picture is never cut, for its tokens see each other."""
    if max(s.end - s.start for s in stretches) <= TOKENS_A_PASS:
        return [[(s.start, s.end) for s in stretches]]
    (stretch,), (prompt,) = stretches, prompts  # so long a stretch is a batch of its own
    passes, start = [], stretch.start
    while start < stretch.end:
        end = min(start + TOKENS_A_PASS, stretch.end)
        while end < stretch.end and prompt.token_type_ids[end - 1] == prompt.token_type_ids[end] == 1:
            end -= 1
        assert end > start, "a picture is longer than a pass"
        passes.append([(start, end)])
        start = end
    return passes
