"""From messages to the engine's requests and from its completions to replies: thinking, form of the answer, stops.

Needs a checkpoint's tokenizer and config, not its weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from medgemma.answers.constraints import Grammar, Grammars, StopAt, ThinkingLimit, cut_at
from medgemma.engine.request import Completion, Constraint, FinishReason, Request, Sampling
from medgemma.prompts.chat import Message, Prompts
from medgemma.prompts.content import Part, VolumeView, user_turn
from medgemma.prompts.pan_and_scan import PanAndScan
from medgemma.prompts.special_tokens import special_ids
from medgemma.prompts.thinking import THINKING_SYSTEM_TEXT, Speech, ThinkingTokens, speech_of
from medsiglip.imaging import Picture

Thinking = bool | int | None
"""None: as the model likes; False: off; True: on; a number: on, with at most so many tokens of reasoning."""


@dataclass(frozen=True)
class AnswerOptions:
    """How questions are put and answered; the defaults are greedy, free text, one picture as it is."""

    sampling: Sampling = Sampling()
    """Its `max_new_tokens` is overridden where a call has its own."""
    thinking: Thinking = None
    form: Grammar | None = None
    """What every answer must look like, from `Asking.grammars`."""
    stops: tuple[str, ...] = ()
    """Texts that end an answer."""
    adapter: str | None = None
    """The name of a loaded adapter; None for the one that the model was loaded with, if any."""
    system: str = ""
    """A system turn."""
    view: VolumeView = VolumeView()
    """How volumes are shown."""
    pan_and_scan: PanAndScan | None = None


class Asked(NamedTuple):
    """A request, and what it takes to read what comes back."""

    request: Request
    stops: tuple[str, ...]
    """Texts that end an answer."""


class Reply(NamedTuple):
    """A completion as text."""

    text: str
    """Without reasoning, special tokens and stop text; trimmed, but for an answer of a given form."""
    thinking: str | None
    finish_reason: FinishReason
    tokens: int
    """Generated tokens, the stop token included."""
    logprob: float
    """Natural log-probability of all of them together, at temperature 1."""


def is_on(thinking: Thinking) -> bool:
    """Whether reasoning is asked for.

    Raises:
        ValueError: a budget below 0.
    """
    if thinking is not None and thinking < 0:
        raise ValueError(f"a thinking budget of {thinking}; it must be 0, which is off, or more")
    return bool(thinking)


def conversation(parts: Sequence[Part], text: str, options: AnswerOptions) -> tuple[list[Message], tuple[Picture, ...]]:
    """The messages of one question about some pictures, which stand before it, and the pictures of their slots."""
    turn = user_turn([*parts, text], options.pan_and_scan)
    messages = [{"role": "system", "content": options.system}] if options.system else []
    asked = [*messages, turn.message]
    return thinking_messages(asked) if is_on(options.thinking) else asked, turn.pictures


@dataclass(frozen=True)
class Asking:
    """How one checkpoint is asked."""

    prompts: Prompts
    width: int
    """Tokens of the model's logits, which may be more than the tokenizer's."""
    stop_ids: frozenset[int]
    """The checkpoint's own tokens that end an answer."""
    adapter: str | None = None
    """The loaded adapter that answers where a call names none."""

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        return self.prompts.tokenizer

    @cached_property
    def markers(self) -> ThinkingTokens | None:
        """Around a reasoning trace; None for a model that cannot think, such as nano."""
        return ThinkingTokens.of(self.tokenizer)

    @cached_property
    def silent(self) -> frozenset[int]:
        """The tokens that are no text."""
        return special_ids(self.tokenizer) | self.stop_ids

    def speech(self) -> Speech:
        """Turns the tokens of one answer to text as they come."""
        return Speech(self.tokenizer, self.markers, self.silent)

    @cached_property
    def grammars(self) -> Grammars:
        """Makes the forms that answers can be given."""
        return Grammars.of(self.tokenizer, self.width, self.stop_ids)

    def question(self, parts: Sequence[Part], text: str, options: AnswerOptions, max_new_tokens: int) -> Asked:
        """Make a request of one question about some pictures, which stand before it.

        Args:
            parts: see `medgemma.prompts.content`.
            text: the question.
            options: how it is put.
            max_new_tokens: an answer is cut here.

        Raises:
            ValueError: as `asked`.
        """
        messages, pictures = conversation(parts, text, options)
        sampling = replace(options.sampling, max_new_tokens=max_new_tokens)
        return self.asked(
            messages,
            pictures,
            sampling,
            form=options.form,
            thinking=options.thinking,
            stops=options.stops,
            adapter=options.adapter,
        )

    def asked(
        self,
        messages: Sequence[Message],
        pictures: Sequence[Picture],
        sampling: Sampling,
        *,
        form: Grammar | None = None,
        thinking: Thinking = None,
        stops: Sequence[str] = (),
        adapter: str | None = None,
    ) -> Asked:
        """Make a request.

        Args:
            messages: see `medgemma.prompts.chat.render`.
            pictures: one for each image slot, in order.
            sampling: how tokens are chosen, and how many at most.
            form: what the answer must look like; a trace before it is free.
            thinking: see `Thinking`; off is the model's only way where it has no thinking tokens.
            stops: texts that end an answer; they are not part of it.
            adapter: the name of a loaded adapter; None for the default one.

        Raises:
            ValueError: thinking is asked of a model that has no tokens for it, more or fewer pictures than image parts,
                an empty stop text, or as `Prompts.prompt`.
        """
        if is_on(thinking):
            self._require_markers(thinking)
            messages = thinking_messages(messages)
        if not all(stops):
            raise ValueError("a stop text is empty")
        prompt = self.prompts.prompt(messages, sampling.max_new_tokens)
        if prompt.num_images != len(pictures):
            slots = f"{len(pictures)} pictures for {prompt.num_images} image parts"
            raise ValueError(f"{slots}; give one picture for each")
        constraint = self._constraint(form, thinking, tuple(stops))
        request = Request(prompt, tuple(pictures), sampling, constraint, adapter or self.adapter)
        return Asked(request, tuple(stops))

    def continuation(
        self, text: str, sampling: Sampling, *, stops: Sequence[str] = (), adapter: str | None = None
    ) -> Asked:
        """Make a request that continues a text as it is: no chat template, control tokens as they are written.

        Raises:
            ValueError: an empty stop text, an image's token in the text, or a text that does not fit.
        """
        if not all(stops):
            raise ValueError("a stop text is empty")
        prompt = self.prompts.raw(text, sampling.max_new_tokens)
        constraint = self._constraint(None, None, tuple(stops))
        return Asked(Request(prompt, (), sampling, constraint, adapter or self.adapter), tuple(stops))

    def reply(self, asked: Asked, completion: Completion) -> Reply:
        """What a completion says.

        Raises:
            ValueError: the completion failed; with its error.
        """
        if completion.finish_reason == "error":
            raise ValueError(completion.error or "the engine gave no reason")
        spoken = speech_of(self.tokenizer, self.markers, completion.token_ids, self.silent).spoken(stripped=False)
        text = cut_at(spoken.text, asked.stops)
        return Reply(
            text if has_form(asked.request.constraint) else text.strip(),
            spoken.thinking,
            completion.finish_reason,
            len(completion.token_ids),
            sum(completion.logprobs),
        )

    def _require_markers(self, thinking: Thinking) -> None:
        if self.markers is None:
            how = "thinking" if thinking is True else f"a thinking budget of {thinking}"
            lacking = f"{self.prompts.name} has no thinking tokens (<unused94>, <unused95>) and cannot think"
            raise ValueError(f"{lacking}; ask without {how}")

    def _constraint(self, form: Grammar | None, thinking: Thinking, stops: tuple[str, ...]) -> Constraint | None:
        constraint: Constraint | None = form
        if self.markers is not None and thinking is not None and (form is not None or thinking is not True):
            budget = None if thinking is True else int(thinking)
            constraint = ThinkingLimit(self.markers, self.width, self.stop_ids, budget, constraint)
        return StopAt(self.tokenizer, self.markers, stops, constraint, self.silent) if stops else constraint


def has_form(constraint: Constraint | None) -> bool:
    """Whether there is a grammar inside limits and stops."""
    while isinstance(constraint, StopAt | ThinkingLimit):
        constraint = constraint.then
    return constraint is not None


def thinking_messages(messages: Sequence[Message]) -> list[Message]:
    """With the instruction to think at the front of the system turn."""
    first = messages[0] if messages else {"role": "", "content": ""}
    if first["role"] != "system":
        return [{"role": "system", "content": THINKING_SYSTEM_TEXT}, *messages]
    content = first["content"]
    text = content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)
    if text.startswith(THINKING_SYSTEM_TEXT):
        return list(messages)
    return [{"role": "system", "content": f"{THINKING_SYSTEM_TEXT} {text}"}, *messages[1:]]
