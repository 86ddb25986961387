"""Prompts into the cache: shared beginnings once, long ones in chunks, unlike lengths side by side.

Letters: R rows, T tokens of a chunk, I tokens of one picture, H decoder width, V vocabulary.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Sequence
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

Passes = Generator[int, None, "Prefilled"]
"""Computes pass by pass, telling the tokens of each; returns what came of them."""


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
        """By whose weights computed them, and what they are."""

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()

    def put(self, owner: Hashable, symbols: Symbols, cache: KeyValueCache, row: int) -> None:
        """Keep a copy of one row, which holds exactly these symbols."""
        if (owner, symbols) in self._rows or not symbols:
            return
        copy = cache.select([row])
        if copy.num_bytes <= self.capacity_bytes:
            self._rows[owner, symbols] = copy
        while sum(held.num_bytes for held in self._rows.values()) > self.capacity_bytes:
            self._rows.popitem(last=False)

    def longest(self, owner: Hashable, symbols: Symbols) -> tuple[int, Place | None]:
        """Length and row of the longest prefix that is held and leaves at least one token to compute."""
        best: tuple[Hashable, Symbols] | None = None
        for key in self._rows:
            fits = key[0] == owner and len(key[1]) < len(symbols) and symbols[: len(key[1])] == key[1]
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
    owner: Hashable = None,
    branches: Sequence[Branches] = (),
) -> Prefilled:
    """Compute prompts, level by level of the tree of what they share.

    Args:
        network: see `Network`.
        prompts: at least one.
        store: prefixes held from earlier calls; what is shared here is added to it.
        owner: the weights that are in place, by name: prefixes that others computed are not used.
        branches: of each prompt, continuations that are computed behind it but do not enter the cache; or nothing.
    """
    passes = prefill_passes(network, prompts, lambda: TOKENS_A_PASS, store=store, owner=owner, branches=branches)
    while True:
        try:
            next(passes)
        except StopIteration as done:
            prefilled: Prefilled = done.value
            return prefilled


def prefill_passes(
    network: Network,
    prompts: Sequence[Prepared],
    tokens_a_pass: Callable[[], int],
    *,
    store: PrefixStore | None = None,
    owner: Hashable = None,
    branches: Sequence[Branches] = (),
) -> Passes:
    """`prefill` with other work between the passes; `tokens_a_pass` is asked before each for its size.

    Sizes are with padding; a picture is never cut.
    """
    return _Prefill(network, prompts, tokens_a_pass, store, owner, branches).passes()


class _Prefill:
    def __init__(
        self,
        network: Network,
        prompts: Sequence[Prepared],
        tokens_a_pass: Callable[[], int],
        store: PrefixStore | None,
        owner: Hashable,
        branches: Sequence[Branches],
    ) -> None:
        self.tokens_a_pass = tokens_a_pass
        self.network, self.prompts, self.store, self.owner = network, prompts, store, owner
        self.branches = branches or [()] * len(prompts)
        self.pictures = [_pictures(p.prompt) for p in prompts]
        self.places: dict[int, Place] = {}
        self.hidden: dict[int, torch.Tensor] = {}
        self.scored: dict[int, tuple[torch.Tensor, ...]] = {}

    def passes(self) -> Passes:
        held = [self.store.longest(self.owner, p.symbols) if self.store else (0, None) for p in self.prompts]
        roots = shared_stretches([p.symbols for p in self.prompts], [length for length, _ in held])
        level = [(root, held[root.prompts[0]][1]) for root in roots]
        while level:
            following: list[tuple[Stretch, Place | None]] = []
            while level:
                batch = _batch([self._length(stretch) for stretch, _ in level], self.tokens_a_pass())
                stretches = [level[i][0] for i in batch]
                cache = self._started([level[i][1] for i in batch], max(s.end for s in stretches))
                yield from self._run(cache, stretches)
                following += [(child, Place(cache, r)) for r, s in enumerate(stretches) for child in s.children]
                level = [one for i, one in enumerate(level) if i not in set(batch)]
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

    def _run(self, cache: KeyValueCache, stretches: Sequence[Stretch]) -> Generator[int, None, None]:
        """Compute one batch of stretches; the cache's rows end where they end. A single one may take several passes."""
        starts = [stretch.start for stretch in stretches]
        ends = [stretch.end for stretch in stretches]
        if len(stretches) == 1:
            prompt = self.prompts[stretches[0].prompts[0]].prompt
            while (end := _end_of_pass(prompt, starts[0], ends[0], self.tokens_a_pass())) < ends[0]:
                self._pass(cache, stretches, [(starts[0], end)], [()])
                yield end - starts[0]
                starts = [end]
        pieces = list(zip(starts, ends, strict=True))
        hidden = self._pass(cache, stretches, pieces, [self._behind(stretch) for stretch in stretches])
        for row, (stretch, (start, end)) in enumerate(zip(stretches, pieces, strict=True)):
            self._keep(stretch, Place(cache, row), hidden[row, : end - start], hidden[row, end - start :])
        yield hidden.shape[0] * hidden.shape[1]

    def _keep(self, stretch: Stretch, place: Place, hidden: torch.Tensor, behind: torch.Tensor) -> None:
        """Keep what one stretch gave: its row, (T, H) of its last piece, and of the branches packed behind it."""
        lengths = [len(tokens) for tokens in self._behind(stretch)]
        branches = iter(torch.split(behind[: sum(lengths)], lengths) if lengths else ())
        for index in stretch.ending:
            self.places[index], self.hidden[index] = place, hidden[-1]
            self.scored[index] = tuple(islice(branches, len(self.branches[index])))
        if self.store is not None and len(stretch.prompts) > 1 and stretch.children:
            symbols = self.prompts[stretch.prompts[0]].symbols[: stretch.end]
            self.store.put(self.owner, symbols, place.cache, place.row)

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


def _batch(lengths: Sequence[int], most_tokens: int) -> list[int]:
    """Indices of stretches to compute together: the shortest, of like length, and not too many tokens."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])  # ascending: the newest is the widest
    count = 1
    while count < len(order) and (count + 1) * lengths[order[count]] <= most_tokens:
        count += 1
    return order[:count]


def _end_of_pass(prompt: Prompt, start: int, end: int, most_tokens: int) -> int:
    """Where a pass ends; a picture is never cut, for its tokens see each other, and one is computed at least."""
    types = prompt.token_type_ids
    place = min(start + most_tokens, end)
    while start < place < end and types[place - 1] == types[place] == 1:
        place -= 1
    if place == start:
        place = min(start + most_tokens, end)
        while place < end and types[place - 1] == types[place] == 1:
            place += 1
    return place
