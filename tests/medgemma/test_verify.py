"""`medgemma verify`: all is the same on a good folder, each fault is found by its own check, nothing is personal."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medgemma import verify as module
from medgemma.cli import main
from medgemma.verify import Theirs, verify
from medsiglip.preprocess import Preprocessing
from tests import hub_shapes, tiny


@pytest.fixture(scope="module")
def theirs(tiny_folder: Path) -> Theirs:
    return module._plain_transformers(tiny_folder, "float32", "cpu")


@pytest.fixture
def once(theirs: Theirs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side is run once for all faults, which are on ours."""
    monkeypatch.setattr(module, "_plain_transformers", lambda *args: theirs)


def differing(folder: Path) -> list[str]:
    return [check.name for check in verify(folder, device="cpu").checks if not check.passed]


@pytest.mark.usefixtures("once")
def test_a_good_folder_is_the_same_in_everything(tiny_folder: Path) -> None:
    found = verify(tiny_folder, device="cpu")
    assert found.passed and (found.model_class, found.dtype) == ("Gemma3ForConditionalGeneration", "float32")
    names = ["keys", "template", "one bos", "stops", "special tokens", "pixels", "tokens, text", "tokens, picture"]
    assert [check.name for check in found.checks] == [*names, "memory"]
    said = {check.name: check.found for check in found.checks}
    assert "1 <eos>, 6 <end_of_turn>" in said["stops"] and "7 greedy" not in said["tokens, text"]
    assert str(tiny_folder) not in repr(found) and str(Path.home()) not in repr(found)


def two_bos(patch: pytest.MonkeyPatch) -> None:
    from medgemma.prompts import chat

    patch.setattr(chat, "with_one_bos", lambda tokenizer, ids: (2, *ids))


def lost_stop(patch: pytest.MonkeyPatch) -> None:
    from medgemma import model

    patch.setattr(model, "stop_ids", lambda *args: frozenset({1}))


def forged_turns(patch: pytest.MonkeyPatch) -> None:
    from medgemma.prompts import chat

    patch.setattr(chat, "control_texts", lambda *args: ("<bos>",))


def other_mean(patch: pytest.MonkeyPatch) -> None:
    read = Preprocessing.from_folder
    patch.setattr(
        Preprocessing, "from_folder", lambda *args: replace(read(*args), mean=(0.48, 0.46, 0.41), std=(0.3,) * 3)
    )


def causal_pictures(patch: pytest.MonkeyPatch) -> None:
    from medgemma.engine import prefill

    patch.setattr(prefill, "_pictures", lambda prompt: torch.zeros(len(prompt.input_ids), dtype=torch.int64))


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize(
    ("fault", "names"),
    [
        (two_bos, {"template", "one bos"}),
        (lost_stop, {"stops"}),
        (forged_turns, {"special tokens"}),
        (other_mean, {"pixels"}),
        (causal_pictures, {"tokens, picture"}),
    ],
)
def test_each_fault_is_found(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None], names: set[str]
) -> None:
    fault(monkeypatch)
    found = set(differing(tiny_folder))
    assert names <= found <= names | {"tokens, text", "tokens, picture"}


def test_a_folder_that_lacks_tensors_differs_in_its_keys(tiny_folder: Path, tmp_path: Path) -> None:
    folder = hub_shapes.linked(tiny_folder, tmp_path / "lacking")
    tensors = load_file(folder / "model.safetensors")
    del tensors["multi_modal_projector.mm_soft_emb_norm.weight"]
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors")
    found = verify(folder, device="cpu")
    [keys] = found.checks
    assert not found.passed and keys.found.startswith("model MODEL: 1 missing keys: multi_modal_projector.mm_soft")


def test_what_plain_transformers_cannot_run_is_told(tiny_folder: Path, tmp_path: Path) -> None:
    folder = hub_shapes.linked(tiny_folder, tmp_path / "pre-trained")
    (folder / "chat_template.jinja").unlink()
    found = verify(folder, device="cpu")
    assert [check.name for check in found.checks if not check.passed] == ["load"]
    assert "plain transformers does not run this folder" in found.checks[-1].found
    assert "chat template" in found.checks[-1].found


@pytest.mark.usefixtures("once")
def test_the_command(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*options: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["medgemma", "verify", str(tiny_folder), "--device", "cpu", *options])
        with pytest.raises(SystemExit) as done:
            main()
        return int(done.value.code or 0), capsys.readouterr().out

    status, text = run()
    assert status == 0 and "same\tpixels\thuggingface, 56 px" in text and "DIFFERS" not in text
    lost_stop(monkeypatch)
    status, text = run("--json")
    report: dict[str, Any] = json.loads(text)
    assert (status, report["passed"], report["checks"]["stops"]["passed"]) == (1, False, False)
    assert str(tiny_folder) not in text


def test_an_encoder(tmp_path: Path) -> None:
    folder = tiny.encoder_folder(tmp_path / "encoder")
    found = verify(folder, device="cpu")
    assert found.passed, found.checks
    assert [check.name for check in found.checks] == [
        "keys", "pixels", "text ids", "picture vectors", "text vectors", "memory",
    ]  # fmt: skip


def test_a_tower_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "siglip_vision_model"}')
    with pytest.raises(ValueError, match="verify takes a Gemma 3 or a whole SigLIP, not one tower alone"):
        verify(tmp_path)
