"""One loop over tiles of logits, their gradient made in the forward pass: no (tokens, vocabulary) tensor ever exists.

A tile is the logits of a few tokens over the whole vocabulary, in one buffer that every tile uses again. What is
computed in it is a function of its own (`TileLoss`): cross-entropy, a divergence from a teacher, a policy's gradient.

Letters: K tokens, H hidden width, V vocabulary, C tokens of a tile.
Source: torch's own linear_cross_entropy makes its gradient in the forward pass too; it knows neither soft-cap nor
temperature nor any other loss.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

TileLoss = Callable[[torch.Tensor, slice], torch.Tensor]
"""The logits (C, V) of the rows in the slice to the sum of their losses, a scalar. The logits, after soft-cap and
temperature, are overwritten with the gradient of that sum in them."""

TILE_BYTES = {"cpu": 64 << 20}
"""Of the logits that exist at once, by kind of device: 64 tokens of Gemma's 262,208."""
TILE_BYTES_ELSEWHERE = 512 << 20


def tiled_loss(
    states: torch.Tensor,
    head: torch.Tensor,
    tile_loss: TileLoss,
    *,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    tile_tokens: int | None = None,
) -> torch.Tensor:
    """The sum of `tile_loss` over all rows, with gradients to states and head where these want one.

    Args:
        states: (K, H) float32, float64 or bfloat16; the products are made in its dtype, logits are float32 at least.
        head: (V, H), the output embedding, tied or not. Its gradient is summed in float32 at least.
        tile_loss: called once a tile, in the order of the rows.
        temperature: the logits are divided by it.
        soft_cap: c of c · tanh(logits / c), before the temperature; costs a second buffer.
        tile_tokens: C; None is what `TILE_BYTES` holds.

    Returns:
        A scalar, float32 or float64. It can be differentiated once, with one call of backward.

    Raises:
        ValueError: shapes that do not fit, a temperature or soft-cap that is not positive.
    """
    if states.ndim != 2 or head.ndim != 2 or states.shape[1] != head.shape[1]:
        raise ValueError(f"states {tuple(states.shape)} and head {tuple(head.shape)}; expected (K, H) and (V, H)")
    demand_positive(temperature=temperature, soft_cap=soft_cap)
    if tile_tokens is None:
        budget = TILE_BYTES.get(states.device.type, TILE_BYTES_ELSEWHERE)
        tile_tokens = max(1, budget // (head.shape[0] * _logits_dtype(states).itemsize))
    wanted = torch.is_grad_enabled()  # it is off within forward
    options = (tile_loss, temperature, soft_cap, tile_tokens, wanted)
    loss: torch.Tensor = _TiledLoss.apply(states, head, *options)  # type: ignore[no-untyped-call]
    return loss


def demand_positive(**values: float | None) -> None:
    """Refuse numbers that are not finite and above 0; None is left alone.

    Raises:
        ValueError: one is not; it is named.
    """
    for name, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; expected a finite number above 0")


def logits_into(
    logits: torch.Tensor,
    states: torch.Tensor,
    weight: torch.Tensor,
    *,
    temperature: float = 1.0,
    soft_cap: float | None = None,
) -> None:
    """Write the logits of another model into a tile (C, V), without a gradient.

    Args:
        logits: overwritten.
        states: (C, H) float.
        weight: (V, H) of the same dtype.
        temperature: the logits are divided by it.
        soft_cap: as of `tiled_loss`.
    """
    _project(states, weight, logits)
    if soft_cap is not None:
        logits.div_(soft_cap).tanh_().mul_(soft_cap)
    if temperature != 1:
        logits.div_(temperature)


class _TiledLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        head: torch.Tensor,
        tile_loss: TileLoss,
        temperature: float,
        soft_cap: float | None,
        tile_tokens: int,
        wanted: bool,
    ) -> torch.Tensor:
        to_states, to_head = (wanted and needed for needed in ctx.needs_input_grad[:2])
        dtype = _logits_dtype(states)
        states_gradient = torch.empty_like(states) if to_states else None
        head_gradient = torch.zeros_like(head, dtype=torch.promote_types(head.dtype, dtype)) if to_head else None
        weight = head.to(states.dtype)
        buffer = states.new_empty((min(tile_tokens, len(states)), len(head)), dtype=dtype)
        total = states.new_zeros((), dtype=dtype)
        with _without_autocast(states.device.type):
            for start in range(0, len(states), tile_tokens):
                rows = slice(start, min(start + tile_tokens, len(states)))
                logits = buffer[: rows.stop - rows.start]
                _project(states[rows], weight, logits)
                tanh = _cap(logits, soft_cap)
                total += tile_loss(logits.div_(temperature) if temperature != 1 else logits, rows)
                if not (to_states or to_head):
                    continue
                if temperature != 1:
                    logits.div_(temperature)
                if tanh is not None:
                    logits.mul_(tanh.square_().neg_().add_(1))
                gradient = logits.to(states.dtype)
                if states_gradient is not None:
                    torch.mm(gradient, weight, out=states_gradient[rows])
                if head_gradient is not None:
                    _add_product(head_gradient, gradient.T, states[rows])
        ctx.gradients = states_gradient, head_gradient
        ctx.head_dtype = head.dtype
        return total

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("this loss makes its gradient in the forward pass; leave out create_graph=True")
        if ctx.gradients is None:
            raise RuntimeError("this loss keeps its gradient for one backward; compute the loss again")
        states_gradient, head_gradient = ctx.gradients
        ctx.gradients = None  # scaled in place: a second (V, H) tensor would double what the head costs
        if states_gradient is not None:
            states_gradient.mul_(scale)
        if head_gradient is not None:
            head_gradient = head_gradient.mul_(scale).to(ctx.head_dtype)
        return states_gradient, head_gradient, None, None, None, None, None


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Where there is autocast at all: the meta device, on which memory is estimated, has none."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _logits_dtype(states: torch.Tensor) -> torch.dtype:
    return torch.promote_types(states.dtype, torch.float32)


def _project(states: torch.Tensor, weight: torch.Tensor, logits: torch.Tensor) -> None:
    if logits.dtype == states.dtype:
        torch.mm(states, weight.T, out=logits)
    else:
        logits.copy_(states @ weight.T)


def _cap(logits: torch.Tensor, soft_cap: float | None) -> torch.Tensor | None:
    """Cap logits in place; returns the tanh of it, which the gradient needs."""
    if soft_cap is None:
        return None
    tanh = logits.div_(soft_cap).tanh_().clone()
    logits.mul_(soft_cap)
    return tanh


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add a product, which is rounded to its factors' dtype before it is added."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
