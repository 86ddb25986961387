"""A tiny MedGemma in a folder, loaded by us and by plain transformers."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

from medgemma import MedGemma
from medgemma.cli import main
from tests import tiny


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.decoder_folder(tmp_path_factory.mktemp("tiny-medgemma"))


@pytest.fixture
def gemma(tiny_folder: Path) -> MedGemma:
    return MedGemma.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="session")
def reference(tiny_folder: Path) -> Any:
    """Plain transformers' model of the same folder."""
    from transformers import Gemma3ForConditionalGeneration

    return Gemma3ForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def processor(tiny_folder: Path) -> Any:
    from transformers import AutoProcessor, Gemma3ImageProcessorPil

    processor = AutoProcessor.from_pretrained(tiny_folder)
    assert isinstance(processor.image_processor, Gemma3ImageProcessorPil)
    return processor


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    return [Image.fromarray(tiny.picture_array(seed)) for seed in range(3)]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`medgemma ARGS`."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["medgemma", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main()
        said = capsys.readouterr()
        return Done(int(done.value.code or 0), said.out, said.err)

    return call
