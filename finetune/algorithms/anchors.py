"""A model that follows the policy: what BOND distils from, and what WARP holds the policy to.

Every step the anchor goes a share η of the way to the policy, or after a number of steps all of it. What is averaged is
weights: of an adapter the update B·A, as a whole matrix. A and B averaged apart would be another thing: the mean of
products is not the product of means.

Source: Sessa et al., BOND, arXiv:2407.14622, Algorithms 1 and 2, eq. 18; Ramé et al., WARP, arXiv:2406.16768, §3.1.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from finetune.on_policy import Frozen, Network

NAME = "anchor"


@dataclass(frozen=True)
class Following:
    """How an anchor follows."""

    rate: float
    """η, the share of the way that it goes: 0 never moves, 1 becomes the policy."""
    every_steps: int = 1
    """1 is a moving average; with rate 1, the steps of iterative BOND between two anchors."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1 or self.every_steps < 1:
            raise ValueError(
                f"anchor: rate {self.rate}, every {self.every_steps} steps; expected 0 to 1, and 1 or more"
            )

    def is_due(self, step: int) -> bool:
        """Whether it moves before a step: then the policy has been updated `step` times."""
        return self.rate > 0 and step > 0 and step % self.every_steps == 0


class Anchor:
    """The policy as it was at first, and then following it. Saved and restored with the run (`finetune.training.Kept`).

    It is the policy's own network, with other weights put in place while it is asked: the engine samples from it too.

    Args:
        policy: whose trained weights it begins with, and keeps a second time.
        following: how it moves.
        peft: PEFT's model around the policy, where an adapter is trained: its matrices B·A are kept, in float32. None
            where weights are trained themselves.

    Raises:
        ValueError: an adapter whose update is not B·A alone: DoRA, or weights trained whole beside it.
    """

    def __init__(self, policy: Network, following: Following, peft: Any = None) -> None:
        self.following = following
        self._layers = _layers(peft) if peft is not None else {}
        trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad and peft is None}
        self._trained = trained
        self._kept = {name: value.clone() for name, value in self._now()}
        in_place = self._swapped if peft is None else partial(self._beside, peft.disable_adapter)
        self.frozen = Frozen(NAME, policy, in_place)

    def follow(self, step: int) -> bool:
        """Move before a step, if it is due; says whether it did."""
        if not self.following.is_due(step):
            return False
        with torch.no_grad():
            for name, now in self._now():
                self._kept[name].lerp_(now, self.following.rate)
        return True

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Kept`."""
        return {f"{NAME}.{name}": value for name, value in self._kept.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `Kept`."""
        for name, value in self._kept.items():
            value.copy_(tensors[f"{NAME}.{name}"])

    def _now(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What the policy has where the anchor has its own."""
        yield from ((name, parameter.detach()) for name, parameter in self._trained.items())
        yield from ((name, _update(layer)) for name, layer in self._layers.items())

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        """The trained weights change places with the anchor's."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._trained.items():
            parameter.data, self._kept[name] = self._kept[name], parameter.data

    @contextmanager
    def _beside(self, disabled: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
        """The adapter off, the anchor's update added to what each layer gives."""
        hooks = []
        try:
            for name, layer in self._layers.items():
                hooks.append(layer.get_base_layer().register_forward_hook(_adding(self._kept[name])))
            with disabled():
                yield
        finally:
            for hook in hooks:
                hook.remove()


def _layers(peft: Any) -> dict[str, Any]:
    from peft.tuners.lora import Linear

    trained = {name for name, parameter in peft.named_parameters() if parameter.requires_grad}
    layers = {name: module for name, module in peft.named_modules() if isinstance(module, Linear)}
    of_layers = {name for name in trained if ".lora_A." in name or ".lora_B." in name}
    if (others := sorted(trained - of_layers)) or any(_is_weighed(layer) for layer in layers.values()):
        raise ValueError(
            f"an anchor follows lora updates alone; this adapter trains {others[0] if others else 'magnitudes'} too; "
            "choose adapter.method lora of linear layers, or full"
        )
    return layers


def _is_weighed(layer: Any) -> bool:
    return any(layer.use_dora.values())


def _update(layer: Any) -> torch.Tensor:
    """Scale · B·A, (out, in) float32."""
    (adapter,) = layer.active_adapters
    a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    update: torch.Tensor = (b.detach().float() @ a.detach().float()) * layer.scaling[adapter]
    return update


def _adding(update: torch.Tensor) -> Callable[[Any, Any, torch.Tensor], torch.Tensor]:
    def hook(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + functional.linear(inputs[0].to(update.dtype), update).to(output.dtype)

    return hook
