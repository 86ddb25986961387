"""OpenAI's chat completions and plain completions."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from medgemma.openai_chat import ChatBody, read_body
from medgemma.server.answering import CompletionBody, all_completed
from medgemma.server.errors import Refusal
from medgemma.server.routes.responding import answered
from medgemma.server.routes.shapes import ChatShape, CompletionShape
from medgemma.server.state import json_of, server_of

router = APIRouter()


def schema(kind: type[BaseModel]) -> dict[str, Any]:
    """How OpenAPI describes a body that is read by hand, for errors of our own wording."""
    described = kind.model_json_schema()
    content = {"application/json": {"schema": _inlined(described, described.get("$defs", {}))}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(part: Any, named: Mapping[str, Any]) -> Any:
    """A schema with what it refers to in its place: OpenAPI keeps names elsewhere than pydantic."""
    if isinstance(part, list):
        return [_inlined(one, named) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _inlined(named[part["$ref"].rpartition("/")[2]], named)
    return {key: _inlined(value, named) for key, value in part.items() if key not in ("$defs", "discriminator")}


@router.post("/v1/chat/completions", openapi_extra=schema(ChatBody))
async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    body = ChatBody.read(await json_of(request))
    if body.top_logprobs and not body.logprobs:
        raise Refusal(400, "top_logprobs: needs logprobs to be true", field="top_logprobs")
    backend = server_of(request).ready.backend
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return answered(lambda: backend.chat(body), ChatShape(usage), streams=bool(body.stream))


@router.post("/v1/completions", openapi_extra=schema(CompletionBody))
async def completions(request: Request) -> Response:
    """Continue texts as they are."""
    body = read_body(CompletionBody, await json_of(request))
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    backend = server_of(request).ready.backend
    usage = bool(body.stream_options and body.stream_options.include_usage)

    return answered(lambda: all_completed(backend, body, prompts), CompletionShape(usage), streams=bool(body.stream))
