"""The sigmoid loss between pictures and texts. Letters: N pictures, M texts, D embedding width."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F


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
