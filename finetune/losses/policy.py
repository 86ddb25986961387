"""The policy gradient over sampled tokens: log-probabilities, importance ratios and their clips, without full logits.

Letters: K tokens, H hidden width, V vocabulary, C tokens of a tile.
Sources: REINFORCE (Williams, 1992); PPO (arXiv:1707.06347) eq. 7; its two bounds apart, "clip-higher", DAPO
(arXiv:2503.14476) eq. 10; dual clip (arXiv:1912.09729) eq. 3; CISPO, MiniMax-M1 (arXiv:2506.13585) eq. 4 and 5; GSPO
(arXiv:2507.18071) eq. 5 and 7.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from finetune.losses.tiles import tiled_loss


@dataclass(frozen=True)
class PPOClip:
    """min(ρ A, clip(ρ, 1 - low, 1 + high) A): a token that has moved far enough in its direction is left alone."""

    low: float = 0.2
    high: float = 0.2
    """Above `low` it is DAPO's clip-higher."""
    dual: float | None = None
    """c above 1 + high: where A < 0 the loss is at most -c A, however large the ratio."""

    def __post_init__(self) -> None:
        if not (0 < self.low <= 1 and 0 < self.high < math.inf):
            raise ValueError(f"clip from 1 - {self.low} to 1 + {self.high}; expected 0 < low <= 1 and 0 < high")
        if self.dual is not None and not 1 + self.high < self.dual < math.inf:
            raise ValueError(f"dual is {self.dual}; expected above 1 + high, which is {1 + self.high:g}")


@dataclass(frozen=True)
class CISPO:
    """-sg(min(ρ, 1 + high)) A log π: no token loses its gradient, the ratio's weight is bounded."""

    high: float = 0.28

    def __post_init__(self) -> None:
        if not 0 < self.high < math.inf:
            raise ValueError(f"clip at 1 + {self.high}; expected high above 0")


class PolicyLoss(NamedTuple):
    """A loss, and what a log shows of its tokens; all but the loss are without a gradient."""

    loss: torch.Tensor
    """Scalar, float32 (float64 for such states)."""
    logprobs: torch.Tensor
    """(K,) of the targets, of the whole distribution at the temperature."""
    entropies: torch.Tensor
    """(K,) in nats, of the same distribution."""
    ratios: torch.Tensor
    """(K,) before the clip; exactly 1 without `sampled_logprobs`."""
    is_clipped: torch.Tensor
    """(K,) bool: the clip has taken the token's gradient, or bounded its ratio (CISPO)."""


def policy_loss(
    states: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    *,
    weights: torch.Tensor,
    denominator: float,
    sampled_logprobs: torch.Tensor | None = None,
    clip: PPOClip | CISPO | None = None,
    sequences: torch.Tensor | None = None,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    tile_tokens: int | None = None,
) -> PolicyLoss:
    """Sum over K sampled tokens of a surrogate whose gradient is that of -Σ weight · log π, over `denominator`.

    Without `sampled_logprobs` the tokens are this policy's own and the surrogate is -A log π (REINFORCE). With them it
    is -ρ A, ρ = π / π_sampled, as `clip` bounds it. The gradient goes through log π alone, never through sampling.

    Args:
        states: (K, H) float, the decoder's last hidden state before each token.
        head: (V, H), the output embedding, tied to the input's or not, trained or frozen.
        targets: (K,) int64 in 0..V-1, the sampled tokens.
        weights: (K,) A of each token: its advantage, times 1 / its sequence's length for a mean over sequences. They
            get no gradient.
        denominator: of the whole optimizer step, over all micro-batches and ranks: its tokens, or its sequences.
        sampled_logprobs: (K,) of the targets under the policy that sampled them, by `token_logprobs` at the same
            temperature. An engine's own, or those of a distribution that top-p has cut, are another number.
        clip: of the ratio; needs `sampled_logprobs`.
        sequences: (K,) int64 from 0, which sequence a token is of: the ratio is then its sequence's, exp of the mean
            of the log-ratios (GSPO; its token form, eq. 13, where weights differ within a sequence), for one more
            product with the head. None: each token has its own.
        temperature: at which the tokens were sampled; the logits are divided by it.
        soft_cap: final_logit_softcapping of the configuration.
        tile_tokens: tokens whose logits exist at once; None bounds their bytes.

    Raises:
        ValueError: the denominator is not above 0, a target is outside the vocabulary, shapes do not fit, a tensor
            wants a gradient that it does not get, or there is a clip or `sequences` without `sampled_logprobs`.
    """
    if not 0 < denominator < math.inf:
        raise ValueError(f"denominator is {denominator}: no token is learned; every completion is empty or cut away")
    _demand_fitting(states, head, targets, weights=weights, sampled_logprobs=sampled_logprobs, sequences=sequences)
    if sampled_logprobs is None and (clip is not None or sequences is not None):
        raise ValueError("a clip or sequences without sampled_logprobs: the ratio to bound is 1; give them, or neither")
    dtype = torch.promote_types(states.dtype, torch.float32)
    shares = weights.to(dtype) / denominator
    sequence_ratios = None
    if sequences is not None and sampled_logprobs is not None:
        now = token_logprobs(states, head, targets, temperature=temperature, soft_cap=soft_cap, tile_tokens=tile_tokens)
        sequence_ratios = _mean_by_sequence(now - sampled_logprobs, sequences).exp()
    logprobs, entropies, ratios = (states.new_empty(len(targets), dtype=dtype) for _ in range(3))
    is_clipped = torch.zeros(len(targets), dtype=torch.bool, device=states.device)
    scratch: list[torch.Tensor] = []

    def of_tile(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        if not scratch:  # the first tile is the largest
            scratch.append(torch.empty_like(logits))
        probabilities = scratch[0][: len(logits)]
        logprobs[rows], entropies[rows] = _of_targets(logits, targets[rows], probabilities)
        if sampled_logprobs is None:
            ratios[rows], coefficients = 1, -shares[rows]
            total = (coefficients * logprobs[rows]).sum()
        else:
            own = logprobs[rows] - sampled_logprobs[rows].to(dtype)
            ratios[rows] = own.exp() if sequence_ratios is None else sequence_ratios[rows]
            losses, coefficients, is_clipped[rows] = _surrogate(ratios[rows], logprobs[rows], shares[rows], clip)
            total = losses.sum()
        torch.mul(probabilities, -coefficients[:, None], out=logits)
        logits.scatter_add_(1, targets[rows, None], coefficients[:, None])
        return total

    loss = tiled_loss(states, head, of_tile, temperature=temperature, soft_cap=soft_cap, tile_tokens=tile_tokens)
    return PolicyLoss(loss, logprobs, entropies, ratios, is_clipped)


def token_logprobs(
    states: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    tile_tokens: int | None = None,
) -> torch.Tensor:
    """(K,) log-probabilities of the targets, without a gradient: bit for bit those that `policy_loss` makes.

    Args:
        states: (K, H) float, the decoder's last hidden state before each token.
        head: (V, H), the output embedding.
        targets: (K,) int64 in 0..V-1.
        temperature: the logits are divided by it.
        soft_cap: final_logit_softcapping of the configuration.
        tile_tokens: tokens whose logits exist at once; None bounds their bytes.

    Raises:
        ValueError: a target is outside the vocabulary, or shapes do not fit.
    """
    _demand_fitting(states, head, targets)
    logprobs = states.new_empty(len(targets), dtype=torch.promote_types(states.dtype, torch.float32))
    scratch: list[torch.Tensor] = []

    def of_tile(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        if not scratch:
            scratch.append(torch.empty_like(logits))
        logprobs[rows], _ = _of_targets(logits, targets[rows], scratch[0][: len(logits)])
        return logits.new_zeros(())

    with torch.no_grad():
        tiled_loss(states, head, of_tile, temperature=temperature, soft_cap=soft_cap, tile_tokens=tile_tokens)
    return logprobs


class _OfTargets(NamedTuple):
    logprobs: torch.Tensor
    entropies: torch.Tensor


def _of_targets(logits: torch.Tensor, targets: torch.Tensor, probabilities: torch.Tensor) -> _OfTargets:
    """(C,) each; the probabilities are written, the logits spoilt."""
    highest, place = logits.max(1, keepdim=True)
    logits.sub_(highest)
    torch.softmax(logits, 1, out=probabilities)
    logsumexp = -probabilities.gather(1, place).log()  # the likeliest token's probability is above 1 / V
    logprobs = logits.gather(1, targets[:, None]) - logsumexp
    expected = logits.mul_(probabilities).sum(1, keepdim=True)
    return _OfTargets(logprobs.squeeze(1), (logsumexp - expected).squeeze(1))


class _Surrogate(NamedTuple):
    losses: torch.Tensor
    coefficients: torch.Tensor
    """Derivatives of the losses in the log-probabilities."""
    is_clipped: torch.Tensor


def _surrogate(
    ratios: torch.Tensor, logprobs: torch.Tensor, shares: torch.Tensor, clip: PPOClip | CISPO | None
) -> _Surrogate:
    if clip is None:
        return _Surrogate(-ratios * shares, -ratios * shares, torch.zeros_like(ratios, dtype=torch.bool))
    if isinstance(clip, CISPO):
        bounded = ratios.clamp(max=1 + clip.high)
        return _Surrogate(-bounded * shares * logprobs, -bounded * shares, ratios > 1 + clip.high)
    gained = torch.minimum(ratios * shares, ratios.clamp(1 - clip.low, 1 + clip.high) * shares)
    if clip.dual is not None:
        gained = torch.where(shares < 0, torch.maximum(gained, clip.dual * shares), gained)
    is_clipped = gained != ratios * shares
    return _Surrogate(-gained, (-ratios * shares).masked_fill(is_clipped, 0), is_clipped)


def _mean_by_sequence(values: torch.Tensor, sequences: torch.Tensor) -> torch.Tensor:
    """(K,): each token's value becomes the mean over its sequence."""
    lengths = torch.bincount(sequences)
    sums = values.new_zeros(len(lengths)).index_add_(0, sequences, values)
    return (sums / lengths)[sequences]


def _demand_fitting(
    states: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, **of_tokens: torch.Tensor | None
) -> None:
    if targets.shape != states.shape[:1]:
        raise ValueError(f"states {tuple(states.shape)} with targets {tuple(targets.shape)}; expected one a row")
    for name, values in of_tokens.items():
        if values is None:
            continue
        if values.shape != targets.shape:
            raise ValueError(f"{name} {tuple(values.shape)} for {len(targets)} tokens; expected one a token")
        if values.requires_grad:
            raise ValueError(f"{name} want a gradient and get none here; detach them")
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(head):
        raise ValueError(f"targets from {int(targets.min())} to {int(targets.max())}; the head has {len(head)} tokens")
