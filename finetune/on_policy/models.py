"""The networks of a run as the trainer computes them: the policy, and those beside it that are never trained.

Letters: K learned tokens, H decoder width, V vocabulary, P pictures, N patches.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from finetune.adapters import output_weight
from finetune.collate import Batch
from finetune.forward import completion_states
from finetune.losses.policy import token_logprobs
from finetune.training import Precision
from medgemma.engine.vision import patch_features
from medsiglip.imaging import Picture
from medsiglip.preprocess import Preprocessing

KEPT_BYTES = 1 << 30
"""Of patches that stay in memory while the tower is frozen: 56 pictures of MedGemma's in float32."""


class Network:
    """A Gemma 3 with the pictures that it is shown.

    Args:
        model: Gemma3ForConditionalGeneration, or Gemma3ForCausalLM where no prompt has pictures.
        preprocessing: its pixels; None where no prompt has pictures.
        pictures: by number.
        precision: of the forward pass.
    """

    def __init__(
        self,
        model: Any,
        preprocessing: Preprocessing | None = None,
        pictures: Sequence[Picture] = (),
        precision: Precision = "float32",
    ) -> None:
        self.model, self.preprocessing, self.pictures, self.precision = model, preprocessing, pictures, precision
        self.soft_cap: float | None = model.config.get_text_config().final_logit_softcapping
        self._patches: dict[int, torch.Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where batches must be."""
        device: torch.device = self.model.device
        return device

    def states(self, batch: Batch) -> torch.Tensor:
        """(K, H): see `finetune.forward.completion_states`; a frozen tower runs once a picture."""
        seen = {}
        if batch.pictures:
            frozen = not any(p.requires_grad for p in self.model.model.vision_tower.parameters())
            seen = {"patches": self._kept(batch)} if frozen else {"pixel_values": self._pixels(batch.pictures)}
        return completion_states(self.model, batch.to(self.device), precision=self.precision, **seen)

    def head(self) -> torch.Tensor:
        """(V, H)."""
        return output_weight(self.model)

    def logprobs(self, batch: Batch, temperature: float) -> torch.Tensor:
        """(K,) natural log-probability of each target under the whole distribution at a temperature, on the CPU."""
        with torch.no_grad():
            said = token_logprobs(
                self.states(batch),
                self.head(),
                batch.targets.to(self.device),
                temperature=temperature,
                soft_cap=self.soft_cap,
            )
        return said.cpu()

    def _kept(self, batch: Batch) -> torch.Tensor:
        """(P, N, width); each picture alone, so that its bits do not depend on what is drawn with it."""
        if sum(patches.nbytes for patches in self._patches.values()) > KEPT_BYTES:
            self._patches.clear()
        for number in batch.pictures:
            if number not in self._patches:
                with torch.no_grad():
                    self._patches[number] = patch_features(self.model, self._pixels([number]))[0]
        return torch.stack([self._patches[number] for number in batch.pictures])

    def _pixels(self, numbers: Sequence[int]) -> torch.Tensor:
        assert self.preprocessing is not None
        resized = [self.preprocessing.resized(self.pictures[number]) for number in numbers]
        weight = next(self.model.model.vision_tower.parameters())
        return self.preprocessing.pixel_values(resized).to(weight.device, weight.dtype)


@dataclass(frozen=True)
class Frozen:
    """A model that is not trained: a reference, a teacher, an anchor."""

    name: str
    """In the log, and in the keys of the engine's caches."""
    network: Network
    in_place: Callable[[], AbstractContextManager[object]] = nullcontext
    """Puts its weights in place where the network is the policy's own."""

    @contextmanager
    def running(self) -> Iterator[Network]:
        """The network as this model, in eval mode and without gradients; then as it was."""
        model = self.network.model
        was_training = model.training
        model.eval()
        try:
            with self.in_place(), torch.no_grad():
                yield self.network
        finally:
            model.train(was_training)

    def states(self, batch: Batch) -> torch.Tensor:
        """(K, H) without a gradient."""
        with self.running() as network:
            return network.states(batch)

    def head(self) -> torch.Tensor:
        """(V, H) without a gradient."""
        with self.running() as network:
            return network.head().detach()

    def logprobs(self, batch: Batch, temperature: float) -> torch.Tensor:
        """(K,), as `Network.logprobs`."""
        with self.running() as network:
            return network.logprobs(batch, temperature)


def base_of(policy: Network, peft: Any, name: str = "reference") -> Frozen:
    """The base that a policy's adapter stands on; no second copy of a weight.

    Args:
        policy: the network with PEFT's layers.
        peft: PEFT's model around it, as `finetune.adapters.Adapted.peft`.
        name: of the model.
    """
    return Frozen(name, policy, peft.disable_adapter)


def copy_of(policy: Network, name: str = "reference") -> Frozen:
    """The policy as it is now, as a whole second network."""
    model = deepcopy(policy.model).requires_grad_(False)
    return Frozen(name, Network(model, policy.preprocessing, policy.pictures, policy.precision))
