"""Fewer bits for the decoder's linear layers: tower, projector, embeddings and head stay as they are.

int8 is made here, in place, on any device, in one small class that on a CPU runs torch's own kernel of int8 weights.
nf4 is bitsandbytes'.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch.nn import functional

from medgemma.checkpoints.placement import Device

KINDS = ("int8", "nf4")
KERNEL_ROWS, KERNEL_INPUTS = 32, 32
"""Up to so many rows torch's CPU kernel for int8 weights in bfloat16 is used; for more, weights are made floats.
It reads whole vectors, and past the end of a matrix whose inputs are no multiple of them: torch does not look."""


class Int8Linear(torch.nn.Linear):
    """A linear layer with int8 weights and one scale for each output, symmetric about zero.

    Args:
        linear: what it takes the place of.

    Letters: O outputs, I inputs.
    """

    scale: torch.nn.Parameter

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        rounded = (weight / scale[:, None]).round().to(torch.int8)
        self.weight = torch.nn.Parameter(rounded, requires_grad=False)
        """(O, I) int8."""
        self.scale = torch.nn.Parameter(scale.to(linear.weight.dtype), requires_grad=False)
        """(O,) in the dtype of what flows through."""
        self.bias = linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., O) of (..., I)."""
        rows = input.reshape(-1, self.in_features)
        product = self._product(rows).reshape(*input.shape[:-1], self.out_features)
        return product if self.bias is None else product + self.bias

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        # Inductor makes one pass over the bytes of this on a GPU; on a CPU it reads them one by one.
        if len(rows) == 1 and rows.device.type != "cpu" and torch.compiler.is_compiling():
            row = rows[0].float()
            row = torch.as_strided(row, row.shape, row.stride())  # written down once, not for each output
            return ((self.weight * row).sum(-1) * self.scale).to(rows.dtype)
        if rows.device.type == "cpu" and rows.dtype == torch.bfloat16 and self._fits_kernel(len(rows)):
            kernel: torch.Tensor = torch.ops.aten._weight_int8pack_mm(rows.contiguous(), self.weight, self.scale)
            return kernel
        return functional.linear(rows, self.weight.to(rows.dtype)) * self.scale

    def _fits_kernel(self, rows: int) -> bool:
        return rows <= KERNEL_ROWS and self.in_features % KERNEL_INPUTS == 0


def to_int8(model: Any) -> None:
    """Replace the linear layers of a Gemma 3's decoder, one at a time, by `Int8Linear`.

    Raises:
        ValueError: some of them are not in memory, as where a device map has "disk", or "cpu" beside a GPU.
    """
    for layer in getattr(model.model, "language_model", model.model).layers:
        for name, module in list(layer.named_modules()):
            if isinstance(module, torch.nn.Linear):
                if module.weight.is_meta:
                    raise ValueError("int8 needs all weights on their devices; give a device_map without offloading")
                parent, _, attribute = name.rpartition(".")
                setattr(layer.get_submodule(parent), attribute, Int8Linear(module).train(module.training))


def nf4_config(dtype: torch.dtype, devices: Collection[Device]) -> Any:
    """What makes transformers load the decoder's linear layers as nf4, by bitsandbytes.

    A CPU is refused, though bitsandbytes has code for one: where the CPU has AVX512-BF16, its first forward pass packs
    the weights anew, and fails on layers whose outputs are no multiple of 32 or whose inputs are none of 64.

    Source: Dettmers et al., QLoRA, 2023, section 3: 4-bit NormalFloat with double quantisation.

    Args:
        dtype: of what flows through.
        devices: where the weights go.

    Raises:
        ValueError: a device is no CUDA device or there is none, or no bitsandbytes.
    """
    if not torch.cuda.is_available():
        raise ValueError("nf4 needs a CUDA device, and there is none; take int8, which runs everywhere")
    others = sorted({str(device) for device in devices if not _is_cuda(device)})
    if others:
        raise ValueError(f"nf4 needs all weights on CUDA devices, got {', '.join(others)}; choose cuda, or take int8")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ValueError("nf4 needs bitsandbytes; install it with `pip install 'open-medgemma[quantize]'`") from error
    return config_of_nf4(dtype)


def _is_cuda(device: Device) -> bool:
    return isinstance(device, int) or str(device).split(":")[0] == "cuda"


def config_of_nf4(dtype: torch.dtype) -> Any:
    """See `nf4_config`; nothing is checked."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # transformers 5 compares these with the beginnings of names, and any list takes the place of its own.
        llm_int8_skip_modules=["lm_head", "model.vision_tower", "model.multi_modal_projector"],
    )
