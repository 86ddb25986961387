"""OpenAI's replies: what the engine completed, as the API tells it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from medgemma.asking import Asked, Asking
from medgemma.engine.request import Completion, TopLogprobs
from medgemma.prompts.content import finding_lines


@dataclass(frozen=True)
class Choice:
    """One answer of a reply."""

    text: str
    thinking: str | None
    finish_reason: str
    logprobs: list[dict[str, Any]] | None = None
    """See `token_logprob`; None where they were not asked for."""

    def body(self, index: int) -> dict[str, Any]:
        """As the reply has it; a loop that was ended is a cut answer, and `stop_reason` says why."""
        message = {"role": "assistant", "content": self.text}
        return {
            "index": index,
            "message": message if self.thinking is None else {**message, "reasoning_content": self.thinking},
            "logprobs": None if self.logprobs is None else {"content": self.logprobs},
            **ending(self.finish_reason),
        }


def ending(finish_reason: str) -> dict[str, Any]:
    """The fields that say why an answer ended."""
    return (
        {"finish_reason": "length", "stop_reason": "loop"}
        if finish_reason == "loop"
        else {"finish_reason": finish_reason}
    )


@dataclass(frozen=True)
class ReplyHead:
    """What a reply says besides its choices."""

    reply_id: str
    created_s: int
    """Unix time."""
    model: str
    identity: str
    """The model's, see `medsiglip.checkpoints.identity`."""
    findings: tuple[str, ...] = ()
    """What a user should know of the pictures."""

    def body(self, kind: str) -> dict[str, Any]:
        """The fields that all of a reply's objects bear."""
        return {
            "id": self.reply_id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": self.identity,
        }


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """OpenAI's usage."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def reply_body(head: ReplyHead, choices: Sequence[Choice], usage: Mapping[str, int]) -> dict[str, Any]:
    """A whole reply; "findings" says what a user should know of the pictures, if anything."""
    body = {
        **head.body("chat.completion"),
        "choices": [choice.body(index) for index, choice in enumerate(choices)],
        "usage": dict(usage),
    }
    return {**body, "findings": list(head.findings)} if head.findings else body


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
    choices = []
    for completion in completions:
        reply = asking.reply(asked, completion)
        told = zip(completion.token_ids, completion.logprobs, completion.top_logprobs or repeat(()), strict=False)
        listed = [token_logprob(asking, *one) for one in told] if logprobs else None
        choices.append(Choice(reply.text, reply.thinking, reply.finish_reason, listed))
    head = ReplyHead(reply_id, created_s, name, identity, tuple(finding_lines(asked.request.pictures)))
    tokens = sum(len(completion.token_ids) for completion in completions)
    return reply_body(head, choices, usage_of(len(asked.request.prompt.input_ids), tokens))


def token_logprob(asking: Asking, token_id: int, logprob: float, top: TopLogprobs = ()) -> dict[str, Any]:
    """One generated token, reasoning and stop tokens too, with the bytes it stands for and what else was likely."""
    likely = [_token(asking, other, its) for other, its in top]
    return {**_token(asking, token_id, logprob), "top_logprobs": likely}


def _token(asking: Asking, token_id: int, logprob: float) -> dict[str, Any]:
    text = asking.tokenizer.convert_ids_to_tokens(token_id)
    text = "" if text is None else text.replace("▁", " ")  # logits may be wider than the vocabulary
    byte = re.fullmatch("<0x([0-9A-F]{2})>", text)
    return {
        "token": text,
        "logprob": max(logprob, -9999.0),
        "bytes": [int(byte.group(1), 16)] if byte else list(text.encode()),
    }
