"""A model's weights into memory, strictly: what transformers only warns about is refused by name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medsiglip.checkpoints.folders import read_json
from medsiglip.checkpoints.layout import (
    HubKey,
    compare_shapes,
    expected_tensors,
    hub_names,
    siglip_hub_key,
    without_tied_head,
)
from medsiglip.checkpoints.quantised import refuse_quantised
from medsiglip.checkpoints.safetensors_files import StoredTensor, opened, stored_tensors


def load_strictly(
    model_class: Any,
    folder: Path,
    *,
    hub_key: HubKey | None = None,
    tied: Mapping[str, str] | None = None,
    check_finite: bool = True,
    **kwargs: Any,
) -> Any:
    """Load a transformers model from any known layout and refuse what transformers only warns about.

    Args:
        model_class: transformers' class.
        folder: see `resolve_model`.
        hub_key: the model's names of tensors, see `medsiglip.checkpoints.layout`; SigLIP's without it.
        tied: see `medsiglip.checkpoints.layout.without_tied_head`; used if the config ties its embeddings.
        check_finite: look through the loaded weights for NaN and infinity.
        **kwargs: handed to `from_pretrained`; a `config` that is handed over is used, not the folder's.

    Raises:
        ValueError: a file is missing or damaged; a tensor is missing, unexpected, mis-shaped or not finite (each is
            named); the names are of no known layout.
    """
    config = kwargs.pop("config", None) or load_config(model_class, folder)
    if hasattr(config, "quantization_config"):  # left over: `matched_tensors` takes floats alone
        del config.quantization_config
    key_of = hub_key or siglip_hub_key(config.model_type)
    tensors = matched_tensors(model_class, config, folder, key_of, tied)
    model = _loaded(model_class, config, folder, tensors, kwargs)
    if check_finite:
        refuse_not_finite(model, f"model {folder}")
    return model.eval()


def matched_tensors(
    model_class: Any, config: Any, folder: Path, hub_key: HubKey, tied: Mapping[str, str] | None = None
) -> dict[str, StoredTensor]:
    """Find the stored tensor of every name that the installed transformers' model holds; nothing but headers is read.

    Raises:
        ValueError: as in `load_strictly`, but for NaN; the weights are quantised.
    """
    where, stored = f"model {folder}", stored_tensors(folder)
    refuse_quantised(read_json(folder / "config.json"), stored, folder)
    named = hub_names(stored, hub_key, where)
    with blamed_on_config(folder):
        expected = expected_tensors(model_class, config, hub_key)
    if tied and config.tie_word_embeddings:
        named = without_tied_head(named, tied, where)
    shapes = {key: shape for key, (_, shape) in expected.items()}
    compare_shapes({key: tensor.shape for key, tensor in named.items()}, shapes, where)
    return {name: named[key] for key, (name, _) in expected.items()}


def refuse_not_finite(model: Any, where: str) -> None:
    """Refuse NaN and infinity in a model's weights.

    Raises:
        ValueError: some weight is not finite; its name is given.
    """
    import torch

    # The smallest and largest element take no memory, and are NaN if any element is. Quantised weights have one byte.
    weights = [(name, p) for name, p in model.named_parameters() if not p.is_meta and p.dtype.itemsize > 1]
    with torch.inference_mode():
        bad = [name for name, p in weights if not bool(torch.isfinite(torch.stack(torch.aminmax(p.detach()))).all())]
    if bad:
        shown = ", ".join(bad[:4]) + (" …" if len(bad) > 4 else "")
        raise ValueError(f"{where}: NaN or infinity in {len(bad)} tensors: {shown}; fetch or train the model again")


def load_config(model_class: Any, folder: Path) -> Any:
    """A checkpoint's config as its class reads it, SigLIP's special ids put right."""
    read_json(folder / "config.json")  # a damaged file is named
    with quiet_transformers(), blamed_on_config(folder):
        config = model_class.config_class.from_pretrained(folder, local_files_only=True)
        text = getattr(config, "text_config", config)
        if text.model_type == "siglip_text_model":
            for name, number in siglip_ids(text.to_dict()).items():
                setattr(text, name, number)
    return config


@contextmanager
def blamed_on_config(folder: Path) -> Iterator[None]:
    """What goes wrong while a config is read or its model is built becomes a line about config.json.

    Raises:
        ValueError: instead of whatever transformers stumbles over where a setting is missing or of the wrong type.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        StrictDataclassError,
    ) as e:
        raise ValueError(f"{folder / 'config.json'}: describes no model ({_one_line(e)}); fetch it again") from e


def siglip_ids(text_config: Mapping[str, Any]) -> dict[str, int | None]:
    """Special ids of a SigLIP text config; CLIP's, which transformers starts from, become SigLIP's </s>, also its pad.

    Args:
        text_config: config.json's, defaults filled in or not.
    """
    said = {"bos_token_id": 49_406, "eos_token_id": 49_407, "pad_token_id": 1, "vocab_size": 32_000, **text_config}
    ids = {name: said[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {name: said["pad_token_id"] if i and i >= said["vocab_size"] else i for name, i in ids.items()}


def _loaded(
    model_class: Any, config: Any, folder: Path, tensors: Mapping[str, StoredTensor], kwargs: Mapping[str, Any]
) -> Any:
    config._name_or_path = str(folder)
    with quiet_transformers(), opened(sorted({t.file for t in tensors.values()}), "pt") as handles:
        state = {name: handles[tensor.file].get_slice(tensor.name) for name, tensor in tensors.items()}
        model, report = model_class.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, **kwargs
        )
        if model.can_generate() and (folder / "generation_config.json").is_file():
            model.generation_config = type(model.generation_config).from_pretrained(folder, local_files_only=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar and no warnings while weights load: what they would say, `load_strictly` raises."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
