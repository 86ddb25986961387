"""llama.cpp over what we convert: the same tokens for texts and pictures, adapters too (`make test-llama`)."""

import io
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from medgemma import AnswerOptions, MedGemma
from medgemma.checkpoints.gguf.adapter import adapter_to_gguf
from medgemma.checkpoints.gguf.model import convert_to_gguf
from medgemma.nano import NANO_FOLDER
from medgemma.server.settings import Settings
from medgemma.server.state import Loaded
from medgemma.server.upstream import UpstreamBackend
from tests import tiny
from tests.medgemma.server.conftest import data_url, encoded, running
from tests.nano import needs_nano

PYTHON = os.environ["LLAMA_PYTHON"]
pytestmark = [needs_nano, pytest.mark.slow]
QUESTIONS = ("Is this an X-ray?", "Describe the lungs.", "What is a pneumothorax?")


@contextmanager
def llama(folder: Path, adapter: Path | None = None) -> Iterator[httpx2.Client]:
    """A client of llama.cpp's server over model.gguf and mmproj.gguf of a folder."""
    script = Path(__file__).with_name("serve.py")
    files = [folder / "model.gguf", folder / "mmproj.gguf", adapter or ""]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([PYTHON, script, *map(str, files)], text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            url = process.stdout.readline().strip()
            assert url, "llama.cpp does not load the files"
            with httpx2.Client(base_url=url, timeout=120) as client:
                yield client
        finally:
            process.stdin.close()


@pytest.fixture(scope="module")
def nano() -> MedGemma:
    return MedGemma.from_pretrained("nano", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "nano"
    convert_to_gguf(NANO_FOLDER, out, dtype="float32")
    return out


@pytest.fixture(scope="module")
def there(folder: Path) -> Iterator[httpx2.Client]:
    with llama(folder) as client:
        yield client


def said(client: httpx2.Client, question: str, picture: bytes | None = None) -> tuple[str, float]:
    """A greedy answer to a prompt that is written out as ours, and its log-probability without the closing token."""
    marker = client.get("/props").json()["media_marker"]
    shown = f"\n\n{marker}\n\n" if picture else ""
    text = f"<start_of_turn>user\n{shown}{question}<end_of_turn>\n<start_of_turn>model\n"
    prompt: Any = {"prompt_string": text, "multimodal_data": [encoded(picture)]} if picture else text
    body = {"prompt": prompt, "n_predict": 48, "temperature": 0, "n_probs": 1}
    reply = client.post("/completion", json=body).json()
    assert "content" in reply, reply
    return reply["content"], sum(token["logprob"] for token in reply["completion_probabilities"])


def square(seed: int) -> tuple[Image.Image, bytes]:
    """A picture of the tower's own size, which nobody resizes."""
    picture = Image.fromarray(tiny.picture_array(seed)).resize((112, 112))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return picture, file.getvalue()


def test_texts_have_the_same_tokens(there: httpx2.Client, nano: MedGemma, repository: Path) -> None:
    for text in ("Naïve café, 肺 🫁\n\n\n0.5×10⁻³ mm\ta  b ", (repository / "docs" / "house.md").read_text()):
        reply = there.post("/tokenize", json={"content": text, "add_special": True}).json()
        assert reply["tokens"] == nano.tokenizer(text).input_ids


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_have_the_same_answers(there: httpx2.Client, nano: MedGemma, question: str) -> None:
    local = nano.ask([], question, max_new_tokens=48)[0]
    text, logprob = said(there, question)
    assert text == local.text
    assert logprob == pytest.approx(local.logprob, abs=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_pictures_have_the_same_answers(there: httpx2.Client, nano: MedGemma, seed: int) -> None:
    picture, data = square(seed)
    for question in ("Which imaging modality is this?", "Describe the lungs."):
        local = nano.ask([picture], question, max_new_tokens=48)[0]
        text, logprob = said(there, question, data)
        assert text == local.text
        assert logprob == pytest.approx(local.logprob, abs=0.01)


def test_an_adapter_says_there_what_it_says_here(folder: Path, tmp_path: Path) -> None:
    """Rank 4 at a scale of 2 on two kinds of matrices of every layer."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    random = torch.Generator().manual_seed(0)
    shapes = {"self_attn.q_proj": (256, 256), "mlp.down_proj": (512, 256)}
    tensors = {}
    for layer in range(6):
        for module, (width, out) in shapes.items():
            name = f"base_model.model.model.language_model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(4, width, generator=random) / width**0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(out, 4, generator=random) * 0.3
    save_file(tensors, adapter / "adapter_model.safetensors")
    targets = r".*language_model.*\.(q_proj|down_proj)"
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": targets}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    [written] = adapter_to_gguf(NANO_FOLDER, adapter, tmp_path / "gguf")
    gemma = MedGemma.from_pretrained("nano", device="cpu", dtype="float32")
    gemma.load_adapter(adapter)
    turned, base = (
        [gemma.ask([], question, max_new_tokens=48, options=AnswerOptions(adapter=name))[0] for question in QUESTIONS]
        for name in ("adapter", None)
    )
    assert [answer.text for answer in turned] != [answer.text for answer in base]
    with llama(folder, written.path) as client:
        for question, local in zip(QUESTIONS, turned, strict=True):
            text, logprob = said(client, question)
            assert text.strip() == local.text
            assert logprob == pytest.approx(local.logprob, abs=0.05)


def test_ours_stands_before_it(there: httpx2.Client, nano: MedGemma) -> None:
    """Streamed and whole; a picture arrives, though llama.cpp puts no blank lines around it."""
    backend = UpstreamBackend(f"{str(there.base_url).rstrip('/')}/v1", Settings())
    with running(lambda metrics: Loaded(backend)) as server:
        for question in QUESTIONS:
            body = {"messages": [{"role": "user", "content": question}], "max_tokens": 48}
            reply = server.post("/v1/chat/completions", body).json()
            local = nano.ask([], question, max_new_tokens=48)[0]
            assert reply["choices"][0]["message"]["content"] == local.text
            assert reply["choices"][0]["finish_reason"] == "stop"
            assert reply["usage"]["completion_tokens"] == local.tokens
        shown = {"type": "image_url", "image_url": {"url": data_url(square(0)[1])}}
        content = [shown, {"type": "text", "text": QUESTIONS[0]}]
        reply = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": content}]}).json()
        assert reply["choices"][0]["message"]["content"] and reply["usage"]["prompt_tokens"] > 16


@pytest.mark.parametrize("dtype", [None, "float16", "q8_0"])
def test_narrower_numbers_load_and_answer(dtype: str | None, nano: MedGemma, tmp_path: Path) -> None:
    convert_to_gguf(NANO_FOLDER, tmp_path / "gguf", dtype=dtype)
    picture, data = square(1)
    with llama(tmp_path / "gguf") as client:
        text, logprob = said(client, QUESTIONS[0], data)
    local = nano.ask([picture], QUESTIONS[0], max_new_tokens=48)[0]
    assert (text, logprob) == (local.text, pytest.approx(local.logprob, abs=0.1))
