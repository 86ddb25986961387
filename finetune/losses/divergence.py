"""The divergence of a student from a teacher over the whole vocabulary, without the logits of either.

The teacher's logits stand in a second tile beside the student's, and a third is scratch.

Letters: K tokens, H and G hidden widths of student and teacher, V vocabulary, C tokens of a tile.
Source: GKD (arXiv:2306.13649) §3, eq. 1: P is the teacher, Q the student, M = β P + (1 - β) Q.
"""

import math

import torch

from finetune.losses.tiles import demand_positive, logits_into, tiled_loss


def divergence_loss(
    states: torch.Tensor,
    head: torch.Tensor,
    teacher_states: torch.Tensor,
    teacher_head: torch.Tensor,
    *,
    beta: float,
    denominator: float,
    weights: torch.Tensor | None = None,
    temperature: float = 1.0,
    times_temperature_squared: bool = False,
    soft_cap: float | None = None,
    teacher_soft_cap: float | None = None,
    vocabulary: int | None = None,
    tile_tokens: int | None = None,
) -> torch.Tensor:
    """Weighted sum over K tokens of the student's divergence from the teacher, over `denominator`.

    For 0 < β < 1 it is JSD(β) = β KL(P‖M) + (1 - β) KL(Q‖M); at β = 0 KL(P‖Q) (forward), at β = 1 KL(Q‖P) (reverse).
    These are the limits of JSD(β)/β and JSD(β)/(1 - β): at β = 0.1 the loss is about a tenth of that at β = 0.

    Args:
        states: (K, H) float, the student's last hidden state before each token.
        head: (V, H), its output embedding, tied to the input's or not, trained or frozen.
        teacher_states: (K, G) float, the teacher's before the same tokens, made without a gradient.
        teacher_head: (V, G); gets no gradient.
        beta: 0 to 1.
        denominator: of the whole optimizer step, over all micro-batches and ranks: its tokens for a mean over tokens;
            its sequences for a mean over sequences, where each token weighs 1 / the length of its own.
        weights: (K,) of the tokens; None is 1 each. They get no gradient.
        temperature: the logits of both are divided by it.
        times_temperature_squared: the loss times temperature², which keeps the size of its gradient
            (Hinton et al., arXiv:1503.02531, §2).
        soft_cap: final_logit_softcapping of the student's configuration.
        teacher_soft_cap: of the teacher's.
        vocabulary: the tokens 0..vocabulary-1 of both tokenizers. Rows of a head beyond them are padding and get no
            probability. To be given where the heads differ, as Gemma's with 262,144 and 262,208 rows do.
        tile_tokens: tokens whose logits exist at once; None bounds their bytes.

    Returns:
        A scalar, float32 (float64 for such states); 0 without a token. One backward, no second derivative.

    Raises:
        ValueError: beta or the denominator is out of its range, shapes do not fit, the heads differ and no
            `vocabulary` says why, weights or the teacher's states want a gradient.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}; expected 0 (forward KL) to 1 (reverse KL)")
    if not 0 < denominator < math.inf:
        raise ValueError(f"denominator is {denominator}: no token is learned; every completion is empty or cut away")
    demand_positive(temperature=temperature, teacher_soft_cap=teacher_soft_cap)
    _demand_fitting(states, teacher_states, teacher_head, weights)
    tokens = shared_vocabulary(len(head), len(teacher_head), vocabulary)
    teacher_weight = teacher_head.detach()[:tokens].to(teacher_states.dtype)
    dtype = torch.promote_types(states.dtype, torch.float32)
    shares = torch.ones(len(states), dtype=dtype, device=states.device) if weights is None else weights.to(dtype)
    shares = shares * ((temperature**2 if times_temperature_squared else 1) / denominator)
    tiles: list[torch.Tensor] = []

    def of_tile(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        if not tiles:  # the first tile is the largest
            tiles.extend((torch.empty_like(logits), torch.empty_like(logits)))
        teacher, scratch = (tile[: len(logits)] for tile in tiles)
        logits_into(teacher, teacher_states[rows], teacher_weight, temperature=temperature, soft_cap=teacher_soft_cap)
        losses = _divergences(logits, teacher, scratch, beta)
        logits.mul_(shares[rows, None])
        return (losses * shares[rows]).sum()

    student_head = head if tokens == len(head) else head[:tokens]
    return tiled_loss(
        states, student_head, of_tile, temperature=temperature, soft_cap=soft_cap, tile_tokens=tile_tokens
    )


def shared_vocabulary(student_rows: int, teacher_rows: int, vocabulary: int | None) -> int:
    """How many tokens two output heads have in common.

    Raises:
        ValueError: they differ and `vocabulary` is not given, or it is more than one of them has.
    """
    if vocabulary is None:
        if student_rows != teacher_rows:
            raise ValueError(
                f"the student's head has {student_rows} rows, the teacher's {teacher_rows}; if their tokenizers are "
                "one and the rest is padding, give its size as vocabulary, else take a teacher with that tokenizer"
            )
        return student_rows
    if not 0 < vocabulary <= min(student_rows, teacher_rows):
        raise ValueError(
            f"vocabulary is {vocabulary}; the student's head has {student_rows} rows, the teacher's {teacher_rows}"
        )
    return vocabulary


def _demand_fitting(
    states: torch.Tensor, teacher_states: torch.Tensor, teacher_head: torch.Tensor, weights: torch.Tensor | None
) -> None:
    if teacher_states.ndim != 2 or teacher_head.ndim != 2 or teacher_states.shape[1] != teacher_head.shape[1]:
        raise ValueError(
            f"teacher's states {tuple(teacher_states.shape)} and head {tuple(teacher_head.shape)}; expected (K, G) and "
            "(V, G)"
        )
    if len(teacher_states) != len(states) or (weights is not None and weights.shape != states.shape[:1]):
        given = "" if weights is None else f" and weights {tuple(weights.shape)}"
        raise ValueError(
            f"{len(states)} tokens of the student, {len(teacher_states)} of the teacher{given}; expected one a token"
        )
    if weights is not None and weights.requires_grad:
        raise ValueError("weights want a gradient and get none here; detach them")
    if teacher_states.requires_grad:
        raise ValueError("the teacher's states want a gradient and get none; make them under torch.no_grad()")


def _divergences(student: torch.Tensor, teacher: torch.Tensor, scratch: torch.Tensor, beta: float) -> torch.Tensor:
    """Of each row; the student's logits become their gradient of it, the other two tiles anything."""
    if beta == 0:
        return _forward_kl(student, teacher, scratch)
    if beta == 1:
        return _reverse_kl(student, teacher, scratch)
    return _jensen_shannon(student, teacher, scratch, beta)


def _forward_kl(student: torch.Tensor, teacher: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """KL(P‖Q) = Σ p (log p - log q), with the gradient q - p."""
    _to_log_probabilities(student, scratch)
    _to_log_probabilities(teacher, scratch)
    p = torch.exp(teacher, out=scratch)
    losses = teacher.sub_(student).mul_(p).sum(1)
    student.exp_().sub_(p)
    return losses


def _reverse_kl(student: torch.Tensor, teacher: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """KL(Q‖P) = Σ q (log q - log p), with the gradient q (log q - log p - KL(Q‖P))."""
    _to_log_probabilities(student, scratch)
    _to_log_probabilities(teacher, scratch)
    q = torch.exp(student, out=scratch)
    student.sub_(teacher).mul_(q)
    losses = student.sum(1)
    student.addcmul_(q, losses[:, None], value=-1)
    return losses


def _jensen_shannon(student: torch.Tensor, teacher: torch.Tensor, scratch: torch.Tensor, beta: float) -> torch.Tensor:
    """β KL(P‖M) + (1 - β) KL(Q‖M), with the gradient (1 - β) q (log q/m - KL(Q‖M)).

    Ratios of probabilities are at most 1/β and 1/(1 - β), and as exact as their factors; a difference of logarithms
    would carry the rounding of logits.
    """
    q, p = _to_probabilities(student), _to_probabilities(teacher)
    from_teacher = _log_ratios(p, q, p, beta, scratch).mul_(p).sum(1)
    torch.mul(q, _log_ratios(q, q, p, beta, scratch), out=teacher)
    from_student = teacher.sum(1)
    torch.addcmul(teacher, q, from_student[:, None], value=-1, out=student).mul_(1 - beta)
    return beta * from_teacher + (1 - beta) * from_student


def _log_ratios(of: torch.Tensor, q: torch.Tensor, p: torch.Tensor, beta: float, scratch: torch.Tensor) -> torch.Tensor:
    """log(of / m) in the scratch tile; finite where `of` or m are 0, for its factor is 0 there."""
    tiny = torch.finfo(q.dtype).tiny
    torch.lerp(q, p, beta, out=scratch).clamp_min_(tiny)
    return torch.div(of, scratch, out=scratch).clamp_min_(tiny).log_()


def _to_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Softmax in place, each row summed by torch.sum.

    torch.softmax adds a row up in one stretch: over 262,144 tokens it is five millionths off one in float32, and a
    gradient that is the rest of such sums ten times as much.
    """
    logits.sub_(logits.amax(1, keepdim=True)).exp_()
    return logits.div_(logits.sum(1, keepdim=True))


def _to_log_probabilities(logits: torch.Tensor, scratch: torch.Tensor) -> None:
    """Its logarithm in place."""
    logits.sub_(logits.amax(1, keepdim=True))
    logits.sub_(torch.exp(logits, out=scratch).sum(1, keepdim=True).log_())
