"""A LoRA adapter, as PEFT writes it, into its base: one model in the Hub's layout, ready for GGUF and vLLM.

Only files are read: PEFT is not needed, and memory stays at one tensor.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

from medgemma.checkpoints.adapters.checks import CONFIG_FILE, refuse_added_tokens, refuse_lost_targets
from medgemma.checkpoints.adapters.trained_on import refuse_other_base
from medgemma.checkpoints.convert import (
    Advance,
    common_dtype,
    copy_companions,
    planned_from,
    read_finite,
    stored_name,
    whole_folder,
)
from medgemma.checkpoints.layouts import TIED_HEADS, hub_key, kind_of, matched_folder, write_config
from medsiglip.checkpoints.folders import read_json
from medsiglip.checkpoints.safetensors_files import (
    MAX_SHARD_BYTES,
    PlannedTensor,
    StoredTensor,
    opened,
    tensors_of_file,
    torch_dtype,
    write_tensors,
)

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the base's names."""
CHANGED_BASES = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Starts (init_lora_weights) that take something out of the base's own weights: the adapter fits only what is left."""
FACTORS = {
    "lora_A": "a",
    "lora_B": "b",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude",
}
"""Parameter of PEFT's layer to its part in the low-rank update."""
FACTOR = re.compile(rf"(?P<module>.+)\.(?P<factor>{'|'.join(FACTORS)})(?:\.(?!weight$)(?P<inner>[^.]+))?(?:\.weight)?")
"""A tensor's name; `inner` is the adapter's name in memory, which PEFT leaves out of its files and others do not."""
REFUSED_SETTINGS = {
    "fan_in_fan_out": "fan_in_fan_out",
    "lora_bias": "a bias of its own (lora_bias)",
    "target_parameters": "target_parameters",
    "trainable_token_indices": "trainable_token_indices",
    "alora_invocation_tokens": "activation by tokens (aLoRA), which cannot be merged",
    "layer_replication": "layer_replication",
    "megatron_config": "megatron_config",
    "use_bdlora": "block-diagonal factors (use_bdlora)",
    "use_qalora": "pooled inputs (use_qalora)",
    "kasa_config": "kasa_config",
    "monteclora_config": "monteclora_config",
    "arrow_config": "arrow_config",
}
"""adapter_config.json settings that change what the tensors mean, and are not handled here."""


@dataclass(frozen=True)
class Update:
    """A low-rank change of one weight."""

    a: StoredTensor
    b: StoredTensor
    scale: float
    magnitude: StoredTensor | None
    """Of each output row, in an adapter with weight decomposition (DoRA)."""


class Adapter(NamedTuple):
    """An adapter's tensors by the Hub name of the base's weight that each changes."""

    updates: Mapping[str, Update]
    replaced: Mapping[str, StoredTensor]
    """Weights trained whole: modules_to_save, biases."""
    trained_on: str | None
    """adapter_config.json's base_model_name_or_path."""


class Merged(NamedTuple):
    """What a merge did."""

    updated: int
    """Weights changed by a low-rank update."""
    replaced: int
    """Weights replaced whole."""
    tensors: int
    """Of the result."""
    head_apart: bool
    """The output head was trained apart from the embeddings: the result does not tie them."""
    trained_on: str | None
    """The base's name or folder, as the adapter gives it."""


def merge(
    base: Path,
    adapter: Path,
    out: Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
    advance: Advance = lambda tensors: None,
) -> Merged:
    """Merge a LoRA adapter folder into its base.

    The sum is made in float32 and rounded once.

    Args:
        base: folder of a Gemma 3 or SigLIP checkpoint, in any layout.
        adapter: folder with adapter_config.json and adapter_model.safetensors, trained under any transformers version.
        out: new folder, in the Hub's layout; it appears when it is whole.
        dtype: "float32" or "bfloat16"; None keeps the base's.
        max_shard_bytes: a larger file is written as several, with an index.
        overwrite: replace a folder that is there.
        advance: called with 1 after each tensor.

    Raises:
        ValueError: the adapter is for another base (a name or a shape does not fit), is incomplete, holds a tensor that
            is not accounted for or not finite, or is of a kind that cannot be merged.
    """
    config = read_json(base / "config.json")
    kind = kind_of(config, base)
    stored = stored_name(dtype)
    weights = matched_folder(base)
    parts = read_adapter(adapter, kind, weights)
    refuse_added_tokens(adapter, base)
    refuse_other_base(adapter, base)
    head_apart = changes_tied(parts, kind, weights)
    if head_apart:
        weights = with_head(weights, kind)
    files = {t.file for t in weights.values()} | {adapter / WEIGHTS_FILE}
    with whole_folder(out, overwrite, base, adapter) as folder, opened(sorted(files), "pt") as handles:
        planned = planned_from(handles, {**weights, **parts.replaced}, advance=advance)
        planned = [_updated(t, parts, handles, stored or weights[t.name].dtype) for t in planned]
        if head_apart and head_is_embeddings(planned, kind):
            head_apart, planned = False, [t for t in planned if t.name not in TIED_HEADS[kind]]
        write_tensors(folder, planned, max_shard_bytes)
        write_config(folder, untied(config) if head_apart else config, stored or common_dtype(weights))
        copy_companions(base, folder)
    return Merged(len(parts.updates), len(parts.replaced), len(planned), head_apart, parts.trained_on)


def read_adapter(adapter: Path, kind: str, base: Mapping[str, StoredTensor]) -> Adapter:
    """Account for every tensor of an adapter.

    Args:
        adapter: its folder.
        kind: the base's model_type.
        base: the base's tensors by Hub name.

    Raises:
        ValueError: as in `merge`.
    """
    config = _adapter_config(adapter)
    factors: dict[str, dict[str, StoredTensor]] = {}
    names: dict[str, str] = {}
    replaced: dict[str, StoredTensor] = {}
    inner: set[str] = set()
    for tensor in tensors_of_file(_weights(adapter)):
        name = _base_name(tensor.name, adapter)
        found = FACTOR.fullmatch(name)
        key = _key_in_base(f"{found['module']}.weight" if found else name, kind, base, tensor, adapter)
        known, part = (factors.setdefault(key, {}), FACTORS[found["factor"]]) if found else (replaced, key)
        if part in known:
            raise ValueError(
                f"adapter {adapter}: {known[part].name} and {tensor.name} both mean {key}; keep one of them"
            )
        known[part] = tensor
        if found:
            names[key] = found["module"]
            inner |= {found["inner"] or ""}
    if len(inner) > 1:
        raise ValueError(f"adapter {adapter}: holds several adapters ({', '.join(sorted(inner))}); save one of them")
    _check_replaced(replaced, base, adapter)
    updates = {key: _update(key, names[key], parts, config, base, adapter) for key, parts in factors.items()}
    refuse_lost_targets(config, names, replaced, base, adapter)
    return Adapter(updates, replaced, config.get("base_model_name_or_path"))


def _adapter_config(adapter: Path) -> dict[str, Any]:
    if not (adapter / CONFIG_FILE).is_file():
        raise ValueError(
            f"adapter {adapter}: no {CONFIG_FILE} there; give the folder that PEFT's save_pretrained wrote"
        )
    config = read_json(adapter / CONFIG_FILE)
    if config.get("peft_type") != "LORA":
        raise ValueError(f"adapter {adapter}: peft_type {config.get('peft_type')!r}; only LORA is understood")
    for name, what in REFUSED_SETTINGS.items():
        if config.get(name):
            raise ValueError(f"adapter {adapter}: trained with {what}; merge it with PEFT, then `medgemma convert`")
    start = str(config.get("init_lora_weights"))
    if start.startswith(CHANGED_BASES):
        raise ValueError(
            f"adapter {adapter}: its start {start!r} changed the base's weights; save it with PEFT's "
            "path_initial_model_for_weight_conversion"
        )
    return config


def _weights(adapter: Path) -> Path:
    if not (adapter / WEIGHTS_FILE).is_file():
        raise ValueError(f"adapter {adapter}: no {WEIGHTS_FILE} there; pickled weights are never loaded")
    return adapter / WEIGHTS_FILE


def _base_name(name: str, adapter: Path) -> str:
    if not name.startswith(PREFIX):
        raise ValueError(
            f"adapter {adapter}: {name} does not start with {PREFIX}; give what PEFT's save_pretrained wrote"
        )
    return re.sub(r"\.modules_to_save\.[^.]+\.", ".", name.removeprefix(PREFIX).replace(".base_layer.", "."))


def _key_in_base(name: str, kind: str, base: Mapping[str, StoredTensor], tensor: StoredTensor, adapter: Path) -> str:
    key = hub_key(name, kind)
    if key is None and kind == "gemma3" and (of_decoder := hub_key(name, "gemma3_text")) is not None:
        key = f"language_model.{of_decoder}"  # trained on the decoder alone, as Gemma3ForCausalLM names it
    if key is None or (key not in base and key not in TIED_HEADS.get(kind, {})):
        raise ValueError(
            f"adapter {adapter}: {tensor.name} changes nothing that the base holds; the adapter is for another base, "
            "or of a kind that is not known"
        )
    return key


def _check_replaced(replaced: Mapping[str, StoredTensor], base: Mapping[str, StoredTensor], adapter: Path) -> None:
    for key, tensor in replaced.items():
        expected = _weight(base, key)
        if tensor.shape[1:] == expected.shape[1:] and len(tensor.shape) == 2 and tensor.shape[0] > expected.shape[0]:
            raise ValueError(
                f"adapter {adapter}: {tensor.name} has {tensor.shape[0]} rows, the base's weight {expected.shape[0]}: "
                "it was trained with added tokens; merge it with PEFT into the resized base, then `medgemma convert`"
            )
        if tensor.shape != expected.shape:
            raise ValueError(
                f"adapter {adapter}: {tensor.name} is {tensor.shape}, expected {expected.shape}; the adapter is for "
                "another base"
            )


def _weight(base: Mapping[str, StoredTensor], key: str) -> StoredTensor:
    """The base's weight; that of a tied head is the embeddings'."""
    tied = {head: embeddings for heads in TIED_HEADS.values() for head, embeddings in heads.items()}
    return base[key] if key in base else base[tied[key]]


def _update(
    key: str,
    module: str,
    parts: Mapping[str, StoredTensor],
    config: Mapping[str, Any],
    base: Mapping[str, StoredTensor],
    adapter: Path,
) -> Update:
    if not {"a", "b"} <= parts.keys():
        raise ValueError(f"adapter {adapter}: {module} has only one factor of its update; fetch the adapter again")
    a, b, weight = parts["a"], parts["b"], _weight(base, key)
    rank = int(_pattern(config, "rank_pattern", module, config["r"]))
    alpha = float(_pattern(config, "alpha_pattern", module, config["lora_alpha"]))
    if a.shape[0] != rank or b.shape[1] != rank:
        raise ValueError(
            f"adapter {adapter}: {a.name} has rank {a.shape[0]}, {CONFIG_FILE} says {rank}; fetch both again"
        )
    made = (a.shape[1], b.shape[0]) if "lora_embedding" in a.name else (b.shape[0], *a.shape[1:])
    if made != weight.shape:
        raise ValueError(
            f"adapter {adapter}: {module} makes an update of {made}, the base's weight is {weight.shape}; the adapter "
            "is for another base"
        )
    if ("magnitude" in parts) != bool(config.get("use_dora")):
        raise ValueError(f"adapter {adapter}: {CONFIG_FILE} and {module} disagree about use_dora; fetch both again")
    scale = alpha / (sqrt(rank) if config.get("use_rslora") else rank)
    return Update(a, b, scale, parts.get("magnitude"))


def _pattern(config: Mapping[str, Any], name: str, module: str, otherwise: Any) -> Any:
    """A setting of one module: the first pattern that its name ends with counts, as in PEFT."""
    for pattern, value in (config.get(name) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _updated(planned: PlannedTensor, adapter: Adapter, handles: Mapping[Path, Any], dtype: str) -> PlannedTensor:
    """A weight as it will be written, its update added before it is rounded to `dtype`."""
    update, read = adapter.updates.get(planned.name), planned.make

    def make() -> Any:
        weight = read()
        return (weight if update is None else summed(weight, update, handles)).to(torch_dtype(dtype))

    return planned._replace(dtype=dtype, make=make)


def summed(weight: Any, update: Update, handles: Mapping[Path, Any]) -> Any:
    """Weight + scale · B·A in float32."""
    a, b = (read_finite(handles, t).float() for t in (update.a, update.b))
    change = (b @ a).T if "lora_embedding" in update.a.name else (b.flatten(1) @ a.flatten(1))
    changed = weight.float() + update.scale * change.reshape(weight.shape)
    if update.magnitude is not None:
        lengths = changed.flatten(1).norm(dim=1)
        ratios = read_finite(handles, update.magnitude).float().flatten() / lengths
        changed *= ratios.reshape(-1, *[1] * (changed.ndim - 1))
    return changed


def changes_tied(adapter: Adapter, kind: str, base: Mapping[str, StoredTensor]) -> bool:
    """Whether head or embeddings change in a base that ties them: then they are two weights, as in training."""
    changed = adapter.updates.keys() | adapter.replaced.keys()
    return any(
        head not in base and {head, embeddings} & changed for head, embeddings in TIED_HEADS.get(kind, {}).items()
    )


def with_head(base: Mapping[str, StoredTensor], kind: str) -> dict[str, StoredTensor]:
    """The base's tensors, its tied head beside the embeddings."""
    return {**base, **{head: base[embeddings] for head, embeddings in TIED_HEADS[kind].items()}}


def head_is_embeddings(planned: Sequence[PlannedTensor], kind: str) -> bool:
    """Whether the head came out as the embeddings, and need not be written."""
    import torch

    made = {tensor.name: tensor.make for tensor in planned}
    return all(torch.equal(made[head](), made[embeddings]()) for head, embeddings in TIED_HEADS[kind].items())


def untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with a head of its own."""
    text = {"text_config": {**config["text_config"], "tie_word_embeddings": False}} if "text_config" in config else {}
    return {**config, **text, "tie_word_embeddings": False}
