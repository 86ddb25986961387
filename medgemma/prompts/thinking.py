"""The reasoning trace, divided from the answer: never in the text, cut off or whole, streamed or not.

MedGemma thinks between two tokens of its vocabulary, and its trace starts with the word `thought` on a line of its
own. Source: reference notebooks of MedGemma (quick start, MedQA), which match <unused94>thought ... <unused95>.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from medgemma.prompts.special_tokens import special_ids

THINKING_BEGIN, THINKING_END = "<unused94>", "<unused95>"
"""MedGemma puts its reasoning between these (model card of google/medgemma-27b-text-it)."""
THINKING_SYSTEM_TEXT = "SYSTEM INSTRUCTION: think silently if needed."
"""The system turn that MedGemma was taught to think after."""

_HEADING = re.compile(r"thought(?:\n|$)")
_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
"""How byte fallback writes one byte of a character that is no token of its own."""


class ThinkingTokens(NamedTuple):
    """The ids of the two markers, from the checkpoint's tokenizer."""

    begin: int
    end: int

    @classmethod
    def of(cls, tokenizer: Any) -> "ThinkingTokens | None":
        """Look them up; None for a tokenizer that does not have both, such as nano's: its model cannot think."""
        begin, end = (tokenizer.convert_tokens_to_ids(token) for token in (THINKING_BEGIN, THINKING_END))
        known = all(isinstance(i, int) and i != tokenizer.unk_token_id for i in (begin, end))
        return cls(begin, end) if known else None


class Spoken(NamedTuple):
    """A reply divided into what was thought and what was said."""

    thinking: str | None
    text: str


def split_thinking(reply: str) -> Spoken:
    """Divide a reply at the thinking markers, where only text is at hand; `Speech` divides tokens.

    A trace that was cut off leaves no text and never leaks into it; of several traces none does.
    """
    said, thoughts, rest = "", [], reply
    while THINKING_BEGIN in rest:
        before, _, rest = rest.partition(THINKING_BEGIN)
        thought, _, rest = rest.partition(THINKING_END)
        said += before
        thoughts.append(thought)
    return Spoken(_trace(thoughts), (said + rest).strip())


@dataclass
class Speech:
    """Tokens to text as they come, the reasoning apart.

    Joined, the pieces of `add` and `end` are the whole answer as the tokenizer decodes it, without special tokens and
    without the trace; a character of several byte tokens comes out whole.
    """

    tokenizer: Any
    markers: ThinkingTokens | None
    silent: frozenset[int] | None = None
    """Tokens that are no text; without it `special_ids`."""

    def __post_init__(self) -> None:
        self._silent = special_ids(self.tokenizer) if self.silent is None else self.silent
        self._pending: list[int] = []
        self._said: list[str] = []
        self._thoughts: list[list[str]] = []
        self._is_thinking = False

    @property
    def is_thinking(self) -> bool:
        """Whether the next piece belongs to a trace."""
        return self._is_thinking

    def add(self, token_id: int) -> str:
        """Take the next token; what it adds to the text, "" while thinking or within a character."""
        if self.markers and token_id in self.markers:
            said = self._flush()
            begins = token_id == self.markers.begin
            if begins and not self._is_thinking:
                self._thoughts.append([])
            self._is_thinking = begins
            return said
        if token_id in self._silent:
            return ""
        self._pending.append(token_id)
        if _BYTE_TOKEN.fullmatch(self.tokenizer.convert_ids_to_tokens(token_id)):
            return ""  # how it reads depends on the bytes still to come
        return self._flush()

    def thought(self) -> str:
        """The trace so far, as far as it is certain: a beginning of its heading is held back."""
        if not self._thoughts:
            return ""
        *before, last = ["".join(pieces) for pieces in self._thoughts]
        is_heading = self._is_thinking and "thought".startswith(last.strip())
        return _trace([*before, "" if is_heading else last]) or ""

    def end(self) -> str:
        """What is left when no token comes any more."""
        return self._flush()

    def spoken(self, *, stripped: bool = True) -> Spoken:
        """What has been thought and said so far, `end` included."""
        self._flush()
        said = "".join(self._said)
        return Spoken(_trace(["".join(pieces) for pieces in self._thoughts]), said.strip() if stripped else said)

    def _flush(self) -> str:
        piece = self.tokenizer.decode(self._pending) if self._pending else ""
        self._pending.clear()
        (self._thoughts[-1] if self._is_thinking else self._said).append(piece)
        return "" if self._is_thinking else piece


def speech_of(
    tokenizer: Any,
    markers: ThinkingTokens | None,
    token_ids: Sequence[int],
    silent: frozenset[int] | None = None,
) -> Speech:
    """The speech of a whole answer."""
    speech = Speech(tokenizer, markers, silent)
    for token_id in token_ids:
        speech.add(token_id)
    return speech


def _trace(thoughts: list[str]) -> str | None:
    """The traces without their heading, one after the other; None if there was none."""
    return "\n".join(_HEADING.sub("", t.strip(), count=1).strip() for t in thoughts) if thoughts else None
