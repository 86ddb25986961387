"""Graded rewards of texts alone: how much of the right answer an answer holds, and how far answers agree."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from evals.metrics.answers import token_f1_squad


def word_overlap(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    """F1 of words between a completion and its `answer`, 0..1 in as many levels as there are words.

    Of an answer of one word, such as yes, it is 0 or 1.
    """
    return [token_f1_squad(text_of(said), right) for said, right in zip(completions, answer, strict=True)]


def agreement(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    """Mean F1 of words with the other completions of the same prompt: what most of them say; needs no right answer.

    A completion without another is 0.
    """
    texts = [text_of(said) for said in completions]
    others: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        others.setdefault(repr(prompt), []).append(place)
    earned = [0.0] * len(texts)
    for group in others.values():
        for place in group:
            shares = [token_f1_squad(texts[place], texts[other]) for other in group if other != place]
            earned[place] = fmean(shares) if shares else 0.0
    return earned


def text_of(completion: Any) -> str:
    """What a completion says: a text, or the content of its last message."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
