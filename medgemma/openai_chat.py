"""OpenAI's chat completions: a request's body to the engine's request, completions to the reply's body.

What would change an answer and is not supported is refused by name, never ignored; what asks for nothing (a field that
is null or empty, a penalty of 1, a tool choice without tools) is taken as if it were not there. A temperature that is
left out is 0, since MedGemma's generation_config.json samples nothing; `max_tokens` left out is 500, as in Google's
container.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from medgemma.answers.constraints import Grammar
from medgemma.asking import Asked, Asking, Reply
from medgemma.engine.request import Completion, Sampling
from medgemma.prompts.chat import Message
from medgemma.prompts.content import Part, VolumeView, finding_lines, study_parts, user_turn
from medsiglip.imaging import Picture, Source, open_images
from medsiglip.imaging.zips import is_zip

DEFAULT_MAX_TOKENS = 500
_DATA_URL = re.compile(r"data:(?P<type>[\w.+/-]*)(?:;[\w.=+-]+)*;base64,(?P<data>.*)", re.DOTALL)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    neutral: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Fields that are not supported, and their values that ask for nothing."""

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {
            name: value
            for name, value in fields.items()
            if name in cls.model_fields or not (value in (None, [], {}, "") or value in cls.neutral.get(name, ()))
        }


def _which(kinds: Mapping[type, str], otherwise: str) -> Discriminator:
    """Choose a branch of a union by the value's type, so that a fault is of the branch that was meant."""
    return Discriminator(lambda value: next((tag for kind, tag in kinds.items() if isinstance(value, kind)), otherwise))


class TextPart(_Strict):
    """A text."""

    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    """Where a picture is; `detail` changes nothing, since the model has one resolution."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Strict):
    """A picture, or a file of several: a data URL of PNG, DICOM, NIfTI, a zip of a series or what else is read."""

    type: Literal["image_url"]
    image_url: Annotated[
        Annotated[ImageUrl, Tag("object")] | Annotated[str, Tag("url")], _which({str: "url"}, "object")
    ]


class ChatMessage(_Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Tag("text")]
        | Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Tag("parts")],
        _which({list: "parts"}, "text"),
    ]
    reasoning_content: str | None = None
    """Of a reply that is sent back; taken and not used, since MedGemma's template shows no earlier reasoning."""
    reasoning: str | None = None
    """The same, as other servers call it."""
    annotations: list[Any] | None = None
    """Of a reply that is sent back; taken and not used."""


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

    neutral: ClassVar[Mapping[str, Sequence[Any]]] = {
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "store": (False,),
        "service_tier": ("auto", "default"),
        "modalities": (["text"],),
        "top_logprobs": (0,),
        "min_p": (0,),
        "typical_p": (1,),
        "repetition_penalty": (1,),
        "repeat_penalty": (1,),
    }
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
    """The reply's body, one choice a completion; "findings" says what a user should know of the pictures, if anything.

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
    body = {
        "id": reply_id,
        "object": "chat.completion",
        "created": created_s,
        "model": name,
        "system_fingerprint": identity,
        "choices": choices,
        "usage": usage,
    }
    findings = finding_lines(asked.request.pictures)
    return {**body, "findings": findings} if findings else body


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
        parts += study_parts(_opened(part, f"message {number} part {place}", view), view)
    return parts


def _opened(part: ImagePart, name: str, view: VolumeView | None) -> Any:
    url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
    found = _DATA_URL.fullmatch(url)
    if not found:
        raise ValueError(
            f"{name}: the image_url is no base64 data URL, and nothing is fetched; send data:image/png;base64,..."
        )
    try:
        data = base64.b64decode("".join(found.group("data").split()), validate=True)  # MIME's has line ends
    except binascii.Error as error:
        raise ValueError(f"{name}: the image_url is no valid base64 ({error})") from error
    select = dict(view.select) if view else None
    return open_images(data if is_zip(data) else Source(name, data=data), select=select)


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
    """The first fault of a body as `where: what is wrong`, without quoting the body."""
    fault = error.errors(include_url=False, include_input=False)[0]
    what = _WRONG.get(fault["type"], fault["msg"])
    tag = str(fault.get("ctx", {}).get("tag", ""))
    if fault["type"] == "union_tag_invalid" and re.fullmatch("[a-z_]{1,24}", tag):
        what = f"is of type {tag}, expected text or image_url"
    return f"{_where(fault['loc'])}: {what}"


_WRONG = {
    "extra_forbidden": "is not supported",
    "missing": "is missing",
    "model_attributes_type": "is not an object",
    "model_type": "is not an object",
    "string_type": "is not a text",
    "union_tag_invalid": "is of another type, expected text or image_url",
    "union_tag_not_found": "has no type, expected text or image_url",
}
"""pydantic's kind of a fault to our words for it."""


def _where(loc: Sequence[int | str]) -> str:
    """The field of a fault; messages and their parts are counted from 1, branches of unions left out."""
    if len(loc) < 2 or loc[0] != "messages":
        return ".".join(map(str, loc)) or "body"
    where, rest = f"message {int(loc[1]) + 1}", list(loc[2:])
    if rest[:2] == ["content", "parts"] and len(rest) > 2:
        where, rest = f"{where} part {int(rest[2]) + 1}", rest[4:]  # after its number comes its kind
    if rest and rest[0] in ("content", "image_url"):
        del rest[1:2]
    return f"{where}, {'.'.join(map(str, rest))}" if rest else where
