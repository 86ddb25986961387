"""The application: routes over a backend that may still be loading."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from medgemma.server.answering import Backend
from medgemma.server.encoding import Encoding
from medgemma.server.errors import Refusal
from medgemma.server.gate import Gate
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
        return await asyncio.to_thread(json.loads, raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "the body is no JSON, or nested too deep") from error


def create_app(
    settings: Settings,
    load: Callable[[Metrics], Loaded],
    on_fault: Callable[[BaseException], object] = lambda fault: None,
) -> FastAPI:
    """Make the application; it answers 503 until `load` is done.

    Args:
        settings: how it is reached.
        load: loads what answers, in a thread of its own.
        on_fault: told if that fails.
    """
    from medgemma.server.routes import chat, encoder, ollama, page, status, vertex

    server = Server(settings, Metrics())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def loading() -> None:
            try:
                server.loaded = await asyncio.to_thread(load, server.metrics)
            except Exception as fault:
                server.fault = fault
                on_fault(fault)

        task = asyncio.create_task(loading())
        yield
        task.cancel()
        if server.loaded is not None:
            await server.loaded.backend.close()

    app = FastAPI(title="medgemma serve", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ValueError, _refused)
    for routes in (page, status, chat, encoder, ollama, vertex):
        app.include_router(routes.router)
    paths = frozenset(getattr(route, "path", "") for route in app.routes) | {
        route.path for module in (page, status, chat, encoder, ollama, vertex) for route in module.router.routes
        if hasattr(route, "path")
    }  # fmt: skip
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    app.add_middleware(Gate, settings=settings, metrics=server.metrics, paths=paths)
    return app


async def _refused(request: Request, error: Exception) -> JSONResponse:
    refusal = Refusal.of(error)
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    what = {404: "no such address here", 405: "this address takes another method"}.get(error.status_code, "refused")
    return JSONResponse(Refusal(error.status_code, what).body, error.status_code, error.headers)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
