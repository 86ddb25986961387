"""/predict in Google's shape: chat bodies for the decoder, texts and pictures for the encoder."""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from medgemma.openai_chat import BodyFault, ChatBody, read_body
from medgemma.openai_content import BytesPart, ImagePart, Strict
from medgemma.server.answering import Backend, whole_of
from medgemma.server.embedded import intake_of
from medgemma.server.errors import Refusal
from medgemma.server.routes.chat import schema
from medgemma.server.routes.responding import Wire, Working
from medgemma.server.routes.shapes import ChatShape
from medgemma.server.state import Server, json_of, server_of

router = APIRouter()
FORMAT = "@requestFormat"
MOST_INSTANCES = 128


class EncoderImage(Strict):
    """A picture for the encoder, one of these."""

    input_bytes: str | None = None
    image_url: str | None = None


class EncoderInstance(Strict):
    """A text or a picture for the encoder."""

    text: str | None = None
    image: EncoderImage | None = None


class PredictBody(Strict):
    """Several requests in one."""

    instances: list[dict[str, Any]]
    parameters: None = None


@router.post("/predict", openapi_extra=schema(PredictBody))
async def predict(request: Request) -> Response:
    """Answer instances; one gives `predictions` as an object, several as a list, as Google's container does."""
    raw = await json_of(request)
    server = server_of(request)
    if isinstance(raw, dict) and "instances" not in raw:
        raw = {"instances": [raw]}
    body = read_body(PredictBody, raw)
    if not 1 <= len(body.instances) <= MOST_INSTANCES:
        raise Refusal(400, f"instances: give 1 to {MOST_INSTANCES}", field="instances")
    is_encoder = all("text" in instance or "image" in instance for instance in body.instances)
    _ = server.ready

    async def work(wire: Wire) -> None:
        if is_encoder:
            await wire.json({"predictions": await asyncio.to_thread(_encoded, server, body.instances)})
            return
        chats = [_chat(number, instance) for number, instance in enumerate(body.instances, 1)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_answer(server.ready.backend, chat)) for chat in chats]
        predictions = [task.result() for task in tasks]
        await wire.json({"predictions": predictions[0] if len(predictions) == 1 else predictions})

    return Working(_ungrouped(work), PredictShape())


class PredictShape(ChatShape):
    """Google's errors."""

    def refused(self, refusal: Refusal) -> Mapping[str, Any]:
        """As the container's schema has it."""
        return {"error": {"message": refusal.message[:1024], "object": "error"}}


def _chat(number: int, instance: Mapping[str, Any]) -> ChatBody:
    fields = dict(instance)
    form = fields.pop(FORMAT, "chatCompletions")
    if form != "chatCompletions":
        raise Refusal(400, f"instance {number}, {FORMAT}: expected chatCompletions", field=FORMAT)
    if fields.get("stream"):
        raise Refusal(400, f"instance {number}, stream: /predict does not stream", field="stream")
    try:
        return ChatBody.read(fields)
    except BodyFault as error:
        raise Refusal(400, f"instance {number}, {error}", field=error.field) from error


async def _answer(backend: Backend, body: ChatBody) -> Mapping[str, Any]:
    async with backend.chat(body) as answering:
        return ChatShape().whole(answering, await whole_of(answering))


def _ungrouped(work: Any) -> Any:
    """The first error of a group of tasks as itself."""

    async def alone(wire: Wire) -> None:
        try:
            await work(wire)
        except* Exception as group:
            first: BaseException = group
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise Refusal.of(first) from first

    async def run(wire: Wire) -> None:
        try:
            await alone(wire)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    return run


def _encoded(server: Server, instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
    encoding, intake = server.encoding, intake_of(server.settings)
    predictions = []
    for number, fields in enumerate(instances, 1):
        instance = read_body(EncoderInstance, fields)
        if (instance.text is None) == (instance.image is None):
            raise Refusal(400, f"instance {number}: give text or image, one of them")
        item: Any = instance.text
        if instance.image is not None:
            if (instance.image.input_bytes is None) == (instance.image.image_url is None):
                raise Refusal(400, f"instance {number}, image: give input_bytes or image_url, one of them")
            item = _part(instance.image)
        found, _ = encoding.encode([item], intake)
        if len(found) != 1:
            raise Refusal(400, f"instance {number}: {len(found)} pictures; /v1/embeddings takes files of several")
        predictions.append(
            {
                "embedding": found[0].vector.tolist(),
                "input_type": "text" if instance.image is None else "image",
                "model_temperature": encoding.encoder.logit_scale,
                "model_bias": encoding.encoder.logit_bias,
            }
        )
    return predictions


def _part(image: EncoderImage) -> ImagePart | BytesPart:
    if image.input_bytes is not None:
        return read_body(BytesPart, {"type": "image_bytes", "image_bytes": {"input_bytes": image.input_bytes}})
    return read_body(ImagePart, {"type": "image_url", "image_url": image.image_url})
