"""The rows that answers are made in: who is let in, whose prompts are computed, and who decodes.

Each adapter has a batch of its own, for its weights differ. What a request still has to come when rows run out is owed:
its prompt is kept, and its further samples begin as rows become free.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import replace

import torch

from medgemma.engine.network import Network
from medgemma.engine.prefill import TOKENS_A_PASS, Place, Prefilled
from medgemma.engine.preparing import Preparing
from medgemma.engine.request import Completion, Request
from medgemma.engine.samples import Batch, Event, Owed, Sample, Starting, take
from medgemma.engine.sampling import generator_of

Waiting = OrderedDict[int, Request]
"""By ticket, the oldest first."""


class Rows:
    """All samples of one engine that have a row, or a prompt that is being computed.

    Args:
        network: that decodes.
        preparing: that computes prompts.
        stop_ids: the tokens that end every answer.
        max_rows: samples that decode together.
        tokens_beside_decoding: of prompts, computed between two steps of answers that are being decoded.
    """

    def __init__(
        self,
        network: Network,
        preparing: Preparing,
        stop_ids: frozenset[int],
        max_rows: int,
        tokens_beside_decoding: int,
    ) -> None:
        self.network, self.preparing, self.adapters = network, preparing, network.adapters
        self.stop_ids, self.max_rows, self.tokens_beside_decoding = stop_ids, max_rows, tokens_beside_decoding
        self._starting: deque[Starting] = deque()
        self._owed: deque[Owed] = deque()
        self._batches: dict[str | None, Batch] = {}

    @property
    def num_samples(self) -> int:
        """That are being decoded, or whose prompts are being computed or have been."""
        starting = sum(group.num_samples for group in self._starting)
        return self._num_decoding + starting + sum(len(owed.numbers) for owed in self._owed)

    def num_asking(self, adapter: str) -> int:
        """Samples and requests of an adapter."""
        decoding = len(self._batches[adapter].samples) if adapter in self._batches else 0
        starting = sum(len(group.open_requests) for group in self._starting if group.adapter == adapter)
        return decoding + starting + sum(owed.request.adapter == adapter for owed in self._owed)

    def forget(self, adapter: str) -> None:
        """Drop the cache of an adapter that nobody asks for any more."""
        self._batches.pop(adapter, None)

    def clear(self) -> None:
        """Drop all caches, when nothing runs."""
        self._batches.clear()

    def cancel(self, ticket: int) -> list[Event]:
        """End a request's samples where they are."""
        events: list[Event] = []
        for group in [group for group in self._starting if ticket in group.open_requests]:
            events += cancelled(ticket, range(group.requests[ticket].sampling.num_samples))
            group.cancelled.add(ticket)
            if not group.open_requests:
                self._starting.remove(group)
        for owed in [owed for owed in self._owed if owed.ticket == ticket]:
            self._owed.remove(owed)
            events += cancelled(ticket, owed.numbers)
        for batch in self._batches.values():
            rows = [row for row, sample in enumerate(batch.samples) if sample.ticket == ticket]
            for row in rows:
                done = batch.samples[row]
                events.append(Event(ticket, done.sample, None, done.completion("cancelled")))
            batch.drop(rows)
        return events

    def step(self, waiting: Waiting) -> list[Event]:
        """Let in what fits of those that wait, then decode one token of every row."""
        events = self._admit(waiting)
        for adapter, batch in self._batches.items():
            if batch.samples:
                with self.adapters.using(adapter):
                    logits = self.network.decode(batch.cache, [sample.token_ids[-1] for sample in batch.samples])
                taken = take(batch.samples, logits, self.stop_ids)
                batch.drop(taken.ended)
                if taken.failed:
                    batch.cache.erase_free_rows()
                events += taken.events
        return events

    @property
    def _num_decoding(self) -> int:
        return sum(len(batch.samples) for batch in self._batches.values())

    def _tokens_a_pass(self) -> int:
        return self.tokens_beside_decoding if self._num_decoding else TOKENS_A_PASS

    def _admit(self, waiting: Waiting) -> list[Event]:
        """Begin what is owed, let requests in, and compute of prompts what one step has time for, in turns."""
        events: list[Event] = []
        while self._owed and (free := self._num_free_rows()) > 0:
            events += self._join_owed(self._owed.popleft(), free)
        while not self._owed and waiting and (tickets := self._next_group(waiting)):
            self._begin({ticket: waiting.pop(ticket) for ticket in tickets})
        left = self._tokens_a_pass()
        while self._starting and left > 0:
            group = self._starting.popleft()
            try:
                with self.adapters.using(group.adapter):
                    left -= next(group.passes)
                self._starting.append(group)
            except StopIteration as done:
                events += self._join(group, done.value)
            except Exception as error:  # one prompt that fails, for want of memory for example, takes no others along
                events += self._retried(group, error)
        return events

    def _begin(self, requests: dict[int, Request]) -> None:
        self._starting.append(Starting(requests, self.preparing.passes(list(requests.values()), self._tokens_a_pass)))

    def _retried(self, group: Starting, error: Exception) -> list[Event]:
        """Compute the prompts of a group that failed each by itself; one that is alone has failed."""
        asked = group.open_requests
        if len(asked) > 1:
            for ticket, request in asked.items():
                self._begin({ticket: request})
            return []
        failed = Completion((), (), "error", f"the prompt could not be computed: {error}")
        return [
            Event(ticket, number, None, failed)
            for ticket, request in asked.items()
            for number in range(request.sampling.num_samples)
        ]

    def _next_group(self, waiting: Waiting) -> list[int]:
        """The oldest requests of one adapter, as many as rows are free; the oldest of all is never passed over."""
        free = self._num_free_rows()
        adapter = next(iter(waiting.values())).adapter
        tickets = []
        for ticket, request in waiting.items():
            free -= self._num_rows(request)
            if free < 0:
                break
            if request.adapter == adapter:
                tickets.append(ticket)
        return tickets

    def _num_free_rows(self) -> int:
        """Rows that are neither taken nor kept for prompts that are being computed."""
        kept = sum(self._num_rows(r) for group in self._starting for r in group.open_requests.values())
        return self.max_rows - self._num_decoding - kept

    def _num_rows(self, request: Request) -> int:
        """Rows that a request begins with; its further samples take their turn on the same prompt."""
        return min(request.sampling.num_samples, self.max_rows)

    def _join(self, group: Starting, done: Prefilled) -> list[Event]:
        """Begin the samples of prompts that are computed; those that no row is there for are owed."""
        begun: list[Owed] = []
        for index, (ticket, request) in enumerate(group.requests.items()):
            if ticket in group.cancelled:
                continue
            numbers, rows = list(range(request.sampling.num_samples)), self._num_rows(request)
            begun.append(Owed(ticket, request, numbers[:rows], done.places[index], done.hidden[index]))
            if numbers[rows:]:
                own = _own_row(done.places[index])
                self._owed.append(Owed(ticket, request, numbers[rows:], own, done.hidden[index]))
        return self._started(group.adapter, begun)

    def _join_owed(self, owed: Owed, free: int) -> list[Event]:
        """Begin as many of the samples that are owed as rows are free."""
        now, later = owed.numbers[:free], owed.numbers[free:]
        place = owed.place
        if later:
            self._owed.appendleft(replace(owed, numbers=later))
            place = _own_row(place)  # the batch may take a cache over
        return self._started(owed.request.adapter, [replace(owed, numbers=now, place=place)])

    def _started(self, adapter: str | None, begun: Sequence[Owed]) -> list[Event]:
        """Choose the first tokens, and let what goes on join the batch."""
        batch = self._batches.setdefault(adapter, Batch(self.network.new_cache()))
        samples: list[Sample] = []
        places: list[Place] = []
        hidden: list[torch.Tensor] = []
        events: list[Event] = []
        for owed in begun:
            request = owed.request
            for number in owed.numbers:
                try:
                    state = request.constraint.start() if request.constraint is not None else None
                except Exception as error:  # a foreign constraint fails its own request only
                    events.append(Event(owed.ticket, number, None, Completion((), (), "error", str(error))))
                    continue
                samples.append(Sample(owed.ticket, number, request, generator_of(request.sampling, number), state))
                places.append(owed.place)
                hidden.append(owed.hidden)
        if samples:
            with self.adapters.using(adapter):
                logits = self.network.logits(torch.stack(hidden))
            taken = take(samples, logits, self.stop_ids)
            going_on = [row for row in range(len(samples)) if row not in set(taken.ended)]
            batch.join([samples[row] for row in going_on], [places[row] for row in going_on])
            events += taken.events
        return events


def cancelled(ticket: int, numbers: Sequence[int]) -> list[Event]:
    """The ends of samples that have said nothing."""
    return [Event(ticket, number, None, Completion((), (), "cancelled")) for number in numbers]


def _own_row(place: Place) -> Place:
    """A copy of one row in a cache of its own."""
    return Place(place.cache.select([place.row]), 0)
