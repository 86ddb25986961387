"""A checkpoint into memory: its class, dtype and devices, and fewer bits if asked for."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgemma.checkpoints.placement import WAYS, Device, spread
from medsiglip.checkpoints.folders import read_json
from medsiglip.checkpoints.quantised import quantization_config, scheme_of
from medsiglip.checkpoints.safetensors_files import stored_tensors
from medsiglip.encoder import pick_device, pick_dtype, require_model_type
from medsiglip.remarks import Remark


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
        dtype: "float32" or "bfloat16"; None or "auto" is float32 on a CPU, bfloat16 elsewhere and with `quantize`, and
            where bfloat16 weights would not fit a CPU's memory in float32. "float16" is for cards without bfloat16, see
            `medgemma.checkpoints.float16`.
        device_map: see `medgemma.checkpoints.placement.spread`.
        max_memory: of each device for `device_map`.
        quantize: "int8" or "nf4", see `medgemma.checkpoints.quantize`; None leaves the weights as they are.

    Raises:
        ValueError: it is no Gemma 3, its weights are incomplete or damaged, it does not fit `max_memory`, cannot be
            quantised here, or is quantised already by a scheme that this machine cannot read.

    Warns:
        Remark: the weights stay in bfloat16 for want of memory; or weights that were quantised are made floats, since
            this device does not compute with them.
    """
    import transformers

    from medgemma.checkpoints.layouts import CLASSES, read_checkpoint

    model_class = getattr(transformers, CLASSES[require_model_type(folder, "gemma3", "gemma3_text")])
    place = pick_device(device)
    if quantize not in (None, "int8", "nf4"):
        raise ValueError(f"quantize {quantize!r}: choose int8 or nf4")
    scheme = scheme_of(read_json(folder / "config.json"), stored_tensors(folder))
    if dtype == "float16":
        return _load_in_float16(model_class, folder, place, device_map, quantize, scheme)
    if scheme is not None:
        if quantize is not None:
            raise ValueError(f"quantize {quantize!r}: the weights of {folder} are quantised by {scheme} already")
        computed = pick_dtype("bfloat16" if dtype in (None, "auto") else dtype, place)
        return _load_quantised(model_class, folder, scheme, computed, place if device_map is None else device_map)
    computed = computing_dtype(folder, dtype, place, quantize)
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


def _load_in_float16(
    model_class: Any,
    folder: Path,
    place: str,
    device_map: str | Mapping[str, Device] | None,
    quantize: str | None,
    scheme: str | None,
) -> Any:
    """As stored, or in 4 bits, then made to compute in float16 without an overflow."""
    import torch

    from medgemma.checkpoints.convert import common_dtype
    from medgemma.checkpoints.float16 import to_float16
    from medgemma.checkpoints.layouts import read_checkpoint

    faults = {
        f"quantize {quantize!r}": quantize == "int8",
        "a device map": device_map is not None,
        f"weights quantised by {scheme}": scheme is not None,
    }
    if found := [what for what, is_there in faults.items() if is_there]:
        raise ValueError(f"dtype 'float16' does not go with {found[0]}; choose float32 or bfloat16, or leave that out")
    stored: dict[str, Any] = {
        "dtype": torch.bfloat16 if common_dtype(stored_tensors(folder)) == "BF16" else torch.float32
    }
    if quantize == "nf4":
        from medgemma.checkpoints.quantize import nf4_config

        stored |= {"device_map": {"": place}, "quantization_config": nf4_config(torch.float16, [place])}
    network = to_float16(read_checkpoint(model_class, folder, **stored), str(folder))
    return network if quantize else network.to(place)


def computing_dtype(folder: Path, dtype: str | None, device: str, quantize: str | None = None) -> Any:
    """The torch dtype that `load_network` computes in on a device; arguments, errors and warnings are its own."""
    if dtype in (None, "auto") and (quantize or (device == "cpu" and _stays_in_bfloat16(folder))):
        dtype = "bfloat16"
    return pick_dtype(dtype, device)


def _stays_in_bfloat16(folder: Path) -> bool:
    """Whether weights that are stored in bfloat16 would not fit this machine in float32, which is said."""
    from medgemma.checkpoints.convert import common_dtype
    from medgemma.checkpoints.memory import fits, machine_memory_bytes

    stored = stored_tensors(folder)
    needed, memory = 4 * sum(tensor.num_elements for tensor in stored.values()), machine_memory_bytes()
    if memory is None or fits(needed, memory) or common_dtype(stored) != "BF16":
        return False
    sizes = f"{needed / 1e9:.1f} of this machine's {memory / 1e9:.1f} GB"
    text = f"the weights stay in bfloat16: in float32 they would take {sizes}; ask for dtype float32 to have that"
    warnings.warn(text, Remark, stacklevel=4)
    return True


def _load_quantised(model_class: Any, folder: Path, scheme: str, dtype: Any, place: str | Mapping[str, Device]) -> Any:
    """Load by transformers, which knows the schemes and says what each needs.

    bitsandbytes' 4 bits stay as they are on CUDA; its kernels for a CPU fit some sizes of layers only, so there they
    become floats. So do its 8 bits everywhere: they make float16 of what flows through, and Gemma 3 overflows in it.
    """
    import torch
    from transformers.quantizers.auto import AutoHfQuantizer

    from medgemma.checkpoints.reference import refuse_lost_settings
    from medsiglip.checkpoints.weights import load_config, quiet_transformers, refuse_not_finite

    refuse_lost_settings(read_json(folder / "config.json"), folder)
    config = load_config(model_class, folder)
    computes_4_bits = torch.cuda.is_available() and place != "cpu"
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises packages that are not needed
    try:
        with quiet_transformers():
            if not AutoHfQuantizer.supports_quant_method(quantization_config(config.to_dict())):
                raise ValueError("transformers does not know this scheme")  # and would take the bits for floats
            device_map = {"": place} if isinstance(place, str) and place not in WAYS else place
            model, report = model_class.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                device_map=device_map,
                local_files_only=True,
                output_loading_info=True,
            )
            astray = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in report[kind]]
            if astray:
                raise ValueError(f"{len(astray)} tensors are missing or unexpected, such as {astray[0]}")
            if unscaled := [name for name, module in model.named_modules() if _is_unscaled(module)]:
                raise ValueError(f"{len(unscaled)} layers have no scales, such as {unscaled[0]}")
            if scheme.startswith("bitsandbytes") and not (computes_4_bits and "4 bits" in scheme):
                model = model.dequantize()
    except Exception as error:  # whatever a scheme's code or its packages stumble over
        reason = " ".join(str(error).split()).partition(" For details ")[0][:300] or type(error).__name__
        raise ValueError(f"model {folder}: its weights are quantised by {scheme} and do not load: {reason}") from error
    if getattr(model.config, "quantization_config", None) is None:
        gigabytes = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9
        text = f"weights quantised by {scheme} are made {str(dtype).removeprefix('torch.')} here: {gigabytes:.1f} GB"
        warnings.warn(f"model {folder}: {text}", Remark, stacklevel=2)
    refuse_not_finite(model, f"model {folder}")
    return model.eval()


def _is_unscaled(module: Any) -> bool:
    """Whether a plain layer holds a quantised weight: a scheme's own layers know its scales."""
    import torch

    return type(module) is torch.nn.Linear and module.weight.dtype.itemsize == 1
