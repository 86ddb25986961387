"""Answers that must have a form: one of several choices, a regular expression, a JSON schema; and limited thinking.

Grammars are llguidance's: before each token it gives the tokens with which the answer can still become valid, so that
whatever a model says is a beginning of a valid answer, and a valid one when it stops by itself. One that is cut by its
limit of tokens is not: its `finish_reason` is "length".
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medgemma.engine.request import Constraint, ConstraintState
from medgemma.prompts.thinking import Speech, ThinkingTokens

if TYPE_CHECKING:
    import torch

_INDENTED = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}"}
"""Between JSON tokens an indented line's worth of blanks, so that no model writes blanks up to its limit."""
_ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


class ConstraintError(ValueError):
    """A constraint that is invalid, not supported, or that no answer can meet; raised before anything is generated."""


@dataclass(frozen=True)
class Grammars:
    """Makes constraints for one tokenizer. Take one a model: reading the vocabulary costs up to a second.

    Letters: V is the width of the model's logits, which may be above the tokenizer's number of tokens.
    """

    tokenizer: Any
    """llguidance's LLTokenizer."""
    width: int
    """V."""

    @classmethod
    def of(cls, tokenizer: Any, width: int, stop_ids: frozenset[int]) -> "Grammars":
        """Read a vocabulary.

        Args:
            tokenizer: a fast tokenizer of transformers, byte fallback included.
            width: V.
            stop_ids: tokens that end an answer; they are allowed wherever an answer may end.
        """
        from llguidance.hf import from_tokenizer

        return cls(from_tokenizer(tokenizer, n_vocab=width, eos_token=sorted(stop_ids)), width)

    def choices(self, choices: Sequence[str]) -> "Grammar":
        """Exactly one of several texts.

        Raises:
            ConstraintError: no choice, or an empty one.
        """
        if not choices or not all(choices):
            raise ConstraintError(f"got the choices {list(choices)}, expected at least one and none empty")
        from llguidance import LLMatcher

        options = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
        return self._grammar(LLMatcher.grammar_from_lark(f"start: {options}"), "the choices")

    def regex(self, pattern: str) -> "Grammar":
        r"""A text that a regular expression matches whole.

        Args:
            pattern: in the syntax of Rust's regex crate: no look-around, no back-references; `\d` is 0 to 9.

        Raises:
            ConstraintError: not such an expression, or one that nothing matches.
        """
        from llguidance import LLMatcher, regex_to_lark

        lark = f"start: /{regex_to_lark(pattern, 'd')}/"
        return self._grammar(LLMatcher.grammar_from_lark(lark), f"the regular expression {pattern!r}")

    def json_schema(self, schema: Mapping[str, Any] | str, *, compact: bool = False) -> "Grammar":
        """JSON that is valid under a schema.

        Args:
            schema: JSON Schema draft 2020-12 as an object or as text. Properties come in the order of the schema.
            compact: on one line, with at most one blank behind a comma or colon; else it may be indented.

        Raises:
            ConstraintError: no JSON object, no valid schema, one that nothing can be valid under, or a keyword that is
                not supported (such as `not`); it is named.
        """
        from llguidance import LLMatcher

        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise ConstraintError(f"the JSON schema is no JSON: {error}") from error
        if not isinstance(schema, Mapping):
            raise ConstraintError(f"the JSON schema is {json.dumps(schema)[:60]}, expected an object")
        layout: Any = _ONE_LINE if compact else _INDENTED
        return self._grammar(LLMatcher.grammar_from_json_schema(dict(schema), layout), "the JSON schema")

    def _grammar(self, text: str, what: str) -> "Grammar":
        from llguidance import LLMatcher

        matcher = LLMatcher(self.tokenizer, text, log_level=0)
        if matcher.is_error():
            raise ConstraintError(f"{what} cannot be used: {_one_line(matcher.get_error())}")
        grammar = Grammar(matcher, self.width)
        state = grammar.start()
        if not matcher.is_accepting() and not bool(_without_stops(state.allowed(), self.tokenizer).any()):
            raise ConstraintError(f"{what} cannot be met by any text")
        return grammar


@dataclass(frozen=True)
class Grammar:
    """A compiled grammar; `Grammars` makes it."""

    matcher: Any
    """At its start; each answer gets a copy."""
    width: int

    def start(self) -> "GrammarState":
        """See `Constraint`."""
        return GrammarState(self.matcher.deep_copy(), self.width)


@dataclass
class GrammarState:
    """Where one answer stands; see `ConstraintState`."""

    matcher: Any
    width: int

    def allowed(self) -> "torch.Tensor":
        """(V,) bool: stop tokens among them where the answer may end."""
        import torch

        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        return torch.from_numpy(np.unpackbits(bits, bitorder="little")[: self.width].astype(np.bool_))

    def advance(self, token_id: int) -> None:
        """Take the next token.

        Raises:
            ValueError: it was not allowed.
        """
        if not self.matcher.consume_token(token_id):
            raise ValueError(f"token {token_id} is not allowed here: {_one_line(self.matcher.get_error())}")

    def finished(self) -> bool:
        """True when no token but a stop token may follow."""
        return bool(self.matcher.is_stopped())


@dataclass(frozen=True)
class ThinkingLimit:
    """Thinking off, or on with a budget, and what the answer after it must look like.

    Tokens that end an answer are not allowed within a trace, so that there is an answer after it.
    """

    markers: ThinkingTokens
    width: int
    """V, the width of the model's logits."""
    stop_ids: frozenset[int]
    budget: int | None
    """Tokens of the trace, its two markers not counted: after these only its end is allowed. 0 and None both are
    possible: 0 is off, so that not even a marker comes, None is no limit."""
    then: Constraint | None = None
    """For what is said after the trace, or without one."""

    def start(self) -> "ThinkingState":
        """See `Constraint`."""
        return ThinkingState(self, self.then.start() if self.then else None)


@dataclass
class ThinkingState:
    """Where one answer stands; see `ConstraintState`."""

    limit: ThinkingLimit
    then: ConstraintState | None
    thought: int | None = None
    """Tokens of the trace that is open; None outside of one."""
    said: bool = False
    """Whether something was said outside of traces."""

    def allowed(self) -> "torch.Tensor | None":
        """(V,) bool."""
        import torch

        limit = self.limit
        if self.thought is not None:
            over = limit.budget is not None and self.thought >= limit.budget
            mask = torch.full((limit.width,), not over)
            mask[[*limit.stop_ids, limit.markers.begin]] = False
            mask[limit.markers.end] = True
            return mask
        inner = self.then.allowed() if self.then else None
        mask = torch.ones(limit.width, dtype=torch.bool) if inner is None else inner.clone()
        mask[limit.markers.end] = False
        mask[limit.markers.begin] = limit.budget != 0 and not self.said
        return mask

    def advance(self, token_id: int) -> None:
        """Take the next token."""
        if self.thought is not None:
            self.thought = None if token_id == self.limit.markers.end else self.thought + 1
        elif token_id == self.limit.markers.begin:
            self.thought = 0
        else:
            self.said = True
            if self.then:
                self.then.advance(token_id)

    def finished(self) -> bool:
        """True when what comes after the trace is finished."""
        return self.thought is None and self.then is not None and self.then.finished()


@dataclass(frozen=True)
class StopAt:
    """Ends an answer once its text holds one of several strings; `cut_at` then takes string and rest away."""

    tokenizer: Any
    markers: ThinkingTokens | None
    strings: tuple[str, ...]
    then: Constraint | None = None
    """Another constraint that the answer keeps as well."""
    silent: frozenset[int] | None = None
    """See `Speech`."""

    def start(self) -> "StopAtState":
        """See `Constraint`."""
        speech = Speech(self.tokenizer, self.markers, self.silent)
        return StopAtState(self.strings, speech, self.then.start() if self.then else None)


@dataclass
class StopAtState:
    """Where one answer stands; see `ConstraintState`."""

    strings: tuple[str, ...]
    speech: Speech
    then: ConstraintState | None
    tail: str = ""
    """The end of the text, as long as a string may begin in it."""
    found: bool = False

    def allowed(self) -> "torch.Tensor | None":
        """The other constraint's tokens."""
        return self.then.allowed() if self.then else None

    def advance(self, token_id: int) -> None:
        """Take the next token."""
        self.tail += self.speech.add(token_id)
        self.found = self.found or any(string in self.tail for string in self.strings)
        self.tail = self.tail[-max(map(len, self.strings)) :]
        if self.then:
            self.then.advance(token_id)

    def finished(self) -> bool:
        """True once a string was said, or the other constraint is finished."""
        return self.found or (self.then is not None and self.then.finished())


def cut_at(text: str, strings: Sequence[str]) -> str:
    """The text before the first of several strings; the whole where none is."""
    return text[: min((text.find(string) for string in strings if string in text), default=len(text))]


def _without_stops(mask: "torch.Tensor", tokenizer: Any) -> "torch.Tensor":
    mask = mask.clone()
    mask[list(tokenizer.eos_tokens)] = False
    return mask


def _one_line(error: str) -> str:
    """The message of llguidance without the grammar that it quotes below."""
    line = " ".join(" ".join(line.split()) for line in error.splitlines() if "|" not in line and line.strip(" ^"))
    return line if len(line) <= 200 else line[:197] + "..."
