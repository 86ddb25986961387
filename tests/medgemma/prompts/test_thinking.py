"""The reasoning trace is divided from the answer and never leaks into it, whole, cut, or streamed."""

from pathlib import Path
from typing import Any

import pytest

from medgemma import MedGemma
from medgemma.answers import Spoken, ThinkingTokens, split_thinking
from medgemma.prompts.thinking import Speech, speech_of
from tests.medgemma.thinker import BEGIN, END, thinking_tokenizer

REPLIES = [
    (" AP view \n", Spoken(None, "AP view")),
    ("", Spoken(None, "")),
    ("<unused94>thought\nThe heart is large.<unused95>Yes", Spoken("The heart is large.", "Yes")),
    ("<unused94>thought\nWhere is it", Spoken("Where is it", "")),  # cut while thinking
    ("<unused94>", Spoken("", "")),
    ("<unused94>thought", Spoken("", "")),
    ("Well. <unused94>thought\nhm<unused95>\nNo", Spoken("hm", "Well. \nNo")),
    ("<unused94>thought\nthoughtful<unused95>No", Spoken("thoughtful", "No")),
    ("<unused94>thoughtful as I am<unused95>No", Spoken("thoughtful as I am", "No")),
    ("<unused94>thought\na<unused95>No<unused94>thought\nb", Spoken("a\nb", "No")),  # a second one, cut
    ("<unused94>a<unused95>b<unused94>c<unused95>d", Spoken("a\nc", "bd")),
]


@pytest.mark.parametrize(("reply", "spoken"), REPLIES)
def test_split_thinking(reply: str, spoken: Spoken) -> None:
    assert split_thinking(reply) == spoken


def test_an_end_without_a_beginning_is_left_alone() -> None:
    assert split_thinking("no end marker <unused95> begun") == Spoken(None, "no end marker <unused95> begun")


@pytest.mark.parametrize("special", [True, False], ids=["special markers", "plain markers"])
@pytest.mark.parametrize(("reply", "spoken"), REPLIES)
def test_speech_divides_tokens_as_text(tiny_folder: Path, reply: str, spoken: Spoken, special: bool) -> None:
    """Google's tokenizer does not call the markers special; one that does must not lose them either."""
    tokenizer = thinking_tokenizer(tiny_folder, special=special)
    ids = tokenizer(reply, add_special_tokens=False).input_ids
    assert speech_of(tokenizer, ThinkingTokens.of(tokenizer), ids).spoken() == spoken


@pytest.mark.parametrize(("reply", "spoken"), REPLIES)
def test_streamed_pieces_hold_no_trace_at_any_moment(tiny_folder: Path, reply: str, spoken: Spoken) -> None:
    tokenizer = thinking_tokenizer(tiny_folder)
    speech = Speech(tokenizer, ThinkingTokens.of(tokenizer))
    pieces = [speech.add(i) for i in tokenizer(reply, add_special_tokens=False).input_ids] + [speech.end()]
    assert "".join(pieces).strip() == spoken.text


def test_streamed_bytes_are_whole_characters(gemma: MedGemma) -> None:
    """Characters of several tokens, one after a plain byte, one never finished."""
    tokenizer = gemma.tokenizer
    ids = tokenizer("a é€ b 𝄞", add_special_tokens=False).input_ids
    cut = [*ids[:-1], 266, *ids[:2], ids[-2]]
    speech = Speech(tokenizer, None)
    pieces = [speech.add(i) for i in cut] + [speech.end()]
    assert "".join(pieces) == tokenizer.decode(cut)
    assert any("é€" in piece for piece in pieces)


def test_special_tokens_are_not_said(gemma: MedGemma) -> None:
    tokenizer = gemma.tokenizer
    ids = tokenizer("Yes<end_of_turn>\n<eos>", add_special_tokens=False).input_ids
    assert speech_of(tokenizer, None, ids).spoken() == Spoken(None, "Yes")


def test_markers_come_from_the_tokenizer(gemma: MedGemma, tiny_folder: Path) -> None:
    assert ThinkingTokens.of(gemma.tokenizer) is None
    tokenizer: Any = thinking_tokenizer(tiny_folder)
    assert ThinkingTokens.of(tokenizer) == tuple(tokenizer.convert_tokens_to_ids([BEGIN, END]))
