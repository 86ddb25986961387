"""The page at `/`, and the pictures that it shows: what a browser cannot decode itself."""

import asyncio
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from medgemma.endpoint import png_data_url
from medgemma.openai_chat import read_body
from medgemma.openai_content import BytesPart, DicomPart, ImagePart, Strict, opened
from medgemma.prompts.content import finding_lines, pictures_of, study_parts
from medgemma.server.embedded import collected_warnings, intake_of
from medgemma.server.routes.chat import schema
from medgemma.server.settings import Settings
from medgemma.server.state import json_of, server_of
from medsiglip.imaging import Picture

router = APIRouter()
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'"
)


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """One file, nothing from elsewhere."""
    return Response(_text(), media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})


class PicturesBody(Strict):
    """What is to be shown."""

    input: Annotated[
        list[Annotated[ImagePart | BytesPart | DicomPart, Field(discriminator="type")]], Field(min_length=1)
    ]


@router.post("/v1/pictures", openapi_extra=schema(PicturesBody))
async def pictures(request: Request) -> dict[str, Any]:
    """The pictures of content parts as the model is shown them, before they are made square: PNG data URLs."""
    body = read_body(PicturesBody, await json_of(request))
    settings = server_of(request).settings
    return await asyncio.wait_for(asyncio.to_thread(_shown, body, settings), settings.limits.seconds)


def _shown(body: PicturesBody, settings: Settings) -> dict[str, Any]:
    intake, found = intake_of(settings), list[Picture]()
    with collected_warnings() as warned:
        for number, part in enumerate(body.input, 1):
            found += pictures_of(study_parts(opened(part, f"input {number}", intake), intake.view))
            if intake.max_images is not None and len(found) > intake.max_images:
                raise ValueError(f"input {number}: more pictures than a request may bring; send fewer")
    data = [{"index": index, "policy": p.policy, "url": png_data_url(p)} for index, p in enumerate(found)]
    return {"object": "list", "data": data, "findings": list(dict.fromkeys([*warned, *finding_lines(found)]))}


@lru_cache(maxsize=1)
def _text() -> str:
    return (files("medgemma.server") / "page.html").read_text(encoding="utf-8")
