"""Backends: a local model and an OpenAI-compatible server. Rules are in rules.py."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evals.clinic.dialogue import Backend, ContextFull, Message
from evals.endpoint import Endpoint, EndpointFault
from evals.generation import Generation

if TYPE_CHECKING:
    from medgemma import MedGemma

TOO_LONG = re.compile(r"context (length|window|size)|maximum.{0,20}(length|tokens)|too long", re.IGNORECASE)
"""How servers (vLLM, SGLang, llama.cpp, OpenAI) say that a conversation does not fit."""


def local(model: "MedGemma", max_new_tokens: int) -> Backend:
    """Return a backend that continues conversations with a model, greedily.

    Args:
        model: A MedGemma.
        max_new_tokens: A reply is cut here; the trace of a model that thinks counts.
    """
    from medgemma.chat import render

    def answer(messages: Sequence[Message]) -> str:
        length = len(render(model.tokenizer, model.image_tokens, messages).input_ids)
        if length + max_new_tokens > model.max_tokens:
            raise ContextFull(
                f"{length:,} tokens and {max_new_tokens:,} to come; {model.name} has {model.max_tokens:,}"
            )
        return "".join(model.stream(messages, max_new_tokens=max_new_tokens))

    return answer


def remote(server: Endpoint, generation: Generation) -> Backend:
    """Return a backend that continues conversations on a server; an answer that is empty is an empty reply."""

    def answer(messages: Sequence[Message]) -> str:
        try:
            reply = server.chat(messages, generation)
            return f"<think>{reply.thinking}</think>{reply.text}" if reply.thinking else reply.text
        except EndpointFault as fault:
            if TOO_LONG.search(str(fault)):
                raise ContextFull(str(fault)) from fault
            if "the answer is empty" in str(fault):
                return ""
            raise

    return answer
