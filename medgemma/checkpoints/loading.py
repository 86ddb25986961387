"""A checkpoint into memory: its class, dtype and devices, and fewer bits if asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgemma.checkpoints.placement import Device, spread
from medsiglip.encoder import pick_device, pick_dtype, require_model_type


def load_network(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str | None = None,
    device_map: str | Mapping[str, Device] | None = None,
    max_memory: Mapping[Device, int | str] | None = None,
    quantize: str | None = None,
) -> Any:
    """Load a Gemma 3: Gemma3ForConditionalGeneration, or Gemma3ForCausalLM of a checkpoint of text alone.

    Args:
        folder: of the checkpoint.
        device: "auto", or a torch device name.
        dtype: "float32" or "bfloat16"; None or "auto" is float32 on a CPU, bfloat16 elsewhere and with `quantize`.
        device_map: see `medgemma.checkpoints.placement.spread`.
        max_memory: of each device for `device_map`.
        quantize: "int8" or "nf4", see `medgemma.checkpoints.quantize`; None leaves the weights as they are.

    Raises:
        ValueError: it is no Gemma 3, its weights are incomplete or damaged, it does not fit `max_memory`, or cannot be
            quantised here.
    """
    import transformers

    from medgemma.checkpoints.layouts import CLASSES, read_checkpoint

    model_class = getattr(transformers, CLASSES[require_model_type(folder, "gemma3", "gemma3_text")])
    place = pick_device(device)
    if quantize not in (None, "int8", "nf4"):
        raise ValueError(f"quantize {quantize!r}: choose int8 or nf4")
    computed = pick_dtype("bfloat16" if quantize and dtype in (None, "auto") else dtype, place)
    placed: dict[str, Any] = {"dtype": computed}
    if device_map is not None:
        placed["device_map"] = spread(folder, computed, device_map, max_memory)
    if quantize == "nf4":
        from medgemma.checkpoints.quantize import nf4_config

        placed = {"device_map": {"": place}, **placed}
        config = nf4_config(computed, placed["device_map"].values())
        return read_checkpoint(model_class, folder, **placed, quantization_config=config)
    network = read_checkpoint(model_class, folder, **placed)
    if quantize == "int8":
        from medgemma.checkpoints.quantize import to_int8

        to_int8(network)  # before it moves, so that a GPU never holds the whole
    return network if device_map is not None else network.to(place)
