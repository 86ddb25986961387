"""Ollama's chat and generate: NDJSON, pictures as bare base64 beside the text."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from medgemma.openai_chat import ChatBody, read_body
from medgemma.openai_content import Strict
from medgemma.server.answering import Answering, Delta, Whole
from medgemma.server.errors import Refusal
from medgemma.server.routes.chat import schema
from medgemma.server.routes.responding import answered
from medgemma.server.routes.shapes import Shape
from medgemma.server.routes.status import names
from medgemma.server.state import json_of, server_of

router = APIRouter()
VERSION = "0.12.0"
"""Of Ollama's API as it is served here."""


class Options(Strict):
    """How tokens are chosen, in llama.cpp's words."""

    neutral: ClassVar[Mapping[str, Sequence[Any]]] = {
        "num_ctx": range(1, 2**20),
        "num_gpu": range(-1, 1000),
        "num_thread": range(1000),
        "num_keep": range(-1, 2**20),
        "num_batch": range(1, 2**20),
        "typical_p": (1,),
        "tfs_z": (1,),
        "mirostat": (0,),
        "use_mmap": (True, False),
        "numa": (True, False),
    }
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    num_predict: int | None = None
    """-1 and -2 are as many as the server gives by default."""
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    """Taken where there is no repeat_penalty; the engine looks at all tokens."""
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


class OllamaMessage(Strict):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str = ""
    images: list[str] | None = None
    thinking: str | None = None
    """Of a reply that is sent back; taken and not used."""


class Common(Strict):
    """What both calls share."""

    neutral: ClassVar[Mapping[str, Sequence[Any]]] = {"raw": (False,), "truncate": (True,), "shift": (True,)}
    model: str = ""
    stream: bool = True
    format: Literal["json", ""] | dict[str, Any] | None = None
    options: Options = Options()
    think: bool | Literal["low", "medium", "high"] | None = None
    keep_alive: str | float | None = None
    """Taken and not used: the model stays."""


class OllamaChat(Common):
    """The body of a request to /api/chat."""

    messages: Annotated[list[OllamaMessage], Field(min_length=1)]


class OllamaGenerate(Common):
    """The body of a request to /api/generate."""

    prompt: str = ""
    system: str = ""
    images: list[str] | None = None


@router.post("/api/chat", openapi_extra=schema(OllamaChat))
async def chat(request: Request) -> Response:
    """Answer a conversation."""
    return await _answered(request, OllamaChat, NdjsonShape("message"))


@router.post("/api/generate", openapi_extra=schema(OllamaGenerate))
async def generate(request: Request) -> Response:
    """Answer one question."""
    return await _answered(request, OllamaGenerate, NdjsonShape("response"))


@router.get("/api/tags")
async def tags(request: Request) -> dict[str, Any]:
    """The models."""
    now = datetime.now(UTC).isoformat()
    details = {"format": "safetensors", "family": "gemma3", "parameter_size": "", "quantization_level": ""}
    one = {"modified_at": now, "size": 0, "digest": "", "details": details}
    return {"models": [{"name": name, "model": name, **one} for name in await names(request)]}


@router.get("/api/version")
async def version() -> dict[str, str]:
    """Of the API."""
    return {"version": VERSION}


async def _answered(request: Request, kind: type[OllamaChat] | type[OllamaGenerate], shape: Shape) -> Response:
    try:
        body = read_body(kind, await json_of(request))
        chat = chat_body(body)
        backend = server_of(request).ready.backend
    except (Refusal, ValueError) as error:
        refusal = Refusal.of(error)
        return Response(json.dumps(shape.refused(refusal)), refusal.status, refusal.headers, "application/json")
    return answered(lambda: backend.chat(chat), shape, streams=body.stream)


def chat_body(body: OllamaChat | OllamaGenerate) -> ChatBody:
    """The same request in OpenAI's words.

    Raises:
        ValueError: a value out of range.
    """
    if isinstance(body, OllamaChat):
        turns = [_turn(message.role, message.content, message.images) for message in body.messages]
    else:
        system = [_turn("system", body.system, None)] if body.system else []
        turns = [*system, _turn("user", body.prompt, body.images)]
    options = body.options
    wanted: dict[str, Any] = options.model_dump(exclude_none=True, exclude={"num_predict", "repeat_last_n"})
    if options.num_predict is not None and options.num_predict > 0:
        wanted["max_tokens"] = options.num_predict
    if isinstance(body.format, dict):
        wanted["response_format"] = {"type": "json_schema", "json_schema": {"schema": body.format}}
    elif body.format:
        wanted["response_format"] = {"type": "json_object"}
    if body.think is not None:
        wanted["chat_template_kwargs"] = {"enable_thinking": bool(body.think)}
    return ChatBody.read({"model": body.model.removesuffix(":latest"), "messages": turns, **wanted})


def _turn(role: str, text: str, images: Sequence[str] | None) -> dict[str, Any]:
    if not images:
        return {"role": role, "content": text}
    pictures = [{"type": "image_bytes", "image_bytes": {"input_bytes": image}} for image in images]
    return {"role": role, "content": [*pictures, {"type": "text", "text": text}]}


class NdjsonShape:
    """Ollama's replies.

    Args:
        field: "message" of chat, "response" of generate.
    """

    media_type = "application/x-ndjson"

    def __init__(self, field: Literal["message", "response"]) -> None:
        self._field = field
        self._begun_ns = time.perf_counter_ns()

    def begin(self, answering: Answering) -> Iterator[bytes]:
        """Nothing."""
        return iter(())

    def delta(self, answering: Answering, delta: Delta) -> bytes:
        """A piece of text or reasoning."""
        if not (delta.text or delta.thinking):
            return b""
        return _line({**self._head(answering), **self._said(delta.text, delta.thinking), "done": False})

    def end(self, answering: Answering, whole: Whole) -> Iterator[bytes]:
        """Why it ended, and what it took."""
        yield _line({**self._head(answering), **self._said("", ""), **self._done(answering, whole)})

    def fault(self, refusal: Refusal) -> bytes:
        """An error in place of the end."""
        return _line({"error": refusal.message})

    def whole(self, answering: Answering, whole: Whole) -> Mapping[str, Any]:
        """The answer at once."""
        choice = whole.choices[0]
        said = self._said(choice.text, choice.thinking or "")
        return {**self._head(answering), **said, **self._done(answering, whole)}

    def refused(self, refusal: Refusal) -> Mapping[str, Any]:
        """Ollama's error."""
        return {"error": refusal.message}

    def _head(self, answering: Answering) -> dict[str, Any]:
        created = datetime.fromtimestamp(answering.head.created_s, UTC).isoformat()
        return {"model": answering.head.model, "created_at": created}

    def _said(self, text: str, thinking: str) -> dict[str, Any]:
        thought = {"thinking": thinking} if thinking else {}
        if self._field == "response":
            return {"response": text, **thought}
        return {"message": {"role": "assistant", "content": text, **thought}}

    def _done(self, answering: Answering, whole: Whole) -> dict[str, Any]:
        reason = whole.choices[0].finish_reason
        findings = {"findings": list(answering.head.findings)} if answering.head.findings else {}
        return {
            "done": True,
            "done_reason": "length" if reason == "loop" else reason,
            "total_duration": time.perf_counter_ns() - self._begun_ns,
            "prompt_eval_count": answering.prompt_tokens,
            "eval_count": whole.tokens,
            **findings,
        }


def _line(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode() + b"\n"  # in ASCII: clients take U+2028 for the end of a line
