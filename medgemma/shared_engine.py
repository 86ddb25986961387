"""One engine for several conversations: what they ask at the same time is decoded together."""

import threading
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medgemma.engine import Completion, Engine, Request


class SharedEngine:
    """Answers requests from several threads; the engine itself runs in one, which lives while there is work.

    Nobody else may use the engine meanwhile.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._asked: SimpleQueue[tuple[Request, Future[Completion]]] = SimpleQueue()
        self._is_driven = False
        self._lock = threading.Lock()

    def complete(self, request: "Request") -> "Completion":
        """Return the completion of a request of one sample.

        Raises:
            ValueError: The engine refuses the request.
            Exception: Whatever the engine failed with; all that was running then failed with it.
        """
        future: Future[Completion] = Future()
        with self._lock:
            self._asked.put((request, future))
            if not self._is_driven:
                self._is_driven = True
                threading.Thread(target=self._drive, name="conversations", daemon=True).start()
        return future.result()

    def _drive(self) -> None:
        running: dict[int, Future[Completion]] = {}
        while True:
            self._admit(running)
            with self._lock:
                if not running and self._asked.empty():
                    self._is_driven = False
                    return
            if not running:
                continue
            try:
                events = self._engine.step()
            except Exception as fault:  # out of memory, for one: those who wait must hear of it
                for ticket, future in running.items():
                    self._engine.cancel(ticket)
                    future.set_exception(fault)
                running.clear()
                continue
            for event in events:
                if event.completion is not None and event.ticket in running:
                    running.pop(event.ticket).set_result(event.completion)

    def _admit(self, running: "dict[int, Future[Completion]]") -> None:
        while True:
            try:
                request, future = self._asked.get_nowait()
            except Empty:
                return
            try:
                running[self._engine.submit(request)] = future
            except Exception as fault:  # this request alone
                future.set_exception(fault)
