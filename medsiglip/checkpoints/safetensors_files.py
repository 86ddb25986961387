"""Folders of safetensors files: what they hold, read from headers alone; and writing them, tensor by tensor."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from medsiglip.checkpoints.folders import read_json

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
SHARD_NAME = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
MAX_SHARD_BYTES = 5_000_000_000
ITEM_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}
"""Bytes an element, of safetensors' dtype names; every other dtype there takes one."""
FLOATS = {"F64", "F32", "BF16", "F16"}


class StoredTensor(NamedTuple):
    """A tensor in a safetensors file, unread."""

    name: str
    file: Path
    dtype: str
    """As safetensors names it: "F32", "BF16", …"""
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """1 for a scalar."""
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Of its data."""
        return self.num_elements * ITEM_BYTES.get(self.dtype, 1)


class PlannedTensor(NamedTuple):
    """A tensor to be written: made only when its turn comes, so that one at a time is in memory."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Any]
    """Returns the torch tensor, of that dtype and shape."""


def weight_files(folder: Path) -> list[Path]:
    """The files that a checkpoint's weights lie in; model.safetensors goes before an index, as in transformers.

    Raises:
        ValueError: there are none, the index is damaged, or a file that it names is not there.
    """
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if (folder / INDEX_FILE).is_file():
        return _indexed_files(folder)
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"model {folder}: an adapter, not a model; put it into its base with `medgemma merge`")
    if any(SHARD_NAME.fullmatch(path.name) for path in folder.glob("*.safetensors")):
        raise ValueError(f"model {folder}: weight files but no {INDEX_FILE}; fetch that file too")
    if found := sorted(path.name for path in folder.glob("*.safetensors")):
        raise ValueError(f"model {folder}: no {SINGLE_FILE} nor {INDEX_FILE} (found {found[0]}); give a whole model")
    raise ValueError(f"model {folder}: no .safetensors weights there; pickled weights are never loaded")


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Name every tensor of a checkpoint with its dtype and shape; only headers are read, and torch is not needed.

    Raises:
        ValueError: a file is missing, damaged or cut short, or the index and the files disagree.
    """
    found: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        for tensor in tensors_of_file(file):
            if tensor.name in found:
                raise ValueError(
                    f"model {folder}: {tensor.name} is in {found[tensor.name].file.name} and in {file.name}; "
                    "fetch the model again"
                )
            found[tensor.name] = tensor
    if not (folder / SINGLE_FILE).is_file():
        _compare_with_index(folder, found)
    return found


def tensors_of_file(file: Path) -> list[StoredTensor]:
    """The tensors of one safetensors file, from its header.

    Raises:
        ValueError: the file is damaged or cut short.
    """
    with opened([file]) as handles:
        slices = {name: handles[file].get_slice(name) for name in handles[file].keys()}  # noqa: SIM118
        return [StoredTensor(name, file, s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()]


@contextmanager
def opened(files: Sequence[Path], framework: str = "numpy") -> Iterator[dict[Path, Any]]:
    """Open safetensors files by path, mapped into memory; "pt" gives torch tensors.

    Raises:
        ValueError: a file is damaged, cut short or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    with ExitStack() as stack:
        handles = {}
        for file in files:
            try:
                handles[file] = stack.enter_context(safe_open(file, framework))
            except (SafetensorError, OSError, ValueError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise ValueError(f"{file}: weights do not load ({reason}); fetch them again") from error
        yield handles


def write_tensors(folder: Path, planned: Sequence[PlannedTensor], max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write model.safetensors, or shards with an index where one file would be larger than `max_shard_bytes`.

    Everything is written under other names first. A failure before the end leaves the old weights as they were; a
    reader never sees old and new shards together.

    Args:
        folder: must be there.
        planned: what to write, in the order in which shards are filled.
        max_shard_bytes: of tensor data a file; a larger tensor has a file of its own.
    """
    shards = _shards(planned, max_shard_bytes)
    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    partials = [folder / f"{name}.partial" for name in names]
    try:
        for partial, shard in zip(partials, shards, strict=True):
            write_file(partial, shard)
    except BaseException:
        for partial in partials:
            partial.unlink(missing_ok=True)
        raise
    _take_the_place_of_old_weights(folder, names, shards)


def writing_order(planned: Sequence[PlannedTensor]) -> list[PlannedTensor]:
    """The order in which `write_file` makes and writes tensors."""
    return sorted(planned, key=lambda t: (-ITEM_BYTES.get(t.dtype, 1), t.name))


def write_file(path: Path, planned: Sequence[PlannedTensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file tensor by tensor, byte for byte what safetensors' own `save_file` writes.

    Source: https://github.com/huggingface/safetensors, "Format".
    """
    ordered = writing_order(planned)
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for tensor in ordered:
        start, end = end, end + _num_bytes(tensor)
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            data = _bytes_of(tensor.make())
            assert data.nbytes == _num_bytes(tensor), tensor.name
            file.write(data)


def torch_dtype(name: str) -> Any:
    """The torch dtype of a safetensors dtype name that stands for floats."""
    import torch

    return {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}[name]


def stored_dtype(dtype: Any) -> str:
    """The safetensors name of a torch float dtype."""
    return next(name for name in FLOATS if torch_dtype(name) == dtype)


def _indexed_files(folder: Path) -> list[Path]:
    names = sorted(set(_weight_map(folder).values()))
    if outside := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{folder / INDEX_FILE}: names the file {outside[0]}, outside the folder; fetch it again")
    if missing := [name for name in names if not (folder / name).is_file()]:
        shown = ", ".join(missing[:4]) + (" …" if len(missing) > 4 else "")
        raise ValueError(f"model {folder}: {len(missing)} of {len(names)} weight files missing: {shown}; fetch them")
    return [folder / name for name in names]


def _weight_map(folder: Path) -> Mapping[str, str]:
    path = folder / INDEX_FILE
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise ValueError(f"{path}: has no weight_map from tensors to files; fetch it again")
    return weight_map


def _compare_with_index(folder: Path, found: Mapping[str, StoredTensor]) -> None:
    named = _weight_map(folder)
    absent = sorted(name for name, file in named.items() if name not in found or found[name].file.name != file)
    extra = sorted(found.keys() - named.keys())
    for names, fault in ((absent, "absent from the files"), (extra, "not in the index")):
        if names:
            shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
            raise ValueError(
                f"model {folder}: {INDEX_FILE} and its weight files disagree, {len(names)} tensors are {fault}: "
                f"{shown}; fetch the model again"
            )


def _shards(planned: Sequence[PlannedTensor], max_shard_bytes: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    filled = 0
    for tensor in planned:
        if shards[-1] and filled + _num_bytes(tensor) > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += _num_bytes(tensor)
    return shards


def _take_the_place_of_old_weights(folder: Path, names: Sequence[str], shards: list[list[PlannedTensor]]) -> None:
    index = folder / INDEX_FILE
    index.unlink(missing_ok=True)  # from here until the new index is there, old shards and new do not load together
    for name in names:
        (folder / f"{name}.partial").replace(folder / name)
    if len(shards) > 1:
        weight_map = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        total = sum(_num_bytes(t) for shard in shards for t in shard)
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
        partial = folder / f"{INDEX_FILE}.partial"
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(index)
    for path in folder.glob("*.safetensors"):
        if path.name not in names and (path.name == SINGLE_FILE or SHARD_NAME.fullmatch(path.name)):
            path.unlink()


def _num_bytes(tensor: PlannedTensor) -> int:
    return prod(tensor.shape) * ITEM_BYTES.get(tensor.dtype, 1)


def _bytes_of(tensor: Any) -> Any:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
