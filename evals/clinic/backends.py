"""Backends: a local model and an OpenAI-compatible server. Rules are in rules.py."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evals.clinic.dialogue import Backend, ContextFull, Message, Meter
from evals.endpoint import Endpoint, EndpointFault
from evals.generation import THINKING_INSTRUCTION, Generation

if TYPE_CHECKING:
    from medgemma import MedGemma

TOO_LONG = re.compile(r"context (length|window|size)|maximum.{0,20}(length|tokens)|too long", re.IGNORECASE)
"""How servers (vLLM, SGLang, llama.cpp, OpenAI) say that a conversation does not fit."""


def local(model: "MedGemma", generation: Generation, meter: Meter) -> Backend:
    """Return a backend that continues conversations with a model.

    Args:
        model: A MedGemma.
        generation: How; its `system` is left out, the conversation has its own.
        meter: Counts the tokens of every reply, thinking included.

    Raises:
        ValueError: It draws; local models are greedy.
    """
    from medgemma.chat import render

    if not generation.is_greedy:
        raise ValueError(f"got temperature {generation.temperature:g}; a local model answers greedily in conversations")

    def answer(messages: Sequence[Message]) -> str:
        told = _with_thinking(messages, generation)
        length = len(render(model.tokenizer, model.image_tokens, told).input_ids)
        if length + generation.max_tokens > model.max_tokens:
            raise ContextFull(
                f"{length:,} tokens, {generation.max_tokens:,} to come; {model.name} has {model.max_tokens:,}"
            )
        reply = model.reply(told, max_new_tokens=generation.max_tokens)
        return f"<think>{reply.thinking}</think>{reply.text}" if reply.thinking else reply.text

    return answer


def remote(server: Endpoint, generation: Generation, meter: Meter) -> Backend:
    """Return a backend that continues conversations on a server; an answer that is empty is an empty reply."""

    def answer(messages: Sequence[Message]) -> str:
        try:
            reply = server.chat(_with_thinking(messages, generation), generation)
        except EndpointFault as fault:
            if TOO_LONG.search(str(fault)):
                raise ContextFull(str(fault)) from fault
            if "the answer is empty" in str(fault):
                return ""
            raise
        meter.add(reply.tokens)
        return f"<think>{reply.thinking}</think>{reply.text}" if reply.thinking else reply.text

    return answer


def _with_thinking(messages: Sequence[Message], generation: Generation) -> list[Message]:
    if not generation.thinking:
        return list(messages)
    return [{"role": "system", "content": f"{THINKING_INSTRUCTION} {messages[0]['content']}"}, *messages[1:]]
