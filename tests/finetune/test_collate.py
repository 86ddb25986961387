"""Batches: what is masked, what always goes along, what is refused; and what the decoder makes of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.augment import Augmentation, plain
from finetune.collate import Batch, Example, collate, fitting
from finetune.losses.completion import IGNORED, completion_loss
from finetune.supervised import batch_loss
from finetune.views import tower_views
from tests import tiny

PAD, IMAGE = 0, 9
WITH_PICTURE = Example((2, 5, 7, IMAGE, IMAGE, 8, 30), (41, 42, 6), (17,))
SEEN = Augmentation(window=0.5)
TEXT = Example((2,), (51, 52, 53, 54, 1))


def collated(*examples: Example, max_tokens: int = 16) -> Batch:
    return collate(examples, pad_id=PAD, image_id=IMAGE, max_tokens=max_tokens)


def test_prompt_image_and_padding_are_masked() -> None:
    batch = collated(WITH_PICTURE, TEXT)
    no = IGNORED
    assert batch.input_ids.tolist() == [
        [2, 5, 7, 9, 9, 8, 30, 41, 42, 6],
        [2, 51, 52, 53, 54, 1, 0, 0, 0, 0],
    ]
    assert batch.labels.tolist() == [
        [no, no, no, no, no, no, no, 41, 42, 6],
        [no, 51, 52, 53, 54, 1, no, no, no, no],
    ]
    assert batch.attention_mask.tolist() == [[1] * 10, [1] * 6 + [0] * 4]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0, 0], [0] * 10]
    assert batch.pictures == (17,)


def test_token_type_ids_are_there_without_pictures_too() -> None:
    assert torch.equal(collated(TEXT).token_type_ids, torch.zeros(1, 6, dtype=torch.int64))


def test_a_pad_id_that_is_an_image_id_or_a_label_does_not_confuse_padding() -> None:
    batch = collate([WITH_PICTURE, TEXT], pad_id=IMAGE, image_id=IMAGE, max_tokens=16)
    assert batch.token_type_ids[1].sum() == 0 and (batch.labels[1, 6:] == IGNORED).all()


def test_image_tokens_in_a_completion_are_not_learned() -> None:
    batch = collated(Example((2, 30), (31, IMAGE, IMAGE, 32), (3,)))
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 31, IGNORED, IGNORED, 32]]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 1, 1, 0]]


def test_pictures_keep_the_order_of_their_slots() -> None:
    two = Example((2, IMAGE, IMAGE, IMAGE, IMAGE), (40,), (9, 4))
    assert collated(two, WITH_PICTURE, TEXT, two).pictures == (9, 4, 17, 9, 4)


def test_nothing_is_cut() -> None:
    assert collated(WITH_PICTURE, max_tokens=10).input_ids.shape == (1, 10)
    for max_tokens in (9, 8, 3):
        with pytest.raises(ValueError, match=f"example 1: 10 tokens, more than {max_tokens}; nothing is cut"):
            collated(Example((2,), (5,)), WITH_PICTURE, max_tokens=max_tokens)
    named = Example((2,), (5,) * 9, place="films.csv:17")
    with pytest.raises(ValueError, match="^films.csv:17: 10 tokens, more than 8"):
        collated(named, max_tokens=8)
    with pytest.raises(ValueError, match="example 0: an empty completion teaches nothing"):
        collated(Example((2, 5), ()))


def test_what_is_too_long_is_reported_with_counts() -> None:
    rows = [Example((2,), (5,) * n, place=f"t.csv:{n}") for n in range(1, 13)]
    kept, too_long = found = fitting(rows, 5)
    assert [e.num_tokens for e in kept] == [2, 3, 4, 5] and [e.num_tokens for e in too_long] == list(range(6, 14))
    assert found.report(5) == (
        "8 of 12 examples have more than 5 tokens (the longest 13) and are left out: "
        "t.csv:5, t.csv:6, t.csv:7, t.csv:8, t.csv:9 and 3 more; allow more tokens to keep them"
    )
    assert fitting(rows, 13).report(13) == ""


def test_a_first_token_is_not_learned_for_nothing_predicts_it() -> None:
    batch = collated(TEXT, Example((), (40, 41, 42)))
    assert batch.labels[1].tolist() == [IGNORED, 41, 42, IGNORED, IGNORED, IGNORED]
    assert batch.targets.tolist() == [51, 52, 53, 54, 1, 41, 42]
    assert batch.predictors.tolist() == [0, 1, 2, 3, 4, 6, 7]


def test_prompt_tokens_do_not_count() -> None:
    """Other prompts over the same hidden states: the same loss; another answer: another."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(10, 8), torch.randn(64, 8)
    other_prompt = Example((2, 33, 34, 35, 36, 37, 38), WITH_PICTURE.completion_ids)
    other_answer = Example(WITH_PICTURE.prompt_ids, (41, 43, 6))
    batches = [collated(e) for e in (WITH_PICTURE, other_prompt, other_answer)]
    first, same, other = (completion_loss(hidden[b.predictors], weight, b.targets, denominator=3) for b in batches)
    assert torch.equal(first, same)
    assert (first - other).abs() > 1e-3


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import Gemma3ForConditionalGeneration

    folder: Path = tiny.decoder_folder(tmp_path_factory.mktemp("decoder"))
    return Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def picture_batch(decoder: Any) -> tuple[Batch, torch.Tensor]:
    config = decoder.config
    prompt = (2, config.boi_token_index, *[config.image_token_id] * 4, config.eoi_token_index, 300)
    batch = collate(
        [Example(prompt, (301, 302, 6), (0,)), Example((2,), (305, 306, 307, 1)), Example(prompt, (310, 6), (1,))],
        pad_id=0,
        image_id=config.image_token_id,
        max_tokens=32,
    )
    pictures = torch.stack([torch.from_numpy(tiny.picture_array(i, 72, 72)).permute(2, 0, 1) for i in range(2)])
    views = tower_views(decoder.model.vision_tower, pictures, torch.tensor([False, True]), 3, augmentation=SEEN, seed=0)
    return batch, views


def test_batch_loss_is_transformers_mean_over_completions(
    decoder: Any, picture_batch: tuple[Batch, torch.Tensor]
) -> None:
    """The stock forward pass with labels, pixels from the start; bfloat16 on either side."""
    batch, views = picture_batch
    pictures = torch.stack([torch.from_numpy(tiny.picture_array(i, 72, 72)).permute(2, 0, 1) for i in range(2)])
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        stock = decoder(
            input_ids=batch.input_ids,
            pixel_values=plain(pictures, 56),
            attention_mask=batch.attention_mask,
            token_type_ids=batch.token_type_ids,
            labels=batch.labels,
        ).loss
    ours = batch_loss(decoder, batch, len(batch.targets), patches=views[list(batch.pictures), 0].float())
    assert ours.item() == pytest.approx(stock.item(), rel=1e-3)
    swapped = batch_loss(decoder, batch, len(batch.targets), patches=views[[1, 0], 0].float())
    assert abs(swapped.item() - stock.item()) > 5e-3 * stock.item()  # control: pictures in the wrong slots


def test_the_image_mask_reaches_the_model_in_training(
    decoder: Any, picture_batch: tuple[Batch, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, views = picture_batch
    forward, seen = decoder.model.forward, []

    def watched(**kwargs: Any) -> Any:
        seen.append(kwargs["token_type_ids"])
        return forward(**kwargs)

    monkeypatch.setattr(decoder.model, "forward", watched)
    batch_loss(decoder, batch, 1, patches=views[:, 0].float())
    batch_loss(decoder, collated(TEXT), 1)
    assert torch.equal(seen[0], batch.token_type_ids) and seen[0].sum() == 8
    assert seen[1].sum() == 0


def test_views_are_the_picture_itself_and_augmented_ones(
    decoder: Any, picture_batch: tuple[Batch, torch.Tensor]
) -> None:
    _, views = picture_batch
    assert views.shape == (2, 3, 16, 16) and views.dtype == torch.bfloat16
    assert not torch.equal(views[:, 0], views[:, 1]) and not torch.equal(views[:, 1], views[:, 2])
    pictures = torch.stack([torch.from_numpy(tiny.picture_array(i, 72, 72)).permute(2, 0, 1) for i in range(2)])
    again = tower_views(decoder.model.vision_tower, pictures, torch.tensor([False, True]), 3, augmentation=SEEN, seed=0)
    assert torch.equal(views, again)
