"""What is here, whether it is ready, and how it fares."""

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from medgemma.server.errors import Refusal
from medgemma.server.state import server_of

router = APIRouter()
_begun_s = int(time.time())


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """200 once requests are answered, 503 before."""
    is_ready = server_of(request).loaded is not None
    return JSONResponse({"status": "ok" if is_ready else "loading"}, 200 if is_ready else 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(server_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """Names that requests may ask for."""
    return {"object": "list", "data": [_model(name) for name in await names(request)]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """One of them."""
    if name not in await names(request):
        raise Refusal(404, "no such model here; GET /v1/models lists them", code="model_not_found")
    return _model(name)


async def names(request: Request) -> list[str]:
    """Of all models, the encoder's last."""
    loaded = server_of(request).ready
    return [*await loaded.backend.models(), *([loaded.encoding.name] if loaded.encoding else [])]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _begun_s, "owned_by": "medgemma"}
