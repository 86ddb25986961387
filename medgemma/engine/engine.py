"""The engine: requests join a running batch, decode together, and leave it when they are done.

One step decodes one token of every row. Before it, waiting requests are admitted while rows are free
(`medgemma.engine.rows`); those that begin alike are computed once (`medgemma.engine.prefill`). Long prompts are
computed in pieces, a piece a step, so that answers that are being decoded go on; several such take turns.
A request that fails (a constraint that raises, logits that are not finite) fails alone.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from medgemma.engine.adapters import WeightsInPlace
from medgemma.engine.network import Network
from medgemma.engine.prefill import Branches, PrefixStore
from medgemma.engine.preparing import Preparing
from medgemma.engine.request import ChoiceScore, Completion, Request, Sampling
from medgemma.engine.rows import Rows, cancelled
from medgemma.engine.samples import Event
from medgemma.engine.sampling import TokenScores, longest_choice, token_scores
from medgemma.engine.vision import FeatureCache
from medgemma.prompts.chat import TokenCount
from medsiglip.preprocess import Preprocessing

MAX_ROWS = 32
MAX_WAITING = 1024
PREFIX_BYTES = 256 * 2**20
TOKENS_BESIDE_DECODING = 512
TOKENS_BESIDE_DECODING_ON_CPU = 128
"""Of prompts, computed between two steps of answers that are being decoded; all wait for them."""


class EngineBusy(RuntimeError):
    """The queue is full: the caller must wait for answers, or turn its own callers away."""


class Engine:
    """Answers requests with one model. Not for several threads at once.

    Args:
        model: Gemma3ForConditionalGeneration, or Gemma3ForCausalLM where no request has pictures.
        preprocessing: the model's pixels; None where no request has pictures.
        stop_ids: the tokens that end every answer.
        compile_mode: of the decode step: None runs it as it is; "default" compiles it, which takes most of a minute and
            then decodes several times as fast; "reduce-overhead" adds CUDA graphs.
        max_rows: samples that decode together.
        max_waiting: requests that may wait; `submit` refuses more.
        prefix_bytes: memory for prefixes that later requests may share.
        tokens_beside_decoding: of prompts, computed between two steps of answers that are being decoded; None for 512,
            on a CPU 128.
    """

    def __init__(
        self,
        model: Any,
        preprocessing: Preprocessing | None = None,
        *,
        stop_ids: frozenset[int],
        compile_mode: str | None = None,
        max_rows: int = MAX_ROWS,
        max_waiting: int = MAX_WAITING,
        prefix_bytes: int = PREFIX_BYTES,
        tokens_beside_decoding: int | None = None,
    ) -> None:
        self.network = Network(model, compile_mode)
        usual = TOKENS_BESIDE_DECODING_ON_CPU if self.network.device.type == "cpu" else TOKENS_BESIDE_DECODING
        self.adapters = self.network.adapters
        self.prefixes = PrefixStore(prefix_bytes)
        self.weights = WeightsInPlace(model, self.adapters)
        features = FeatureCache(model, preprocessing) if preprocessing is not None else None
        self.preparing = Preparing(self.network, features, self.prefixes, self.weights)
        self.rows = Rows(self.network, self.preparing, stop_ids, max_rows, tokens_beside_decoding or usual)
        self.max_waiting = max_waiting
        self.max_tokens = int(self.network.config.max_position_embeddings)
        self._tickets = count()
        self._waiting: OrderedDict[int, Request] = OrderedDict()
        self._ended: deque[Event] = deque()
        self._inboxes: dict[int, deque[Event]] = {}

    @property
    def features(self) -> FeatureCache | None:
        """Of pictures; None for a model of text alone."""
        return self.preparing.features

    # One call, whole answers

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """The samples of each request, in order; arguments are checked before anything is computed.

        Raises:
            ValueError: as in `submit`.
        """
        for request in requests:
            self.check(request)
        todo = deque(enumerate(requests))
        indices: dict[int, int] = {}
        found: list[dict[int, Completion]] = [{} for _ in requests]
        inbox: deque[Event] = deque()
        try:
            while todo or indices:
                while todo and len(self._waiting) < self.max_waiting:
                    index, request = todo.popleft()
                    indices[self._claimed(request, inbox)] = index
                for event in self._events(inbox):
                    if event.completion is not None:
                        index = indices[event.ticket]
                        found[index][event.sample] = event.completion
                        if len(found[index]) == requests[index].sampling.num_samples:
                            self._release(event.ticket)
                            del indices[event.ticket]
        finally:  # after an interruption nothing is left running
            for ticket in indices:
                self._release(ticket)
        return [[samples[i] for i in sorted(samples)] for samples in found]

    def stream(self, request: Request) -> Iterator[Event]:
        """Events of one request as they come; leaving the loop early cancels it."""
        inbox: deque[Event] = deque()
        ticket = self._claimed(request, inbox)
        left = request.sampling.num_samples
        try:
            while left:
                for event in self._events(inbox):
                    left -= event.completion is not None
                    yield event
        finally:
            self._release(ticket)

    def score_choices(self, requests: Sequence[tuple[Request, Sequence[Sequence[int]]]]) -> list[list[ChoiceScore]]:
        """How likely each continuation of each prompt is: all of a prompt's choices in the pass that computes it.

        Args:
            requests: with the token ids of each choice. Sampling and constraint play no part.

        Raises:
            ValueError: as in `submit`; a choice is empty or does not fit.
        """
        return [[score.choice for score in scores] for scores in self.score_tokens(requests)]

    @torch.inference_mode()
    def score_tokens(
        self, requests: Sequence[tuple[Request, Sequence[Sequence[int]]]], temperature: float = 1.0
    ) -> list[list[TokenScores]]:
        """`score_choices` token by token, at a temperature, under the whole distribution."""
        for request, choices in requests:
            self.check(replace(request, sampling=Sampling(max_new_tokens=longest_choice(choices))))
        scores: list[list[TokenScores]] = [[] for _ in requests]
        by_adapter: dict[str | None, list[int]] = {}
        for index, (request, _) in enumerate(requests):
            by_adapter.setdefault(request.adapter, []).append(index)
        for adapter, indices in by_adapter.items():
            branches: list[Branches] = [tuple(tuple(c[:-1]) for c in requests[i][1]) for i in indices]
            with self.adapters.using(adapter):
                done = self.preparing.whole([requests[i][0] for i in indices], branches)
                for place, index in enumerate(indices):
                    parts = done.hidden[place], done.branches[place]
                    scores[index] = token_scores(self.network, *parts, requests[index][1], temperature)
        return scores

    # Requests that come and go

    @property
    def num_waiting(self) -> int:
        """Requests that no row has been found for."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Samples that are being decoded, or whose prompts are being computed or have been."""
        return self.rows.num_samples

    def check(self, request: Request) -> None:
        """Refuse what can never be answered.

        Raises:
            ValueError: pictures and image slots differ in number; prompt and answer are longer than the model's
                context; the numbers are given. The adapter is not loaded.
            RuntimeError: the model is in train mode.
        """
        self.weights.refuse_training()
        prompt, sampling = request.prompt, request.sampling
        if request.adapter is not None:
            self.adapters.require(request.adapter)
        if len(request.pictures) != prompt.num_images:
            raise ValueError(
                f"{len(request.pictures)} pictures for {prompt.num_images} image parts; give one picture for each"
            )
        if prompt.num_images and self.features is None:
            raise ValueError(f"{prompt.num_images} pictures for a model of text alone; leave them out")
        cost = TokenCount.of(prompt, sampling.max_new_tokens, self.max_tokens)
        if not cost.fits:
            raise ValueError(cost.too_long("the model"))

    def submit(self, request: Request) -> int:
        """Queue a request; its events bear the ticket that is returned.

        Raises:
            ValueError, RuntimeError: see `check`.
            EngineBusy: `max_waiting` requests wait already.
        """
        self.check(request)
        if len(self._waiting) >= self.max_waiting:
            raise EngineBusy(f"{self.max_waiting} requests wait already")
        ticket = next(self._tickets)
        self._waiting[ticket] = request
        return ticket

    @torch.inference_mode()
    def cancel(self, ticket: int) -> None:
        """End a request's samples where they are; the next `step` reports them. Unknown tickets are ignored."""
        waiting = self._waiting.pop(ticket, None)
        if waiting is not None:
            self._ended += cancelled(ticket, range(waiting.sampling.num_samples))
        self._ended += self.rows.cancel(ticket)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Admit what fits, then decode one token of every row.

        Returns:
            What happened to submitted requests, in order; nothing when there is nothing to do. Events of `generate`
            and `stream` go to their callers, whoever makes the step.
        """
        events = list(self._ended)
        self._ended.clear()
        events += self.rows.step(self._waiting)
        for event in events:
            if event.ticket in self._inboxes:
                self._inboxes[event.ticket].append(event)
        return [event for event in events if event.ticket not in self._inboxes]

    def weights_changed(self, *, sight: bool = True) -> None:
        """Forget everything that was computed with the old weights.

        Args:
            sight: tower or projector have changed too; False keeps the pictures' features.

        Raises:
            RuntimeError: samples are being decoded, half with the old weights.
        """
        self._refuse_running()
        self.adapters.weights_changed()
        if self.features is not None and sight:
            self.features.clear()
        self.prefixes.clear()
        self.rows.clear()

    @contextmanager
    def other_weights(self, policy: Hashable, *, sight: bool = False) -> Iterator[None]:
        """Within the block the network has other weights, such as a reference's or an anchor's: nothing is mixed up.

        Args:
            policy: names them; the same name must mean the same weights until `weights_changed`.
            sight: their tower or projector differs too.

        Raises:
            RuntimeError: samples are being decoded, before it or at its end.
        """
        self._refuse_running()
        with self.weights.replaced(policy, sight=sight):
            yield
            self._refuse_running()

    def _refuse_running(self) -> None:
        if self.num_running:
            raise RuntimeError(f"{self.num_running} samples are being decoded; let them end, or cancel them")

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA adapter that requests may ask for by name; see `medgemma.engine.adapters.Adapters.load`."""
        self.adapters.load(name, folder)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter, and what was computed with it.

        Raises:
            ValueError: there is none of that name.
            RuntimeError: requests that ask for it are not done.
        """
        self._refuse_asked(name)
        self.adapters.unload(name)
        self._forget(name)

    def replace_adapter(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Give a loaded adapter other values from memory; see `medgemma.engine.adapters.Adapters.replace`.

        Raises:
            ValueError: as there.
            RuntimeError: requests that ask for it are not done.
        """
        self._refuse_asked(name)
        self.adapters.replace(name, tensors)
        self._forget(name)

    def _refuse_asked(self, name: str) -> None:
        asked = self.rows.num_asking(name) + sum(request.adapter == name for request in self._waiting.values())
        if asked:
            raise RuntimeError(f"{asked} requests for adapter {name!r} are not done; let them end, or cancel them")

    def _forget(self, name: str) -> None:
        """Drop what was computed with an adapter, and with others beside it."""
        self.rows.forget(name)
        self.prefixes.clear()
        if self.features is not None:
            self.features.clear()

    def _claimed(self, request: Request, inbox: deque[Event]) -> int:
        """Submit a request whose events go to one caller."""
        ticket = self.submit(request)
        self._inboxes[ticket] = inbox
        return ticket

    def _release(self, ticket: int) -> None:
        """End a claimed request, wherever it is, and forget it."""
        self.cancel(ticket)
        self._ended = deque(event for event in self._ended if event.ticket != ticket)
        del self._inboxes[ticket]

    def _events(self, inbox: deque[Event]) -> list[Event]:
        """What has come for one caller; makes a step when nothing has."""
        if not inbox:
            self.step()
        events = list(inbox)
        inbox.clear()
        return events
