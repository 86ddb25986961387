"""How one API tells an answer: whole, or piece by piece."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from medgemma.openai_reply import ending, reply_body, usage_of
from medgemma.server.answering import Answering, Delta, Whole
from medgemma.server.errors import Refusal


class Shape(Protocol):
    """One API's replies."""

    media_type: str
    """Of a stream."""

    def begin(self, answering: Answering) -> Iterator[bytes]:
        """What comes before the first delta."""
        ...

    def delta(self, answering: Answering, delta: Delta) -> bytes:
        """One delta; nothing where there is nothing to tell."""
        ...

    def end(self, answering: Answering, whole: Whole) -> Iterator[bytes]:
        """What comes after the last."""
        ...

    def fault(self, refusal: Refusal) -> bytes:
        """The end of a stream that failed."""
        ...

    def whole(self, answering: Answering, whole: Whole) -> Mapping[str, Any]:
        """The answer at once."""
        ...

    def refused(self, refusal: Refusal) -> Mapping[str, Any]:
        """No answer."""
        ...


class ChatShape:
    """OpenAI's chat completions.

    Args:
        include_usage: a stream ends with the tokens that were used.
    """

    media_type = "text/event-stream"

    def __init__(self, include_usage: bool = False) -> None:
        self._include_usage = include_usage

    def begin(self, answering: Answering) -> Iterator[bytes]:
        """The role of every choice, with what a user should know of the pictures."""
        for index in range(answering.num_choices):
            choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            findings = {"findings": list(answering.head.findings)} if answering.head.findings and not index else {}
            yield sse(self._chunk(answering, [choice]) | findings)

    def delta(self, answering: Answering, delta: Delta) -> bytes:
        """Text, reasoning, log-probabilities, the end."""
        said = {"content": delta.text} if delta.text else {}
        if delta.thinking:
            said["reasoning_content"] = delta.thinking
        if not said and not delta.logprobs and delta.finish_reason is None:
            return b""
        choice = {
            "index": delta.choice,
            "delta": said,
            "logprobs": {"content": list(delta.logprobs)} if answering.has_logprobs else None,
            "finish_reason": None,
        }
        return sse(self._chunk(answering, [choice | (ending(delta.finish_reason) if delta.finish_reason else {})]))

    def end(self, answering: Answering, whole: Whole) -> Iterator[bytes]:
        """The usage if asked for, and OpenAI's last line."""
        if self._include_usage:
            yield sse(self._chunk(answering, []) | {"usage": usage_of(answering.prompt_tokens, whole.tokens)})
        yield b"data: [DONE]\n\n"

    def fault(self, refusal: Refusal) -> bytes:
        """An error in place of the end; no [DONE] follows."""
        return sse(refusal.body)

    def whole(self, answering: Answering, whole: Whole) -> Mapping[str, Any]:
        """A chat completion."""
        return reply_body(answering.head, whole.choices, usage_of(answering.prompt_tokens, whole.tokens))

    def refused(self, refusal: Refusal) -> Mapping[str, Any]:
        """OpenAI's error."""
        return refusal.body

    def _chunk(self, answering: Answering, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._include_usage else {}
        return {**answering.head.body("chat.completion.chunk"), "choices": choices, **usage}


class CompletionShape:
    """OpenAI's plain completions.

    Args:
        include_usage: as for `ChatShape`.
    """

    media_type = "text/event-stream"

    def __init__(self, include_usage: bool = False) -> None:
        self._include_usage = include_usage

    def begin(self, answering: Answering) -> Iterator[bytes]:
        """Nothing."""
        return iter(())

    def delta(self, answering: Answering, delta: Delta) -> bytes:
        """Text and the end; a trace that a raw text gave rise to is told as reasoning."""
        if not (delta.text or delta.thinking or delta.logprobs or delta.finish_reason):
            return b""
        logprobs = legacy_logprobs(delta.logprobs) if answering.has_logprobs else None
        end = ending(delta.finish_reason) if delta.finish_reason else {"finish_reason": None}
        thinking = {"reasoning_content": delta.thinking} if delta.thinking else {}
        choice = {"index": delta.choice, "text": delta.text, "logprobs": logprobs, **thinking, **end}
        return sse({**answering.head.body("text_completion"), "choices": [choice]})

    def end(self, answering: Answering, whole: Whole) -> Iterator[bytes]:
        """As `ChatShape`."""
        if self._include_usage:
            usage = usage_of(answering.prompt_tokens, whole.tokens)
            yield sse({**answering.head.body("text_completion"), "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    def fault(self, refusal: Refusal) -> bytes:
        """As `ChatShape`."""
        return sse(refusal.body)

    def whole(self, answering: Answering, whole: Whole) -> Mapping[str, Any]:
        """A text completion."""
        choices = [
            {
                "index": index,
                "text": choice.text,
                "logprobs": None if choice.logprobs is None else legacy_logprobs(choice.logprobs),
                **({} if choice.thinking is None else {"reasoning_content": choice.thinking}),
                **ending(choice.finish_reason),
            }
            for index, choice in enumerate(whole.choices)
        ]
        usage = usage_of(answering.prompt_tokens, whole.tokens)
        return {**answering.head.body("text_completion"), "choices": choices, "usage": usage}

    def refused(self, refusal: Refusal) -> Mapping[str, Any]:
        """OpenAI's error."""
        return refusal.body


def legacy_logprobs(tokens: Any) -> dict[str, Any]:
    """Log-probabilities in the form of plain completions."""
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{likely["token"]: likely["logprob"] for likely in token["top_logprobs"]} for token in tokens],
    }


def sse(body: Mapping[str, Any]) -> bytes:
    """One server-sent event, in ASCII: clients that divide lines by Unicode's rules cut U+2028 within a text."""
    return f"data: {json.dumps(body)}\n\n".encode()
