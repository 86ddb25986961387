"""Conversations by length: which share a batch, and which share a row; with pictures, and with a prompt once for many.

A packed row holds several conversations that do not see each other, each with positions of its own, so its losses and
gradients are those of the conversations alone. Conversations with the same prompt and the same pictures may share it:
it is computed once, and each completion stands behind it as a branch. The masks are `medgemma.engine.masks`'.

Letters: B rows, T tokens of the longest, K learned tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import torch

from finetune.collate import Batch, Example, collate, demand_learnable, token_values
from finetune.losses.completion import IGNORED
from finetune.training import ALONE, Part, Ranks
from medgemma.engine.masks import Chunk

Item = TypeVar("Item")


@dataclass(frozen=True)
class Layout:
    """How the examples of a step become the parts that go through the model at once; no loss depends on it."""

    pad_id: int
    """The tokenizer's."""
    image_id: int | None
    """Of an image's soft tokens; None for a model of text alone."""
    max_tokens: int
    """Of a conversation; longer ones are refused, see `finetune.collate.fitting`."""
    tokens_a_part: int | None = None
    """Padding included; None: the whole step at once."""
    packed: bool = False
    """Several conversations a row of `max_tokens`."""
    share_prompts: bool = False
    """Packed, with equal prompts and pictures computed once."""

    def parts(self, examples: Sequence[Example], ranks: Ranks = ALONE) -> list[Part[Batch]]:
        """This rank's parts of a step whose examples every rank has drawn alike.

        Raises:
            ValueError: as `finetune.collate.demand_learnable`.
        """
        demand_learnable(examples, self.max_tokens)
        if self.packed:
            rows = packed_rows(examples, self.max_tokens, share_prompts=self.share_prompts)
            together = len(rows) if self.tokens_a_part is None else max(1, self.tokens_a_part // self.max_tokens)
            of_rows = [rows[start : start + together] for start in range(0, len(rows), together)]
            return [_part(self._packed(batch), is_counted) for batch, is_counted in _dealt(of_rows, ranks)]
        batches = [list(examples)] if self.tokens_a_part is None else grouped_by_length(examples, self.tokens_a_part)
        return [_part(self._padded(batch), is_counted) for batch, is_counted in _dealt(batches, ranks)]

    def _padded(self, examples: Sequence[Example]) -> Batch:
        return collate(examples, pad_id=self.pad_id, image_id=self.image_id, max_tokens=self.max_tokens)

    def _packed(self, rows: Sequence[Sequence["Sharing"]]) -> Batch:
        return collate_packed(rows, pad_id=self.pad_id, image_id=self.image_id)


def _part(batch: Batch, is_counted: bool) -> Part[Batch]:
    return Part(batch, float(len(batch.targets)) if is_counted else 0.0, batch.places)


def _dealt(batches: list[list[Item]], ranks: Ranks) -> list[tuple[list[Item], bool]]:
    """This rank's batches and whether they count; the largest are halved until every rank has one.

    With fewer examples than ranks, a rank computes the first one for nothing.
    """
    batches = list(batches)
    while len(batches) < ranks.world and max(map(len, batches)) > 1:
        largest = batches.pop(max(range(len(batches)), key=lambda i: len(batches[i])))
        batches += [largest[::2], largest[1::2]]
    return [(batch, True) for batch in ranks.share(batches)] or [(batches[0], False)]


def grouped_by_length(examples: Sequence[Example], max_padded_tokens: int) -> list[list[Example]]:
    """Batches of like length for `collate`: rows times the longest row is at most `max_padded_tokens`.

    Longest first, so that a step that does not fit the memory fails at its beginning. An example that is longer than
    `max_padded_tokens` is a batch of its own.
    """
    batches: list[list[Example]] = []
    for example in sorted(examples, key=lambda e: -e.num_tokens):
        if batches and (len(batches[-1]) + 1) * batches[-1][0].num_tokens <= max_padded_tokens:
            batches[-1].append(example)
        else:
            batches.append([example])
    return batches


@dataclass(frozen=True)
class Sharing:
    """Conversations with one prompt: one of its own each, or several completions behind the same."""

    examples: tuple[Example, ...]

    @property
    def num_tokens(self) -> int:
        """With the prompt once."""
        return len(self.examples[0].prompt_ids) + sum(len(e.completion_ids) for e in self.examples)


def sharings(examples: Sequence[Example], row_tokens: int, *, share_prompts: bool) -> list[Sharing]:
    """Put examples with equal prompts and pictures together, as many as a row holds; else each is alone."""
    found: dict[object, list[Sharing]] = {}
    for number, example in enumerate(examples):
        key = (example.prompt_ids, example.pictures) if share_prompts else number
        of_prompt = found.setdefault(key, [])
        if of_prompt and of_prompt[-1].num_tokens + len(example.completion_ids) <= row_tokens:
            of_prompt[-1] = Sharing((*of_prompt[-1].examples, example))
        else:
            of_prompt.append(Sharing((example,)))
    return list(chain.from_iterable(found.values()))


def packed_rows(
    examples: Sequence[Example], row_tokens: int, *, share_prompts: bool = False
) -> list[tuple[Sharing, ...]]:
    """Fill rows of at most `row_tokens`, longest first, each into the first row with room.

    Args:
        examples: none longer than `row_tokens`, see `finetune.collate.fitting`.
        row_tokens: of a row.
        share_prompts: compute equal prompts with equal pictures once.

    Raises:
        ValueError: as `finetune.collate.demand_learnable`.
    """
    demand_learnable(examples, row_tokens)
    rows: list[list[Sharing]] = []
    for sharing in sorted(sharings(examples, row_tokens, share_prompts=share_prompts), key=lambda s: -s.num_tokens):
        room = (row for row in rows if sum(s.num_tokens for s in row) + sharing.num_tokens <= row_tokens)
        row = next(room, None)
        if row is None:
            rows.append([sharing])
        else:
            row.append(sharing)
    return [tuple(row) for row in rows]


def collate_packed(rows: Sequence[Sequence[Sharing]], *, pad_id: int, image_id: int | None) -> Batch:
    """A batch of packed rows.

    Args:
        rows: B rows, as `packed_rows` makes them.
        pad_id: the tokenizer's pad id.
        image_id: the id of an image's soft tokens; None for a model of text alone.

    Returns:
        A batch whose `packing` says which tokens of a row belong together; its conversations are in the rows' order.
    """
    laid = [_lay(row, image_id) for row in rows]
    examples = [example for row in rows for sharing in row for example in sharing.examples]
    counts = torch.tensor([len(row.ids) for row in laid])
    width = int(counts.max())

    def padded(values: Sequence[Sequence[int]], filling: int) -> torch.Tensor:
        return torch.tensor([[*row, *[filling] * (width - len(row))] for row in values])

    labels = padded([row.labels for row in laid], IGNORED)
    pictures = padded([row.pictures for row in laid], -1)
    predictors = [width * number + place for number, row in enumerate(laid) for place in row.predictors]
    values = token_values(examples, image_id)
    return Batch(
        input_ids=padded([row.ids for row in laid], pad_id),
        attention_mask=(torch.arange(width) < counts[:, None]).long(),
        token_type_ids=(pictures >= 0).long(),
        labels=labels,
        predictors=torch.tensor(predictors, dtype=torch.int64),
        targets=labels[labels != IGNORED],
        pictures=tuple(p for row in rows for sharing in row for p in sharing.examples[0].pictures),
        examples=tuple(examples),
        weights=values.weights,
        sampled_logprobs=values.sampled_logprobs,
        packing=Chunk(
            positions=padded([row.positions for row in laid], 0),
            pictures=pictures,
            branches=padded([row.branches for row in laid], 0),
            counts=counts,
            trunks=padded([row.trunks for row in laid], 0),
        ),
    )


class _Row:
    """The tokens of one row, and what is known of each."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.branches: list[int] = []
        self.trunks: list[int] = []
        self.pictures: list[int] = []
        self.labels: list[int] = []
        self.predictors: list[int] = []
        """Of each label, the place in the row of the token before it in its conversation."""

    def add(self, ids: Sequence[int], start: int, branch: int, trunk: int, image_id: int | None) -> None:
        """Add tokens of one branch, of which none is learned yet; branches are counted from 1, 0 is padding."""
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.branches += [branch] * len(ids)
        self.trunks += [trunk] * len(ids)
        before = -1
        for token in ids:
            if token != image_id:
                before = -1
            elif before < 0:
                before = max(self.pictures, default=-1) + 1
            self.pictures.append(before)
        self.labels += [IGNORED] * len(ids)


def _lay(sharings_of_row: Sequence[Sharing], image_id: int | None) -> _Row:
    row, branch = _Row(), 0
    for sharing in sharings_of_row:
        trunk = branch = branch + 1
        prompt = sharing.examples[0].prompt_ids
        row.add(prompt, 0, trunk, trunk, image_id)
        last_of_prompt = len(row.ids) - 1
        for example in sharing.examples:
            branch += 1
            first = len(row.ids)
            slot = None if example.completion_is_text else image_id
            row.add(example.completion_ids, len(prompt), branch, trunk, slot)
            for offset, token in enumerate(example.completion_ids):
                if token != slot and (prompt or offset):  # nothing predicts a first token
                    row.labels[first + offset] = token
                    row.predictors.append(first + offset - 1 if offset else last_of_prompt)
    return row
