"""One answer piece by piece: joined, the pieces are the whole answer as `Asking.reply` gives it."""

from collections.abc import Sequence
from typing import NamedTuple

from medgemma.answers.constraints import cut_at
from medgemma.prompts.thinking import THINKING_BEGIN, THINKING_END, Speech

_HEADING = "thought\n"
"""With which MedGemma opens a trace."""


class Piece(NamedTuple):
    """What has become certain."""

    text: str = ""
    thinking: str = ""


class AnswerStream:
    """Takes an answer's tokens; holds back what may still be a stop text, or blanks at its end.

    Args:
        speech: fresh.
        stops: texts that end the answer.
        stripped: whether blanks around the answer are left out.
    """

    def __init__(self, speech: Speech, stops: Sequence[str] = (), *, stripped: bool = True) -> None:
        self._speech, self._stops, self._stripped = speech, tuple(stops), stripped
        self._held = max(map(len, self._stops), default=1) - 1
        self._waiting = ""
        self._has_begun = not stripped
        self._is_cut = False
        self._told = 0
        """Characters of the trace that were handed out."""

    def add(self, token_id: int) -> Piece:
        """Take the next token."""
        return self._after(self._speech.add(token_id), is_end=False)

    def end(self) -> Piece:
        """What is left when no token comes any more."""
        return self._after(self._speech.end(), is_end=True)

    def _after(self, said: str, is_end: bool) -> Piece:
        thought = self._speech.thought()
        thinking, self._told = thought[self._told :], max(self._told, len(thought))
        return Piece(self._certain(said, is_end), thinking)

    def _certain(self, said: str, is_end: bool) -> str:
        if self._is_cut:
            return ""
        self._waiting += said
        cut = cut_at(self._waiting, self._stops)
        self._is_cut = len(cut) < len(self._waiting)
        ready = len(cut) if is_end or self._is_cut else max(0, len(cut) - self._held)
        text, self._waiting = cut[:ready], cut[ready:]
        if not self._stripped:
            return text
        if not self._has_begun:
            text = text.lstrip()
            self._has_begun = bool(text)
        kept = text.rstrip()
        if not (is_end or self._is_cut):
            self._waiting = text[len(kept) :] + self._waiting
        return kept


class MarkerStream:
    """Divides text at the thinking markers as it comes, where another server gives text and no tokens.

    Args:
        stripped: whether blanks before the answer are left out.
    """

    def __init__(self, *, stripped: bool = True) -> None:
        self._waiting = ""
        self._is_thinking = False
        self._has_heading = True
        """Whether the trace's heading may still come."""
        self._has_spoken = not stripped

    def add(self, text: str) -> Piece:
        """Take the next text; the beginning of a marker is held back."""
        self._waiting += text
        said, thought = "", ""
        while True:
            marker = THINKING_END if self._is_thinking else THINKING_BEGIN
            before, found, after = self._waiting.partition(marker)
            if not found:
                break
            said, thought = self._told(before, said, thought)
            self._is_thinking, self._has_heading = not self._is_thinking, True
            self._waiting = after
        held = next((n for n in range(len(marker) - 1, 0, -1) if self._waiting.endswith(marker[:n])), 0)
        if self._is_thinking and self._has_heading and _HEADING.startswith(self._waiting.lstrip()):
            held = len(self._waiting)
        ready = len(self._waiting) - held
        said, thought = self._told(self._waiting[:ready], said, thought)
        self._waiting = self._waiting[ready:]
        return Piece(said, thought)

    def end(self) -> Piece:
        """What is left when no text comes any more."""
        rest, self._waiting = self._waiting, ""
        return Piece(*self._told("" if self._is_thinking and _HEADING.startswith(rest.lstrip()) else rest, "", ""))

    def _told(self, text: str, said: str, thought: str) -> tuple[str, str]:
        if not self._is_thinking:
            text = text if self._has_spoken else text.lstrip()
            self._has_spoken = self._has_spoken or bool(text)
            return said + text, thought
        if self._has_heading and text.strip():
            text, self._has_heading = text.lstrip().removeprefix(_HEADING), False
        return said, thought + text
