"""What a checkpoint's weights take in each dtype, and what this machine holds; only headers are read, without torch."""

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path

from medsiglip.checkpoints.safetensors_files import StoredTensor

SHARE_FOR_WEIGHTS = 0.6
"""Of a machine's memory; the rest is for activations, caches, pictures and other programs."""
LIMIT_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container's limit is, of control groups 2 and 1."""


def machine_memory_bytes() -> int | None:
    """What this machine has, or what its container may use of it; None where the system does not say."""
    try:
        sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):
        return None
    for file in map(Path, LIMIT_FILES):
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            sizes.append(int(text))
    return min(sizes)


def weight_bytes_by_dtype(named: Mapping[str, StoredTensor]) -> dict[str, int]:
    """Bytes in memory as float32, as bfloat16 and with `--quantize int8`.

    Args:
        named: stored tensors by Hub name.
    """
    total = sum(tensor.num_elements for tensor in named.values())
    linear = [tensor for name, tensor in named.items() if _is_decoders_linear(name)]
    scales = sum(tensor.shape[0] for tensor in linear)
    fewer = sum(prod(tensor.shape) for tensor in linear)
    return {"float32": 4 * total, "bfloat16": 2 * total, "int8": 2 * (total - fewer + scales) + fewer}


def fits(weight_bytes: int, memory_bytes: int | None) -> bool:
    """Whether weights leave the room that asking needs; True where the memory is not known."""
    return memory_bytes is None or weight_bytes <= SHARE_FOR_WEIGHTS * memory_bytes


def _is_decoders_linear(name: str) -> bool:
    return name.startswith(("language_model.model.layers.", "model.layers.")) and name.endswith("_proj.weight")
