"""A backend's answer onto the wire; a client that goes away ends it within a step of the engine."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from medgemma.server.answering import Answering, Whole, whole_of
from medgemma.server.errors import Refusal
from medgemma.server.routes.shapes import Shape

log = logging.getLogger("medgemma.server")


class Working(Response):
    """A response that is worked on only as long as its client is there."""

    def __init__(self, work: Callable[["Wire"], Awaitable[None]], shape: Shape) -> None:
        super().__init__()
        self._work, self._shape = work, shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Work until it is done or the client is gone."""
        wire = Wire(send)
        work = asyncio.ensure_future(self._guarded(wire))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()  # what could not be told either is for the server: a client must not wait for ever
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _guarded(self, wire: "Wire") -> None:
        try:
            await self._work(wire)
        except Exception as error:
            refusal = Refusal.of(error)
            if refusal.status >= 500:  # where it happened, and nothing of what was asked
                log.error("%s in %s", type(error).__name__, _place(error))
            if wire.has_begun:
                await wire.piece(self._shape.fault(refusal))
                await wire.end()
            else:
                await wire.json(self._shape.refused(refusal), refusal.status, refusal.headers)


class Wire:
    """What a response is written to."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def json(self, body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """A whole response."""
        data = json.dumps(body).encode()
        await self._start(
            status, {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        )
        await self._send({"type": "http.response.body", "body": data})

    async def begin(self, media_type: str) -> None:
        """A stream."""
        await self._start(200, {"content-type": media_type, "cache-control": "no-cache", "x-accel-buffering": "no"})

    async def piece(self, data: bytes) -> None:
        """A part of a stream."""
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The end of a stream."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.has_begun = True
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})


def answered(opened: Callable[[], AbstractAsyncContextManager[Answering]], shape: Shape, *, streams: bool) -> Working:
    """The response that a backend's answer becomes.

    Args:
        opened: begins to answer.
        shape: of the reply.
        streams: piece by piece.
    """

    async def work(wire: Wire) -> None:
        async with opened() as answering:
            if not streams:
                await wire.json(shape.whole(answering, await whole_of(answering)))
                return
            await _stream(wire, answering, shape)

    return Working(work, shape)


async def _stream(wire: Wire, answering: Answering, shape: Shape) -> None:
    await wire.begin(shape.media_type)
    for piece in shape.begin(answering):
        await wire.piece(piece)
    whole = Whole(answering.num_choices, answering.has_logprobs)
    async for delta in answering.deltas:
        whole.add(delta)
        await wire.piece(shape.delta(answering, delta))
    for piece in shape.end(answering, whole):
        await wire.piece(piece)
    await wire.end()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "nowhere" if trace is None else f"{trace.tb_frame.f_code.co_qualname}, line {trace.tb_lineno}"
