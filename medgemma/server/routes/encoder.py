"""Vectors and label probabilities: /v1/embeddings as OpenAI's, with pictures; /v1/classify of our own."""

import asyncio
import base64
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request
from pydantic import Field, Tag

from medgemma.openai_chat import ChatBody, read_body
from medgemma.openai_content import ContentPart, Strict, which
from medgemma.server.embedded import EmbeddedBackend, intake_of
from medgemma.server.errors import Refusal
from medgemma.server.routes.chat import schema
from medgemma.server.state import Server, json_of, server_of

router = APIRouter()
Item = Annotated[Annotated[str, Tag("text")] | Annotated[ContentPart, Tag("part")], which({str: "text"}, "part")]
Items = Annotated[
    Annotated[str, Tag("one")] | Annotated[list[Item], Field(min_length=1, max_length=2048), Tag("list")],
    which({str: "one"}, "list"),
]


class EmbeddingBody(Strict):
    """Texts, and content parts that hold pictures."""

    neutral: ClassVar[Mapping[str, Sequence[Any]]] = {"truncate_prompt_tokens": (-1,), "user": ()}
    input: Items
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None


class ClassifyBody(Strict):
    """Pictures and what they may be; by the encoder or a probe of it, or with a question by the decoder."""

    input: Annotated[list[ContentPart], Field(min_length=1, max_length=2048)]
    model: str = ""
    labels: Annotated[list[str], Field(min_length=1, max_length=1000)] | None = None
    """Zero-shot: texts that the encoder compares with each picture."""
    independent: bool = False
    """Whether several labels may hold of one picture."""
    task: str = ""
    """Labels of a named task, in place of one's own."""
    probe: str = ""
    """A classifier on the encoder's vectors that the server was started with, with labels of its own."""
    question: str = ""
    """Put to the decoder about all pictures together."""
    choices: Annotated[list[str], Field(min_length=1, max_length=100)] | None = None
    """The answers whose probabilities are wanted."""


@router.post("/v1/embeddings", openapi_extra=schema(EmbeddingBody))
async def embeddings(request: Request) -> dict[str, Any]:
    """Unit vectors; a file of several pictures gives one for each."""
    body = read_body(EmbeddingBody, await json_of(request))
    server = server_of(request)
    encoding = server.encoding
    _check_model(body.model, encoding.name)
    width = encoding.encoder.embedding_width
    if body.dimensions not in (None, width):
        raise Refusal(400, f"dimensions: the vectors have {width} numbers; leave it out", field="dimensions")
    items = [body.input] if isinstance(body.input, str) else body.input
    found, lines = await _within(server, asyncio.to_thread(encoding.encode, items, intake_of(server.settings)))
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(one.vector.astype("<f4").tobytes()).decode()
            if body.encoding_format == "base64"
            else one.vector.tolist(),
            "input": one.item,
            **({} if one.frame is None else {"frame": one.frame}),
        }
        for index, one in enumerate(found)
    ]
    reply = {"object": "list", "model": encoding.name, "data": data, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
    return {**reply, "findings": lines} if lines else reply


@router.post("/v1/classify", openapi_extra=schema(ClassifyBody))
async def classify(request: Request) -> dict[str, Any]:
    """Probabilities of labels for each picture, or of choices as the answer to a question."""
    body = read_body(ClassifyBody, await json_of(request))
    asked = [bool(body.labels), bool(body.task), bool(body.probe), bool(body.question or body.choices)]
    if sum(asked) != 1 or bool(body.question) != bool(body.choices):
        raise Refusal(400, "labels: give labels, or task, or probe, or question with choices", field="labels")
    return await (_by_answers(request, body) if body.question else _by_labels(request, body))


async def _by_labels(request: Request, body: ClassifyBody) -> dict[str, Any]:
    server = server_of(request)
    encoding = server.encoding
    _check_model(body.model, encoding.name)
    result, places, lines = await _within(
        server,
        asyncio.to_thread(
            encoding.classify,
            body.input,
            intake_of(server.settings),
            body.labels or (),
            body.task,
            body.independent,
            body.probe,
        ),
    )
    data = [
        {
            "index": index,
            "input": item,
            "frame": frame,
            "label": result.labels[int(probabilities.argmax())],
            "probabilities": dict(zip(result.labels, probabilities.tolist(), strict=True)),
            "scores": dict(zip(result.labels, scores.tolist(), strict=True)),
        }
        for index, ((item, frame), probabilities, scores) in enumerate(
            zip(places, result.probabilities, result.scores, strict=True)
        )
    ]
    reply = {"object": "list", "model": encoding.name, "data": data}
    return {**reply, "findings": lines} if lines else reply


async def _by_answers(request: Request, body: ClassifyBody) -> dict[str, Any]:
    backend = server_of(request).ready.backend
    if not isinstance(backend, EmbeddedBackend):
        raise Refusal(400, "choices: an upstream server tells no probabilities of choices", field="choices")
    choices = body.choices or []
    content = [*(part.model_dump(exclude_none=True) for part in body.input), {"type": "text", "text": body.question}]
    chat = ChatBody.read({"model": body.model, "messages": [{"role": "user", "content": content}]})
    scores = await backend.choice_scores(chat, choices)
    largest = max(score.logprob for score in scores)
    shares = [math.exp(score.logprob - largest) for score in scores]
    probabilities = [share / sum(shares) for share in shares]
    best = max(range(len(choices)), key=probabilities.__getitem__)
    item = {
        "index": 0,
        "label": choices[best],
        "probabilities": dict(zip(choices, probabilities, strict=True)),
        "logprobs": {choice: score.logprob for choice, score in zip(choices, scores, strict=True)},
    }
    return {"object": "list", "model": body.model or backend.name, "data": [item]}


def _check_model(name: str, known: str) -> None:
    if name not in ("", known):
        raise Refusal(404, f"model: no such encoder here; ask for {known}", field="model", code="model_not_found")


async def _within(server: Server, work: Any) -> Any:
    return await asyncio.wait_for(work, server.settings.limits.seconds)
