"""Cross-entropy over completion tokens only, without the full logits tensor.

Letters: B conversations, T tokens, H hidden width, V vocabulary, K tokens.
"""

import math

import torch

from finetune.losses.tiles import tiled_loss

IGNORED = -100
"""Label of a token that is not learned: prompt, image, padding."""


def completion_loss(
    states: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    *,
    denominator: float,
    weights: torch.Tensor | None = None,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    tile_tokens: int | None = None,
) -> torch.Tensor:
    """Weighted sum of the cross-entropies of K tokens over `denominator`.

    Only rows with a target are projected, a few at a time: see `finetune.losses.tiles`.

    Args:
        states: (K, H) float, the decoder's last hidden state before each target.
        head: (V, H), the output embedding, tied to the input's or not, trained or frozen.
        targets: (K,) int64 in 0..V-1, or `IGNORED`.
        denominator: completion tokens of the whole optimizer step, over all micro-batches and ranks: then the sum of
            the micro-batches' gradients is that of one large batch.
        weights: (K,) of the tokens; None is 1 each. They get no gradient.
        temperature: the logits are divided by it.
        soft_cap: final_logit_softcapping of the configuration.
        tile_tokens: tokens whose logits exist at once; None bounds their bytes.

    Returns:
        A scalar, float32 (float64 for such states); 0 without a target. One backward, no second derivative.

    Raises:
        ValueError: the denominator is not above 0 (no token carries a label), a target is outside the vocabulary,
            shapes do not fit, weights want a gradient.
    """
    if not 0 < denominator < math.inf:
        raise ValueError(
            f"denominator is {denominator}: no token carries a label; a completion is empty or was cut away"
        )
    if targets.shape != states.shape[:1] or (weights is not None and weights.shape != targets.shape):
        raise ValueError(f"states {tuple(states.shape)} with targets {tuple(targets.shape)}; expected one a row")
    if weights is not None and weights.requires_grad:
        raise ValueError("weights want a gradient and get none here; detach them")
    learned = targets != IGNORED
    if not bool(learned.all()):
        states, targets = states[learned], targets[learned]
        weights = None if weights is None else weights[learned]
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(head):
        raise ValueError(f"targets from {int(targets.min())} to {int(targets.max())}; the head has {len(head)} tokens")
    shares = torch.ones_like(targets, dtype=torch.promote_types(states.dtype, torch.float32))
    shares = (shares if weights is None else weights.to(shares)) / denominator

    def cross_entropy(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        return tile_cross_entropy(logits, targets[rows], shares[rows])

    return tiled_loss(states, head, cross_entropy, temperature=temperature, soft_cap=soft_cap, tile_tokens=tile_tokens)


def next_tokens(hidden_states: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """States (K, H) and targets (K,) of the tokens that carry a label; position t is predicted from position t - 1.

    Args:
        hidden_states: (B, T, H) float, the decoder's last hidden states.
        labels: (B, T) int64; `IGNORED` where nothing is learned.
    """
    targets = labels[:, 1:]
    learned = targets != IGNORED
    return hidden_states[:, :-1][learned], targets[learned]


def tile_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Sum of share · (logsumexp - target's logit); the logits become share · (softmax - one at the target)."""
    at_target = targets[:, None]
    highest, place = logits.max(1, keepdim=True)
    said = logits.gather(1, at_target)
    torch.softmax(logits, 1, out=logits)
    logsumexp = highest - logits.gather(1, place).log()  # the likeliest token's probability is above 1 / V
    logits.scatter_add_(1, at_target, -torch.ones_like(said)).mul_(shares[:, None])
    return ((logsumexp - said).squeeze(1) * shares).sum()
