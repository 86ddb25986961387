"""What an adapter says that it changes, against what it brings: nothing of it may be lost in silence.

Which modules adapter_config.json names is decided as PEFT does, in the names of the transformers version that the
adapter was trained under.
Source: huggingface/peft, `check_target_module_exists`.
"""

import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from medsiglip.checkpoints.folders import read_json
from medsiglip.checkpoints.safetensors_files import StoredTensor
from medsiglip.remarks import Remark

CONFIG_FILE = "adapter_config.json"
_HEAD = "language_model.lm_head"
_IN_MEMORY = {
    "language_model.model.": "model.language_model.",
    "multi_modal_projector.": "model.multi_modal_projector.",
    _HEAD: "lm_head",
}
NAMINGS: tuple[Mapping[str, str], ...] = (
    {**_IN_MEMORY, "vision_tower.vision_model.": "model.vision_tower."},
    {**_IN_MEMORY, "vision_tower.vision_model.": "model.vision_tower.vision_model."},
    {"": ""},
    {"language_model.model.": "model.", _HEAD: "lm_head"},
)
"""Hub prefix to that in memory: transformers 5; 4.52 to 4.57; the Hub's own, in 4.50 and SigLIP; text alone."""
SIGHT = ("vision_tower.", "multi_modal_projector.")
"""Hub prefixes of what decides a picture's features."""
NOT_LINEAR = ("embed_tokens", "token_embedding", "position_embedding", "lm_head")
"""What "all-linear" does not mean, of weights with two dimensions."""


def refuse_lost_targets(
    config: Mapping[str, Any],
    changed: Mapping[str, str],
    replaced: Collection[str],
    base: Mapping[str, StoredTensor],
    adapter: Path,
) -> None:
    """Refuse an adapter that names a target and brings no tensor for it.

    Args:
        config: adapter_config.json's.
        changed: Hub name of each weight with a low-rank update to its module's name in the adapter.
        replaced: Hub names of the weights that it brings whole.
        base: the base's tensors by Hub name.
        adapter: its folder.

    Raises:
        ValueError: a target or a module of modules_to_save has no tensor; it is named.

    Warns:
        Remark: its targets name layers of the tower too, and it changes the decoder alone.
    """
    targets = config.get("target_modules") or []
    for target in [] if isinstance(targets, str) else targets:
        if not any(module == target or module.endswith(f".{target}") for module in changed.values()):
            raise ValueError(f"adapter {adapter}: nothing for target module {target}; fetch the adapter again")
    for module in config.get("modules_to_save") or []:
        if not any(f".{module.rpartition('.')[2]}." in f".{key}" for key in replaced):
            raise ValueError(f"adapter {adapter}: nothing for {module} of modules_to_save; fetch the adapter again")
    gaps = max((_gaps(config, changed, replaced, base, naming) for naming in _fitting(changed)), key=len)
    decoder_alone = not any(key.startswith(SIGHT) for key in [*changed, *replaced])
    if changed and gaps and decoder_alone and not _is_regex(targets) and all(key.startswith(SIGHT) for key in gaps):
        text = f"its target modules name {len(gaps)} layers of the vision tower and projector too, and it changes none"
        warnings.warn(f"adapter {adapter}: {text}; it is taken as one of the decoder alone", Remark, stacklevel=2)
    elif changed and gaps:
        raise ValueError(
            f"adapter {adapter}: {len(gaps)} target modules have no update: {', '.join(gaps[:4])}"
            f"{' …' if len(gaps) > 4 else ''}; the adapter is for another base, or incomplete"
        )


def refuse_added_tokens(adapter: Path, base: Path) -> None:
    """Refuse an adapter whose folder holds a tokenizer with tokens that the base's has not.

    Raises:
        ValueError: the first few of them are named.
    """
    added = _added_tokens(adapter)
    lacking = sorted(added - _vocabulary(base)) if added else []
    if lacking:
        raise ValueError(
            f"adapter {adapter}: its tokenizer has {len(lacking)} tokens that {base} has not: {', '.join(lacking[:4])}"
            f"{' …' if len(lacking) > 4 else ''}; merge it with PEFT into the base with that tokenizer, then "
            "`medgemma convert`"
        )


def _is_regex(targets: Any) -> bool:
    return isinstance(targets, str) and targets != "all-linear"


def _fitting(changed: Mapping[str, str]) -> list[Mapping[str, str]]:
    """The namings under which every module has the name that the adapter gives it; all, where it mixes them."""
    fitting = [naming for naming in NAMINGS if all(_named(key, naming) == name for key, name in changed.items())]
    return fitting or list(NAMINGS)


def _named(key: str, naming: Mapping[str, str]) -> str | None:
    """A module's name in memory, from its weight's on the Hub; None if that version's model has no such module."""
    for hub, memory in naming.items():
        if key.startswith(hub):
            return memory + key.removeprefix(hub).removesuffix(".weight")
    return None


def _gaps(
    config: Mapping[str, Any],
    changed: Mapping[str, str],
    replaced: Collection[str],
    base: Mapping[str, StoredTensor],
    naming: Mapping[str, str],
) -> list[str]:
    """The base's modules that the config names and the adapter leaves out, by Hub name, the decoder's first."""
    gaps = []
    for key, tensor in base.items():
        if key.endswith(".weight") and len(tensor.shape) > 1 and key not in changed and key not in replaced:
            name = _named(key, naming)
            if name is not None and _is_target(config, name, len(tensor.shape)):
                gaps.append(key.removesuffix(".weight"))
    return sorted(gaps, key=lambda gap: gap.startswith(SIGHT))


def _is_target(config: Mapping[str, Any], name: str, dimensions: int) -> bool:
    targets, excluded = config.get("target_modules") or [], config.get("exclude_modules") or []
    if _matches(excluded, name) or any(
        re.match(rf"(^|.*\.){m}($|\..*)", name) for m in config.get("modules_to_save") or []
    ):
        return False
    if targets == "all-linear":
        return dimensions == 2 and not name.endswith(NOT_LINEAR)
    if isinstance(targets, str) or name in targets:
        return _matches(targets, name)
    return _matches(targets, name) and _is_in_layers(config, name)


def _matches(patterns: Any, name: str) -> bool:
    if isinstance(patterns, str):
        return bool(patterns) and re.fullmatch(patterns, name) is not None
    return any(name == pattern or name.endswith(f".{pattern}") for pattern in patterns)


def _is_in_layers(config: Mapping[str, Any], name: str) -> bool:
    """Whether layers_to_transform, under layers_pattern, has a module's layer; all layers without it."""
    layers, patterns = config.get("layers_to_transform"), config.get("layers_pattern") or [r"[^.]*"]
    if layers is None or layers == []:
        return True
    patterns = [patterns] if isinstance(patterns, str) else patterns
    found = next(filter(None, (re.match(rf".*\.{pattern}\.(\d+)\.", name) for pattern in patterns)), None)
    return found is not None and int(found.group(1)) in ([layers] if isinstance(layers, int) else layers)


def _added_tokens(folder: Path) -> set[str]:
    """What a folder's tokenizer files call added tokens."""
    added: set[str] = set()
    if (folder / "tokenizer.json").is_file():
        added |= {token["content"] for token in read_json(folder / "tokenizer.json").get("added_tokens") or []}
    if (folder / "added_tokens.json").is_file():
        added |= read_json(folder / "added_tokens.json").keys()
    if (folder / "tokenizer_config.json").is_file():
        decoder = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
        added |= {token["content"] for token in decoder.values()}
    return added


def _vocabulary(folder: Path) -> set[str]:
    """All tokens of a folder's tokenizer."""
    from transformers import AutoTokenizer

    return set(AutoTokenizer.from_pretrained(folder, local_files_only=True).get_vocab())
