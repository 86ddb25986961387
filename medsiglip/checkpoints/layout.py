"""Names of tensors: from any transformers version to the Hub's, and a strict comparison with what a model expects.

transformers renames between versions what it keeps in memory and what it saves. Here every name is taken to the Hub's,
on both sides: what is stored, and what the installed version's model holds.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from medsiglip.checkpoints.safetensors_files import StoredTensor, opened

HubKey = Callable[[str], str | None]
"""A tensor's name in any layout to its name on the Hub; None if the name belongs to no part of the model."""
Shape = tuple[int, ...]

CONSTANTS = re.compile(r"(.*\.)?(position_ids|rotary_emb\.(.*\.)?inv_freq)")
"""Buffers that old versions stored and that the config determines; they hold nothing learned."""
SIGLIP_PARTS = ("vision_model.", "text_model.")
BARE_PARTS = {"siglip_vision_model": "vision_model.", "siglip_text_model": "text_model."}
"""config.json's model_type of one tower alone, and the outer prefix that transformers 5 leaves out when it saves it."""


def siglip_hub_key(model_type: str) -> HubKey:
    """Hub names of SigLIP's tensors.

    Args:
        model_type: config.json's: "siglip", "siglip_vision_model" or "siglip_text_model".
    """
    bare = BARE_PARTS.get(str(model_type))

    def hub_key(name: str) -> str | None:
        if bare is not None:
            return bare + name.removeprefix(bare)
        known = name.startswith(SIGLIP_PARTS) or name in ("logit_scale", "logit_bias")
        return name if known else None

    return hub_key


def hub_names(tensors: Mapping[str, StoredTensor], hub_key: HubKey, where: str) -> dict[str, StoredTensor]:
    """Stored tensors under their Hub names, constants left out.

    Raises:
        ValueError: a name belongs to no part of the model, or two names mean one tensor.
    """
    named: dict[str, StoredTensor] = {}
    unknown = []
    for name, tensor in tensors.items():
        key = None if CONSTANTS.fullmatch(name) else hub_key(name)
        if key is None:
            unknown += [] if CONSTANTS.fullmatch(name) else [name]
        elif key in named:
            raise ValueError(f"{where}: {named[key].name} and {name} both mean {key}; keep one of them")
        else:
            named[key] = tensor
    if unknown:
        raise ValueError(f"{where}: {_listed('unexpected', unknown)}; {_other_model(len(unknown) == len(tensors))}")
    return named


def without_tied_head(
    named: Mapping[str, StoredTensor], tied: Mapping[str, str], where: str
) -> dict[str, StoredTensor]:
    """Leave out an output head that repeats the embeddings, after a look that it does.

    Args:
        named: stored tensors by Hub name.
        tied: Hub name of the head to that of the embeddings, of a model whose config ties them.
        where: how errors name the checkpoint.

    Raises:
        ValueError: the head differs from the embeddings.
    """
    kept = dict(named)
    for head, embeddings in tied.items():
        if head not in kept or embeddings not in kept:
            continue
        stored = kept.pop(head)
        if not equal_tensors(stored, kept[embeddings]):
            raise ValueError(
                f"{where}: {stored.name} differs from the embeddings, though config.json ties them; if it was trained "
                'apart, set "tie_word_embeddings": false there'
            )
    return kept


def equal_tensors(one: StoredTensor, other: StoredTensor, rows: int = 4096) -> bool:
    """Whether two stored matrices are the same, read `rows` rows at a time."""
    import torch

    if one.shape != other.shape:
        return False
    with opened(list({one.file, other.file}), "pt") as handles:
        first, second = (handles[t.file].get_slice(t.name) for t in (one, other))
        return all(torch.equal(first[i : i + rows], second[i : i + rows]) for i in range(0, one.shape[0], rows))


def compare_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape], where: str) -> None:
    """Refuse weights that are not exactly what the config asks for.

    Raises:
        ValueError: a tensor is missing, unexpected or mis-shaped; the first few are named, all are counted.
    """
    shared = found.keys() & expected.keys()
    wrong = [k for k in sorted(shared) if tuple(found[k]) != tuple(expected[k])]
    faults = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "mismatched": [f"{k} (got {tuple(found[k])}, expected {tuple(expected[k])})" for k in wrong],
    }
    said = [_listed(kind, names) for kind, names in faults.items() if names]
    if said:
        raise ValueError(f"{where}: {'; '.join(said)}; {_other_model(not shared)}")


def expected_tensors(model_class: Any, config: Any, hub_key: HubKey) -> dict[str, tuple[str, Shape]]:
    """What a config's model holds: Hub name to (name in the installed transformers, shape); no memory is taken."""
    import torch

    with torch.device("meta"):
        model = model_class(config)
    expected: dict[str, tuple[str, Shape]] = {}
    for name, tensor in model.state_dict().items():
        key = hub_key(name)
        assert key is not None, f"{model_class.__name__} holds {name}, which has no Hub name"
        if not (key.endswith("lm_head.weight") and config.tie_word_embeddings):
            expected[key] = (name, tuple(tensor.shape))
    return expected


def _listed(kind: str, names: list[str]) -> str:
    return f"{len(names)} {kind} keys: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"


def _other_model(nothing_fits: bool) -> str:
    if nothing_fits:
        return "these are another model's weights, or a layout that is not known"
    return "the weights do not belong to this config.json, or are incomplete; fetch both again"
