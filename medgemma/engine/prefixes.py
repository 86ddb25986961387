"""Prompts that begin alike, as a tree: each stretch of tokens that several share is computed once."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from medgemma.prompts.chat import Prompt

MIN_SHARED_TOKENS = 16
"""Shorter beginnings in common (a bos and a turn marker) do not pay for a forward pass of their own."""

Symbols = tuple[int | str, ...]
"""A prompt position by position: its token id, or its picture's identity where an image token stands. The identity is
one text for all tokens of a picture: it is hashed once, and compared by its address."""


@dataclass
class Stretch:
    """Tokens `start` to `end` of one or several prompts, after those of the stretch it hangs on."""

    start: int
    end: int
    prompts: list[int]
    """All prompts that run through it, by index; any of them gives its tokens."""
    ending: list[int] = field(default_factory=list)
    """Those that end with it."""
    children: "list[Stretch]" = field(default_factory=list)


def symbols_of(prompt: Prompt, picture_keys: Sequence[Hashable]) -> Symbols:
    """A prompt's symbols; two prompts share a prefix where these are equal.

    Args:
        prompt: see `medgemma.prompts.chat.Prompt`.
        picture_keys: what makes each picture's features what they are, in the order of the slots.
    """
    names = [f"picture {key!r}" for key in picture_keys]
    symbols: list[int | str] = []
    picture = -1
    for token, is_image, was_image in zip(
        prompt.input_ids, prompt.token_type_ids, (0, *prompt.token_type_ids[:-1]), strict=True
    ):
        picture += is_image and not was_image
        symbols.append(names[picture] if is_image else token)
    return tuple(symbols)


def shared_stretches(sequences: Sequence[Symbols], starts: Sequence[int] | None = None) -> list[Stretch]:
    """Divide prompts into stretches, each computed once.

    A picture is never divided: two prompts differ before it, after it, or at its first token.

    Args:
        sequences: symbols of each prompt.
        starts: tokens of each that are computed already; prompts with unlike starts share nothing here.

    Returns:
        The roots.
    """
    order = sorted(range(len(sequences)), key=lambda i: _sortable(sequences[i]))
    starts = [0] * len(sequences) if starts is None else starts
    groups: dict[tuple[int, Symbols], list[int]] = {}
    for index in order:
        groups.setdefault((starts[index], sequences[index][: starts[index]]), []).append(index)
    return [s for (start, _), prompts in groups.items() for s in _divided(sequences, prompts, start)]


def _divided(sequences: Sequence[Symbols], prompts: Sequence[int], start: int) -> list[Stretch]:
    """Stretches from `start` on, of prompts that are equal up to it and sorted."""
    stretches = []
    for group in _alike(sequences, prompts, start):
        first, last = sequences[group[0]], sequences[group[-1]]
        end = _common(first, last, start)  # sorted: what the first and the last share, all share
        stretch = Stretch(start, end, list(group))
        stretch.ending = [i for i in group if len(sequences[i]) == end]
        rest = [i for i in group if len(sequences[i]) > end]
        stretch.children = _divided(sequences, rest, end) if rest else []
        stretches.append(stretch)
    return stretches


def _alike(sequences: Sequence[Symbols], prompts: Sequence[int], start: int) -> Iterator[list[int]]:
    """Runs of prompts worth sharing: equal from `start` for `MIN_SHARED_TOKENS`, or equal to their ends."""
    run = [prompts[0]]
    for index in prompts[1:]:
        end = _common(sequences[run[0]], sequences[index], start)
        whole = end == len(sequences[run[0]]) == len(sequences[index])
        if whole or end - start >= MIN_SHARED_TOKENS:
            run.append(index)
        else:
            yield run
            run = [index]
    yield run


def _common(a: Symbols, b: Symbols, start: int) -> int:
    end = min(len(a), len(b))
    return next((i for i in range(start, end) if a[i] != b[i]), end)


def _sortable(symbols: Symbols) -> list[tuple[int, str | int]]:
    return [(0, s) if isinstance(s, int) else (1, s) for s in symbols]
