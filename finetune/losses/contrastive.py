"""The sigmoid loss between pictures and texts. Letters: N pictures, M texts, D embedding width."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

Relate = Callable[[slice, slice], torch.Tensor]
"""Some pictures and some texts to (n, m) float: what `relations` of `sigmoid_loss` holds of them."""
TILE = 512
"""Pictures and texts whose logits exist at once."""


class Gradients(NamedTuple):
    """The loss, and how it changes with everything that it is made of."""

    losses: torch.Tensor
    """(N,) each picture's share of the loss."""
    images: torch.Tensor
    """(N, D)."""
    texts: torch.Tensor
    """(M, D)."""
    logit_scale: torch.Tensor
    """Scalar."""
    logit_bias: torch.Tensor
    """Scalar."""


def sigmoid_loss(
    image_vectors: torch.Tensor,
    text_vectors: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    relations: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over pictures of -sum over texts of log sigmoid(z · (scale · cosine + bias)).

    Args:
        image_vectors: (N, D) float, L2-normalised.
        text_vectors: (M, D) float, L2-normalised.
        logit_scale: scalar, exp of the learned log temperature.
        logit_bias: scalar.
        relations: (N, M) with z = +1 where the text is true of the picture, -1 where it is false, and 0 where that
            is not known (left out). None is SigLIP's own case: N = M and only the diagonal is true.

    Returns:
        A scalar.

    Source: SigLIP (arXiv:2303.15343) §3.2; relations other than the diagonal are ours, for labelled sets in which
    many pictures share a caption.
    """
    logits = logit_scale * image_vectors @ text_vectors.T + logit_bias
    if relations is None:
        relations = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1
    terms = F.logsigmoid(relations * logits) * (relations != 0)
    return -terms.sum() / len(logits)


@torch.no_grad()
def sigmoid_gradients(
    image_vectors: torch.Tensor,
    text_vectors: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    relate: Relate,
    denominator: float,
    tile: int = TILE,
) -> Gradients:
    """`sigmoid_loss` times N / denominator, tile by tile: of the (N, M) logits one tile exists at a time.

    Args:
        image_vectors: (N, D) float32, L2-normalised.
        text_vectors: (M, D) float32, L2-normalised.
        logit_scale: scalar.
        logit_bias: scalar.
        relate: gives the relations of a tile.
        denominator: pictures of the whole step, over all parts and ranks.
        tile: its side.
    """
    losses = image_vectors.new_zeros(len(image_vectors))
    of_images, of_texts = torch.zeros_like(image_vectors), torch.zeros_like(text_vectors)
    of_scale, of_bias = torch.zeros_like(logit_scale), torch.zeros_like(logit_bias)
    for rows in _tiles(len(image_vectors), tile):
        for columns in _tiles(len(text_vectors), tile):
            cosines = image_vectors[rows] @ text_vectors[columns].T  # (n, m)
            relations = relate(rows, columns)
            signed = (cosines * logit_scale).add_(logit_bias).mul_(relations)
            losses[rows] -= F.logsigmoid(signed).mul_(relations != 0).sum(1) / denominator
            changes = signed.neg_().sigmoid_().mul_(relations).mul_(-1 / denominator)  # of the logits
            of_images[rows].addmm_(changes, text_vectors[columns])
            of_texts[columns].addmm_(changes.T, image_vectors[rows])
            of_scale += (changes * cosines).sum()
            of_bias += changes.sum()
    return Gradients(losses, of_images.mul_(logit_scale), of_texts.mul_(logit_scale), of_scale, of_bias)


def tiled_sigmoid_loss(
    image_vectors: torch.Tensor,
    text_vectors: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    relate: Relate,
    tile: int = TILE,
) -> torch.Tensor:
    """`sigmoid_loss` and its gradient without an (N, M) matrix: the gradient is made in the forward pass."""
    found = sigmoid_gradients(image_vectors, text_vectors, logit_scale, logit_bias, relate, len(image_vectors), tile)
    return with_gradients(found.losses.sum(), (image_vectors, text_vectors, logit_scale, logit_bias), found[1:])


def with_gradients(
    value: torch.Tensor, tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]
) -> torch.Tensor:
    """A scalar of this value whose gradient, with respect to each tensor, is the one that is given."""
    found: torch.Tensor = _WithGradients.apply(value, len(tensors), *tensors, *gradients)  # type: ignore[no-untyped-call]
    return found


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, count: int, *tensors_and_gradients: torch.Tensor) -> torch.Tensor:
        ctx.count = count
        ctx.save_for_backward(*tensors_and_gradients[count:])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        gradients = ctx.saved_tensors
        if outer[0].item() != 1:  # else a copy of all vectors is saved
            gradients = tuple(gradient * outer[0] for gradient in gradients)
        return None, None, *gradients, *(None,) * ctx.count


def _tiles(length: int, tile: int) -> list[slice]:
    return [slice(start, min(start + tile, length)) for start in range(0, length, tile)]


def fact_relations(
    picture_facts: Sequence[Mapping[str, str]], caption_facts: Sequence[Mapping[str, str]]
) -> torch.Tensor:
    """(N, M) float: +1 where a picture has every fact a caption states, -1 where one differs, 0 where it is unknown."""
    return torch.tensor([[_relation(p, c) for c in caption_facts] for p in picture_facts], dtype=torch.float32)


def _relation(picture: Mapping[str, str], caption: Mapping[str, str]) -> float:
    known = [picture[fact] == value for fact, value in caption.items() if fact in picture]
    if not all(known):
        return -1.0
    return 1.0 if len(known) == len(caption) else 0.0
