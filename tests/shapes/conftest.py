"""Nano in every clothing, loaded once by us and once by plain transformers; films; the commands in this process."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from medgemma import MedGemma
from medgemma.commands.options import LoadOptions
from tests.nano import needs_nano

DECODERS = ("nano", "hub", "nano saved", "hub saved")
ENCODERS = ("medsiglip nano", "medsiglip hub", "medsiglip nano saved", "medsiglip hub saved")


class Done(NamedTuple):
    returncode: int
    out: str
    err: str


class Plain(NamedTuple):
    """Transformers' own model and processor of a folder."""

    model: Any
    processor: Any

    def inputs(self, messages: list[Any]) -> Any:
        return self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )

    @torch.inference_mode()
    def said(self, messages: list[Any], max_new_tokens: int) -> list[int]:
        """The greedy continuation."""
        inputs = self.inputs(messages)
        whole = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        return list(map(int, whole[0, inputs["input_ids"].shape[1] :]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make check` runs all of it on the Hub's shape, and of the others what is most likely to break."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(needs_nano)
        clothing = str(getattr(item, "callspec", None) and item.callspec.params.get("shape"))  # type: ignore[attr-defined]
        if not clothing.endswith("hub") and "transformers" not in item.name:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=DECODERS)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def load(shapes: Callable[[str], Path]) -> Callable[[str], MedGemma]:
    return cache(lambda shape: MedGemma.from_pretrained(shapes(shape), device="cpu", dtype="float32"))


@pytest.fixture(scope="session")
def load_plain(shapes: Callable[[str], Path]) -> Callable[[str], Plain]:
    from transformers import AutoProcessor, Gemma3ForConditionalGeneration

    @cache
    def load(shape: str) -> Plain:
        network = Gemma3ForConditionalGeneration.from_pretrained(shapes(shape), dtype=torch.float32)
        return Plain(network.eval(), AutoProcessor.from_pretrained(shapes(shape)))

    return load


@pytest.fixture
def gemma(shape: str, load: Callable[[str], MedGemma]) -> MedGemma:
    return load(shape)


@pytest.fixture
def plain(shape: str, load_plain: Callable[[str], Plain]) -> Plain:
    return load_plain(shape)


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two smooth grey pictures of nano's size, so that no resize plays a part."""
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    paths = [folder / name for name in ("prior.png", "current.png")]
    for path in paths:
        grey = np.kron(rng.integers(0, 256, (7, 7), dtype=np.uint8), np.ones((16, 16), np.uint8))
        Image.fromarray(grey).convert("RGB").save(path)
    return paths


@pytest.fixture
def run(
    gemma: MedGemma, shape: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """`medgemma ARGS` with the loaded model of the shape."""
    monkeypatch.setattr(LoadOptions, "load", lambda options: gemma)
    return lambda *arguments: command("medgemma", arguments, monkeypatch, capsys)


def command(
    name: str, arguments: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Done:
    """A command of the package, run in this process."""
    from importlib import import_module

    main = import_module({"medgemma-eval": "evals"}.get(name, name) + ".cli").main
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main()
    said = capsys.readouterr()
    return Done(int(done.value.code or 0), said.out, said.err)


def question(text: str, *films: Path) -> list[Any]:
    """One user turn as the stock processor takes it."""
    pictures = [{"type": "image", "image": Image.open(film)} for film in films]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]
