"""Which dtype fits this machine, and weights that stay in bfloat16 where float32 would not."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from medgemma import MedGemma
from medgemma.checkpoints import loading, memory
from medgemma.checkpoints.convert import convert
from medgemma.checkpoints.info import inspect
from medgemma.checkpoints.reference import CONFIGS
from medgemma.cli import main
from medsiglip.remarks import Remark
from tests import hub_shapes
from tests.medgemma.checkpoints.test_info import hollow

GB = 10**9


def machine(monkeypatch: pytest.MonkeyPatch, num_bytes: int | None) -> None:
    monkeypatch.setattr(memory, "machine_memory_bytes", lambda: num_bytes)
    monkeypatch.setattr("medgemma.checkpoints.info.machine_memory_bytes", lambda: num_bytes)


@pytest.mark.parametrize(
    ("memory_bytes", "fitting"),
    [
        (32 * GB, ("float32", "bfloat16", "int8")),
        (25 * GB, ("bfloat16", "int8")),
        (12 * GB, ("int8",)),
        (8 * GB, ()),
        (None, ("float32", "bfloat16", "int8")),
    ],
)
def test_what_a_4b_takes_and_where_it_fits(
    memory_bytes: int | None, fitting: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, memory_bytes)
    found = inspect(str(hollow(tmp_path / "4b", CONFIGS["medgemma-4b"])))
    # 34 layers of 94,371,840 weights in linear layers, with 29,696 outputs that have a scale each
    int8 = 2 * (4_300_079_472 - 34 * 94_371_840 + 34 * 29_696) + 34 * 94_371_840
    assert found.weight_bytes_by_dtype == {"float32": 17_200_317_888, "bfloat16": 8_600_158_944, "int8": int8}
    assert found.dtypes_that_fit == fitting and found.memory_bytes == memory_bytes


def test_an_encoder_says_nothing_of_dtypes(tmp_path: Path) -> None:
    assert inspect(str(hollow(tmp_path / "siglip", CONFIGS["medsiglip-448"]))).weight_bytes_by_dtype == {}


def test_bfloat16_stays_where_float32_does_not_fit(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 2 * inspect(str(tiny_folder)).weight_bytes
    machine(monkeypatch, round(needed / memory.SHARE_FOR_WEIGHTS) - 2)
    with pytest.warns(Remark, match="stay in bfloat16: in float32 they would take .* GB; ask for dtype float32"):
        gemma = MedGemma.from_pretrained(tiny_folder, device="cpu")
    assert gemma.model.dtype == torch.bfloat16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert MedGemma.from_pretrained(tiny_folder, device="cpu", dtype="float32").model.dtype == torch.float32
        machine(monkeypatch, round(needed / memory.SHARE_FOR_WEIGHTS) + 2)
        assert MedGemma.from_pretrained(tiny_folder, device="cpu").model.dtype == torch.float32


def test_float32_weights_stay_what_they_are(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(tiny_folder, tmp_path / "wide", dtype="float32")
    machine(monkeypatch, 1)
    assert loading.load_network(tmp_path / "wide", device="cpu").dtype == torch.float32


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory.machine_memory_bytes()
    assert whole is not None and whole > 2**20
    limits = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    limits[0].write_text("max\n")  # how control groups say that there is none
    limits[1].write_text("1048576\n")
    monkeypatch.setattr(memory, "LIMIT_FILES", [str(limits[0])])
    assert memory.machine_memory_bytes() == whole
    monkeypatch.setattr(memory, "LIMIT_FILES", [*map(str, limits)])
    assert memory.machine_memory_bytes() == 2**20


def test_commands_say_notes_on_one_line_each(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hub_shapes.linked(tiny_folder, tmp_path / "pre-trained")
    (folder / "chat_template.jinja").unlink()
    machine(monkeypatch, 1)
    film = tmp_path / "film.png"
    Image.new("RGB", (8, 8)).save(film)
    options = ["-q", "findings:", "--model", str(folder), "--device", "cpu", "--quiet"]
    monkeypatch.setattr(sys, "argv", ["medgemma", "ask", str(film), *options])
    with pytest.raises(SystemExit) as done:
        main()
    said = capsys.readouterr().err.splitlines()
    assert not done.value.code
    assert [line for line in said if line.startswith("note: the weights stay in bfloat16")]
    assert [line for line in said if line.startswith(f"note: model {folder}: no chat template; questions are put in")]
    assert len(said) == 2
