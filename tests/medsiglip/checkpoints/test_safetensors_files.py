"""What is written is what safetensors itself writes; old weights stay until new ones are whole."""

import contextlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medsiglip.checkpoints.safetensors_files import (
    PlannedTensor,
    stored_dtype,
    stored_tensors,
    tensors_of_file,
    write_file,
    write_tensors,
)

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.ones(3, dtype=torch.bfloat16),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "transposed": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
    "every second": torch.arange(6, dtype=torch.float32)[::2],
    "größe": torch.full((1,), 0.5, dtype=torch.float64),
}
Kept = dict[str, bytes]


def planned(tensors: dict[str, torch.Tensor]) -> list[PlannedTensor]:
    return [
        PlannedTensor(name, stored_dtype(t.dtype), tuple(t.shape), partial(lambda t: t, t))
        for name, t in tensors.items()
    ]


def test_a_file_is_byte_for_byte_what_safetensors_writes(tmp_path: Path) -> None:
    write_file(tmp_path / "ours", planned(TENSORS))
    save_file({k: t.contiguous() for k, t in TENSORS.items()}, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_headers_tell_names_dtypes_and_shapes(tmp_path: Path) -> None:
    save_file({k: t.contiguous() for k, t in TENSORS.items()}, tmp_path / "file")
    found = {tensor.name: tensor for tensor in tensors_of_file(tmp_path / "file")}
    assert {name: t.shape for name, t in found.items()} == {name: tuple(t.shape) for name, t in TENSORS.items()}
    dtypes = {name: t.dtype for name, t in found.items()}
    assert dtypes == {**dict.fromkeys(TENSORS, "F32"), "a": "BF16", "größe": "F64"}
    assert (found["b"].num_bytes, found["a"].num_bytes, found["scalar"].num_bytes) == (24, 6, 4)


def test_shards_are_filled_in_order_and_indexed(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(5)}  # 40 bytes each
    write_tensors(tmp_path, planned(tensors), max_shard_bytes=90)
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200
    assert index["weight_map"] == dict(zip(tensors, [names[0]] * 2 + [names[1]] * 2 + [names[2]], strict=True))
    assert {path.name for path in tmp_path.iterdir()} == {*names, "model.safetensors.index.json"}
    for name, tensor in tensors.items():
        with safe_open(tmp_path / index["weight_map"][name], "pt") as file:
            assert torch.equal(file.get_tensor(name), tensor) and file.metadata() == {"format": "pt"}
    assert {name: t.shape for name, t in stored_tensors(tmp_path).items()} == {name: (10,) for name in tensors}


def test_a_tensor_larger_than_a_shard_has_a_file_of_its_own(tmp_path: Path) -> None:
    tensors = {"small": torch.zeros(1), "large": torch.zeros(100), "last": torch.zeros(1)}
    write_tensors(tmp_path, planned(tensors), max_shard_bytes=50)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


@pytest.mark.parametrize(("old", "new"), [(50, 1000), (1000, 50), (50, 90)])
def test_new_weights_replace_all_of_the_old(tmp_path: Path, old: int, new: int) -> None:
    for value, limit in ((1.0, old), (2.0, new)):
        write_tensors(tmp_path, planned({f"t{i}": torch.full((10,), value) for i in range(4)}), limit)
    stored = stored_tensors(tmp_path)
    assert {tensor.file for tensor in stored.values()} == set(tmp_path.glob("*.safetensors"))
    assert all(
        float(t.max()) == float(t.min()) == 2.0 for f in tmp_path.glob("*.safetensors") for t in load_file(f).values()
    )
    assert (tmp_path / "model.safetensors.index.json").exists() == (new < 160)


def files(folder: Path) -> Kept:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("limit", [50, 1000])
def test_a_failure_while_writing_leaves_the_old_weights(tmp_path: Path, limit: int) -> None:
    tensors = {f"t{i}": torch.full((10,), 1.0) for i in range(4)}
    write_tensors(tmp_path, planned(tensors), limit)
    before = files(tmp_path)

    def full_disk() -> Any:
        raise OSError("no space left on device")

    last = planned(tensors)[-1]._replace(make=full_disk)
    with pytest.raises(OSError, match="no space"):
        write_tensors(tmp_path, [*planned(tensors)[:-1], last], limit)
    assert files(tmp_path) == before


def test_old_and_new_shards_never_load_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at any rename, the folder is the old model, the new one, or refused."""
    real = Path.replace
    for stop_at in range(6):
        folder = tmp_path / str(stop_at)
        folder.mkdir()
        write_tensors(folder, planned({f"t{i}": torch.full((10,), 1.0) for i in range(4)}), 50)
        done = 0

        def replace(self: Path, target: Path, stop_at: int = stop_at) -> Path:
            nonlocal done
            done += 1
            if done > stop_at:
                raise KeyboardInterrupt
            return real(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        with contextlib.suppress(KeyboardInterrupt):
            write_tensors(folder, planned({f"t{i}": torch.full((10,), 2.0) for i in range(4)}), 50)
        monkeypatch.setattr(Path, "replace", real)
        try:
            stored = stored_tensors(folder)
        except ValueError as error:
            assert "no model.safetensors.index.json" in str(error)
            continue
        values = {float(load_file(tensor.file)[name].max()) for name, tensor in stored.items()}
        assert len(values) == 1, f"stopped after {stop_at} renames"


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:5], lambda data: b"", lambda data: b"x" * 99]
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    write_tensors(tmp_path, planned(TENSORS))
    file = tmp_path / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=f"{file}: weights do not load .*; fetch them again") as caught:
        stored_tensors(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for i in (1, 2):
        write_file(tmp_path / f"model-0000{i}-of-00002.safetensors", planned({"same": torch.zeros(1)}))
    index = {"weight_map": {"same": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="same is in model-00001-of-00002.safetensors and in model-00002-of"):
        stored_tensors(tmp_path)


def test_one_whole_file_goes_before_an_index_as_in_transformers(tmp_path: Path) -> None:
    write_tensors(tmp_path, planned({f"t{i}": torch.zeros(10) for i in range(4)}), 50)
    write_file(tmp_path / "model.safetensors", planned({"only": torch.zeros(1)}))
    assert set(stored_tensors(tmp_path)) == {"only"}
