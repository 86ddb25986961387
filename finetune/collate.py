"""Conversations to training batches: prompt and image tokens masked, token_type_ids always there, nothing ever cut.

Letters: B rows, T tokens of the longest, P pictures, K learned tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

import torch

from finetune.losses.completion import IGNORED
from finetune.training import named_places
from medgemma.engine.masks import Chunk
from medgemma.prompts.chat import ImageTokens, Message, plain, refuse_control_tokens, render
from medgemma.prompts.special_tokens import turn_tokens


@dataclass(frozen=True)
class Example:
    """One tokenised conversation: what is given, and what is to be learned."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    pictures: tuple[int, ...] = ()
    """Numbers of its pictures, in the order of their slots."""
    place: str = ""
    """Where its row stands, such as "films.csv:17": what reports and errors call it."""
    weights: tuple[float, ...] | None = None
    """Of each completion token's loss; None is 1 each."""
    sampled_logprobs: tuple[float, ...] | None = None
    """Of each completion token under what it was sampled from, where the loss is to be corrected by it."""
    completion_is_text: bool = False
    """An image token in the completion is a word that a policy has said: it is learned, and no picture's slot."""

    @property
    def num_tokens(self) -> int:
        """Of prompt and completion."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True)
class Conversations:
    """Messages and a reply to examples, in a checkpoint's own form."""

    tokenizer: Any
    image_tokens: ImageTokens
    end_ids: tuple[int, ...]
    """What a reply ends with: the end of a turn and what the chat template writes behind it, or the eos token."""

    @classmethod
    def of(cls, tokenizer: Any, image_tokens: ImageTokens) -> "Conversations":
        """Those of a checkpoint; without a chat template, in the plain form of pre-trained ones."""
        end = turn_tokens(tokenizer).end
        if end is None:
            return cls(tokenizer, image_tokens, (tokenizer.eos_token_id,))
        return cls(tokenizer, image_tokens, (end, *tokenizer("\n", add_special_tokens=False).input_ids))

    def example(
        self, messages: Sequence[Message], reply: str, pictures: Sequence[int] = (), place: str = ""
    ) -> Example:
        """The reply is learned with its end; all before it is given: system and user turns, pictures, earlier replies.

        Prompt and reply are tokenised apart, as they are when the model answers.

        Args:
            messages: see `medgemma.prompts.chat.render`.
            reply: what is to be said next.
            pictures: their numbers, one an image slot.
            place: where the row stands.

        Raises:
            ValueError: as `render`, the reply is empty or holds a control token, or the slots are more or fewer.
        """
        form = render if self.tokenizer.chat_template else plain
        prompt = form(self.tokenizer, self.image_tokens, messages)
        refuse_control_tokens(self.image_tokens, reply)
        if not reply.strip():
            raise ValueError("an empty reply teaches nothing; leave the row out")
        if prompt.num_images != len(pictures):
            raise ValueError(f"{len(pictures)} pictures for {prompt.num_images} image parts; give one a part")
        ids = self.tokenizer(reply, add_special_tokens=False).input_ids
        return Example(prompt.input_ids, (*ids, *self.end_ids), tuple(pictures), place)


@dataclass(frozen=True)
class Batch:
    """Right-padded rows: one conversation a row, or several (see `finetune.packing`)."""

    input_ids: torch.Tensor
    """(B, T) int64."""
    attention_mask: torch.Tensor
    """(B, T) int64, 0 on padding."""
    token_type_ids: torch.Tensor
    """(B, T) int64, 1 on image tokens."""
    labels: torch.Tensor
    """(B, T) int64, IGNORED on prompt, image and padding tokens."""
    predictors: torch.Tensor
    """(K,) int64: the token, counted over all rows, whose state predicts each learned token."""
    targets: torch.Tensor
    """(K,) int64, what is learned, conversation by conversation."""
    pictures: tuple[int, ...]
    """P picture numbers in the order of their slots."""
    examples: tuple[Example, ...] = ()
    """Its conversations in their order."""
    weights: torch.Tensor | None = None
    """(K,) float32 of the learned tokens, where any example has some."""
    sampled_logprobs: torch.Tensor | None = None
    """(K,) float32, where all examples have some."""
    packing: Chunk | None = None
    """Positions and branches where a row holds several conversations."""

    @property
    def places(self) -> tuple[str, ...]:
        """Where its conversations' rows stand."""
        return tuple(example.place for example in self.examples)

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        return replace(_moved(self, device), packing=self.packing and _moved(self.packing, device))


Holder = TypeVar("Holder", Batch, Chunk)


class Fitting(NamedTuple):
    """Examples sorted by whether they fit."""

    kept: list[Example]
    too_long: list[Example]

    def report(self, max_tokens: int) -> str:
        """One line: how many were left out, the longest, and where the first ones stand; empty if all fit."""
        if not self.too_long:
            return ""
        longest = max(example.num_tokens for example in self.too_long)
        named = named_places([example.place for example in self.too_long])
        total = len(self.kept) + len(self.too_long)
        text = f"{len(self.too_long)} of {total} examples have more than {max_tokens} tokens (the longest {longest})"
        return f"{text} and are left out{named and f': {named}'}; allow more tokens to keep them"


def fitting(examples: Sequence[Example], max_tokens: int) -> Fitting:
    """Tell the examples that have at most `max_tokens` from the others; nothing is cut."""
    kept = [example for example in examples if example.num_tokens <= max_tokens]
    return Fitting(kept, [example for example in examples if example.num_tokens > max_tokens])


def collate(examples: Sequence[Example], *, pad_id: int, image_id: int | None, max_tokens: int) -> Batch:
    """Pad examples to one length, one a row.

    Args:
        examples: B conversations.
        pad_id: the tokenizer's pad id.
        image_id: the id of an image's soft tokens; None for a model of text alone.
        max_tokens: of a conversation.

    Raises:
        ValueError: an example is longer than that, or has nothing to learn.
    """
    demand_learnable(examples, max_tokens)
    rows = [(*e.prompt_ids, *e.completion_ids) for e in examples]
    width = max(map(len, rows))
    input_ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    attention_mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    prompt_lengths = torch.tensor([len(e.prompt_ids) for e in examples])[:, None]
    in_prompt = torch.arange(width)[None] < prompt_lengths
    may_be_slot = in_prompt | ~torch.tensor([e.completion_is_text for e in examples])[:, None]
    image = (input_ids == (-1 if image_id is None else image_id)) & (attention_mask == 1) & may_be_slot
    given = in_prompt | image | (attention_mask == 0)
    labels = input_ids.masked_fill(given, IGNORED)
    labels[:, 0] = IGNORED  # nothing predicts a first token
    learned = (labels != IGNORED).flatten().nonzero()[:, 0]
    values = token_values(examples, image_id)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        token_type_ids=image.long(),
        labels=labels,
        predictors=learned - 1,
        targets=labels.flatten()[learned],
        pictures=tuple(p for e in examples for p in e.pictures),
        examples=tuple(examples),
        weights=values.weights,
        sampled_logprobs=values.sampled_logprobs,
    )


class TokenValues(NamedTuple):
    """What a batch's learned tokens have, in the order of its targets."""

    weights: torch.Tensor | None
    sampled_logprobs: torch.Tensor | None


def token_values(examples: Sequence[Example], image_id: int | None) -> TokenValues:
    """`Batch.weights` and `Batch.sampled_logprobs`.

    Raises:
        ValueError: an example has more or fewer values than completion tokens, or some have sampled log-probabilities
            and some have none.
    """
    sampled = [example.sampled_logprobs is not None for example in examples]
    if any(sampled) and not all(sampled):
        raise ValueError(f"{sum(sampled)} of {len(sampled)} examples have sampled log-probabilities; give all or none")
    weights = logprobs = None
    if any(example.weights is not None for example in examples):
        each = [example.weights or (1.0,) * len(example.completion_ids) for example in examples]
        weights = _learned(examples, each, image_id, "weights")
    if any(sampled):
        each = [example.sampled_logprobs or () for example in examples]
        logprobs = _learned(examples, each, image_id, "sampled log-probabilities")
    return TokenValues(weights, logprobs)


def _learned(
    examples: Sequence[Example], values: Sequence[Sequence[float]], image_id: int | None, what: str
) -> torch.Tensor:
    """(K,) float32, the values of those completion tokens that are learned."""
    learned: list[float] = []
    for example, of_tokens in zip(examples, values, strict=True):
        ids = example.completion_ids
        if len(of_tokens) != len(ids):
            place = example.place or "an example"
            raise ValueError(f"{place}: {len(of_tokens)} {what} for {len(ids)} tokens; give one each")
        first = 0 if example.prompt_ids else 1  # nothing predicts a first token
        slot = None if example.completion_is_text else image_id
        learned += [of_tokens[n] for n in range(first, len(ids)) if ids[n] != slot]
    return torch.tensor(learned)


def demand_learnable(examples: Sequence[Example], max_tokens: int) -> None:
    """Refuse examples that would have to be cut, or that teach nothing.

    Raises:
        ValueError: an example has more than `max_tokens` or no completion.
    """
    for number, example in enumerate(examples):
        name = example.place or f"example {number}"
        if example.num_tokens > max_tokens:
            raise ValueError(
                f"{name}: {example.num_tokens} tokens, more than {max_tokens}; nothing is cut: shorten it, allow more, "
                "or leave it out with finetune.collate.fitting"
            )
        if not example.completion_ids:
            raise ValueError(f"{name}: an empty completion teaches nothing; leave the row out")


def _moved(holder: Holder, device: torch.device) -> Holder:
    """A dataclass with its tensors on another device."""
    values = ((field.name, getattr(holder, field.name)) for field in fields(holder))
    moved: dict[str, Any] = {name: value.to(device) for name, value in values if isinstance(value, torch.Tensor)}
    return replace(holder, **moved)
