"""Any layout to the Hub's, tensor by tensor: memory stays at one tensor whatever the size of the model."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from medgemma.checkpoints.layouts import matched_folder, write_config
from medsiglip.checkpoints.folders import PROCESSOR_FILES, image_processor, read_json
from medsiglip.checkpoints.safetensors_files import (
    FLOATS,
    MAX_SHARD_BYTES,
    PlannedTensor,
    StoredTensor,
    opened,
    torch_dtype,
    write_tensors,
)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
TEMPLATES_FOLDER = "additional_chat_templates"
COMPANIONS = (*TOKENIZER_FILES, *PROCESSOR_FILES, "generation_config.json")
"""What lies beside a model's weights and config, and goes with them."""
DTYPES = {"float32": "F32", "bfloat16": "BF16"}
Advance = Callable[[int], Any]


def convert(
    source: Path,
    out: Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
    advance: Advance = lambda tensors: None,
) -> int:
    """Write a checkpoint in the Hub's layout, with its tokenizer and processor files.

    Args:
        source: folder of a Gemma 3 (with or without a vision tower) or SigLIP checkpoint, in any layout.
        out: new folder; it appears when it is whole.
        dtype: "float32" or "bfloat16"; None keeps what is stored.
        max_shard_bytes: a larger file is written as several, with an index.
        overwrite: replace a folder that is there.
        advance: called with 1 after each tensor.

    Returns:
        Number of tensors.

    Raises:
        ValueError: the source is incomplete, damaged or of no known layout; a weight is not finite; `out` is there.
    """
    matched = matched_folder(source)
    stored = stored_name(dtype)
    with whole_folder(out, overwrite, source) as folder, opened(_files(matched), "pt") as handles:
        write_tensors(folder, planned_from(handles, matched, stored, advance), max_shard_bytes)
        write_config(folder, read_json(source / "config.json"), stored or common_dtype(matched))
        copy_companions(source, folder)
    return len(matched)


def planned_from(
    handles: Mapping[Path, Any],
    matched: Mapping[str, StoredTensor],
    dtype: str | None = None,
    advance: Advance = lambda tensors: None,
) -> list[PlannedTensor]:
    """Plan to write stored tensors under their Hub names, read when their turn comes.

    Args:
        handles: their files, opened for torch.
        matched: Hub name to stored tensor.
        dtype: safetensors name of what to write; None keeps what is stored.
        advance: called with 1 after each tensor.

    Raises:
        ValueError: a tensor does not hold floats; when it is read, that it holds NaN or infinity.
    """

    def read(tensor: StoredTensor) -> Any:
        value = read_finite(handles, tensor)
        advance(1)
        return value.to(torch_dtype(dtype or tensor.dtype))

    if quantised := [tensor for tensor in matched.values() if tensor.dtype not in FLOATS]:
        raise ValueError(
            f"{quantised[0].file}: {quantised[0].name} is stored as {quantised[0].dtype}, expected floats; "
            "give the model before it was quantised"
        )
    return [PlannedTensor(key, dtype or t.dtype, t.shape, partial(read, t)) for key, t in matched.items()]


def read_finite(handles: Mapping[Path, Any], tensor: StoredTensor) -> Any:
    """Read one tensor.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    import torch

    value = handles[tensor.file].get_tensor(tensor.name)
    if value.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(value))).all()):
        raise ValueError(f"{tensor.file}: NaN or infinity in {tensor.name}; fetch or train the model again")
    return value


@contextmanager
def whole_folder(out: Path, overwrite: bool, *sources: Path) -> Iterator[Path]:
    """A folder to write into that takes its name only when the block ends well.

    Raises:
        ValueError: `out` holds something and may not be overwritten, or is one of the sources.
    """
    if any(out.resolve() == source.resolve() for source in sources):
        raise ValueError(f"{out}: is where the weights are read from; give another folder")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: a file; give a new folder")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise ValueError(f"{out}: holds files already; give a new folder, or --overwrite")
    unfinished = out.with_name(out.name + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if out.exists():
        shutil.rmtree(out)
    unfinished.replace(out)


def copy_companions(source: Path, out: Path) -> None:
    """Copy the tokenizer's and processor's files and the generation config, those that are there.

    The pixels' settings get a file of their own, which transformers 4.57 needs and 5 does not save.
    """
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    if (source / TEMPLATES_FOLDER).is_dir():
        shutil.copytree(source / TEMPLATES_FOLDER, out / TEMPLATES_FOLDER)
    if not (out / "preprocessor_config.json").is_file() and (pixels := image_processor(source)):
        text = json.dumps(pixels.settings, indent=2, sort_keys=True)
        (out / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")


def stored_name(dtype: str | None) -> str | None:
    """The safetensors name of a dtype that may be written; None stays None.

    Raises:
        ValueError: it may not be written.
    """
    if dtype is None or dtype in DTYPES:
        return None if dtype is None else DTYPES[dtype]
    raise ValueError(f"dtype {dtype!r}: choose float32 or bfloat16 (float16 overflows in Gemma 3)")


def common_dtype(tensors: Mapping[str, StoredTensor]) -> str:
    """The dtype of most of the weights."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.num_elements
    return max(sizes, key=lambda name: sizes[name])


def _files(tensors: Mapping[str, StoredTensor]) -> list[Path]:
    return sorted({tensor.file for tensor in tensors.values()})
