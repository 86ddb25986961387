"""What `benchmarks.losses --loss divergence` measures: JSD(0.5) from a teacher of the same size, ours and three peers.

Letters: B rows, T tokens, V vocabulary.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from finetune.losses.completion import IGNORED, next_tokens
from finetune.losses.divergence import divergence_loss

BETA, CHUNK = 0.5, 64
LOGITS_STD = 2.6
Loss = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
"""Student with its `teacher`, ids (B, T) and labels (B, T) to a scalar."""
LIMITS: Mapping[str, float] = {
    "memory above the floor / TRL dense, 2×256": 0.06,
    "memory above the floor / TRL dense, 2×512": 0.04,
    "time / TRL dense": 0.45,
    "time / TRL fused": 0.45,
    "time / Liger": 0.45,
    "time, half the tokens masked / all": 0.6,
    "relative error": 5e-6,
}


def with_teacher(make: Callable[[int], Any]) -> Any:
    """A student that holds its teacher; their last norms are drawn so that neither is sure, and they differ."""
    student, teacher = make(0), make(1)
    for model in (student, teacher):
        hidden_size = model.config.hidden_size
        with torch.no_grad():
            model.model.norm.weight.normal_(std=LOGITS_STD / (0.02 * hidden_size**0.5))
    student.teacher = teacher.eval().requires_grad_(False)
    return student


def floor(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Both networks, no head."""
    hidden, _ = _hidden(model, ids)
    return hidden.square().mean()


def ours(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Tiles of both models, on the rows with a label."""
    hidden, of_teacher = _hidden(model, ids)
    states, targets = next_tokens(hidden, labels)
    teacher_states, _ = next_tokens(of_teacher, labels)
    heads = model.lm_head.weight, model.teacher.lm_head.weight
    return divergence_loss(states, heads[0], teacher_states, heads[1], beta=BETA, denominator=len(targets))


def trls_dense(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """GKDTrainer's own."""
    from trl.experimental.gkd import GKDTrainer

    with torch.no_grad():
        of_teacher = model.teacher(input_ids=ids, use_cache=False).logits
    logits = model(input_ids=ids, use_cache=False).logits
    loss: torch.Tensor = GKDTrainer.generalized_jsd_loss(logits[:, :-1], of_teacher[:, :-1], labels[:, 1:], beta=BETA)
    return loss


def trls_fused(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """DistillationTrainer's own."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    hidden, of_teacher = _hidden(model, ids)
    loss: torch.Tensor = _chunked_divergence_loss(
        hidden[:, :-1],
        of_teacher[:, :-1],
        model.lm_head.weight,
        model.teacher.lm_head.weight,
        (labels[:, 1:] != IGNORED).long(),
        BETA,
    )[0]
    return loss


def ligers(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """LigerFusedLinearJSDLoss, not compiled, in chunks of the tokens that ours takes at once."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    hidden, of_teacher = _hidden(model, ids)
    states, targets = next_tokens(hidden, labels)
    teacher_states, _ = next_tokens(of_teacher, labels)
    jsd = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETA, compiled=False, chunk_size=CHUNK
    )
    loss: torch.Tensor = jsd(states, model.lm_head.weight, teacher_states, model.teacher.lm_head.weight, targets)
    return loss


CASES: Mapping[str, Loss] = {
    "floor, 2×256": floor,
    "ours, 2×256": ours,
    "ours, 2×256, half masked": ours,
    "Liger, 2×256": ligers,
    "TRL fused, 2×256": trls_fused,
    "TRL dense, 2×256": trls_dense,
}
LONG_CASES: Mapping[str, Loss] = {"floor, 2×512": floor, "ours, 2×512": ours, "TRL dense, 2×512": trls_dense}
"""Run once, for their memory."""
LONG_BYTES = 19 << 30
"""That TRL's dense loss needs free for it."""


def accuracy(hidden: int, vocabulary: int, tokens: int) -> dict[str, float]:
    """Relative distance of float32's loss and gradients from dense ones in float64."""
    torch.manual_seed(0)
    drawn = [torch.randn(tokens, hidden), torch.randn(vocabulary, hidden) * LOGITS_STD / hidden**0.5]
    of_teacher = [torch.randn(tokens, hidden), torch.randn(vocabulary, hidden) * LOGITS_STD / hidden**0.5]
    states, head = (t.clone().requires_grad_() for t in drawn)
    loss = divergence_loss(states, head, *of_teacher, beta=BETA, denominator=tokens)
    loss.backward()
    high = [t.double().requires_grad_() for t in drawn]
    of_teacher = [t.double() for t in of_teacher]
    total = 0.0
    for start in range(0, tokens, CHUNK):
        rows = slice(start, start + CHUNK)
        q = torch.log_softmax(high[0][rows] @ high[1].T, 1)
        p = torch.log_softmax(of_teacher[0][rows] @ of_teacher[1].T, 1)
        m = torch.lerp(q.exp(), p.exp(), BETA).log()
        part = (BETA * p.exp() * (p - m) + (1 - BETA) * q.exp() * (q - m)).sum() / tokens
        part.backward()
        total += part.item()
    found = {"loss": abs(loss.item() - total) / total}
    for name, low, exact in zip(("states", "head"), (states, head), high, strict=True):
        assert low.grad is not None and exact.grad is not None
        found[name] = float((low.grad - exact.grad).norm() / exact.grad.norm())
    return found


def _hidden(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Student's and teacher's last hidden states, (B, T, H)."""
    with torch.no_grad():
        of_teacher: torch.Tensor = model.teacher.model(input_ids=ids, use_cache=False).last_hidden_state
    hidden: torch.Tensor = model.model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden, of_teacher
