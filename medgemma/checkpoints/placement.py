"""One model over several devices, with Accelerate's device maps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

WAYS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Accelerate's: "auto" and "balanced" share alike, "balanced_low_0" spares the first, "sequential" fills in turn."""
Device = int | str
"""A GPU's number, "cpu", "disk" or "meta"."""


def spread(
    folder: Path,
    dtype: Any,
    device_map: str | Mapping[str, Device],
    max_memory: Mapping[Device, int | str] | None = None,
) -> dict[str, Device]:
    """Decide which part of a Gemma 3 goes to which device; nothing but its config is read.

    Args:
        folder: of the checkpoint.
        dtype: torch dtype the weights will have.
        device_map: one of `WAYS`, or module to device, which is returned as it is.
        max_memory: bytes, or text such as "20GiB", of each device; what is free, without it.

    Returns:
        Module name, in the installed transformers, to device. A decoder layer is never split.

    Raises:
        ValueError: `device_map` is not known, or the weights do not fit the devices.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory, get_max_memory

    if not isinstance(device_map, str):
        return dict(device_map)
    if device_map not in WAYS:
        raise ValueError(f"device_map {device_map!r}: choose one of {', '.join(WAYS)}, or give module to device")
    model = _on_meta(folder)
    whole = [name.split(".")[-1] for name in model._no_split_modules]
    limits = get_max_memory(None if max_memory is None else dict(max_memory))
    if device_map != "sequential" and any(isinstance(device, int) for device in limits):
        limits = get_balanced_memory(
            model,
            max_memory=limits,
            no_split_module_classes=whole,
            dtype=dtype,
            low_zero=device_map == "balanced_low_0",
        )
    placed: dict[str, Device] = infer_auto_device_map(
        model, max_memory=limits, no_split_module_classes=whole, dtype=dtype
    )
    if "disk" in placed.values():
        needed = sum(p.numel() for p in model.parameters()) * dtype.itemsize / 2**30
        given = ", ".join(f"{device}: {_gib(limit)}" for device, limit in limits.items())
        raise ValueError(
            f"model {folder}: {needed:.1f} GiB of weights do not fit the devices ({given}); give more memory or devices"
        )
    return placed


def _on_meta(folder: Path) -> Any:
    """The network without memory; its head is the embeddings, so that both are counted and placed once."""
    import torch
    import transformers

    from medgemma.checkpoints.layouts import CLASSES, kind_of
    from medsiglip.checkpoints.folders import read_json
    from medsiglip.checkpoints.weights import load_config

    model_class = getattr(transformers, CLASSES[kind_of(read_json(folder / "config.json"), folder)])
    with torch.device("meta"):
        return model_class(load_config(model_class, folder))


def _gib(limit: int | str) -> str:
    return limit if isinstance(limit, str) else f"{limit / 2**30:.1f} GiB"
