"""Logits to tokens, each row by its own settings and its own stream of random numbers; and how likely given ones are.

Letters: R rows, V vocabulary, K tokens of continuations, H decoder width.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from medgemma.engine.network import Network
from medgemma.engine.request import ChoiceScore, Sampling, TopLogprobs

LOGITS_BYTES = 256 << 20
"""Of the logits that exist at once: 256 tokens of Gemma's vocabulary."""


@dataclass(frozen=True)
class Chosen:
    """What was chosen, a row."""

    token_ids: list[int]
    logprobs: list[float]
    """Under the model at temperature 1, before penalties, top-k, top-p and constraints; NaN where the logits are not
    finite."""
    top_logprobs: list[TopLogprobs]
    """Likewise, as many as each row's sampling asks for."""
    tempered_logprobs: list[float]
    """As `logprobs`, at the row's temperature; greedy rows have none and keep 1."""
    sampled_logprobs: list[float]
    """Under the distribution that was drawn from; 0 in greedy rows."""


class Drawn(NamedTuple):
    """Tokens of n rows."""

    tokens: torch.Tensor
    """(n,) int64."""
    logprobs: torch.Tensor
    """(n,) float64, under the distribution that is left after the cuts."""


def generator_of(sampling: Sampling, sample: int) -> torch.Generator:
    """The stream of one sample: made of seed and sample alone, so neither the batch nor the device changes it."""
    digest = hashlib.sha256(f"{sampling.seed} {sample}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))  # it takes 32 bits and drops the rest


def choose(
    logits: torch.Tensor,
    samplings: Sequence[Sampling],
    generators: Sequence[torch.Generator],
    allowed: Sequence[torch.Tensor | None],
    held: Sequence[tuple[Sequence[int], Sequence[int]]] | None = None,
) -> Chosen:
    """Choose the next token of every row.

    Args:
        logits: (R, V), any float dtype.
        samplings: of each row.
        generators: of each row; one number is drawn for each sampled token.
        allowed: (V,) bool of each row, None allows all.
        held: the tokens of each row's prompt and of its answer so far, which penalties count; None without penalties.
    """
    logits = logits.float()
    limited = logits
    if held is not None and any(sampling.has_penalty for sampling in samplings):
        limited = _penalised(logits, samplings, held)
    if any(mask is not None for mask in allowed):
        limited = limited.clone()
        for row, mask in enumerate(allowed):
            if mask is not None:
                limited[row].masked_fill_(~mask.to(logits.device), -torch.inf)
    tokens = limited.argmax(-1)
    sampled_logprobs = torch.zeros(len(tokens), dtype=torch.float64)
    for (top_k, top_p, min_p), rows in _sampled(samplings).items():
        draws = torch.stack([torch.rand((), dtype=torch.float64, generator=generators[row]) for row in rows])
        temperatures = torch.tensor([samplings[row].temperature for row in rows])
        sampled = limited[rows]
        if sampled.device.type == "mps":  # it has no float64
            sampled = sampled.cpu()
        scaled = sampled / temperatures.to(sampled.device)[:, None]
        drawn = _drawn(scaled, top_k, top_p, draws.to(sampled.device), min_p)
        tokens[rows] = drawn.tokens.to(tokens.device)
        sampled_logprobs[rows] = drawn.logprobs.cpu()
    # NaN in any logit makes the logarithm of the sum NaN, so that a row of bad weights is seen.
    total = logits.logsumexp(-1)
    logprobs = logits.gather(1, tokens[:, None])[:, 0] - total
    return Chosen(
        tokens.tolist(),
        logprobs.tolist(),
        _likeliest(logits, total, samplings),
        _tempered(logits, tokens, logprobs, samplings).tolist(),
        sampled_logprobs.tolist(),
    )


def _tempered(
    logits: torch.Tensor, tokens: torch.Tensor, logprobs: torch.Tensor, samplings: Sequence[Sampling]
) -> torch.Tensor:
    """(R,) log-probabilities at each row's temperature, from those at 1."""
    rows = [row for row, sampling in enumerate(samplings) if sampling.temperature not in (0, 1)]
    if not rows:
        return logprobs
    scaled = logits[rows] / torch.tensor([samplings[row].temperature for row in rows]).to(logits)[:, None]
    tempered = logprobs.clone()
    tempered[rows] = scaled.gather(1, tokens[rows, None])[:, 0] - scaled.logsumexp(-1)
    return tempered


def _penalised(
    logits: torch.Tensor, samplings: Sequence[Sampling], held: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> torch.Tensor:
    """(R, V) logits after the penalties: repetition as in transformers, the other two as in OpenAI's reference."""
    penalised = logits.clone()
    for row, (sampling, (prompt, answer)) in enumerate(zip(samplings, held, strict=True)):
        if not sampling.has_penalty:
            continue
        if sampling.repetition_penalty != 1:
            ids = torch.tensor(sorted({*prompt, *answer}), device=logits.device)
            kept = penalised[row, ids]
            penalty = sampling.repetition_penalty
            penalised[row, ids] = torch.where(kept < 0, kept * penalty, kept / penalty)
        if answer:
            times = torch.bincount(torch.tensor(list(answer)), minlength=logits.shape[1]).to(logits)
            penalised[row] -= sampling.frequency_penalty * times + sampling.presence_penalty * (times > 0)
    return penalised


def _likeliest(logits: torch.Tensor, total: torch.Tensor, samplings: Sequence[Sampling]) -> list[TopLogprobs]:
    """Each row's likeliest tokens, from (R, V) logits and (R,) logarithms of their sums."""
    found: list[TopLogprobs] = [()] * len(samplings)
    for row, sampling in enumerate(samplings):
        if sampling.top_logprobs:
            top = logits[row].topk(min(sampling.top_logprobs, logits.shape[1]))
            found[row] = tuple(zip(top.indices.tolist(), (top.values - total[row]).tolist(), strict=True))
    return found


def _sampled(samplings: Sequence[Sampling]) -> dict[tuple[int | None, float, float], list[int]]:
    """Rows that are not greedy, by (top_k, top_p, min_p)."""
    groups: dict[tuple[int | None, float, float], list[int]] = {}
    for row, sampling in enumerate(samplings):
        if sampling.temperature > 0:
            groups.setdefault((sampling.top_k, sampling.top_p, sampling.min_p), []).append(row)
    return groups


def _drawn(scaled: torch.Tensor, top_k: int | None, top_p: float, draws: torch.Tensor, min_p: float = 0.0) -> Drawn:
    """Tokens from (n, V) logits: top-k, top-p over what it leaves, min-p, the inverse of the distribution."""
    order = None
    if top_k is not None and top_k < scaled.shape[1]:
        scaled, order = scaled.topk(top_k, -1)
    elif top_p < 1:
        scaled, order = scaled.sort(-1, descending=True)
    probabilities = scaled.double().softmax(-1)
    cumulative = probabilities.cumsum(-1)
    if top_p < 1:  # a token stays when those before it have not reached top_p
        probabilities = probabilities.masked_fill(cumulative - probabilities >= top_p, 0)
    if min_p > 0:
        probabilities = probabilities.masked_fill(probabilities < min_p * probabilities.amax(-1, keepdim=True), 0)
    if top_p < 1 or min_p > 0:
        cumulative = probabilities.cumsum(-1)
    picked = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    picked = picked.clamp(max=cumulative.shape[1] - 1)
    # Past the last kept token the sum is flat: step back onto a token that has probability.
    last = (probabilities > 0).long() * torch.arange(probabilities.shape[1], device=scaled.device)
    picked = torch.minimum(picked, last.amax(-1, keepdim=True))
    logprobs = (probabilities.gather(1, picked) / cumulative[:, -1:]).log()
    return Drawn((picked if order is None else order.gather(1, picked))[:, 0], logprobs[:, 0])


class TokenScores(NamedTuple):
    """Of one continuation."""

    logprobs: tuple[float, ...]
    """Natural log-probability of each token."""
    likeliest: tuple[bool, ...]
    """Whether each token is the likeliest one."""

    @property
    def choice(self) -> ChoiceScore:
        """Of the whole."""
        return ChoiceScore(sum(self.logprobs), len(self.logprobs), all(self.likeliest))


def longest_choice(choices: Sequence[Sequence[int]]) -> int:
    """Tokens of the longest choice.

    Raises:
        ValueError: there is no choice, or one is empty.
    """
    if not choices or not all(map(len, choices)):
        empty = sum(not len(choice) for choice in choices)
        raise ValueError(f"{len(choices)} choices, {empty} of them empty; give at least one token for each")
    return max(map(len, choices))


def token_scores(
    network: Network,
    last: torch.Tensor,
    behind: Sequence[torch.Tensor],
    choices: Sequence[Sequence[int]],
    temperature: float = 1.0,
) -> list[TokenScores]:
    """Score every token of every choice behind one prompt; the head runs over a few tokens at a time.

    Args:
        network: for its output head.
        last: (H,) hidden state of the prompt's last token, which says how likely each first token is.
        behind: (tokens - 1, H) hidden states of each choice's own tokens but the last.
        choices: token ids of each.
        temperature: that logits are divided by.
    """
    hidden = torch.cat([part for rest in behind for part in (last[None], rest)])  # (K, H)
    targets = torch.tensor([token for choice in choices for token in choice], device=hidden.device)
    rows = max(1, LOGITS_BYTES // (4 * network.config.vocab_size))
    said: list[float] = []
    likeliest: list[bool] = []
    for part, wanted in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
        logits = network.logits(part).float().div_(temperature)  # (rows, V)
        found = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(-1)
        said += found.double().tolist()
        likeliest += (logits.argmax(-1) == wanted).tolist()
    scores, first = [], 0
    for choice in choices:
        part_of = slice(first, first + len(choice))
        scores.append(TokenScores(tuple(said[part_of]), tuple(likeliest[part_of])))
        first += len(choice)
    return scores
