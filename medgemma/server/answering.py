"""Answers in the making, whoever makes them: what every backend gives and every shape of reply is made of."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import Field, Tag

from medgemma.openai_chat import ChatBody, SamplingFields
from medgemma.openai_content import which
from medgemma.openai_reply import Choice, ReplyHead
from medgemma.server.errors import Refusal


class Delta(NamedTuple):
    """What has come of one choice."""

    choice: int
    """Its index."""
    text: str = ""
    thinking: str = ""
    logprobs: tuple[dict[str, Any], ...] = ()
    tokens: int = 0
    """Generated since the last one."""
    finish_reason: str | None = None
    """With the last one."""


@dataclass
class Answering:
    """One request being answered."""

    head: ReplyHead
    num_choices: int
    prompt_tokens: int
    """Of another server known at the end only."""
    deltas: AsyncIterator[Delta]
    has_logprobs: bool = False


class CompletionBody(SamplingFields):
    """The body of a request to /v1/completions: texts as they are, without a chat template."""

    prompt: Annotated[
        Annotated[str, Tag("one")] | Annotated[list[str], Field(min_length=1, max_length=128), Tag("list")],
        which({str: "one"}, "list"),
    ]
    logprobs: int | None = None
    suffix: None = None


class Backend(Protocol):
    """What answers: a model of this process, or another server."""

    @property
    def name(self) -> str:
        """Of the model that answers where a request names none."""
        ...

    async def models(self) -> list[str]:
        """Names that a request may ask for."""
        ...

    def chat(self, body: ChatBody) -> AbstractAsyncContextManager[Answering]:
        """Answer a conversation; leaving the block early ends it."""
        ...

    async def close(self) -> None:
        """Nothing more will be asked."""
        ...

    def complete(self, body: CompletionBody, prompt: str) -> AbstractAsyncContextManager[Answering]:
        """Continue a text; likewise."""
        ...


@dataclass
class Whole:
    """The choices of a reply, put together from its deltas."""

    num_choices: int
    has_logprobs: bool
    tokens: int = 0
    _texts: dict[int, list[str]] = field(default_factory=dict)
    _thoughts: dict[int, list[str]] = field(default_factory=dict)
    _logprobs: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    _ends: dict[int, str] = field(default_factory=dict)

    def add(self, delta: Delta) -> None:
        """Take one delta."""
        self.tokens += delta.tokens
        self._texts.setdefault(delta.choice, []).append(delta.text)
        if delta.thinking:
            self._thoughts.setdefault(delta.choice, []).append(delta.thinking)
        self._logprobs.setdefault(delta.choice, []).extend(delta.logprobs)
        if delta.finish_reason is not None:
            self._ends[delta.choice] = delta.finish_reason

    @property
    def choices(self) -> list[Choice]:
        """In order."""
        return [
            Choice(
                "".join(self._texts.get(index, ())),
                "".join(self._thoughts[index]) if index in self._thoughts else None,
                self._ends.get(index, "stop"),
                self._logprobs.get(index, []) if self.has_logprobs else None,
            )
            for index in range(self.num_choices)
        ]


@asynccontextmanager
async def all_completed(backend: Backend, body: CompletionBody, prompts: Sequence[str]) -> AsyncIterator[Answering]:
    """Continue several texts at the same time, as one answer: the choices of the first, then of the next, and so on.

    Raises:
        Refusal: as `Backend.complete`; one that fails ends all.
    """
    async with AsyncExitStack() as stack:
        parts = [await stack.enter_async_context(backend.complete(body, prompt)) for prompt in prompts]
        count, tokens = sum(part.num_choices for part in parts), sum(part.prompt_tokens for part in parts)
        together = Answering(parts[0].head, count, tokens, parts[0].deltas, parts[0].has_logprobs)
        deltas = _together(parts, together)
        together.deltas = deltas
        try:
            yield together
        finally:
            await deltas.aclose()


async def _together(parts: Sequence[Answering], whole: Answering) -> AsyncGenerator[Delta, None]:
    found = asyncio.Queue[Delta | Exception | None]()

    async def hear(part: Answering, first: int) -> None:
        try:
            async for delta in part.deltas:
                found.put_nowait(delta._replace(choice=first + delta.choice))
        except Exception as error:
            found.put_nowait(error)
        else:
            found.put_nowait(None)

    firsts = accumulate([part.num_choices for part in parts], initial=0)
    tasks = [asyncio.create_task(hear(part, first)) for part, first in zip(parts, firsts, strict=False)]
    left = len(parts)
    try:
        while left:
            delta = await found.get()
            if isinstance(delta, Exception):
                raise delta
            whole.prompt_tokens = sum(part.prompt_tokens for part in parts)
            if delta is None:
                left -= 1
            else:
                yield delta
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def whole_of(answering: Answering) -> Whole:
    """Wait for all of an answer."""
    whole = Whole(answering.num_choices, answering.has_logprobs)
    async for delta in answering.deltas:
        whole.add(delta)
    return whole


@dataclass
class Places:
    """How many requests may be open; used in the event loop only."""

    limit: int
    taken: int = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a place for a block.

        Raises:
            Refusal: all are taken.
        """
        if self.taken >= self.limit:
            text = f"{self.taken} requests are open already; come again later"
            raise Refusal(429, text, code="rate_limit_exceeded", retry_after_s=1)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
