"""OpenAI's chat completions: a request's body to the engine's request, completions to the reply's body.

What would change an answer and is not supported is refused by name, never ignored. A temperature that is left out is 0,
since MedGemma's generation_config.json samples nothing; `max_tokens` left out is 500, as in Google's container.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medgemma.answers.constraints import Grammar
from medgemma.asking import Asked, Asking, Reply
from medgemma.engine.request import Completion, Sampling
from medgemma.prompts.chat import Message
from medgemma.prompts.content import Part, VolumeView, study_parts, user_turn
from medsiglip.imaging import Picture, Source, open_images
from medsiglip.imaging.zips import is_zip

DEFAULT_MAX_TOKENS = 500
_DATA_URL = re.compile(r"data:(?P<type>[\w.+/-]*)(?:;[\w.=+-]+)*;base64,(?P<data>.*)", re.DOTALL)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Strict):
    """A text."""

    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    """Where a picture is; `detail` changes nothing, since the model has one resolution."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(_Strict):
    """A picture, or a file of several: a data URL of PNG, DICOM, NIfTI, a zip of a series or what else is read."""

    type: Literal["image_url"]
    image_url: ImageUrl | str


class ChatMessage(_Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class JsonSchema(_Strict):
    """A schema with its name."""

    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Strict):
    """What the answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatBody(_Strict):
    """The body of a request to /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: str = ""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    stream: bool | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    """As the other penalty, only 0: there is none."""
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    user: str | None = None
    """Taken and not used."""
    metadata: dict[str, str] | None = None
    """Taken and not used."""

    @classmethod
    def read(cls, body: Any) -> "ChatBody":
        """Check a body.

        Raises:
            ValueError: the first fault, with the field's name, on one line.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise ValueError(_fault(error)) from None


def asked_of(body: ChatBody, asking: Asking, view: VolumeView | None = None) -> Asked:
    """Make the engine's request of a body; its pictures are decoded here.

    Args:
        body: checked.
        asking: of the checkpoint.
        view: how volumes are shown.

    Raises:
        ImageError: a picture that cannot be read.
        ValueError: a URL that is no data URL, a schema that cannot be met, or as `Asking.asked`.
    """
    pictures: list[Picture] = []
    messages: list[Message] = []
    for number, message in enumerate(body.messages, 1):
        role = "system" if message.role == "developer" else message.role
        turn = user_turn(_parts(message, number, view))
        messages.append({"role": role, "content": turn.message["content"]})
        pictures += turn.pictures
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return asking.asked(messages, pictures, _sampling(body), form=_form(body.response_format, asking), stops=stops)


def completion_body(
    asked: Asked,
    completions: Sequence[Completion],
    asking: Asking,
    *,
    name: str,
    identity: str,
    reply_id: str,
    created_s: int,
    logprobs: bool,
) -> dict[str, Any]:
    """The reply's body, one choice a completion.

    Args:
        asked: from `asked_of`.
        completions: of its request.
        asking: of the checkpoint.
        name: the model's.
        identity: the model's, see `medsiglip.checkpoints.identity`.
        reply_id: of this reply.
        created_s: Unix time.
        logprobs: whether each token's log-probability is wanted.

    Raises:
        ValueError: a completion failed; with its error.
    """
    replies = [asking.reply(asked, completion) for completion in completions]
    choices = [
        {
            "index": index,
            "message": _reply_message(reply),
            "logprobs": {"content": _token_logprobs(completion, asking)} if logprobs else None,
            "finish_reason": reply.finish_reason,
        }
        for index, (reply, completion) in enumerate(zip(replies, completions, strict=True))
    ]
    prompt_tokens, tokens = len(asked.request.prompt.input_ids), sum(reply.tokens for reply in replies)
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
    return {
        "id": reply_id,
        "object": "chat.completion",
        "created": created_s,
        "model": name,
        "system_fingerprint": identity,
        "choices": choices,
        "usage": usage,
    }


def _reply_message(reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text}
    return message if reply.thinking is None else {**message, "reasoning_content": reply.thinking}


def _token_logprobs(completion: Completion, asking: Asking) -> list[dict[str, Any]]:
    """Each generated token, reasoning and stop token included, with the bytes it stands for."""
    texts = [asking.tokenizer.convert_ids_to_tokens(i).replace("▁", " ") for i in completion.token_ids]
    return [
        {"token": text, "logprob": logprob, "bytes": _token_bytes(text), "top_logprobs": []}
        for text, logprob in zip(texts, completion.logprobs, strict=True)
    ]


def _token_bytes(text: str) -> list[int]:
    byte = re.fullmatch("<0x([0-9A-F]{2})>", text)
    return [int(byte.group(1), 16)] if byte else list(text.encode())


def _parts(message: ChatMessage, number: int, view: VolumeView | None) -> list[Part]:
    if isinstance(message.content, str):
        return [message.content]
    parts: list[Part] = []
    for place, part in enumerate(message.content, 1):
        if isinstance(part, TextPart):
            parts.append(part.text)
            continue
        if message.role != "user":
            raise ValueError(f"message {number}: a picture in the turn of role {message.role}; put it into a user turn")
        parts += study_parts(_opened(part, f"message {number} part {place}"), view)
    return parts


def _opened(part: ImagePart, name: str) -> Any:
    url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
    found = _DATA_URL.fullmatch(url)
    if not found:
        raise ValueError(
            f"{name}: the image_url is no base64 data URL, and nothing is fetched; send data:image/png;base64,..."
        )
    try:
        data = base64.b64decode(found.group("data"), validate=True)
    except binascii.Error as error:
        raise ValueError(f"{name}: the image_url is no valid base64 ({error})") from error
    return open_images(data if is_zip(data) else Source(name, data=data))


def _sampling(body: ChatBody) -> Sampling:
    return Sampling(
        max_new_tokens=body.max_completion_tokens or body.max_tokens or DEFAULT_MAX_TOKENS,
        temperature=body.temperature or 0.0,
        top_k=body.top_k,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed or 0,
        num_samples=body.n or 1,
    )


def _form(wanted: ResponseFormat | None, asking: Asking) -> Grammar | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return asking.grammars.json_schema({"type": "object"})
    if wanted.json_schema is None:
        raise ValueError("response_format is json_schema, but holds no json_schema")
    return asking.grammars.json_schema(wanted.json_schema.schema_)


def _fault(error: ValidationError) -> str:
    """The first fault of a body as `field: what is wrong`, without quoting the body."""
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(place) for place in fault["loc"]) or "body"
    what = "is not supported" if fault["type"] == "extra_forbidden" else fault["msg"]
    return f"{where}: {what}"
