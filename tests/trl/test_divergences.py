"""The divergence from a teacher beside TRL's two and Liger's, in float32, each against float64: `make test-trl`."""

from collections.abc import Callable

import pytest
import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from trl.experimental.gkd import GKDTrainer
from trl.trainer.distillation_trainer import _chunked_divergence_loss

from finetune.losses.divergence import divergence_loss

TOKENS, HIDDEN, WIDTH, VOCABULARY = 40, 32, 24, 20_000
Models = list[torch.Tensor]
"""States and head of the student, states and head of the teacher."""


def models(dtype: torch.dtype) -> Models:
    torch.manual_seed(0)
    drawn = [
        torch.randn(*shape) * scale
        for shape, scale in (
            ((TOKENS, HIDDEN), 1),
            ((VOCABULARY, HIDDEN), 0.3),
            ((TOKENS, WIDTH), 1),
            ((VOCABULARY, WIDTH), 0.5),  # surer, so that the two cannot be swapped
        )
    ]
    return [t.to(dtype).requires_grad_(place < 2) for place, t in enumerate(drawn)]


def ours(of: Models, beta: float) -> torch.Tensor:
    return divergence_loss(*of, beta=beta, denominator=TOKENS, tile_tokens=16)


def trls_dense(of: Models, beta: float) -> torch.Tensor:
    logits, of_teacher, labels = of[0] @ of[1].T, of[2] @ of[3].T, torch.zeros(1, TOKENS, dtype=torch.int64)
    loss: torch.Tensor = GKDTrainer.generalized_jsd_loss(logits[None], of_teacher[None], labels, beta=beta)
    return loss


def trls_fused(of: Models, beta: float) -> torch.Tensor:
    mask = torch.ones(1, TOKENS, dtype=torch.int64)
    loss: torch.Tensor = _chunked_divergence_loss(of[0][None], of[2][None], of[1], of[3], mask, beta)[0]
    return loss


def ligers(of: Models, beta: float) -> torch.Tensor:
    jsd = LigerFusedLinearJSDLoss(0.0, 1.0, beta, compiled=False, chunk_size=16)
    loss: torch.Tensor = jsd(of[0], of[1], of[2], of[3], torch.zeros(TOKENS, dtype=torch.int64))
    return loss


def found(loss_of: Callable[[Models, float], torch.Tensor], dtype: torch.dtype, beta: float) -> list[torch.Tensor]:
    """Loss, and its gradients in states and head."""
    of = models(dtype)
    loss = loss_of(of, beta)
    return [loss.detach(), *torch.autograd.grad(loss, of[:2])]


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("peer", [trls_dense, trls_fused, ligers])
def test_the_peers_mean_the_same(beta: float, peer: Callable[[Models, float], torch.Tensor]) -> None:
    exact = found(trls_dense, torch.float64, beta)
    for mine, theirs, value in zip(
        found(ours, torch.float32, beta), found(peer, torch.float32, beta), exact, strict=True
    ):
        assert (mine - value).norm() <= 5e-6 * value.norm()
        assert (theirs - value).norm() <= 1e-4 * value.norm()  # the peer's call here is the one that is meant
    swapped = found(ours, torch.float32, 1 - beta)[0]
    if beta != 0.5:  # control: teacher's and student's share the other way round
        assert (swapped - exact[0]).abs() > 1e-3 * exact[0].abs()


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_float64_is_trls_own(beta: float) -> None:
    for mine, theirs in zip(found(ours, torch.float64, beta), found(trls_dense, torch.float64, beta), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-13)
