"""Whose weights a network has in place: what its caches are keyed by, so that nothing of other weights is ever used.

Weights change under the engine in four ways: an update (`Engine.weights_changed`); an adapter of the engine's own; an
adapter of PEFT's that is switched on, off or over, which is seen here; and other weights put in place for a while,
which must be told (`Engine.other_weights`).
"""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from medgemma.engine.adapters import Adapters


class WeightsInPlace:
    """Names for what a model computes with.

    Args:
        model: Gemma3ForConditionalGeneration or Gemma3ForCausalLM, PEFT's layers inside or not.
        adapters: the engine's own.
    """

    def __init__(self, model: Any, adapters: Adapters) -> None:
        self.model, self.adapters = model, adapters
        self._policy: Hashable = None
        self._policy_sight: Hashable = None

    def of(self, adapter: str | None) -> Hashable:
        """All that prompts' keys and values depend on, beside the prompt."""
        return self._policy, peft_state(self.model), adapter

    def sight(self, adapter: str | None) -> Hashable:
        """All that pictures' features depend on, beside the picture: what changes tower or projector."""
        seen = self.model.model
        state = (peft_state(seen.vision_tower), peft_state(seen.multi_modal_projector))
        return self._policy_sight, state, self.adapters.sight(adapter)

    @contextmanager
    def replaced(self, policy: Hashable, *, sight: bool) -> Iterator[None]:
        """Within the block other weights are in place, of this name; with `sight`, another tower or projector too."""
        before = self._policy, self._policy_sight
        self._policy, self._policy_sight = policy, policy if sight else before[1]
        try:
            yield
        finally:
            self._policy, self._policy_sight = before

    def refuse_training(self) -> None:
        """Refuse a model of which any part is in train mode: dropout is live, and no answer would come twice.

        Raises:
            RuntimeError: it is.
        """
        if any(module.training for module in self.model.modules()):
            raise RuntimeError("the model is in train mode, where dropout is live; call model.eval() before asking")


def peft_state(module: Any) -> Hashable:
    """Which of PEFT's adapters are active, as its first layer says; None without such layers."""
    for part in module.modules():
        is_off = getattr(part, "disable_adapters", None)
        if isinstance(is_off, bool):  # transformers' models have a method of this name
            return is_off, tuple(part.active_adapters)
    return None
