"""Who may ask, and how much: before anything of the application runs."""

import asyncio
import hmac
import json
import logging
import time
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medgemma.server.errors import Refusal
from medgemma.server.metrics import Metrics
from medgemma.server.settings import Settings

log = logging.getLogger("medgemma.server")
OPEN_PATHS = frozenset({"/", "/health"})
"""Need no token: the page asks for one itself."""
BODY_SECONDS = 60.0
"""Between two pieces of a body."""
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


class Gate:
    """Refuses by Host, Origin, token and size; counts, times and logs what passes, without its content."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._settings, self._metrics, self._paths = app, settings, metrics, paths
        self._body_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        begun, status = time.perf_counter(), 500
        self._metrics.open.inc()

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
                self._metrics.first_byte_seconds.labels(path).observe(time.perf_counter() - begun)
            await send(message)

        try:
            await self._passed(scope, receive, told)
        finally:
            self._metrics.open.dec()
            seconds = time.perf_counter() - begun
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(seconds)
            log.info("%s %s %d %.3f s", scope["method"], path, status, seconds)

    async def _passed(self, scope: Scope, receive: Receive, send: Send) -> None:
        held = 0
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._check_caller(scope, headers)
            if scope["method"] == "POST":
                body = bytearray()
                self._refuse_size(int(headers.get("content-length", "0") or 0))
                while True:
                    message = await asyncio.wait_for(receive(), BODY_SECONDS)
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    self._body_bytes += len(message.get("body", b""))
                    held = len(body)
                    self._refuse_size(held)
                    if not message.get("more_body"):
                        break
                receive = _replayed(bytes(body), receive)
        except Refusal as refusal:
            self._body_bytes -= held
            await _refuse(send, refusal)
            return
        except (TimeoutError, ValueError):
            self._body_bytes -= held
            await _refuse(send, Refusal(400, "the body did not come whole, or its headers are none"))
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._body_bytes -= held

    def _check_caller(self, scope: Scope, headers: dict[str, str]) -> None:
        settings = self._settings
        host = headers.get("host", "")
        if settings.hosts and _host_name(host) not in settings.hosts:
            raise Refusal(403, "this Host header is not served; start the server with --allowed-host NAME to serve it")
        origin = headers.get("origin")
        if origin and origin not in settings.origins and urlsplit(origin).netloc != host:
            raise Refusal(403, "pages of this origin may not ask; start the server with --cors-origin to let them")
        if settings.token is not None and scope["path"] not in OPEN_PATHS and scope["method"] != "OPTIONS":
            given = headers.get("authorization", "")
            kind, _, token = given.partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(
                token.strip().encode("latin-1"), settings.token.encode()
            ):
                raise Refusal(401, "the bearer token is missing or wrong", code="invalid_api_key")

    def _refuse_size(self, num_bytes: int) -> None:
        limits = self._settings.limits
        if num_bytes > limits.body_bytes:
            raise Refusal(413, f"the body is more than {limits.body_bytes} bytes; send fewer or smaller files")
        if self._body_bytes > limits.bodies_bytes:
            raise Refusal(429, "other requests hold the memory for bodies; come again later", retry_after_s=1)


def _host_name(host: str) -> str:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.strip("[]").lower()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, then whatever comes."""
    left = [body]

    async def replay() -> Message:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return replay


async def _refuse(send: Send, refusal: Refusal) -> None:
    data = json.dumps(refusal.body).encode()
    fields = {"content-type": "application/json", "content-length": str(len(data)), **refusal.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": data})
