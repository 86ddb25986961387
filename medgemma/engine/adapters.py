"""LoRA adapters beside one base: low-rank updates of what its layers give, one adapter active at a time.

The base's weights are neither changed nor copied: an adapter costs its own tensors, and switching costs nothing. Files
are read by `medgemma.checkpoints.adapters.merge.read_adapter`, so that what can be merged can be loaded, trained under
any transformers version. PEFT's loader would take the names of one version only, and leave out in silence what it
cannot place.
"""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from medgemma.checkpoints.adapters.checks import SIGHT
from medgemma.checkpoints.adapters.merge import WEIGHTS_FILE, Adapter, Update, read_adapter
from medgemma.checkpoints.convert import read_finite
from medgemma.checkpoints.float16 import flowing_dtype
from medgemma.checkpoints.layouts import TIED_HEADS, hub_key
from medsiglip.checkpoints.safetensors_files import StoredTensor, opened


@dataclass(frozen=True)
class LowRank:
    """What one adapter adds to one layer: b · a · x."""

    a: torch.Tensor
    """(rank, in), (rank, in, height, width) of a convolution, (vocabulary, rank) of embeddings."""
    b: torch.Tensor
    """(out, rank), its scale included."""
    magnitude: torch.Tensor | None = None
    """(out,) length of each row of the changed weight, in an adapter with weight decomposition (DoRA)."""
    ratio: torch.Tensor | None = None
    """(out,) that length over the one that base and update have together."""


class _Place(NamedTuple):
    module: Any
    attribute: str


@dataclass(frozen=True)
class _Loaded:
    updates: Mapping[Any, LowRank]
    """Module to its update."""
    replaced: Mapping[_Place, torch.nn.Parameter]
    """Weights trained whole."""
    changes_sight: bool
    read: Adapter
    """Which of its tensors goes where."""
    folder: Path


class Adapters:
    """The adapters of one model. With none active the model is its bare base.

    Args:
        model: Gemma3ForConditionalGeneration or Gemma3ForCausalLM.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.active: str | None = None
        self._loaded: dict[str, _Loaded] = {}
        self._updates: dict[Any, dict[str, LowRank]] = {}
        """Module with a hook to its update by adapter."""
        self._hooks: dict[Any, Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that are loaded."""
        return tuple(self._loaded)

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter; it stays inactive.

        Args:
            name: what requests will call it.
            folder: with adapter_config.json and adapter_model.safetensors, as PEFT's save_pretrained writes them.

        Raises:
            ValueError: the name is taken; as `medgemma.checkpoints.adapters.merge.read_adapter`; a tensor is not
                finite.
        """
        if name in self._loaded:
            raise ValueError(f"adapter {name!r} is loaded already; unload it first, or give another name")
        kind = self.model.config.model_type
        places = _places(self.model, kind)
        read = read_adapter(folder, kind, _as_stored(self.model, kind))
        with opened([folder / WEIGHTS_FILE], "pt") as handles, torch.inference_mode(False), torch.no_grad():
            loaded = self._placed(read, places, handles, folder)
        self._put(name, loaded)

    def replace(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Give a loaded adapter other values, from memory: those of a training step, for example.

        Args:
            name: of a loaded one.
            tensors: all of its file, by their names there, as PEFT's `get_peft_model_state_dict` gives them.

        Raises:
            ValueError: there is none of that name, a tensor is missing, unknown, of another shape or not finite; the
                adapter is then what it was.
        """
        self.require(name)
        before = self._loaded[name]
        _refuse_unlike(name, before.read, tensors)
        handles = {before.folder / WEIGHTS_FILE: _InMemory(tensors)}
        with torch.inference_mode(False), torch.no_grad():
            places = _places(self.model, self.model.config.model_type)
            self._put(name, self._placed(before.read, places, handles, before.folder))

    def _put(self, name: str, loaded: _Loaded) -> None:
        for module, update in loaded.updates.items():
            if module not in self._updates:
                self._updates[module] = {}
                self._hooks[module] = module.register_forward_hook(self._hook(self._updates[module]))
            self._updates[module][name] = update
        self._loaded[name] = loaded

    def unload(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            ValueError: there is none of that name.
        """
        self.require(name)
        for module in self._loaded.pop(name).updates:
            del self._updates[module][name]
            if not self._updates[module]:
                self._hooks.pop(module).remove()
                del self._updates[module]

    def require(self, name: str) -> None:
        """Refuse a name that is not loaded.

        Raises:
            ValueError: with the names that are.
        """
        if name not in self._loaded:
            there = f"loaded are {', '.join(self._loaded)}" if self._loaded else "none is"
            raise ValueError(f"adapter {name!r} is not loaded ({there}); load it with load_adapter")

    def sight(self, name: str | None) -> str | None:
        """What pictures' features depend on: the adapter, if it changes the tower or the projector."""
        return name if name is not None and self._loaded[name].changes_sight else None

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Make one adapter, or none, active within a block."""
        replaced = self._loaded[name].replaced if name is not None else {}
        before = {place: getattr(*place) for place in replaced}
        self.active = name
        try:
            for place, parameter in replaced.items():
                setattr(*place, parameter)
            yield
        finally:
            self.active = None
            for place, parameter in before.items():
                setattr(*place, parameter)

    def weights_changed(self) -> None:
        """Compute again what depends on the base's weights."""
        for module, updates in self._updates.items():
            updates.update({name: _with_ratio(update, module) for name, update in updates.items()})

    def _hook(self, updates: Mapping[str, LowRank]) -> Any:
        def adapted(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            update = updates.get(self.active) if self.active is not None else None
            return output if update is None else _changed(module, update, inputs[0], output)

        return adapted

    def _placed(
        self, read: Adapter, places: Mapping[str, _Place], handles: Mapping[Path, Any], folder: Path
    ) -> _Loaded:
        updates = {}
        for key, update in read.updates.items():
            module = places[key].module
            if not isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Embedding):
                raise ValueError(f"adapter {folder}: changes {key}, which is no linear layer; merge it instead")
            if update.magnitude is not None:
                _refuse_quantised(module.weight, key, folder, "with weight decomposition (DoRA)")
            updates[module] = _low_rank(update, module, flowing_dtype(self.model), handles)
        replaced = {}
        for key, tensor in read.replaced.items():
            held = getattr(*places[key])
            _refuse_quantised(held, key, folder, "whole")
            value = read_finite(handles, tensor).to(held.device, held.dtype)
            replaced[places[key]] = torch.nn.Parameter(value, requires_grad=False)
        changes_sight = any(key.startswith(SIGHT) for key in [*read.updates, *read.replaced])
        return _Loaded(updates, replaced, changes_sight, read, folder)


class WeightsInPlace:
    """Whose weights a model has in place: what caches are keyed by, so that nothing of other weights is ever used.

    Weights change under the engine in four ways: an update (`Engine.weights_changed`); an adapter of the engine's own;
    an adapter of PEFT's that is switched on, off or over, which is seen here; and other weights put in place for a
    while, which must be told (`Engine.other_weights`).

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


@dataclass(frozen=True)
class _InMemory:
    """Read as a file is."""

    tensors: Mapping[str, torch.Tensor]

    def get_tensor(self, name: str) -> torch.Tensor:
        return self.tensors[name].detach().clone()


def _refuse_unlike(name: str, read: Adapter, tensors: Mapping[str, torch.Tensor]) -> None:
    of_updates = [tensor for u in read.updates.values() for tensor in (u.a, u.b, u.magnitude) if tensor is not None]
    wanted = {tensor.name: tuple(tensor.shape) for tensor in [*of_updates, *read.replaced.values()]}
    given = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for key in sorted(wanted.keys() | given.keys()):
        if wanted.get(key) != given.get(key):
            here, there = given.get(key, "not given"), wanted.get(key, "not in it")
            raise ValueError(f"adapter {name!r}: {key} is {here} and was {there}; give the tensors of the same adapter")


def _places(model: Any, kind: str) -> dict[str, _Place]:
    """Hub name to where a weight is held, a tied head included."""
    places = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        module, _, attribute = name.rpartition(".")
        places[hub_key(name, kind) or name] = _Place(model.get_submodule(module), attribute)
    return places


def _as_stored(model: Any, kind: str) -> dict[str, StoredTensor]:
    """A model's weights as if read from a file's header."""
    stored = {}
    for key, (module, attribute) in _places(model, kind).items():
        shape = tuple(getattr(module, attribute).shape)
        if isinstance(module, torch.nn.Linear) and attribute == "weight":  # 4-bit weights are packed
            shape = (module.out_features, module.in_features)
        stored[key] = StoredTensor(key, Path(), "F32", shape)
    for head, embeddings in TIED_HEADS[kind].items():
        if model.lm_head.weight is model.get_input_embeddings().weight:
            assert embeddings in stored
            del stored[head]
    return stored


def _refuse_quantised(weight: torch.Tensor, key: str, folder: Path, how: str) -> None:
    if not weight.is_floating_point():
        raise ValueError(f"adapter {folder}: changes {key} {how}, which is quantised here; merge it, then quantise")


def _low_rank(update: Update, module: Any, dtype: torch.dtype, handles: Mapping[Path, Any]) -> LowRank:
    a, b = (read_finite(handles, tensor).float() for tensor in (update.a, update.b))
    magnitude = None if update.magnitude is None else read_finite(handles, update.magnitude).float().flatten()
    device = module.weight.device
    a = a.T.contiguous() if isinstance(module, torch.nn.Embedding) else a
    made = LowRank(a.to(device, dtype), (b * update.scale).to(device, dtype))
    if magnitude is None:
        return made
    return _with_ratio(replace(made, magnitude=magnitude.to(device)), module)


def _with_ratio(update: LowRank, module: Any) -> LowRank:
    if update.magnitude is None:
        return update
    a, b = update.a.float(), update.b.float()
    change = a @ b.T if isinstance(module, torch.nn.Embedding) else b.flatten(1) @ a.flatten(1)
    lengths = (module.weight.detach().float().flatten(1) + change).norm(dim=1)
    return replace(update, ratio=(update.magnitude / lengths).to(update.a.dtype))


def _changed(module: Any, update: LowRank, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """A layer's output with an adapter's update; Accelerate may have moved the input inside the layer."""
    x, a, b = (tensor.to(output.device) for tensor in (x, update.a, update.b))
    if isinstance(module, torch.nn.Embedding):
        change = functional.linear(functional.embedding(x, a), b) * getattr(module, "embed_scale", 1)
    elif isinstance(module, torch.nn.Conv2d):
        change = functional.conv2d(functional.conv2d(x, a, None, module.stride, module.padding, module.dilation), b)
    else:
        change = functional.linear(functional.linear(x, a), b)
    if update.ratio is None:
        return output + change
    ratio, bias = update.ratio.to(output.device), getattr(module, "bias", None)
    if isinstance(module, torch.nn.Embedding):
        ratio = functional.embedding(x, ratio[:, None])
    elif isinstance(module, torch.nn.Conv2d):
        ratio, bias = ratio[:, None, None], None if bias is None else bias[:, None, None]
    return (output + change) * ratio if bias is None else (output - bias + change) * ratio + bias
