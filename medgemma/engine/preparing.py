"""Requests made ready: their pictures' features, then their prompts, pass by pass."""

from collections.abc import Callable, Generator, Hashable, Sequence

import torch

from medgemma.engine.adapters import WeightsInPlace
from medgemma.engine.network import Network
from medgemma.engine.prefill import Branches, Passes, Prefilled, PrefixStore, Prepared, prefill, prefill_passes
from medgemma.engine.prefixes import symbols_of
from medgemma.engine.request import Request
from medgemma.engine.vision import PICTURES_A_PASS, FeatureCache


class Preparing:
    """Pictures and prompts of one model, each computed once while its weights are in place.

    Args:
        network: see `Network`.
        features: of pictures; None for a model of text alone.
        prefixes: that later requests may share.
        weights: whose are in place.
    """

    def __init__(
        self, network: Network, features: FeatureCache | None, prefixes: PrefixStore, weights: WeightsInPlace
    ) -> None:
        self.network, self.features, self.prefixes, self.weights = network, features, prefixes, weights

    def whole(self, requests: Sequence[Request], branches: Sequence[Branches]) -> Prefilled:
        """Compute requests of the active adapter at once, with continuations behind them."""
        prepared = [self.prepared(request) for request in requests]
        adapter = requests[0].adapter
        return prefill(self.network, prepared, store=self.prefixes, owner=self.weights.of(adapter), branches=branches)

    def passes(self, requests: Sequence[Request], tokens_a_pass: Callable[[], int]) -> Passes:
        """Pictures, then prompts, of requests of one adapter, which is active whenever this goes on."""
        owner = self.weights.of(requests[0].adapter)
        prepared = []
        for request in requests:
            yield from self._encode(request, tokens_a_pass)
            prepared.append(self.prepared(request))
        done = yield from prefill_passes(self.network, prepared, tokens_a_pass, store=self.prefixes, owner=owner)
        for request, prompt, place in zip(requests, prepared, done.places, strict=True):
            if request.continues:
                self.prefixes.put(owner, prompt.symbols, *place)
        return done

    def _encode(self, request: Request, tokens_a_pass: Callable[[], int]) -> Generator[int, None, None]:
        """Put the features of a request's pictures into the cache, a few at a time, as far as it holds them."""
        if self.features is None or not request.pictures:
            return
        sight, cost = self.weights.sight(request.adapter), self.features.tokens_a_picture
        missing = [picture for picture in request.pictures if not self.features.has(picture, sight)]
        missing = missing[: self.features.capacity]
        while missing:
            count = max(1, min(PICTURES_A_PASS, tokens_a_pass() // cost))
            self.features.of(missing[:count], sight)
            missing = missing[count:]
            yield count * cost

    def prepared(self, request: Request) -> Prepared:
        """A request's prompt with its pictures' features."""
        features: list[torch.Tensor] = []
        keys: list[Hashable] = []
        if request.pictures:
            assert self.features is not None  # see `Engine.check`
            sight = self.weights.sight(request.adapter)
            features = self.features.of(request.pictures, sight)
            keys = [self.features.key(picture, sight) for picture in request.pictures]
        return Prepared(request.prompt, tuple(features), symbols_of(request.prompt, keys))
