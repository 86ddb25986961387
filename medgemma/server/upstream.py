"""Another OpenAI-compatible server behind ours: vLLM, SGLang, llama.cpp, LM Studio, Ollama.

Pictures, DICOM and volumes are decoded here and go there as PNG data; no address of a request is ever handed on. The
answer is always streamed here, so that one that was cut is known from one that has ended. Thinking is divided from the
answer here, however the other server writes it.
"""

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2

from medgemma.answers.streaming import MarkerStream, Piece
from medgemma.asking import is_on, thinking_messages
from medgemma.endpoint import KEY_VARIABLE, base_url, png_data_url, said
from medgemma.openai_chat import ChatBody, OpenedTurn, SamplingFields, turns_of
from medgemma.openai_reply import ReplyHead
from medgemma.prompts.content import finding_lines
from medgemma.server.answering import Answering, CompletionBody, Delta, Places
from medgemma.server.embedded import collected_warnings, intake_of
from medgemma.server.errors import Refusal
from medgemma.server.settings import Settings

MAX_LINE_BYTES = 2**20
RAW = "/completions"
"""Where texts are continued as they are."""
FORWARDED = (
    "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "n", "stop",
    "frequency_penalty", "presence_penalty", "response_format", "logprobs", "top_logprobs",
)  # fmt: skip
COMMANDS = {
    "vllm": "vllm serve {model} --limit-mm-per-prompt '{{\"image\": {images}}}' --port 8001",
    "sglang": "python -m sglang.launch_server --model-path {model} --enable-multimodal --port 8001",
    "llama-server": "llama-server -m {model}-gguf/model.gguf --mmproj {model}-gguf/mmproj.gguf -c 32768 --port 8001",
    "ollama": "OLLAMA_HOST=127.0.0.1:8001 ollama serve",
    "lmstudio": "lms server start --port 8001",
}
"""How each server is started so that ours can stand before it."""


def upstream_command(kind: str, model: str, images: int) -> str:
    """The command that starts a server, and the one that puts ours before it.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in COMMANDS:
        raise ValueError(f"--print-upstream {kind}: use one of {', '.join(COMMANDS)}")
    first = COMMANDS[kind].format(model=model, images=images)
    return f"{first}\nmedgemma serve --upstream http://127.0.0.1:8001/v1 --upstream-images {images}"


@dataclass
class UpstreamBackend:
    """Answers with another server."""

    url: str
    settings: Settings
    model: str = ""
    """The name to ask for; empty takes the first that it lists."""
    max_images: int | None = None
    """Of one request there; None is this server's own limit."""
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        self.url = base_url(self.url)
        self.places = Places(self.settings.limits.open_requests)
        key = os.environ.get(KEY_VARIABLE, "").strip()
        limits = self.settings.limits
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(limits.seconds, connect=min(10.0, limits.seconds)),
            limits=httpx2.Limits(max_connections=None),
            trust_env=False,
        )

    @property
    def name(self) -> str:
        """The model's, if it was given."""
        return self.model

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def models(self) -> list[str]:
        """What the other server lists.

        Raises:
            Refusal: it cannot be asked.
        """
        if self.model:
            return [self.model]
        try:
            response = await self._client.get(f"{self.url}/models")
            return [str(entry["id"]) for entry in response.json()["data"]]
        except (httpx2.HTTPError, ValueError, LookupError, TypeError) as error:
            raise _fault(error) from error

    @asynccontextmanager
    async def chat(self, body: ChatBody) -> AsyncIterator[Answering]:
        """Have a conversation answered.

        Raises:
            Refusal: the other server is not there, or refuses.
            ImageError, ValueError: see `medgemma.openai_chat.turns_of`.
        """
        if body.thinking_budget:
            raise Refusal(400, "thinking_budget: an upstream server keeps none", field="thinking_budget")
        if body.loop_guard:
            raise Refusal(400, "loop_guard: an upstream server has none", field="loop_guard")
        with self.places.one():
            turns, findings = await asyncio.to_thread(self._opened, body)
            messages = [{"role": turn.role, "content": await asyncio.to_thread(_content, turn)} for turn in turns]
            if is_on(body.thinking):
                messages = list(thinking_messages(messages))  # type: ignore[arg-type]
            fields = {"messages": messages, **_fields(body)}
            async with self._answering("/chat/completions", fields, body, findings, bool(body.logprobs)) as answering:
                yield answering

    @asynccontextmanager
    async def complete(self, body: CompletionBody, prompt: str) -> AsyncIterator[Answering]:
        """Have a text continued; see `chat`."""
        with self.places.one():
            fields = {"prompt": prompt, **_fields(body)}
            async with self._answering(RAW, fields, body, (), body.logprobs is not None) as answering:
                yield answering

    def _opened(self, body: ChatBody) -> tuple[list[OpenedTurn], tuple[str, ...]]:
        intake = intake_of(self.settings)
        if self.max_images is not None:
            intake = replace(intake, max_images=min(self.max_images, intake.max_images or self.max_images))
        with collected_warnings() as warned:
            turns = turns_of(body, intake)
        lines = finding_lines(picture for turn in turns for picture in turn.pictures)
        return turns, tuple(dict.fromkeys([*warned, *lines]))

    @asynccontextmanager
    async def _answering(
        self, path: str, fields: Mapping[str, Any], body: SamplingFields, findings: tuple[str, ...], logprobs: bool
    ) -> AsyncIterator[Answering]:
        model = body.model or self.model or (await self.models() or [""])[0]
        data = {"model": model, **fields, "stream": True, "stream_options": {"include_usage": True}}
        try:
            async with asyncio.timeout(self.settings.limits.seconds):
                async with self._client.stream("POST", self.url + path, json=data) as response:
                    if response.status_code != 200:
                        raise await _refused(response)
                    if "text/event-stream" not in response.headers.get("content-type", ""):
                        raise Refusal(502, "the upstream server gave no stream of events")
                    head = ReplyHead(f"chatcmpl-{secrets.token_hex(16)}", int(time.time()), model, "upstream", findings)
                    answering = Answering(head, body.n or 1, 0, _none(), logprobs)
                    deltas = _deltas(response, answering, stripped=path != RAW)
                    answering.deltas = deltas
                    try:
                        yield answering
                    finally:
                        await deltas.aclose()
        except (httpx2.HTTPError, TimeoutError) as error:
            raise _fault(error) from error


async def _none() -> AsyncGenerator[Delta, None]:
    return
    yield


async def _deltas(response: httpx2.Response, answering: Answering, *, stripped: bool) -> AsyncGenerator[Delta, None]:
    """The other server's events as deltas.

    Raises:
        Refusal: it says an error, something else than events comes, or its stream is cut.
    """
    streams = [MarkerStream(stripped=stripped) for _ in range(answering.num_choices)]
    is_open = set(range(answering.num_choices))
    counted = 0
    async for event in _events(response):
        if event.get("error"):
            raise Refusal(502, f"the upstream server says: {said(json.dumps(event).encode())}")
        usage = event.get("usage")
        if isinstance(usage, dict):
            answering.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            total = int(usage.get("completion_tokens") or 0)
            if total > counted:
                yield Delta(0, tokens=total - counted)
                counted = total
        for choice in event.get("choices") or ():
            index = int(choice.get("index") or 0)
            if index not in is_open:
                continue
            delta = _delta(choice, streams[index], index)
            if delta.finish_reason is not None:
                is_open.discard(index)
            yield delta
    if is_open:
        raise Refusal(502, "the upstream server's answer was cut off")


def _delta(choice: Mapping[str, Any], stream: MarkerStream, index: int) -> Delta:
    said_there = choice.get("delta") or {}
    text = said_there.get("content") or choice.get("text") or ""
    piece = stream.add(text) if text else Piece()
    thinking = said_there.get("reasoning_content") or said_there.get("reasoning") or ""
    reason = choice.get("finish_reason")
    if reason:
        rest = stream.end()
        piece = Piece(piece.text + rest.text, piece.thinking + rest.thinking)
    logprobs = (choice.get("logprobs") or {}).get("content") or ()
    return Delta(index, piece.text, thinking + piece.thinking, tuple(logprobs), 0, str(reason) if reason else None)


async def _events(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each event, to the last."""
    async for line in _lines(response):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise Refusal(502, "the upstream server sends events that are no JSON") from error
        if isinstance(event, dict):
            yield event


async def _lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Divided at line feeds alone: httpx's own lines end at U+2028 too, which may stand within a text."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > MAX_LINE_BYTES:
            raise Refusal(502, "the upstream server sends lines without end")
    if rest:
        yield rest


def _content(turn: OpenedTurn) -> Any:
    """A turn as the API takes it, its pictures as data."""
    if isinstance(turn.content, str):
        return turn.content
    pictures = iter(turn.pictures)
    parts = [
        {"type": "text", "text": part["text"]}
        if part["type"] == "text"
        else {"type": "image_url", "image_url": {"url": png_data_url(next(pictures))}}
        for part in turn.content
    ]
    has_pictures = any(part["type"] == "image_url" for part in parts)
    return parts if has_pictures else "\n".join(str(part["text"]) for part in parts)


def _fields(body: SamplingFields) -> dict[str, Any]:
    """What is asked for, in the words of all servers: llama.cpp calls the repetition penalty by another name."""
    given = body.model_dump(exclude_none=True, by_alias=True)
    fields = {name: given[name] for name in FORWARDED if name in given}
    penalty = body.repetition_penalty or body.repeat_penalty
    if penalty not in (None, 1.0):
        fields |= {"repetition_penalty": penalty, "repeat_penalty": penalty}
    return {"temperature": 0, **fields}


async def _refused(response: httpx2.Response) -> Refusal:
    raw = bytearray()
    async for piece in response.aiter_bytes():
        raw += piece
        if len(raw) > 2**16:
            break
    status, text = response.status_code, said(bytes(raw))
    if status == 429:
        wait = response.headers.get("retry-after", "1")
        return Refusal(429, "the upstream server is busy", retry_after_s=int(wait) if wait.isdigit() else 1)
    if status in (401, 403):
        return Refusal(502, f"the upstream server takes no request of ours; set {KEY_VARIABLE} to a key that it takes")
    if status in (400, 404, 413, 422):
        return Refusal(404 if status == 404 else 400, f"the upstream server says: {text}")
    return Refusal(502, f"the upstream server answers HTTP {status}: {text}")


def _fault(error: BaseException) -> Refusal:
    if isinstance(error, httpx2.TimeoutException | TimeoutError):
        return Refusal(504, "the upstream server gave no answer in time")
    if isinstance(error, httpx2.ConnectError):
        return Refusal(502, "the upstream server cannot be reached")
    if isinstance(error, httpx2.HTTPError):
        return Refusal(502, f"the connection to the upstream server failed ({type(error).__name__})")
    return Refusal(502, "the upstream server lists no models; give --upstream-model")
