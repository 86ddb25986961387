"""Linear layers in eight bits with plain torch: weights by output channel, activations by row as they come.

Letters: M rows, K inputs, N outputs.
"""

from typing import Any

import torch
from torch import nn

LEAST_WIDTH = 64
"""Narrower layers stay as they are: there is nothing to gain."""


class Int8Linear(nn.Module):
    """x @ weight.T + bias, the product in int8 with int32 sums.

    Both sides are scaled by their largest absolute value over 127 and rounded to the nearest. Inference only.
    """

    weight: torch.Tensor
    """(K, N) int8."""
    scale: torch.Tensor
    """(1, N) float32."""
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127  # (N, 1)
        self.register_buffer("weight", (weight / scale).round().to(torch.int8).T.contiguous())
        self.register_buffer("scale", scale.T.contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., K) to (..., N) of the same dtype."""
        rows = x.reshape(-1, x.shape[-1]).float()
        row_scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127  # (M, 1)
        product = torch._int_mm((rows / row_scale).round().to(torch.int8), self.weight)
        out = product.float() * (row_scale * self.scale)
        if self.bias is not None:
            out += self.bias
        return out.to(x.dtype).reshape(*x.shape[:-1], -1)


def to_int8(model: Any) -> None:
    """Turn the linear layers of a SiglipModel's two towers to int8, in place; heads and embeddings stay."""
    for tower in (model.vision_model.encoder, model.text_model.encoder):
        for parent in list(tower.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear and min(child.in_features, child.out_features) >= LEAST_WIDTH:
                    setattr(parent, name, Int8Linear(child))
