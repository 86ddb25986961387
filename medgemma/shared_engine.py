"""One engine for several conversations: what they ask at the same time is decoded together."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from medgemma.engine import Completion, Engine, Request
    from medgemma.engine.samples import Event

Result = TypeVar("Result")
Sink = Callable[["list[Event] | Exception"], None]
"""Told of a request's events as they come, or of why there are none; called in the engine's thread."""


@dataclass(eq=False)
class OpenRequest:
    """A request that was asked; `SharedEngine.cancel` takes it."""

    request: "Request"
    sink: Sink
    ticket: int | None = None
    """The engine's, once it has it."""
    num_open: int = 0
    """Samples that have not ended."""


class SharedEngine:
    """Answers requests from several threads; the engine itself runs in one, which lives while there is work.

    Nobody else may use the engine meanwhile.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._running: dict[int, OpenRequest] = {}
        self._is_driven = False
        self._lock = threading.Lock()

    def complete(self, request: "Request") -> "Completion":
        """Return the completion of a request of one sample.

        Raises:
            ValueError: The engine refuses the request.
            Exception: Whatever the engine failed with; all that was running then failed with it.
        """
        future: Future[Completion] = Future()

        def sink(found: "list[Event] | Exception") -> None:
            if isinstance(found, Exception):
                future.set_exception(found)
                return
            for event in found:
                if event.completion is not None:
                    future.set_result(event.completion)

        self.submit(request, sink)
        return future.result()

    def submit(self, request: "Request", sink: Sink) -> OpenRequest:
        """Ask without waiting; `sink` hears of every token, and last of every sample's end or of one exception."""
        asked = OpenRequest(request, sink, num_open=request.sampling.num_samples)
        self._order(lambda: self._admit(asked))
        return asked

    def cancel(self, asked: OpenRequest) -> None:
        """End a request before the engine's next step; its sink hears nothing more. One that is done is left alone."""

        def end() -> None:
            if asked.ticket is not None and self._running.pop(asked.ticket, None) is not None:
                self._engine.cancel(asked.ticket)

        self._order(end)

    def call(self, function: "Callable[[Engine], Result]") -> Result:
        """Do something with the engine between two of its steps, and wait for it.

        Raises:
            Exception: Whatever the function raises.
        """
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(function(self._engine))
            except Exception as fault:
                future.set_exception(fault)

        self._order(run)
        return future.result()

    def _order(self, order: Callable[[], None]) -> None:
        with self._lock:
            self._orders.put(order)
            if not self._is_driven:
                self._is_driven = True
                threading.Thread(target=self._drive, name="engine", daemon=True).start()

    def _drive(self) -> None:
        while True:
            self._obey()
            with self._lock:
                if not self._running and self._orders.empty():
                    self._is_driven = False
                    return
            if self._running:
                self._step()

    def _obey(self) -> None:
        while True:
            try:
                order = self._orders.get_nowait()
            except Empty:
                return
            order()

    def _admit(self, asked: OpenRequest) -> None:
        try:
            asked.ticket = self._engine.submit(asked.request)
        except Exception as fault:  # this request alone
            _tell(asked, fault)
            return
        self._running[asked.ticket] = asked

    def _step(self) -> None:
        try:
            events = self._engine.step()
        except Exception as fault:  # out of memory, for one: those who wait must hear of it
            for ticket, asked in self._running.items():
                self._engine.cancel(ticket)
                _tell(asked, fault)
            self._running.clear()
            return
        by_ticket: dict[int, list[Event]] = {}
        for event in events:
            by_ticket.setdefault(event.ticket, []).append(event)
        for ticket, found in by_ticket.items():
            if ticket not in self._running:
                continue  # cancelled
            asked = self._running[ticket]
            asked.num_open -= sum(event.completion is not None for event in found)
            if not asked.num_open:
                del self._running[ticket]
            if not _tell(asked, found) and asked.num_open:
                self._engine.cancel(self._running.pop(ticket).ticket or 0)


def _tell(asked: OpenRequest, found: "list[Event] | Exception") -> bool:
    """Whether a caller still listens: one whose event loop has ended must not take the engine along."""
    try:
        asked.sink(found)
    except RuntimeError:
        return False
    return True
