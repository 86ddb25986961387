"""The model of this process: requests prepared in threads, decoded together by one engine in one."""

import asyncio
import secrets
import time
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from medgemma.answers.streaming import AnswerStream
from medgemma.asking import Asked, Asking, has_form
from medgemma.engine.request import ChoiceScore, TopLogprobs
from medgemma.model import MedGemma
from medgemma.openai_chat import ChatBody, asked_of
from medgemma.openai_content import Intake
from medgemma.openai_reply import ReplyHead, token_logprob
from medgemma.prompts.content import finding_lines
from medgemma.server.answering import Answering, CompletionBody, Delta, Places
from medgemma.server.errors import Refusal
from medgemma.server.fetching import Fetcher
from medgemma.server.settings import Settings
from medgemma.server.unpacking import PixelBudget
from medgemma.shared_engine import SharedEngine

if TYPE_CHECKING:
    from medgemma.engine.samples import Event

_warned: ContextVar[list[str] | None] = ContextVar("warned", default=None)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """What is warned of in a block, in this thread alone; needs `hear_warnings`."""
    heard: list[str] = []
    token = _warned.set(heard)
    try:
        yield heard
    finally:
        _warned.reset(token)


def hear_warnings() -> None:
    """Have warnings told to the request that gives rise to them: catch_warnings is for one thread only."""
    shown = warnings.showwarning

    def hear(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        heard = _warned.get()
        if heard is None:
            shown(message, category, filename, lineno, file, line)
        else:
            heard.append(" ".join(str(message).split()))

    warnings.simplefilter("always", UserWarning)
    warnings.showwarning = hear


def intake_of(settings: Settings) -> Intake:
    """How one request's pictures are opened; a fresh budget each."""
    limits = settings.limits
    fetch = Fetcher(settings.url_allow, limits.body_bytes, may_be_private=settings.url_allow_private)
    budget = PixelBudget(limits.pixels, limits.unpacked_bytes)
    return Intake(settings.view, fetch if settings.url_allow else None, budget.check, limits.images)


@dataclass
class Prepared:
    """A request ready for the engine."""

    asked: Asked
    findings: tuple[str, ...]


@dataclass
class EmbeddedBackend:
    """Answers with one MedGemma; each of its adapters is a model of its own name."""

    gemma: MedGemma
    settings: Settings
    on_tokens: Callable[[int, int], object] = lambda prompt, generated: None
    """Told of the tokens of each request: of its prompt once, then of its answers."""
    places: Places = field(init=False)
    shared: SharedEngine = field(init=False)

    def __post_init__(self) -> None:
        self.places = Places(self.settings.limits.open_requests)
        self.gemma.engine.max_waiting = self.settings.limits.open_requests
        self.shared = SharedEngine(self.gemma.engine)

    @property
    def name(self) -> str:
        """The base model's."""
        return self.gemma.name if self.gemma.name == "nano" else Path(self.gemma.name).name

    @cached_property
    def identity(self) -> str:
        """The model's, see `medsiglip.checkpoints.identity`."""
        return self.gemma.identity

    async def models(self) -> list[str]:
        """The base and its adapters."""
        return [self.name, *self.gemma.engine.adapters.names]

    async def close(self) -> None:
        """Nothing is held open."""

    @asynccontextmanager
    async def chat(self, body: ChatBody) -> AsyncIterator[Answering]:
        """Answer a conversation.

        Raises:
            Refusal: no such model, or no place.
            ImageError, ValueError: see `medgemma.openai_chat.asked_of`.
        """
        adapter = self._adapter(body.model)
        wanted = body.max_completion_tokens or body.max_tokens

        def prepare() -> Asked:
            intake = intake_of(self.settings)
            guard = self.settings.loop_guard
            return asked_of(body, self._asking, intake, adapter=adapter, seed=_seed(), loop_guard=guard)

        chat = (body.model or self.name, prepare, wanted, bool(body.logprobs))
        async with self._answering(*chat, is_chat=True) as answering:
            yield answering

    @asynccontextmanager
    async def complete(self, body: CompletionBody, prompt: str) -> AsyncIterator[Answering]:
        """Continue a text; see `chat`."""
        adapter = self._adapter(body.model)

        def prepare() -> Asked:
            sampling = body.sampling(body.max_tokens, body.logprobs or 0, _seed(), self.settings.loop_guard)
            return self._asking.continuation(prompt, sampling, stops=body.stops, adapter=adapter)

        has_logprobs = body.logprobs is not None
        raw = (body.model or self.name, prepare, body.max_tokens, has_logprobs)
        async with self._answering(*raw, is_chat=False) as answering:
            yield answering

    async def choice_scores(self, body: ChatBody, choices: Sequence[str]) -> list[ChoiceScore]:
        """How likely each choice is as the beginning of an answer.

        Raises:
            As `chat`; ValueError: an empty choice.
        """
        adapter = self._adapter(body.model)
        ids = [self.gemma.tokenizer(choice, add_special_tokens=False).input_ids for choice in choices]

        def score() -> list[ChoiceScore]:
            asked = asked_of(body, self._asking, intake_of(self.settings), adapter=adapter)
            [scores] = self.shared.call(lambda engine: engine.score_choices([(asked.request, ids)]))
            return scores

        with self.places.one():
            return await asyncio.wait_for(asyncio.to_thread(score), self.settings.limits.seconds)

    @property
    def _asking(self) -> Asking:
        return replace(self.gemma.asking, adapter=None)  # a model's name says which adapter answers

    def _adapter(self, model: str) -> str | None:
        if model in ("", self.name, self.gemma.name):
            return None
        names = self.gemma.engine.adapters.names
        if model not in names:
            known = ", ".join([self.name, *names])
            raise Refusal(404, f"model: no such model here; ask for {known}", field="model", code="model_not_found")
        return model

    @asynccontextmanager
    async def _answering(
        self, name: str, prepare: Callable[[], Asked], max_tokens: int | None, has_logprobs: bool, *, is_chat: bool
    ) -> AsyncIterator[Answering]:
        most = self.settings.limits.answer_tokens
        if max_tokens is not None and max_tokens > most:
            raise Refusal(
                400, f"max_tokens: this server answers {most} tokens at most; ask for fewer", field="max_tokens"
            )
        deadline = asyncio.get_running_loop().time() + self.settings.limits.seconds
        with self.places.one():
            prepared = await asyncio.wait_for(asyncio.to_thread(self._prepared, prepare), _left(deadline))
            asked = prepared.asked
            head = ReplyHead(
                f"chatcmpl-{secrets.token_hex(16)}", int(time.time()), name, self.identity, prepared.findings
            )
            prompt_tokens = len(asked.request.prompt.input_ids)
            self.on_tokens(prompt_tokens, 0)
            stripped = is_chat and not has_form(asked.request.constraint)
            deltas = self._deltas(asked, deadline, has_logprobs, stripped)
            try:
                yield Answering(head, asked.request.sampling.num_samples, prompt_tokens, deltas, has_logprobs)
            finally:
                await deltas.aclose()

    def _prepared(self, prepare: Callable[[], Asked]) -> Prepared:
        with collected_warnings() as warned:
            asked = prepare()
        self.gemma.engine.check(asked.request)
        told = dict.fromkeys([*warned, *finding_lines(asked.request.pictures)])
        return Prepared(asked, tuple(told))

    async def _deltas(
        self, asked: Asked, deadline: float, has_logprobs: bool, stripped: bool
    ) -> AsyncGenerator[Delta, None]:
        asking, count = self._asking, asked.request.sampling.num_samples
        streams = [AnswerStream(asking.speech(), asked.stops, stripped=stripped) for _ in range(count)]
        loop, found = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def sink(events: "list[Event] | Exception") -> None:
            loop.call_soon_threadsafe(found.put_nowait, events)

        opened = self.shared.submit(asked.request, sink)
        left = count
        try:
            while left:
                events = await asyncio.wait_for(found.get(), _left(deadline))
                if isinstance(events, Exception):
                    left = 0
                    raise Refusal(500, f"the engine failed ({type(events).__name__})") from events
                for event in events:
                    left -= event.completion is not None
                    yield self._delta(asking, streams[event.sample], event, has_logprobs)
        finally:
            if left:
                self.shared.cancel(opened)

    def _delta(self, asking: Asking, stream: AnswerStream, event: "Event", has_logprobs: bool) -> Delta:
        done = event.completion
        if done is not None and done.error is not None:
            raise Refusal(500, f"the answer failed: {done.error}")
        text, thinking, tokens = "", "", 0
        logprobs: tuple[dict[str, Any], ...] = ()
        if event.token_id is not None:
            tokens = 1
            self.on_tokens(0, 1)
            text, thinking = stream.add(event.token_id)
            if has_logprobs:
                top: TopLogprobs = event.top_logprobs
                logprobs = (token_logprob(asking, event.token_id, event.logprob, top),)
        if done is not None:
            rest = stream.end()
            text, thinking = text + rest.text, thinking + rest.thinking
        return Delta(event.sample, text, thinking, logprobs, tokens, done.finish_reason if done else None)


def _seed() -> int:
    """Of a request that has none: each draws its own."""
    return secrets.randbits(31)


def _left(deadline: float) -> float:
    return max(0.001, deadline - asyncio.get_running_loop().time())
