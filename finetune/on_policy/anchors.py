"""A copy of the policy that follows it: at once, or by an exponential moving average.

Low-rank updates are averaged as the weight that they make, ΔW = scale · B A. The averages of A and of B, each for
itself, make another one: the product of averages is not the average of products.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from finetune.on_policy.models import Frozen, Network

STEPS = "steps"


class Anchor:
    """A moving copy of what a network trains; an algorithm's `kept`, so that a run resumes with it.

    Args:
        policy: whose parameters that want a gradient are copied as they are now.
        name: of the model.

    Raises:
        ValueError: an update with weight decomposition (DoRA), or one on quantised weights.
    """

    def __init__(self, policy: Network, name: str = "anchor") -> None:
        self.policy, self.name = policy, name
        self.steps = 0
        self.layers = {key: module for key, module in policy.model.named_modules() if _is_updated(module)}
        for key, layer in self.layers.items():
            if layer.use_dora.get(_adapter(layer)) or not layer.get_base_layer().weight.is_floating_point():
                raise ValueError(f"anchor: {key} has weight decomposition or is quantised; train with method lora")
        self.whole = {
            key: parameter
            for key, parameter in policy.model.named_parameters()
            if parameter.requires_grad and ".lora_" not in key
        }
        self._held = self._policys()

    @property
    def model(self) -> Frozen:
        """To sample from, and to score with."""
        return Frozen(self.name, self.policy, self.in_place)

    def follow(self, share: float, step: int) -> None:
        """Anchor ← (1 - share) · anchor + share · policy, once a step, however often it is asked; 1 copies.

        Call it at the beginning of a step, for the update before it: at step 0 there is none.
        """
        if step <= self.steps:
            return
        self.steps = step
        for key, value in self._policys().items():
            self._held[key].lerp_(value, share)

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `finetune.training.Kept`."""
        return {**self._held, STEPS: torch.tensor([self.steps])}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `finetune.training.Kept`."""
        self.steps = int(tensors[STEPS])
        for key, value in self._held.items():
            value.copy_(tensors[key])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The policy's network computes with the anchor's weights within the block."""
        before: list[tuple[Any, torch.Tensor]] = []

        def put(parameter: Any, value: torch.Tensor) -> None:
            before.append((parameter, parameter.data))
            parameter.data = value

        try:
            for key, parameter in self.whole.items():
                put(parameter, self._held[key].to(parameter.dtype))
            for key, layer in self.layers.items():
                weight, b = layer.get_base_layer().weight, layer.lora_B[_adapter(layer)].weight
                put(weight, (weight.data.float() + self._held[key]).to(weight.dtype))
                put(b, torch.zeros_like(b))
            yield
        finally:
            for parameter, value in reversed(before):
                parameter.data = value

    @torch.no_grad()
    def _policys(self) -> dict[str, torch.Tensor]:
        """What the policy trains, as the anchor holds it: float32, updates as what they add to a weight."""
        found = {key: parameter.detach().float().clone() for key, parameter in self.whole.items()}
        for key, layer in self.layers.items():
            name = _adapter(layer)
            a, b = layer.lora_A[name].weight.float(), layer.lora_B[name].weight.float()
            found[key] = layer.scaling[name] * (b @ a)
        return found


def _is_updated(module: Any) -> bool:
    return hasattr(module, "lora_A") and len(module.lora_A) > 0


def _adapter(layer: Any) -> str:
    [name] = layer.active_adapters
    return str(name)
