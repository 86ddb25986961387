"""Greedy steps: transformers' own `generate`, batches, stops."""

from collections.abc import Collection, Sequence
from typing import Any

import pytest
import torch

from medgemma import MedGemma
from medgemma.chat import Prompt, render, user_message
from medgemma.decode import greedy_steps
from medgemma.vision import merge, project

QUESTIONS = (
    "Which view is this?",
    "Name the organ and the modality of this picture, please, and all that is seen.",
    "?",
)
NEVER = 100
"""The id of a byte, which the tiny model never says."""
STEPS = 40
"""Beyond the tiny model's sliding window of 24."""


def decode(
    gemma: MedGemma, prompts: Sequence[Prompt], pixel_values: torch.Tensor, stop_ids: Collection[int] = ()
) -> list[list[int]]:
    """A left-padded batch; every prompt's tokens."""
    width = max(len(p.input_ids) for p in prompts)
    ids = torch.tensor([[0] * (width - len(p.input_ids)) + list(p.input_ids) for p in prompts])
    types = torch.tensor([[0] * (width - len(p.input_ids)) + list(p.token_type_ids) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p.input_ids)) + [1] * len(p.input_ids) for p in prompts])
    with torch.inference_mode():
        embeddings = merge(gemma.model, ids, types, project(gemma.model, pixel_values))
    steps = greedy_steps(gemma.model, embeddings, mask, types, max_new_tokens=STEPS, stop_ids=stop_ids, pad_id=0)
    return torch.stack(list(steps), 1).tolist()  # type: ignore[no-any-return]


@pytest.fixture
def prompts(gemma: MedGemma) -> list[Prompt]:
    return [render(gemma.tokenizer, gemma.image_tokens, [user_message(q, 1)]) for q in QUESTIONS]


@pytest.fixture
def pixel_values(processor: Any, images: list[Any]) -> torch.Tensor:
    values: torch.Tensor = processor.image_processor(images, return_tensors="pt").pixel_values
    return values


def generated(reference: Any, prompt: Prompt, pixel_values: torch.Tensor, **options: Any) -> list[int]:
    ids, types = torch.tensor([prompt.input_ids]), torch.tensor([prompt.token_type_ids])
    whole = reference.generate(
        input_ids=ids,
        pixel_values=pixel_values,
        token_type_ids=types,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=STEPS,
        **options,
    )
    return whole[0, ids.shape[1] :].tolist()  # type: ignore[no-any-return]


def test_tokens_are_those_of_generate(
    gemma: MedGemma, reference: Any, prompts: list[Prompt], pixel_values: torch.Tensor
) -> None:
    for prompt, values in zip(prompts, pixel_values, strict=True):
        ours = decode(gemma, [prompt], values[None])[0]
        assert ours == generated(reference, prompt, values[None], eos_token_id=NEVER)
        assert len(ours) == STEPS and len(set(ours)) > 3


def test_a_left_padded_batch_is_its_singles(gemma: MedGemma, prompts: list[Prompt], pixel_values: torch.Tensor) -> None:
    singles = [decode(gemma, [p], v[None])[0] for p, v in zip(prompts, pixel_values, strict=True)]
    assert decode(gemma, prompts, pixel_values) == singles
    assert len({tuple(single) for single in singles}) == 3


def test_a_prompt_stops_by_itself_and_yields_padding(
    gemma: MedGemma, reference: Any, prompts: list[Prompt], pixel_values: torch.Tensor
) -> None:
    free = decode(gemma, prompts, pixel_values)
    stop = next(t for t in free[0][3:] if t not in free[0][:3])
    expected = [row.index(stop) + 1 if stop in row else STEPS for row in free]
    rows = decode(gemma, prompts, pixel_values, stop_ids={stop})
    for row, whole, length in zip(rows, free, expected, strict=True):
        assert row[:length] == whole[:length]
        assert set(row[length:]) <= {0}
    assert len(rows[0]) == max(expected)  # no step after the last has stopped
    assert generated(reference, prompts[0], pixel_values[:1], eos_token_id=stop) == free[0][: expected[0]]
