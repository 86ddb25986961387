"""A model that follows the policy: what BOND distils from, and what WARP holds the policy to.

Every step the anchor goes a share η of the way to the policy, or after a number of steps all of it. What is averaged is
weights: of an adapter the update B·A, as a whole matrix. A and B averaged apart would be another thing: the mean of
products is not the product of means.

Source: Sessa et al., BOND, arXiv:2407.14622, Algorithms 1 and 2, eq. 18; Ramé et al., WARP, arXiv:2406.16768, §3.1.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from finetune.on_policy import Frozen, Network, copy_of

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

    Args:
        policy: whose trained weights it begins with.
        following: how it moves.
        peft: PEFT's model around the policy, where an adapter is trained; its matrices then cost their size in float32.
            None where weights are trained themselves: the anchor is a second network.

    Raises:
        ValueError: an adapter whose update is not B·A alone: DoRA, or weights trained whole beside it.
    """

    def __init__(self, policy: Network, following: Following, peft: Any = None) -> None:
        self.following = following
        self.policy = policy
        self._layers = _layers(peft) if peft is not None else {}
        self._updates = {name: _update(layer) for name, layer in self._layers.items()}
        if peft is None:
            self.frozen = copy_of(policy, NAME)
        else:
            self.frozen = Frozen(NAME, policy, lambda: self._in_place(peft.disable_adapter))

    def follow(self, step: int) -> bool:
        """Move before a step, if it is due; says whether it did."""
        if not self.following.is_due(step):
            return False
        with torch.no_grad():
            for mine, now in self._pairs():
                mine.lerp_(now.to(mine.dtype), self.following.rate)
        self._forget()
        return True

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Kept`."""
        return {f"{NAME}.{name}": value for name, value in self._own().items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `Kept`."""
        with torch.no_grad():
            for name, value in self._own().items():
                value.copy_(tensors[f"{NAME}.{name}"])
        self._forget()

    def _forget(self) -> None:
        if not self._layers:  # an adapter's anchor is the policy's network, whose tower stays
            self.frozen.network.forget()

    def _own(self) -> dict[str, torch.Tensor]:
        if self._layers:
            return self._updates
        trained = {name for name, parameter in self.policy.model.named_parameters() if parameter.requires_grad}
        return {n: p.detach() for n, p in self.frozen.network.model.named_parameters() if n in trained}

    def _pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self._layers:
            yield from ((self._updates[name], _update(layer)) for name, layer in self._layers.items())
        else:
            now = dict(self.policy.model.named_parameters())
            yield from ((value, now[name].detach()) for name, value in self._own().items())

    @contextmanager
    def _in_place(self, disabled: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Iterator[None]:
        """The policy's network as the anchor: its adapter off, the anchor's update added to what each layer gives."""
        hooks = []
        try:
            for name, layer in self._layers.items():
                hooks.append(layer.get_base_layer().register_forward_hook(_adding(self._updates[name])))
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
