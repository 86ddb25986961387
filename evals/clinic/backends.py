"""Backends: a local model, an OpenAI-compatible server, rules."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from evals.clinic.dialogue import Backend, ContextFull, Message

if TYPE_CHECKING:
    from medgemma import MedGemma

RETRIES = 4
FIRST_WAIT_S = 1.0
TIMEOUT_S = 300.0
WORTH_ANOTHER_TRY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


def local(model: "MedGemma", max_new_tokens: int) -> Backend:
    """Return a backend that continues conversations with a model, greedily.

    Args:
        model: A MedGemma.
        max_new_tokens: A reply is cut here; of a model that thinks, the trace counts.
    """
    from medgemma.chat import render

    def answer(messages: Sequence[Message]) -> str:
        length = len(render(model.tokenizer, model.image_tokens, messages).input_ids)
        if length + max_new_tokens > model.max_tokens:
            raise ContextFull(
                f"{length:,} tokens and {max_new_tokens:,} to come; {model.name} holds {model.max_tokens:,}"
            )
        return "".join(model.stream(messages, max_new_tokens=max_new_tokens))

    return answer


def endpoint(
    url: str, name: str, max_new_tokens: int, timeout_s: float = TIMEOUT_S, wait: Callable[[float], object] = time.sleep
) -> Backend:
    """Return a backend that asks an OpenAI-compatible server, at temperature 0; the key is in OPENAI_API_KEY.

    A busy or broken server is asked again, waiting 1, 2, 4 and 8 seconds.

    Args:
        url: Up to and including /v1.
        name: The server's name of the model.
        max_new_tokens: As in `local`.
        timeout_s: Of one reply.
        wait: Waits so many seconds.
    """
    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}

    def answer(messages: Sequence[Message]) -> str:
        body = {"model": name, "messages": list(messages), "max_tokens": max_new_tokens, "temperature": 0}
        request = urllib.request.Request(
            f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        for attempt in range(RETRIES):
            try:
                return _reply(request, timeout_s)
            except urllib.error.HTTPError as fault:
                if fault.code not in WORTH_ANOTHER_TRY:
                    raise _explained(url, fault) from fault
            except (OSError, HTTPException):
                pass
            wait(FIRST_WAIT_S * 2**attempt)
        return _reply(request, timeout_s)

    return answer


def _reply(request: urllib.request.Request, timeout_s: float) -> str:
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        text = response.read().decode("utf-8", errors="replace")
    try:
        message: dict[str, Any] = json.loads(text)["choices"][0]["message"]
    except (json.JSONDecodeError, KeyError, IndexError, TypeError) as fault:
        raise ValueError(f"{request.full_url}: answered no chat completion ({text[:80]!r}); check the URL") from fault
    return str(message.get("content") or "")


def _explained(url: str, fault: urllib.error.HTTPError) -> ValueError:
    text = " ".join(fault.read().decode("utf-8", errors="replace").split())
    if fault.code == 400 and "context" in text and ("length" in text or "window" in text):
        return ContextFull(text[:200])
    return ValueError(f"{url}: status {fault.code}: {text[:200]}")
