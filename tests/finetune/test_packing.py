"""Packed rows and shared prompts, with pictures: the losses and gradients of the conversations alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from finetune.collate import Batch, Example, collate
from finetune.forward import checkpoint_activations, completion_states
from finetune.losses.completion import IGNORED
from finetune.packing import Layout, Sharing, collate_packed, grouped_by_length, packed_rows
from finetune.supervised import batch_loss
from finetune.training import Ranks
from medgemma.engine.masks import Chunk, packed_masks
from tests import checkpoints

IMAGE, WINDOW = checkpoints.IMAGE["image_token_index"], checkpoints.TEXT["sliding_window"]
SLOT = (37, 39, 39, 39, 39, 38)


def text(*ids: int, prompt: tuple[int, ...] = (2, 5)) -> Example:
    return Example(prompt, ids, place=f"t.csv:{ids[0]}")


EXAMPLES = (
    Example((2, *SLOT, 7, 8, *SLOT, 9), (10, 11, 12, 13, 14, 15, 16, 17, 18, 1), (0, 1), "t.csv:1"),
    text(20, 21, 22, 1),
    Example((2, *SLOT, 9), (30, 1), (1,), "t.csv:3"),
    Example((2, 5, *SLOT), (31, 32, 1), (2,), "t.csv:4"),
    text(*range(10, 36), 1),
    text(25, 1, prompt=(2,)),
)
"""Two pictures, one or none; longer and shorter than the window."""


@pytest.fixture(scope="module")
def model() -> Any:
    return checkpoints.multimodal(vision_layers=1)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(3)) * 2 - 1


def alone(example: Example) -> Batch:
    return collate([example], pad_id=0, image_id=IMAGE, max_tokens=64)


def packed(examples: Sequence[Example], row_tokens: int = 64, *, share_prompts: bool = False) -> Batch:
    return collate_packed(packed_rows(examples, row_tokens, share_prompts=share_prompts), pad_id=0, image_id=IMAGE)


def learned(model: Any, batches: Sequence[Batch], pixels: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss over all batches, and every gradient."""
    model.zero_grad(set_to_none=True)
    tokens, total = sum(len(b.targets) for b in batches), 0.0
    for batch in batches:
        loss = batch_loss(model, batch, tokens, pixels[list(batch.pictures)])
        torch.autograd.backward(loss)
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_alike(ours: Any, theirs: Any) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert ours[1].keys() == theirs[1].keys() and len(theirs[1]) > 80
    for name, gradient in theirs[1].items():
        assert (ours[1][name] - gradient).abs().max() <= 5e-5 * gradient.abs().max() + 1e-8, name


def test_packed_is_unpacked(model: Any, pixels: torch.Tensor) -> None:
    """One at a time is the oracle: transformers' own masks, no padding. Tower and projector learn too."""
    oracle = learned(model, [alone(e) for e in EXAMPLES], pixels)
    batch = packed(EXAMPLES)
    assert batch.input_ids.shape[0] < 3 and batch.packing is not None
    assert_alike(learned(model, [batch], pixels), oracle)
    assert_alike(learned(model, [collate(EXAMPLES, pad_id=0, image_id=IMAGE, max_tokens=64)], pixels), oracle)


def one_branch(packing: Chunk) -> Chunk:
    return replace(packing, branches=torch.ones_like(packing.branches), trunks=torch.ones_like(packing.branches))


@pytest.mark.parametrize(
    "fault",
    [
        one_branch,
        lambda packing: replace(packing, pictures=torch.full_like(packing.pictures, -1)),
    ],
    ids=["conversations see each other", "pictures are causal"],
)
def test_controls_of_packing(model: Any, pixels: torch.Tensor, fault: Callable[[Chunk], Chunk]) -> None:
    batch = packed(EXAMPLES)
    assert batch.packing is not None
    right = learned(model, [batch], pixels)[0]
    assert abs(learned(model, [replace(batch, packing=fault(batch.packing))], pixels)[0] - right) > 1e-4 * right


def test_a_shared_prompt_is_computed_once_and_changes_nothing(model: Any, pixels: torch.Tensor) -> None:
    """Groups, as on-policy work samples them: two prompts with several completions each, and one of its own."""
    prompts = [((2, 5, *SLOT, 9, 8), (2,)), ((2, 6, 7, 8), ())]
    group = [Example(p, (10 + i, 20 + i, 30, 1), pictures) for p, pictures in prompts for i in range(4)]
    examples = [*group, text(20, 21, 22, 1)]
    batch = packed(examples, share_prompts=True)
    assert int(batch.attention_mask.sum()) == sum(len(p) for p, _ in prompts) + 9 * 4 + 2
    assert batch.pictures == (2,) and int(batch.token_type_ids.sum()) == 4
    assert_alike(learned(model, [batch], pixels), learned(model, [alone(e) for e in examples], pixels))
    assert batch.packing is not None  # control: completions at positions that go on over one another
    shifted = replace(batch.packing, positions=torch.arange(batch.input_ids.shape[1])[None])
    right = learned(model, [batch], pixels)[0]
    assert abs(learned(model, [replace(batch, packing=shifted)], pixels)[0] - right) > 1e-4 * right
    small = packed(examples, 20, share_prompts=True)  # rows that hold a part of a group
    assert small.input_ids.shape[1] <= 20
    assert_alike(learned(model, [small], pixels), learned(model, [alone(e) for e in examples], pixels))


def test_other_pictures_are_another_prompt() -> None:
    same, other = (Example((2, *SLOT), (10, 1), (number,)) for number in (0, 1))
    rows = packed_rows([same, other, same], 64, share_prompts=True)
    assert sorted(len(sharing.examples) for row in rows for sharing in row) == [1, 2]


def test_what_a_packed_row_holds() -> None:
    shared = Sharing((Example((2, 5), (10, 1)), Example((2, 5), (11, 12, 1))))
    batch = collate_packed(
        [[shared, Sharing((Example((2, *SLOT), (13,), (4,), "t.csv:9"),))], [Sharing((text(14),))]],
        pad_id=0,
        image_id=IMAGE,
    )
    no = IGNORED
    assert batch.input_ids.tolist() == [[2, 5, 10, 1, 11, 12, 1, 2, *SLOT, 13], [2, 5, 14] + [0] * 12]
    assert batch.labels.tolist() == [[no, no, 10, 1, 11, 12, 1] + [no] * 7 + [13], [no, no, 14] + [no] * 12]
    assert batch.predictors.tolist() == [1, 2, 1, 4, 5, 13, 16] and batch.targets.tolist() == [10, 1, 11, 12, 1, 13, 14]
    assert batch.token_type_ids[0].tolist() == [0] * 8 + [0, 1, 1, 1, 1, 0, 0][:7] and batch.pictures == (4,)
    assert batch.places == ("", "", "t.csv:9", "t.csv:14")
    packing = batch.packing
    assert packing is not None and packing.trunks is not None
    assert packing.positions[0].tolist() == [0, 1, 2, 3, 2, 3, 4, *range(8)]
    mask = packed_masks(packing, 64)["full_attention"][0, 0]
    assert mask[6].nonzero()[:, 0].tolist() == [0, 1, 4, 5, 6]  # its prompt and itself, not the completion beside it
    assert mask[9].nonzero()[:, 0].tolist() == [7, 8, 9, 10, 11, 12]  # what comes before, and its whole picture
    assert packed_masks(packing, 2)["sliding_attention"][0, 0, 6].nonzero()[:, 0].tolist() == [5, 6]


def test_a_row_of_one_conversation_has_transformers_masks(model: Any) -> None:
    from transformers.models.gemma3.modeling_gemma3 import (
        create_masks_for_vision_model,
        get_block_sequence_ids_for_mask,
    )

    batch = packed(EXAMPLES[:1])
    assert batch.packing is not None
    types = batch.token_type_ids
    theirs = create_masks_for_vision_model(
        config=model.config.get_text_config(),
        inputs_embeds=torch.zeros(*types.shape, 4),
        attention_mask=None,
        past_key_values=None,
        position_ids=None,
        block_sequence_ids=get_block_sequence_ids_for_mask(types, device=types.device),
    )
    ours = packed_masks(batch.packing, WINDOW)
    assert all(torch.equal(ours[kind], theirs[kind]) for kind in ours)


def test_groups_and_rows_by_hand() -> None:
    def lengths(*given: int) -> list[Example]:
        return [Example((2,), (5,) * (n - 1)) for n in given]

    batches = grouped_by_length(lengths(3, 9, 4, 10, 2, 3), 20)
    assert [[e.num_tokens for e in batch] for batch in batches] == [[10, 9], [4, 3, 3, 2]]
    assert [[e.num_tokens for e in batch] for batch in grouped_by_length(lengths(30, 2), 20)] == [[30], [2]]
    rows = packed_rows(lengths(3, 9, 4, 10, 2, 3), 12)
    assert [[s.num_tokens for s in row] for row in rows] == [[10, 2], [9, 3], [4, 3]]
    with pytest.raises(ValueError, match="example 1: 13 tokens, more than 12; nothing is cut"):
        packed_rows(lengths(3, 13), 12)


LAYOUTS = {
    "whole": Layout(0, IMAGE, 64),
    "padded": Layout(0, IMAGE, 64, tokens_a_part=40),
    "packed": Layout(0, IMAGE, 40, tokens_a_part=40, packed=True),
    "shared": Layout(0, IMAGE, 64, packed=True, share_prompts=True),
}


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("name", LAYOUTS)
def test_no_layout_and_no_number_of_ranks_changes_a_step(
    model: Any, pixels: torch.Tensor, name: str, world: int
) -> None:
    examples = EXAMPLES[:1] if (name, world) == ("whole", 8) else EXAMPLES
    shares = [LAYOUTS[name].parts(examples, Ranks(rank, world)) for rank in range(world)]
    assert all(shares)
    counted = [part for share in shares for part in share if part.weight]
    assert sorted(p for part in counted for p in part.places) == sorted(e.place for e in examples)
    assert sum(part.weight for part in counted) == sum(len(e.completion_ids) for e in examples)
    batches = [part.drawn for part in counted]
    with torch.no_grad():
        tokens = sum(len(b.targets) for b in batches)
        whole = sum(batch_loss(model, b, tokens, pixels[list(b.pictures)]).item() for b in batches)
        one = [alone(e) for e in examples]
        assert whole == pytest.approx(
            sum(batch_loss(model, b, tokens, pixels[list(b.pictures)]).item() for b in one), rel=1e-6
        )


def test_states_are_those_of_the_tokens_that_predict(model: Any) -> None:
    """Transformers' logits of the whole batch, where the labels are."""
    batch = collate([EXAMPLES[1], EXAMPLES[5]], pad_id=0, image_id=IMAGE, max_tokens=64)
    with torch.no_grad():
        stock = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        ours = model.lm_head(completion_states(model, batch))
    theirs = torch.cat([stock[0, 1:5], stock[1, :2]])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_text_alone_and_checkpointed_activations(model: Any, pixels: torch.Tensor) -> None:
    text_model = checkpoints.text_only()
    examples = [EXAMPLES[1], EXAMPLES[4], EXAMPLES[5]]
    layout = Layout(0, None, 64, packed=True)
    [part] = layout.parts(examples)
    tokens = int(part.weight)
    one = sum(
        batch_loss(text_model, collate([e], pad_id=0, image_id=None, max_tokens=64), tokens).item() for e in examples
    )
    assert batch_loss(text_model, part.drawn, tokens).item() == pytest.approx(one, rel=1e-6)
    before = learned(model, [packed(EXAMPLES)], pixels)
    again = checkpoints.multimodal(vision_layers=1).train()
    checkpoint_activations(again)
    assert again.model.language_model.layers[0].gradient_checkpointing
    after = learned(again, [packed(EXAMPLES)], pixels)
    assert before[0] == after[0] and all(torch.equal(after[1][name], g) for name, g in before[1].items())


def test_image_tokens_without_a_picture_are_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="4 image tokens and no picture"):
        completion_states(model, alone(EXAMPLES[2]))


def test_an_image_token_that_a_policy_has_said_is_a_word_and_no_picture() -> None:
    """It is learned, stands for no slot, and packed rows agree with single ones."""
    said = Example((2, *SLOT, 9), (30, IMAGE, IMAGE, 1), (0,), "t.csv:1", (1.0, 2.0, 3.0, 4.0), completion_is_text=True)
    for batch in (collate([said], pad_id=0, image_id=IMAGE, max_tokens=64), packed([said], 64)):
        assert batch.targets.tolist() == [30, IMAGE, IMAGE, 1]
        assert int(batch.token_type_ids.sum()) == 4 and batch.weights is not None
        assert batch.weights.tolist() == [1, 2, 3, 4]
    control = collate([replace(said, completion_is_text=False)], pad_id=0, image_id=IMAGE, max_tokens=64)
    assert control.targets.tolist() == [30, 1] and int(control.token_type_ids.sum()) == 6
