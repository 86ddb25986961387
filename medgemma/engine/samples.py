"""Answers in the making: the tokens they take, why they end, and the rows they decode in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import torch

from medgemma.engine.cache import KeyValueCache
from medgemma.engine.prefill import Passes, Place
from medgemma.engine.request import Completion, ConstraintState, FinishReason, Request, TopLogprobs
from medgemma.engine.sampling import Chosen, choose


class Event(NamedTuple):
    """One token of one sample, or its end."""

    ticket: int
    sample: int
    token_id: int | None
    """None when the sample ends without a token."""
    completion: Completion | None
    """The whole sample, with its last event."""
    logprob: float = 0.0
    """Of the token, see `Completion.logprobs`."""
    top_logprobs: TopLogprobs = ()
    """Of the token's place."""


LONGEST_LOOP = 64
"""Tokens of the longest stretch whose repetition is looked for."""


@dataclass(eq=False)
class Sample:
    """One answer in the making."""

    ticket: int
    sample: int
    request: Request
    generator: torch.Generator
    state: ConstraintState | None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    tempered_logprobs: list[float] = field(default_factory=list)
    sampled_logprobs: list[float] = field(default_factory=list)

    def completion(self, reason: FinishReason, error: str | None = None) -> Completion:
        """What has been said, ended for this reason."""
        return Completion(
            tuple(self.token_ids),
            tuple(self.logprobs),
            reason,
            error,
            tuple(self.top_logprobs),
            tuple(self.tempered_logprobs),
            tuple(self.sampled_logprobs),
        )

    def finished(self, stop_ids: frozenset[int]) -> FinishReason | None:
        """Why the answer ends with the token it has just taken; None if it goes on."""
        sampling = self.request.sampling
        if self.token_ids[-1] in stop_ids | sampling.stop_ids:
            return "stop"
        if self.state is not None and self.state.finished():
            return "stop"
        if sampling.loop_guard is not None and is_loop(self.token_ids, sampling.loop_guard):
            return "loop"
        return "length" if len(self.token_ids) >= sampling.max_new_tokens else None


def is_loop(token_ids: Sequence[int], times: int) -> bool:
    """Whether an answer ends with the same stretch so many times in a row, eight tokens of it or more."""
    for length in range(1, min(LONGEST_LOOP, len(token_ids) // times) + 1):
        whole = max(times, -(-8 // length)) * length  # "no no no" is no loop yet
        if whole <= len(token_ids) and token_ids[-1] == token_ids[-1 - length]:
            tail = token_ids[-whole:]
            if tail[length:] == tail[:-length]:
                return True
    return False


@dataclass(eq=False)
class Batch:
    """The rows that decode under one adapter; sample i is row i of the cache."""

    cache: KeyValueCache
    samples: list[Sample] = field(default_factory=list)

    def join(self, samples: Sequence[Sample], places: Sequence[Place]) -> None:
        """Add samples whose prompts stand in other caches; an empty batch that would have to grow takes theirs over."""
        if not self.samples and self._can_take_over(places):
            rows = [place.row for place in places]
            self.cache = places[0].cache
            self.samples = [sample for _, sample in sorted(zip(rows, samples, strict=True), key=itemgetter(0))]
            return
        by_cache: dict[int, list[int]] = {}
        for index, place in enumerate(places):
            by_cache.setdefault(id(place.cache), []).append(index)
        for indices in by_cache.values():
            self.cache.append(places[indices[0]].cache, [places[i].row for i in indices])
            self.samples += [samples[i] for i in indices]

    def _can_take_over(self, places: Sequence[Place]) -> bool:
        """True if the prompts are the rows of one cache, each once: at 4B's size a copy costs 40 MB a row."""
        if len(places) <= self.cache.row_capacity or len({id(place.cache) for place in places}) != 1:
            return False
        return sorted(place.row for place in places) == list(range(places[0].cache.num_rows))

    def drop(self, rows: Sequence[int]) -> None:
        """Let samples go; the last ones take their rows."""
        if rows:
            self.samples = [self.samples[old] for old in self.cache.remove(rows)]


@dataclass(eq=False)
class Starting:
    """Requests of one adapter whose prompts are being computed, pass by pass."""

    requests: dict[int, Request]
    """By ticket."""
    passes: Passes
    cancelled: set[int] = field(default_factory=set)
    """Tickets whose answers nobody waits for any more."""

    @property
    def adapter(self) -> str | None:
        """Of all of them."""
        return next(iter(self.requests.values())).adapter

    @property
    def open_requests(self) -> dict[int, Request]:
        """Those that are waited for."""
        return {ticket: request for ticket, request in self.requests.items() if ticket not in self.cancelled}

    @property
    def num_samples(self) -> int:
        """Rows that they will take."""
        return sum(request.sampling.num_samples for request in self.open_requests.values())


@dataclass(eq=False)
class Owed:
    """Samples of one request that wait for rows; their prompt is computed and stands in a row of its own."""

    ticket: int
    request: Request
    numbers: list[int]
    """Of the samples, in order."""
    place: Place
    hidden: torch.Tensor
    """(H,) of the prompt's last token."""


class Taken(NamedTuple):
    """One token of every sample."""

    events: list[Event]
    ended: list[int]
    """Indices of the samples that end with it."""

    @property
    def failed(self) -> bool:
        """True if a sample ended with an error."""
        return any(event.completion is not None and event.completion.error is not None for event in self.events)


def take(samples: Sequence[Sample], logits: torch.Tensor, stop_ids: frozenset[int]) -> Taken:
    """Choose the next token of every sample from logits (samples, vocabulary)."""
    masks, errors = _allowed(samples)
    held = [(s.request.prompt.input_ids, s.token_ids) for s in samples]
    chosen = choose(logits, [s.request.sampling for s in samples], [s.generator for s in samples], masks, held)
    taken = Taken([], [])
    for index, sample in enumerate(samples):
        error = errors.get(index) or _given(sample, chosen, index)
        reason: FinishReason | None = "error" if error else sample.finished(stop_ids)
        if reason is not None:
            taken.ended.append(index)
        token = None if error else sample.token_ids[-1]
        completion = None if reason is None else sample.completion(reason, error)
        told = (chosen.logprobs[index], chosen.top_logprobs[index]) if token is not None else (0.0, ())
        taken.events.append(Event(sample.ticket, sample.sample, token, completion, *told))
    return taken


def _allowed(samples: Sequence[Sample]) -> tuple[list[torch.Tensor | None], dict[int, str]]:
    """The tokens each sample may take, and why some may take none."""
    masks: list[torch.Tensor | None] = []
    errors: dict[int, str] = {}
    for index, sample in enumerate(samples):
        mask = None
        if sample.state is not None:
            try:
                mask = sample.state.allowed()
                if mask is not None and not bool(mask.any()):
                    errors[index] = "the constraint allows no token here"
            except Exception as error:  # a foreign constraint fails its own request only
                errors[index] = f"the constraint failed: {error}"
        masks.append(None if index in errors else mask)
    return masks, errors


def _given(sample: Sample, chosen: Chosen, index: int) -> str | None:
    """Give a sample its token; return why that cannot be, if so."""
    logprob = chosen.logprobs[index]
    if logprob != logprob:
        return "the model's logits are not finite (NaN weights, or an overflow); check the checkpoint"
    sample.token_ids.append(chosen.token_ids[index])
    sample.logprobs.append(logprob)
    sample.tempered_logprobs.append(chosen.tempered_logprobs[index])
    sample.sampled_logprobs.append(chosen.sampled_logprobs[index])
    if sample.request.sampling.top_logprobs:
        sample.top_logprobs.append(chosen.top_logprobs[index])
    if sample.state is not None:
        try:
            sample.state.advance(chosen.token_ids[index])
        except Exception as error:  # as above
            return f"the constraint failed: {error}"
    return None
