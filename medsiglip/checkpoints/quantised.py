"""Checkpoints whose weights are quantised already: which scheme, from config and headers alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsiglip.checkpoints.safetensors_files import FLOATS, StoredTensor

BUFFERS = ("position_ids", "inv_freq")
"""Ends of names of what old versions stored beside the weights."""


def scheme_of(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> str | None:
    """Name the scheme that the weights are quantised by; None if all are floats, whatever config.json says.

    A quantization_config that was left over after a merge is of no weights.

    Args:
        config: config.json's.
        stored: the checkpoint's tensors.

    Returns:
        Such as "bitsandbytes, 4 bits (nf4)".
    """
    packed = [t for t in stored.values() if t.dtype not in FLOATS and not t.name.endswith(BUFFERS)]
    if not packed:
        return None
    said = quantization_config(config)
    method = said.get("quant_method")
    if method is None:
        return f"no scheme that config.json names ({packed[0].name} is stored as {packed[0].dtype})"
    if method == "bitsandbytes":
        four = f"4 bits ({said.get('bnb_4bit_quant_type', 'fp4')})"
        return f"{method}, {'8 bits' if said.get('load_in_8bit') else four}"
    detail = f"{said['bits']} bits" if "bits" in said else said.get("format") or said.get("fmt")
    return f"{method}, {detail}" if detail else str(method)


def quantization_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a config.json says of quantisation; empty if nothing."""
    found = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    return found if isinstance(found, dict) else {}


def refuse_quantised(config: Mapping[str, Any], stored: Mapping[str, StoredTensor], folder: Path) -> None:
    """Refuse quantised weights where floats are needed.

    Raises:
        ValueError: with the scheme's name.
    """
    scheme = scheme_of(config, stored)
    if scheme is not None:
        raise ValueError(
            f"model {folder}: its weights are quantised by {scheme}, and floats are needed here; give the model "
            "as it was before"
        )
