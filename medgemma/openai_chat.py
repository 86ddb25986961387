"""OpenAI's chat completions: a request's body to the engine's request; `openai_reply` is the way back.

What would change an answer and is not supported is refused by name, never ignored; what asks for nothing (a field that
is null or empty, a penalty of 1, a tool choice without tools) is taken as if it were not there. A temperature that is
left out is 0, since MedGemma's generation_config.json samples nothing; `max_tokens` left out is 500, as in Google's
container.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, Tag, ValidationError

from medgemma.answers.constraints import Grammar
from medgemma.asking import Asked, Asking, Thinking
from medgemma.engine.request import Sampling
from medgemma.openai_content import PART_TYPES, ContentPart, Intake, Strict, parts_of, which
from medgemma.prompts.chat import Message
from medgemma.prompts.content import user_turn
from medsiglip.imaging import Picture

DEFAULT_MAX_TOKENS = 500
MOST_TOP_LOGPROBS = 20


class BodyFault(ValueError):
    """What is wrong with a body, and with which of its fields."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(f"{field}: {what}")
        self.field = field


class ChatMessage(Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[ContentPart], Tag("parts")],
        which({list: "parts"}, "text"),
    ]
    reasoning_content: str | None = None
    """Of a reply that is sent back; taken and not used, since MedGemma's template shows no earlier reasoning."""
    reasoning: str | None = None
    """The same, as other servers call it."""
    annotations: list[Any] | None = None
    """Of a reply that is sent back; taken and not used."""


class JsonSchema(Strict):
    """A schema with its name."""

    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """What the answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Strict):
    """What a stream tells besides the answer."""

    neutral: ClassVar[Mapping[str, Sequence[Any]]] = {"include_obfuscation": (True, False)}
    include_usage: bool | None = None


class TemplateOptions(Strict):
    """Of the chat template, as vLLM takes them: whether the model reasons first."""

    enable_thinking: bool | None = None


class SamplingFields(Strict):
    """How tokens are chosen: what chat and plain completions share."""

    neutral: ClassVar[Mapping[str, Sequence[Any]]] = {
        "best_of": (1,),
        "typical_p": (1,),
        "tfs_z": (1,),
        "mirostat": (0,),
        "cache_prompt": (True, False),
        "min_tokens": (0,),
        "ignore_eos": (False,),
        "include_stop_str_in_output": (False,),
        "skip_special_tokens": (True,),
        "spaces_between_special_tokens": (True,),
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "store": (False,),
        "service_tier": ("auto", "default"),
        "echo": (False,),
        "use_beam_search": (False,),
        "length_penalty": (1,),
        "verbosity": ("medium",),
    }
    model: str = ""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """0 and -1 keep all, as llama.cpp and vLLM say it."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: (
        Annotated[
            Annotated[str, Tag("one")] | Annotated[list[str], Field(max_length=4), Tag("list")],
            which({str: "one"}, "list"),
        ]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    """The same, as llama.cpp calls it."""
    loop_guard: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Ends an answer that has said the same so many times in a row."""
    user: str | None = None
    """Taken and not used."""
    safety_identifier: str | None = None
    """Taken and not used."""
    prompt_cache_key: str | None = None
    """Taken and not used: beginnings are shared whoever asks."""

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def sampling(self, max_tokens: int | None, top_logprobs: int, seed: int, loop_guard: int | None = None) -> Sampling:
        """As the engine takes it.

        Args:
            max_tokens: of the body; None is `DEFAULT_MAX_TOKENS`.
            top_logprobs: told at each place.
            seed: where the body has none.
            loop_guard: likewise.
        """
        return Sampling(
            max_new_tokens=max_tokens or DEFAULT_MAX_TOKENS,
            temperature=self.temperature or 0.0,
            top_k=self.top_k if self.top_k and self.top_k > 0 else None,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=seed if self.seed is None else self.seed,
            num_samples=self.n or 1,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or self.repeat_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            top_logprobs=top_logprobs,
            loop_guard=self.loop_guard or loop_guard,
        )


class ChatBody(SamplingFields):
    """The body of a request to /v1/chat/completions."""

    neutral: ClassVar[Mapping[str, Sequence[Any]]] = {
        **SamplingFields.neutral,
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "modalities": (["text"],),
    }
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    """None leaves it to the model, "none" turns reasoning off, all else turns it on."""
    thinking_budget: Annotated[int, Field(ge=0)] | None = None
    """Tokens of reasoning at most; 0 is off."""
    chat_template_kwargs: TemplateOptions | None = None
    metadata: dict[str, str] | None = None
    """Taken and not used."""

    @classmethod
    def read(cls, body: Any) -> "ChatBody":
        """Check a body.

        Raises:
            BodyFault: the first fault, with the field's name, on one line.
        """
        return read_body(cls, body)

    @property
    def thinking(self) -> Thinking:
        """Whether the model reasons first."""
        if self.thinking_budget is not None:
            return self.thinking_budget
        if self.reasoning_effort is not None:
            return self.reasoning_effort != "none"
        return None if self.chat_template_kwargs is None else self.chat_template_kwargs.enable_thinking


def read_body(kind: "type[_Body]", body: Any) -> "_Body":
    """Check a body of any kind.

    Raises:
        BodyFault: the first fault.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise _fault(error) from None
    except RecursionError:
        raise BodyFault("body", "is nested too deep") from None


_Body = TypeVar("_Body", bound=BaseModel)


def asked_of(
    body: ChatBody,
    asking: Asking,
    intake: Intake | None = None,
    *,
    adapter: str | None = None,
    seed: int = 0,
    loop_guard: int | None = None,
) -> Asked:
    """Make the engine's request of a body; its pictures are decoded here.

    Args:
        body: checked.
        asking: of the checkpoint.
        intake: how pictures are opened, and how many there may be.
        adapter: that answers; None for the default one.
        seed: of the draws, where the body has none.
        loop_guard: likewise, see `Sampling`.

    Raises:
        ImageError: a picture that cannot be read.
        ValueError: a URL that is no data URL, a schema that cannot be met, or as `Asking.asked`.
    """
    turns = turns_of(body, intake or Intake())
    messages: list[Message] = [{"role": turn.role, "content": turn.content} for turn in turns]
    pictures = [picture for turn in turns for picture in turn.pictures]
    top = body.top_logprobs or 0 if body.logprobs else 0
    sampling = body.sampling(body.max_completion_tokens or body.max_tokens, top, seed, loop_guard)
    form = _form(body.response_format, asking)
    return asking.asked(
        messages, pictures, sampling, form=form, thinking=body.thinking, stops=body.stops, adapter=adapter
    )


class OpenedTurn(NamedTuple):
    """One message with its pictures decoded."""

    role: str
    content: Any
    """As `medgemma.prompts.chat.Message` has it."""
    pictures: tuple[Picture, ...]


def turns_of(body: ChatBody, intake: Intake) -> list[OpenedTurn]:
    """Decode all pictures of a body.

    Raises:
        ImageError, ValueError: see `medgemma.openai_content.parts_of`.
    """
    turns: list[OpenedTurn] = []
    for number, message in enumerate(body.messages, 1):
        role = "system" if message.role == "developer" else message.role
        left = intake.after(sum(len(turn.pictures) for turn in turns))
        turn = user_turn(parts_of(message.content, f"message {number}", left, may_show=role == "user"))
        turns.append(OpenedTurn(role, turn.message["content"], turn.pictures))
    return turns


def _form(wanted: ResponseFormat | None, asking: Asking) -> Grammar | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return asking.grammars.json_schema({"type": "object"})
    if wanted.json_schema is None:
        raise ValueError("response_format is json_schema, but holds no json_schema")
    return asking.grammars.json_schema(wanted.json_schema.schema_)


def _fault(error: ValidationError) -> BodyFault:
    """The first fault of a body, without quoting the body."""
    fault = error.errors(include_url=False, include_input=False)[0]
    context = {
        name: f"{value:g}" if isinstance(value, float) else value for name, value in fault.get("ctx", {}).items()
    }
    what = _WRONG.get(fault["type"], "is not as it must be").format(**context)
    tag = str(context.get("tag", ""))
    if fault["type"] == "union_tag_invalid" and re.fullmatch("[a-z_]{1,24}", tag):
        what = f"is of type {tag}, expected {PART_TYPES}"
    return BodyFault(_where(fault["loc"]), what)


_WRONG = {
    "extra_forbidden": "is not supported",
    "missing": "is missing",
    "model_attributes_type": "is not an object",
    "model_type": "is not an object",
    "none_required": "is not supported",
    "value_error": "{error}",
    "string_type": "is not a text",
    "list_type": "is not a list",
    "dict_type": "is not an object",
    "bool_type": "is not true or false",
    "bool_parsing": "is not true or false",
    "int_type": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_parsing_size": "is not a whole number of so many digits",
    "int_from_float": "is not a whole number",
    "float_type": "is not a number",
    "float_parsing": "is not a number",
    "finite_number": "is not a finite number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
    "too_short": "must hold {min_length} or more",
    "too_long": "must hold {max_length} or fewer",
    "string_unicode": "holds what is no character",
    "union_tag_invalid": f"is of another type, expected {PART_TYPES}",
    "union_tag_not_found": f"has no type, expected {PART_TYPES}",
}
"""pydantic's kind of a fault to our words for it."""


def _where(loc: Sequence[int | str]) -> str:
    """The field of a fault; messages and their parts are counted from 1, branches of unions left out."""
    if len(loc) < 2 or loc[0] != "messages":
        return _place(loc) or "body"
    where, rest = f"message {int(loc[1]) + 1}", list(loc[2:])
    if rest[:2] == ["content", "parts"] and len(rest) > 2:
        where, rest = f"{where} part {int(rest[2]) + 1}", rest[4:]  # after its number comes its kind
    for field in ("content", "image_url", "url", "input_bytes", "dicom_source"):
        if field in rest[:-1]:  # behind it stands the branch of a union
            del rest[rest.index(field) + 1]
    return f"{where}, {_place(rest)}" if rest else where


_BRANCHES = ("one", "list", "part")
_KINDS = ("text", "image_url", "input_image", "image_bytes", "image_dicom")
"""Branches of unions, which stand between the fields of a place."""


def _place(loc: Sequence[int | str]) -> str:
    """A place in a body such as `input 2, image_bytes.input_bytes`: places in lists are counted from 1."""
    said, steps = "", [step for step in loc if step not in _BRANCHES]
    for step, before in zip(steps, [None, *steps], strict=False):
        if isinstance(step, int):
            said += f" {step + 1}"
        elif not (isinstance(before, int) and len(steps) > 2 and step in _KINDS):
            said += ("" if not said else ", " if said[-1].isdigit() else ".") + step
    return said
