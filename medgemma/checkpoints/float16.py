"""A Gemma 3 on cards without bfloat16 (T4, P100, V100): products in float16, all that lies between them in float32.

In plain float16 a Gemma 3 overflows: outputs of its MLPs and its residual stream pass 65,504. Here every linear layer
divides a token's input by a power of two, so that its largest number is below 1/16, multiplies in float16, and takes
the factor back in float32. Its gradient goes the same way, so training needs no loss scaling. Embeddings, norms,
attention, activations and the residual stream are float32.

Letters: T tokens, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import nn

LARGEST = 65_504.0
"""Of float16."""
INPUT_EXPONENT = -4
"""Inputs are scaled below 2 to this: small enough for sums over long rows; float16 has 20 bits below it."""


class Float16Linear(nn.Linear):
    """A linear layer with a product in float16, and inputs and outputs in float32.

    It is the layer it was, of another class, so hooks, ties and PEFT find what they know. Its weight is float16,
    float32 where it is trained, or packed in 4 bits.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., O) float32 of (..., I)."""
        product: torch.Tensor = _Product.apply(input, self.weight)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias


class Float32Embedding(nn.Embedding):
    """Gemma's scaled embedding, looked up in float16 and scaled in float32."""

    embed_scale: torch.Tensor

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., H) float32 of (...,) int64."""
        return super().forward(input).float() * self.embed_scale.float()


def to_float16(network: Any, name: str, *, keeps_weights: bool = False) -> Any:
    """Make a Gemma 3 compute so, in place.

    Args:
        network: Gemma3ForConditionalGeneration or Gemma3ForCausalLM, in float32 or bfloat16; linear layers may be in
            4 bits.
        name: the model's, for messages.
        keeps_weights: weights stay in float32, to be trained in full; each product makes a float16 copy of its own.

    Returns:
        The network.

    Raises:
        ValueError: products with a weight could pass float16's range; the layer is named.
    """
    for where, module in network.named_modules():
        if isinstance(module, nn.Linear):
            _refuse_overflow(module.weight, f"model {name}: {where}")
            module.__class__ = Float16Linear
        in_float16 = isinstance(module, nn.Linear) or module is network.get_input_embeddings()
        for own, parameter in module.named_parameters(recurse=False):
            dtype = torch.float16 if in_float16 and own == "weight" and not keeps_weights else torch.float32
            if not _is_packed(parameter):
                parameter.data = parameter.data.to(dtype)
        for own, buffer in module.named_buffers(recurse=False):
            setattr(module, own, buffer.float() if buffer.is_floating_point() else buffer)
    network.get_input_embeddings().__class__ = Float32Embedding
    return network


def flowing_dtype(network: Any) -> torch.dtype:
    """The dtype of what flows through a Gemma 3, which its weights need not have."""
    dtype: torch.dtype = network.dtype
    return torch.float32 if isinstance(network.get_output_embeddings(), Float16Linear) else dtype


def _refuse_overflow(weight: torch.Tensor, name: str) -> None:
    """The largest product of a row of (O, I) with inputs below 2 ** INPUT_EXPONENT must be a float16."""
    if _is_packed(weight):
        return  # made of float16 numbers a layer at a time, none larger than its weights were
    largest = float(weight.detach().abs().sum(1, dtype=torch.float32).max()) * 2.0**INPUT_EXPONENT
    if not largest < LARGEST:
        raise ValueError(
            f"{name}: its products may reach {largest:.3g}, float16 ends at 65,504; choose float32 or bfloat16"
        )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(input if weight.requires_grad else None, weight)
        return _scaled_product(input, _half(weight).T)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        input, weight = ctx.saved_tensors
        to_input = _scaled_product(gradient, _half(weight)) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return to_input, None
        rows, inputs = gradient.flatten(0, -2), input.flatten(0, -2)
        (left, one), (right, other) = (_scaled(rows.T.flatten()), _scaled(inputs.flatten()))
        product = left.view(rows.shape[::-1]) @ right.view(inputs.shape)
        return to_input, product.float() * one * other


def _scaled_product(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(..., O) float32 of (..., I) and a float16 (I, O)."""
    scaled, factor = _scaled(rows)
    return (scaled @ matrix).float() * factor


def _scaled(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (..., I) as float16 below 2 ** INPUT_EXPONENT, and the power of two (..., 1) that brings each back."""
    exponent = torch.frexp(rows.detach().abs().amax(-1, keepdim=True)).exponent - INPUT_EXPONENT
    factor = torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent.clamp(-120, 120))
    return (rows.float() / factor).half(), factor


def _is_packed(weight: torch.Tensor) -> bool:
    return not weight.is_floating_point()


def _half(weight: torch.Tensor) -> torch.Tensor:
    """(O, I) float16; 4-bit weights are made whole for one product."""
    if not _is_packed(weight):
        return weight.half()
    from bitsandbytes.functional import dequantize_4bit

    whole: torch.Tensor = dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[attr-defined]
    return whole.half()
