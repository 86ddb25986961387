"""Backends: a local model and an OpenAI-compatible server. Rules are in rules.py."""

import re
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from evals.clinic.dialogue import Backend, ContextFull, Message, Meter
from evals.generation import Generation
from evals.judging.judge import asked_schema
from medgemma.endpoint import Endpoint, EndpointFault
from medgemma.prompts.thinking import THINKING_SYSTEM_TEXT
from medgemma.shared_engine import SharedEngine

if TYPE_CHECKING:
    from medgemma import MedGemma

TOO_LONG = re.compile(r"context (length|window|size)|maximum.{0,20}(length|tokens)|too long", re.IGNORECASE)
"""How servers (vLLM, SGLang, llama.cpp, OpenAI) say that a conversation does not fit."""


def local(model: "MedGemma", generation: Generation, meter: Meter) -> Backend:
    """Return a backend that continues conversations with a model; threads that call it at the same time share a batch.

    To a judge's question (evals/judging) it can only answer with a verdict: the grammar allows nothing else.

    Args:
        model: A MedGemma.
        generation: How; its `system` is left out, the conversation has its own.
        meter: Counts the tokens of every reply, thinking included.

    Raises:
        ValueError: It is to think and cannot.
    """
    from medgemma.prompts.chat import render

    asking = model.asking
    if generation.thinking and asking.markers is None:
        raise ValueError(f"{model.name} has no thinking tokens and cannot think; run it without --thinking-tokens")
    shared, tokenizing = SharedEngine(model.engine), Lock()
    thinking = generation.thinking_tokens if generation.thinking else None

    def answer(messages: Sequence[Message]) -> str:
        with tokenizing:  # tokenizers are not made for several threads
            prompt = render(model.tokenizer, model.image_tokens, messages)
            count = asking.prompts.count(prompt, generation.max_tokens)
            if not count.fits:
                raise ContextFull(count.too_long(model.name))
            schema = asked_schema(messages)
            form = asking.grammars.json_schema(schema, compact=True) if schema else None
            sampling = replace(generation.sampling, num_samples=1)
            asked = asking.asked(messages, [], sampling, form=form, thinking=thinking)
        completion = shared.complete(replace(asked.request, continues=True))
        with tokenizing:
            reply = asking.reply(asked, completion)
        meter.add(reply.tokens)
        return _with_trace(reply.text, reply.thinking)

    return answer


def remote(server: Endpoint, generation: Generation, meter: Meter) -> Backend:
    """Return a backend that continues conversations on a server; an answer that is empty is an empty reply."""

    def answer(messages: Sequence[Message]) -> str:
        try:
            reply = server.chat(_with_thinking(messages, generation), generation.sampling)
        except EndpointFault as fault:
            if TOO_LONG.search(str(fault)):
                raise ContextFull(str(fault)) from fault
            if "the answer is empty" in str(fault):
                return ""
            raise
        meter.add(reply.tokens)
        return _with_trace(reply.text, reply.thinking)

    return answer


def _with_trace(text: str, thinking: str | None) -> str:
    return f"<think>{thinking}</think>{text}" if thinking else text


def _with_thinking(messages: Sequence[Message], generation: Generation) -> list[Message]:
    if not generation.thinking:
        return list(messages)
    return [{"role": "system", "content": f"{THINKING_SYSTEM_TEXT} {messages[0]['content']}"}, *messages[1:]]
