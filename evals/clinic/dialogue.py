"""Talking to whatever answers: messages in, text out. What a side thought never reaches another side."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from medgemma.answers import THINKING_BEGIN, THINKING_END
from medgemma.endpoint import EndpointRefused

if TYPE_CHECKING:
    from evals.items import Item
    from evals.outputs import Output
    from experience import Episode

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}: one system turn, then user and assistant in turn."""

Backend = Callable[[Sequence[Message]], str]
"""Anything that continues a conversation: a local model, an endpoint, rules, a script. It may raise anything."""

JUDGES = ("judge", "moderator")
"""The roles that give verdicts; a task has one of them at most."""

MARKERS = ((THINKING_BEGIN, THINKING_END), ("<think>", "</think>"))
"""What stands around a reasoning trace: MedGemma's tokens, and what endpoints of other models write."""


class ContextFull(ValueError):
    """The conversation no longer fits the model: its own limit, not a fault of the run."""


class BackendFailed(Exception):
    """A side could not answer: the conversation is of no use, and is held again on the next run."""

    def __init__(self, who: str, fault: BaseException) -> None:
        super().__init__(f"the {who} failed: {' '.join(str(fault).split()) or type(fault).__name__}")
        self.held = ""
        """What was said until then, as the text of an output."""


class Meter:
    """Counts the tokens that a model generates, for each thread by itself: a conversation is held in one thread."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def add(self, tokens: int) -> None:
        """Count the tokens of a reply."""
        self._of_thread.tokens = getattr(self._of_thread, "tokens", 0) + tokens

    def take(self) -> int:
        """Return the tokens counted in this thread since the last call."""
        counted = int(getattr(self._of_thread, "tokens", 0))
        self._of_thread.tokens = 0
        return counted


@dataclass(frozen=True)
class Players:
    """Who answers in the conversations of a run."""

    model: Backend
    """The model that is measured."""
    fingerprint: str
    """Of its weights."""
    others: Mapping[str, Backend] = field(default_factory=dict)
    """Role to what plays it; a role that is not there is not played."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Role to the name of what plays it: rules and their version, a fingerprint."""
    at_once: int = 1
    """Conversations to be held at the same time at least: a local model answers several in one batch."""
    meter: Meter = field(default_factory=Meter)
    """Counts what `model` generates, other roles that it plays included."""
    identity: str = ""
    """Of all that decides the model's answers; empty for a server, which shows no more than its fingerprint."""
    accepted: Mapping[str, Any] = field(default_factory=dict)
    """What judge.json says of the judge (`judging.acceptance`); empty: it was not measured."""

    def fingerprint_for(self, roles: Sequence[str]) -> str:
        """Return the model's fingerprint, and who plays the other roles of a task."""
        return " ".join([self.fingerprint, *self._played(roles)])

    def identity_for(self, roles: Sequence[str]) -> str:
        """Return what answers differ by: the model's identity, and who plays the other roles of a task."""
        return " ".join([self.identity or self.fingerprint, *self._played(roles)])

    def judge_for(self, roles: Sequence[str]) -> str:
        """Return the fingerprint of what judges in a task with these roles; empty if nobody does."""
        names = [self.names[role] for role in JUDGES if role in roles and self.names.get(role)]
        return "" if not names else self.fingerprint if names[0] == "model" else names[0]

    def _played(self, roles: Sequence[str]) -> list[str]:
        return [f"{role}={self.names.get(role, 'none')}" for role in roles]


@dataclass(frozen=True)
class Dialogue:
    """How the items of a task are played."""

    environment: str
    """Name of what is played, in the episodes."""
    hold: "Callable[[Item, Players], str]"
    """Play an item; the text of its output, JSON. Raises BackendFailed."""
    episode: "Callable[[Item, Output], Episode | None]"
    """The model's side of it; None if nothing was said."""
    roles: tuple[str, ...] = ()
    """The roles beside the model."""
    tool_call: Callable[[str], Mapping[str, Any] | None] = lambda reply: None
    """The call that a reply makes, where the model has tools."""


class Said(NamedTuple):
    """A reply divided into what the other side hears and what was thought."""

    text: str
    thinking: str | None
    """None if there was no trace."""


def without_thinking(reply: str) -> Said:
    """Divide a reply; what is not certainly said is thought.

    A trace that was cut off hides the rest; an end without a beginning (the prompt began the trace) hides all before
    it; of several traces the text between them is hidden too.
    """
    text, thoughts = reply, []
    for begin, end in MARKERS:
        before, closed, after = text.rpartition(end)
        if closed:
            said, _, thought = before.partition(begin) if begin in before else ("", "", before)
            text = said + after
            thoughts.append(thought)
        text, opened, thought = text.partition(begin)
        if opened:
            thoughts.append(thought)
    trace = "\n".join(thought.strip().removeprefix("thought").strip() for thought in thoughts)
    return Said(text.strip(), trace if thoughts else None)


def chat(system: str, heard: Sequence[tuple[Literal["user", "assistant"], str]]) -> list[Message]:
    """Make messages of what was heard and said; neighbours of one role become one message."""
    messages: list[dict[str, str]] = [{"role": "system", "content": system}]
    for role, text in heard:
        if messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{text}"
        else:
            messages.append({"role": role, "content": text})
    return list(messages)


def call(who: str, backend: Backend, messages: Sequence[Message]) -> str:
    """Ask a backend.

    Raises:
        ContextFull: As the backend raised it.
        EndpointRefused: Likewise; the server will answer nobody.
        BackendFailed: It raised anything else.
    """
    try:
        return backend(messages)
    except (ContextFull, EndpointRefused):
        raise
    except Exception as fault:  # a backend is anybody's function
        raise BackendFailed(who, fault) from fault
