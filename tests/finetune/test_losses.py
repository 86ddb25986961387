"""Losses: transformers' and torch's own values and gradients, hand-made ones, what must not count."""

import math

import pytest
import torch
import torch.nn.functional as F

from evals.tasks.zero_shot import Caption
from finetune.losses.contrastive import fact_relations, sigmoid_loss, tiled_sigmoid_loss, with_gradients
from finetune.recipes.nano.models import new_encoder
from tests import tiny


def vectors(count: int, width: int = 8, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)))


def test_sigmoid_loss_is_transformers() -> None:
    torch.manual_seed(0)
    model = tiny.lively(new_encoder(tiny.ENCODER)).eval()
    pixels, ids = torch.rand(5, 3, 56, 56) * 2 - 1, torch.randint(3, 64, (5, 64))
    theirs = model(input_ids=ids, pixel_values=pixels, return_loss=True)
    scale, bias = model.logit_scale.exp(), model.logit_bias
    ours = sigmoid_loss(theirs.image_embeds, theirs.text_embeds, scale, bias)
    torch.testing.assert_close(ours, theirs.loss, rtol=0, atol=1e-6)
    shifted = sigmoid_loss(theirs.image_embeds, theirs.text_embeds.roll(1, 0), scale, bias)
    assert (shifted - theirs.loss).abs() > 1e-3  # control: another pairing


def test_sigmoid_loss_by_hand() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    logits = [[2 * 1.0 - 1, 2 * 0.6 - 1], [2 * 0.0 - 1, 2 * 0.8 - 1]]
    signs = [[1, -1], [-1, 1]]
    by_hand = sum(math.log1p(math.exp(-signs[i][j] * logits[i][j])) for i in (0, 1) for j in (0, 1)) / 2
    assert sigmoid_loss(images, texts, torch.tensor(2.0), torch.tensor(-1.0)).item() == pytest.approx(by_hand)


def test_no_relations_are_the_diagonal() -> None:
    images, texts, scale, bias = vectors(4), vectors(4, seed=1), torch.tensor(5.0), torch.tensor(-2.0)
    relations = 2 * torch.eye(4) - 1
    assert torch.equal(sigmoid_loss(images, texts, scale, bias), sigmoid_loss(images, texts, scale, bias, relations))


def test_unknown_relations_are_left_out() -> None:
    images, texts = vectors(2), vectors(3, seed=1).requires_grad_()
    scale, bias = torch.tensor(5.0), torch.tensor(-2.0)
    relations = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]])
    loss = sigmoid_loss(images, texts, scale, bias, relations)
    torch.testing.assert_close(loss, sigmoid_loss(images, texts[:2], scale, bias, relations[:, :2]))
    [gradient] = torch.autograd.grad(loss, texts)
    assert gradient[2].abs().max() == 0 and gradient[:2].abs().min() > 0
    counted = sigmoid_loss(images, texts, scale, bias, relations.where(relations != 0, -1.0))
    assert counted > loss + 1e-3  # control


def test_fact_relations_are_what_captions_say() -> None:
    pictures = [
        {"modality": "X-ray", "body_part": "chest", "pneumonia": "present"},
        {"modality": "X-ray", "body_part": "chest"},
        {"modality": "CT", "body_part": "chest"},
        {"body_part": "head"},
    ]
    captions = [{"modality": "X-ray"}, {"modality": "X-ray", "pneumonia": "present"}, {"pneumonia": "absent"}]
    relations = fact_relations(pictures, captions)
    assert relations.tolist() == [[1, 1, -1], [1, 0, 0], [-1, -1, 0], [0, 0, 0]]
    said = {True: 1.0, False: -1.0, None: 0.0}
    for i, picture in enumerate(pictures):
        for j, facts in enumerate(captions):
            assert relations[i, j] == said[Caption("", facts).is_true_of(picture)]


@pytest.mark.parametrize("tile", [1, 3, 4, 100])
def test_tiles_give_the_whole_loss_and_its_gradients(tile: int) -> None:
    """Uneven tiles too; with positives, negatives and pairs that are left out; against autograd in float64."""
    rng = torch.Generator().manual_seed(3)
    relations = torch.randint(-1, 2, (7, 10), generator=rng).double()
    inputs = [
        vectors(7).double(),
        vectors(10, seed=1).double(),
        torch.tensor(9.0).double(),
        torch.tensor(-3.0).double(),
    ]
    dense, tiled = ([tensor.clone().requires_grad_() for tensor in inputs] for _ in range(2))
    whole = sigmoid_loss(*dense, relations)
    parts = tiled_sigmoid_loss(*tiled, lambda rows, columns: relations[rows, columns], tile)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    (2 * whole).backward()
    (2 * parts).backward()
    for ours, theirs in zip(tiled, dense, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)


def test_of_all_logits_a_tile_exists_at_a_time() -> None:
    seen: list[tuple[int, int]] = []

    def relate(rows: slice, columns: slice) -> torch.Tensor:
        seen.append((rows.stop - rows.start, columns.stop - columns.start))
        return -torch.ones(seen[-1])

    tiled_sigmoid_loss(vectors(20), vectors(30, seed=1), torch.tensor(5.0), torch.tensor(-2.0), relate, tile=8)
    assert max(n * m for n, m in seen) == 64 and sum(n * m for n, m in seen) == 600


def test_a_gradient_that_is_given_is_the_gradient() -> None:
    weight = torch.tensor([2.0, 3.0], requires_grad=True)
    loss = with_gradients(torch.tensor(7.0), [weight * 10], [torch.tensor([1.0, -1.0])])
    assert loss.item() == 7
    (loss * 0.5).backward()
    assert weight.grad is not None and weight.grad.tolist() == [5.0, -5.0]
