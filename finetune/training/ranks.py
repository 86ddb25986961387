"""Several processes that train as one: torchrun starts them, DDP copies the weights to each, fully_shard divides them.

The loss of a step is a sum over all parts of all ranks, already divided by the step's denominator. So gradients are
summed over ranks, and a part that a rank computes only to keep step with the others has weight 0.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn

from medsiglip.encoder import pick_device

Parallel = Literal["ddp", "fully_shard"]
"""ddp: every process holds all weights. fully_shard: each holds a part of every weight, gradient and moment."""
Share = TypeVar("Share")
LONGEST_WAIT = timedelta(hours=6)
"""Rank 0 evaluates and writes while the others wait for it."""


@dataclass(frozen=True)
class Ranks:
    """Which of several processes this is."""

    rank: int = 0
    world: int = 1

    def share(self, parts: Sequence[Share]) -> list[Share]:
        """This process's share of a step's parts, which every process has drawn alike; may be empty."""
        return list(parts[self.rank :: self.world])


ALONE = Ranks()


def join_ranks(device: str) -> tuple[Ranks, torch.device]:
    """Join the processes that torchrun started, and pick this one's device; alone without torchrun.

    Args:
        device: "auto" (cuda, then mps, then cpu) or a torch device name; with several processes and cuda, each takes
            the GPU of its LOCAL_RANK.
    """
    picked, world = pick_device(device), int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ALONE, torch.device(picked)
    on_gpu = picked.startswith("cuda")
    found = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu")
    if on_gpu:
        torch.cuda.set_device(found)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=LONGEST_WAIT)
    return Ranks(dist.get_rank(), world), found


def leave_ranks(ranks: Ranks) -> None:
    """Wait for the others and part from them."""
    if ranks.world > 1:
        dist.barrier()
        dist.destroy_process_group()


def gathered(value: Share, ranks: Ranks) -> list[Share]:
    """A value of every rank, in their order; all must ask."""
    if ranks.world == 1:
        return [value]
    values: list[Any] = [None] * ranks.world
    dist.all_gather_object(values, value)
    return values


class Spread:
    """Modules and a loss over all ranks.

    The loss is computed in the forward pass of one module, so that DDP and fully_shard see all of it, whatever parts
    of the modules it calls.

    Args:
        modules: what is trained. With `fully_shard` its parameters become DTensors here; make the optimizer afterwards.
        loss_of: what the loop's loss is; see `finetune.training.train`.
        ranks: of this process.
        parallel: how several processes share the work.
    """

    def __init__(self, modules: nn.Module, loss_of: Callable[..., torch.Tensor], ranks: Ranks, parallel: Parallel):
        self.ranks, self.is_sharded = ranks, ranks.world > 1 and parallel == "fully_shard"
        self.module: nn.Module = _Loss(modules, loss_of)
        if self.is_sharded:
            self.module = _sharded(_ShardedLoss(modules, loss_of))
        elif ranks.world > 1:
            # a part of text alone leaves the projector, or an unfrozen tower, without a gradient
            self.module = nn.parallel.DistributedDataParallel(self.module, find_unused_parameters=True)

    def loss(self, *arguments: Any) -> torch.Tensor:
        """The loss of one part."""
        loss: torch.Tensor = self.module(*arguments)
        return loss

    def backward(self, loss: torch.Tensor) -> None:
        """Add a part's gradient; DDP and fully_shard average over ranks where a sum is wanted."""
        torch.autograd.backward(loss if self.ranks.world == 1 else loss * self.ranks.world)

    def exchange(self, *, last: bool) -> AbstractContextManager[None]:
        """Around each part's loss and backward pass: DDP exchanges gradients in the last one only."""
        if isinstance(self.module, nn.parallel.DistributedDataParallel) and not last:
            return self.module.no_sync()
        return nullcontext()

    def gathered(self, value: Share) -> list[Share]:
        """A value of every rank, in their order."""
        return gathered(value, self.ranks)


class _Loss(nn.Module):
    def __init__(self, modules: nn.Module, loss_of: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.modules_in_training, self.loss_of = modules, loss_of

    def forward(self, *arguments: Any) -> torch.Tensor:
        return self.loss_of(*arguments)


class _ShardedLoss(_Loss):
    """Gives every parameter that is whole here a gradient, of zeros if it has no other.

    fully_shard exchanges those gradients that there are: ranks must have the same, also where one has a part of text
    alone, which no projector takes part in.
    """

    def forward(self, *arguments: Any) -> torch.Tensor:
        from torch.distributed.tensor import DTensor

        whole = [p for p in self.parameters() if p.requires_grad and not isinstance(p, DTensor)]
        loss: torch.Tensor = _Touched.apply(  # type: ignore[no-untyped-call]
            super().forward(*arguments), *whole
        )
        return loss


class _Touched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.parameters = [(p.shape, p.dtype, p.device) for p in parameters]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        zeros = (torch.zeros((), dtype=dtype, device=device).expand(shape) for shape, dtype, device in ctx.parameters)
        return *gradients, *zeros


def _sharded(module: nn.Module) -> nn.Module:
    """Every decoder layer by itself, for all parts go through it; the rest, tower included, together."""
    from torch.distributed.fsdp import fully_shard
    from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer

    for layer in module.modules():
        if isinstance(layer, Gemma3DecoderLayer):
            fully_shard(layer)
    return cast(nn.Module, fully_shard(module))
