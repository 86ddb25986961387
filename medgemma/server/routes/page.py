"""The page at `/`."""

from functools import lru_cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

router = APIRouter()
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'"
)


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """One file, nothing from elsewhere."""
    return Response(_text(), media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})


@lru_cache(maxsize=1)
def _text() -> str:
    return (files("medgemma.server") / "page.html").read_text(encoding="utf-8")
