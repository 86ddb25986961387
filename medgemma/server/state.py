"""What all routes share: the settings, the metrics, and what answers once it is loaded."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from medgemma.server.answering import Backend
from medgemma.server.encoding import Encoding
from medgemma.server.errors import Refusal
from medgemma.server.metrics import Metrics
from medgemma.server.settings import Settings


@dataclass(frozen=True)
class Loaded:
    """What answers."""

    backend: Backend
    encoding: Encoding | None = None
    """For embeddings and labels; None where there is no encoder."""


@dataclass
class Server:
    """What the routes share."""

    settings: Settings
    metrics: Metrics
    loaded: Loaded | None = None
    fault: BaseException | None = None
    """Why loading failed."""

    @property
    def ready(self) -> Loaded:
        """What answers.

        Raises:
            Refusal: it is still loading.
        """
        if self.loaded is None:
            raise Refusal(503, "the model is loading; come again later", code="loading", retry_after_s=1)
        return self.loaded

    @property
    def encoding(self) -> Encoding:
        """The encoder.

        Raises:
            Refusal: there is none, or it is still loading.
        """
        if self.ready.encoding is None:
            raise Refusal(404, "this server has no encoder; start it with --encoder", code="model_not_found")
        return self.ready.encoding


def server_of(request: Request) -> Server:
    """The server that a request has come to."""
    server: Server = request.app.state.server
    return server


async def json_of(request: Request) -> Any:
    """A request's body.

    Raises:
        Refusal: it is no JSON.
    """
    raw = await request.body()
    try:
        return await asyncio.to_thread(_loaded, raw)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "the body is no JSON, nested too deep, or holds half a surrogate pair") from error


def _loaded(raw: bytes) -> Any:
    found = json.loads(raw, parse_constant=_refuse_constant)
    if b"\\u" in raw:  # half a surrogate pair is no character, and cannot be encoded again
        json.dumps(found, ensure_ascii=False).encode()
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
