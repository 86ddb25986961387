"""What a model said, typed."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

THINKING_BEGIN, THINKING_END = "<unused94>", "<unused95>"
"""MedGemma puts its reasoning between these (model card of google/medgemma-27b-text-it)."""


@dataclass(frozen=True)
class Answer:
    """One answer to one question about one prompt's pictures."""

    files: tuple[str, ...]
    question: str
    text: str
    thinking: str | None
    """The reasoning trace, None if there was none."""
    tokens: int
    """Generated tokens, the stop token included."""
    seconds: float
    """Wall-clock time of the batch that this answer was made in."""
    finish_reason: Literal["stop", "length"]


class Spoken(NamedTuple):
    """A reply divided into what was thought and what was said."""

    thinking: str | None
    text: str


def split_thinking(reply: str) -> Spoken:
    """Divide a reply at the thinking markers; a trace that was cut off leaves no text and never leaks into it."""
    before, begun, rest = reply.partition(THINKING_BEGIN)
    if not begun:
        return Spoken(None, reply.strip())
    thought, _, said = rest.partition(THINKING_END)
    return Spoken(thought.strip().removeprefix("thought").strip(), (before + said).strip())
