"""GGUF files, tensor by tensor: names, kinds of numbers, and the writing itself."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medgemma.checkpoints.convert import Advance, read_finite
from medsiglip.checkpoints.safetensors_files import FLOATS, StoredTensor

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

KINDS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "q8_0": "Q8_0"}
"""What matrices may be written as, to the `gguf` package's name for it."""
FILE_TYPES = {"F32": "ALL_F32", "BF16": "MOSTLY_BF16", "F16": "MOSTLY_F16", "Q8_0": "MOSTLY_Q8_0"}
FLOAT16_MAX = 65504.0
DECODER, SIGHT = "gemma3", "clip"
"""What the files of a decoder and its adapters, and of a tower, say that they hold."""


class GgufTensor(NamedTuple):
    """A tensor to be written: read only when its turn comes."""

    name: str
    shape: tuple[int, ...]
    kind: "GGMLQuantizationType"
    make: Callable[[], Any]
    """Returns float32 numpy values of that shape."""


def demand_gguf() -> None:
    """Refuse to begin without the `gguf` package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ValueError("the gguf package is not installed; run: pip install 'open-medgemma[gguf]'") from error


def kind_named(dtype: str | None, stored: str) -> str:
    """The kind of number of a file's matrices.

    Args:
        dtype: one of `KINDS`; None keeps what is stored.
        stored: safetensors' name of what most weights are stored as.

    Raises:
        ValueError: an unknown dtype.
    """
    if dtype is None:
        return stored if stored in FILE_TYPES else "F32"
    if dtype not in KINDS:
        raise ValueError(f"dtype {dtype!r}: GGUF is written as {', '.join(KINDS)}")
    return KINDS[dtype]


def planned(
    tensor: StoredTensor, name: str, kind: str, handles: Mapping[Path, Any], plus: float = 0.0, times: float = 1.0
) -> GgufTensor:
    """Plan to write one stored tensor.

    Args:
        tensor: as it is stored.
        name: in GGUF.
        kind: of matrices. Vectors are float32, as llama.cpp wants them; rows that Q8_0 cannot divide are float16.
        handles: opened files.
        plus: added to each value: GGUF holds Gemma's norms as what they multiply by, one more than transformers'.
        times: each value is multiplied by it.

    Raises:
        ValueError: it does not hold floats; when it is read, that it holds NaN or infinity, or overflows float16.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if tensor.dtype not in FLOATS:
        raise ValueError(
            f"{tensor.file}: {tensor.name} is stored as {tensor.dtype}, expected floats; "
            "give the model before it was quantised"
        )
    number = GGMLQuantizationType[kind if len(tensor.shape) == 2 else "F32"]
    if number == GGMLQuantizationType.Q8_0 and tensor.shape[-1] % GGML_QUANT_SIZES[number][0]:
        number = GGMLQuantizationType.F16

    def read() -> Any:
        value = read_finite(handles, tensor).float()
        value = value if (plus, times) == (0, 1) else value * times + plus
        if number == GGMLQuantizationType.F16 and value.abs().max() > FLOAT16_MAX:
            raise ValueError(f"{tensor.file}: {tensor.name} overflows float16; give --dtype bfloat16")
        return value.numpy()

    return GgufTensor(name, tensor.shape, number, read)


def write_gguf(
    path: Path,
    architecture: str,
    kind: str,
    metadata: Callable[["GGUFWriter"], None],
    tensors: Sequence[GgufTensor],
    advance: Advance,
) -> None:
    """Write one file; memory stays at one tensor.

    Args:
        path: the file.
        architecture: `DECODER` or `SIGHT`.
        kind: of most matrices.
        metadata: adds the file's keys.
        tensors: in the order of writing.
        advance: called with 1 after each.
    """
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGML_QUANT_VERSION, GGUFWriter, LlamaFileType, quantize

    writer = GGUFWriter(path, architecture)
    try:
        metadata(writer)
        writer.add_file_type(LlamaFileType[FILE_TYPES[kind]])
        writer.add_quantization_version(GGML_QUANT_VERSION)
        for tensor in tensors:
            values, size = GGML_QUANT_SIZES[tensor.kind]
            num_bytes = prod(tensor.shape) // values * size
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), num_bytes, raw_dtype=tensor.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(quantize(np.ascontiguousarray(tensor.make()), tensor.kind))
            advance(1)
    finally:
        writer.close()


def gguf_names(kind: str, num_layers: int) -> Callable[[str], str]:
    """How tensors are called in GGUF.

    Args:
        kind: a member of `gguf.MODEL_ARCH`: GEMMA3, or MMPROJ for tower and projector.
        num_layers: of that part.

    Returns:
        A function from a Hub name to GGUF's, which raises ValueError for one that the `gguf` package does not know.
    """
    from gguf import MODEL_ARCH, get_tensor_name_map

    return partial(_gguf_name, get_tensor_name_map(MODEL_ARCH[kind], num_layers))


def _gguf_name(names: Any, key: str) -> str:
    transformers_name = key.removeprefix("language_model.").replace("projection_weight", "projection.weight")
    name: str | None = names.get_name(transformers_name, try_suffixes=(".weight", ".bias"))
    if name is None:
        raise ValueError(f"tensor {key}: the installed gguf package has no name for it; install a newer one")
    return name
