"""One step of training on the meta device: every tensor is counted while it lives, and nothing is computed.

The network, PEFT's layers, checkpointed activations and the loss are the ones that train. Only attention, which is one
kernel on a CPU or a GPU, and autocast, which the meta device has not, are stood in for.

Letters: B rows, T tokens, H heads, D head width.
"""

import weakref
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

FORMULAS = {**flop_registry, torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm]}
"""FLOPs of an operation; torch's own list lacks the one that adds in place, which the loss uses."""


class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages made within it that are alive, the most there were, and the FLOPs of all products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak, self.flops = 0, 0, 0
        self._there: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._live, out)
        if (formula := FORMULAS.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out

    def _live(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._there:
            return
        self._there.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._there.discard(key)
        self.now -= size


class Kernels(TorchFunctionMode):
    """Attention as one kernel, and what autocast casts.

    Args:
        computed: the dtype of products under autocast; None where there is none.
    """

    def __init__(self, computed: torch.dtype | None) -> None:
        super().__init__()
        self.computed = computed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **(kwargs or {}))
        if self.computed is not None and func in PRODUCTS:
            return func(*(self._casted(a) if isinstance(a, torch.Tensor) else a for a in args), **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _casted(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.computed) if tensor.is_floating_point() else tensor

    def _attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        bias = None if attn_mask is None else attn_mask.to(query.dtype)  # each layer keeps a mask in numbers
        bias = None if bias is None else bias.expand(-1, query.shape[1], -1, -1)
        fused = torch.ops.aten._scaled_dot_product_efficient_attention
        out: torch.Tensor = fused(query, key, value, bias, query.requires_grad, scale=kwargs.get("scale"))[0]
        return out


PRODUCTS = frozenset({functional.linear, functional.conv2d, torch.matmul})
"""What the networks multiply with; the loss computes outside autocast."""
