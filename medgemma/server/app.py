"""The application: routes over a backend that may still be loading."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from medgemma.server.errors import Refusal
from medgemma.server.gate import Gate
from medgemma.server.metrics import Metrics
from medgemma.server.routes import chat, encoder, ollama, page, status, vertex
from medgemma.server.settings import Settings
from medgemma.server.state import Loaded, Server


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
