"""Logits to tokens, each row by its own settings and its own stream of random numbers.

Letters: R rows, V vocabulary.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medgemma.engine.request import Sampling


@dataclass(frozen=True)
class Chosen:
    """What was chosen, a row."""

    token_ids: list[int]
    logprobs: list[float]
    """Under the model at temperature 1, before top-k, top-p and constraints; NaN where the logits are not finite."""


def generator_of(sampling: Sampling, sample: int) -> torch.Generator:
    """The stream of one sample: made of seed and sample alone, so neither the batch nor the device changes it."""
    digest = hashlib.sha256(f"{sampling.seed} {sample}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))  # it takes 32 bits and drops the rest


def choose(
    logits: torch.Tensor,
    samplings: Sequence[Sampling],
    generators: Sequence[torch.Generator],
    allowed: Sequence[torch.Tensor | None],
) -> Chosen:
    """Choose the next token of every row.

    Args:
        logits: (R, V), any float dtype.
        samplings: of each row.
        generators: of each row; one number is drawn for each sampled token.
        allowed: (V,) bool of each row, None allows all.
    """
    logits = logits.float()
    limited = logits
    if any(mask is not None for mask in allowed):
        limited = logits.clone()
        for row, mask in enumerate(allowed):
            if mask is not None:
                limited[row].masked_fill_(~mask.to(logits.device), -torch.inf)
    tokens = limited.argmax(-1)
    for settings, rows in _sampled(samplings).items():
        draws = torch.stack([torch.rand((), dtype=torch.float64, generator=generators[row]) for row in rows])
        temperatures = torch.tensor([samplings[row].temperature for row in rows])
        sampled = limited[rows]
        if sampled.device.type == "mps":  # it has no float64
            sampled = sampled.cpu()
        scaled = sampled / temperatures.to(sampled.device)[:, None]
        tokens[rows] = _drawn(scaled, *settings, draws.to(sampled.device)).to(tokens.device)
    # NaN in any logit makes the logarithm of the sum NaN, so that a row of bad weights is seen.
    logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    return Chosen(tokens.tolist(), logprobs.tolist())


def _sampled(samplings: Sequence[Sampling]) -> dict[tuple[int | None, float], list[int]]:
    """Rows that are not greedy, by (top_k, top_p)."""
    groups: dict[tuple[int | None, float], list[int]] = {}
    for row, sampling in enumerate(samplings):
        if sampling.temperature > 0:
            groups.setdefault((sampling.top_k, sampling.top_p), []).append(row)
    return groups


def _drawn(scaled: torch.Tensor, top_k: int | None, top_p: float, draws: torch.Tensor) -> torch.Tensor:
    """(n,) tokens from (n, V) logits: top-k first, top-p over what it leaves, then the inverse of the distribution."""
    order = None
    if top_k is not None and top_k < scaled.shape[1]:
        scaled, order = scaled.topk(top_k, -1)
    elif top_p < 1:
        scaled, order = scaled.sort(-1, descending=True)
    probabilities = scaled.double().softmax(-1)
    cumulative = probabilities.cumsum(-1)
    if top_p < 1:  # a token stays when those before it have not reached top_p
        probabilities = probabilities.masked_fill(cumulative - probabilities >= top_p, 0)
        cumulative = probabilities.cumsum(-1)
    picked = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    picked = picked.clamp(max=cumulative.shape[1] - 1)
    # Past the last kept token the sum is flat: step back onto a token that has probability.
    last = (probabilities > 0).long() * torch.arange(probabilities.shape[1], device=scaled.device)
    picked = torch.minimum(picked, last.amax(-1, keepdim=True))
    return (picked if order is None else order.gather(1, picked))[:, 0]
