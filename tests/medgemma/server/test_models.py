"""Other models than nano behind the server: the Hub's shape, adapters by their names, a model that thinks."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medgemma import AnswerOptions, MedGemma
from medgemma.commands.serve import ServedModel
from medgemma.engine import samples
from medgemma.engine.sampling import choose
from medgemma.server.embedded import EmbeddedBackend
from medgemma.server.metrics import Metrics
from medgemma.server.settings import Settings
from medgemma.server.state import Loaded
from medgemma.server.upstream import UpstreamBackend
from tests import tiny
from tests.medgemma.server.conftest import Running, data_url, png, running
from tests.medgemma.thinker import BEGIN, END, thinking_folder
from tests.nano import needs_nano

QUESTION = "Which imaging modality is this?"


def conversation(*, picture: bool = True, **more: Any) -> dict[str, Any]:
    shown: list[Any] = [{"type": "image_url", "image_url": {"url": data_url(png())}}] if picture else []
    return {"messages": [{"role": "user", "content": [*shown, {"type": "text", "text": QUESTION}]}], **more}


def served_model(gemma: MedGemma) -> Any:
    return running(lambda metrics: Loaded(EmbeddedBackend(gemma, Settings())))


def answers_of(server: Running, body: dict[str, Any]) -> tuple[str, str, str]:
    """Text, reasoning and reason of the end, streamed; no event may hold a marker."""
    said, thought, reason = "", "", ""
    for line in server.post("/v1/chat/completions", {**body, "stream": True}).text.split("\n\n"):
        assert BEGIN not in line and END not in line
        for choice in json.loads(line[6:])["choices"] if line.startswith("data: {") else ():
            said += choice["delta"].get("content") or ""
            thought += choice["delta"].get("reasoning_content") or ""
            reason = choice["finish_reason"] or reason
    return said, thought, reason


@needs_nano
@pytest.mark.slow
def test_the_hubs_shape_answers_as_locally(shapes: Callable[[str], Path]) -> None:
    gemma = MedGemma.from_pretrained(shapes("hub"), device="cpu")
    picture = Image.open(io.BytesIO(png()))
    locally = gemma.ask([picture], [QUESTION, "Is there a pneumothorax?"], max_new_tokens=24)
    with served_model(gemma) as server:
        [name] = [model["id"] for model in server.client().get("/v1/models").json()["data"]]
        for local in locally:
            body = conversation(max_tokens=24, model=name, logprobs=True)
            body["messages"][0]["content"][1]["text"] = local.question
            reply = server.post("/v1/chat/completions", body).json()
            tokens = [token["token"] for token in reply["choices"][0]["logprobs"]["content"]]
            assert reply["choices"][0]["message"]["content"] == local.text and len(tokens) == local.tokens
            assert sum(token["logprob"] for token in reply["choices"][0]["logprobs"]["content"]) == pytest.approx(
                local.logprob, abs=1e-3
            )
            assert answers_of(server, body)[0] == local.text


def test_adapters_are_models_of_their_names(tiny_folder: Path, tmp_path: Path) -> None:
    gemma = MedGemma.from_pretrained(tiny_folder, device="cpu")
    gemma.load_adapter(tiny.turning_adapter(tiny_folder, tmp_path / "turned"))
    options = {name: AnswerOptions(adapter=name) for name in (None, "turned")}
    local = {
        name: gemma.ask([Image.open(io.BytesIO(png()))], QUESTION, max_new_tokens=8, options=option)[0].text
        for name, option in options.items()
    }
    with served_model(gemma) as server:
        listed = [model["id"] for model in server.client().get("/v1/models").json()["data"]]
        assert listed == [tiny_folder.name, "turned"]
        said = {}
        for name in listed:
            reply = server.post("/v1/chat/completions", conversation(max_tokens=8, model=name)).json()
            assert reply["model"] == name
            said[name] = reply["choices"][0]["message"]["content"]
    assert said == {tiny_folder.name: local[None], "turned": local["turned"]} and local[None] != local["turned"]


def loaded(**served: Any) -> Loaded:
    settings = Settings()
    return ServedModel(encoder="", device="cpu", **served).load(settings, Metrics())


def test_adapters_of_two_runs_are_served_by_names_of_their_own(tiny_folder: Path, tmp_path: Path) -> None:
    """Recipes write every adapter as OUT/adapter."""
    folders = [tiny.turning_adapter(tiny_folder, tmp_path / run / "adapter") for run in ("one", "two", "a=b")]
    with pytest.raises(ValueError, match=r"two/adapter: 'adapter' is a model here; name it otherwise, --adapter NAME="):
        loaded(model=str(tiny_folder), adapter=[str(folder) for folder in folders])
    given = [str(folders[0]), f"second={folders[1]}", str(folders[2].rename(tmp_path / "a=b" / "c=d"))]
    backend = loaded(model=str(tiny_folder), adapter=given).backend
    assert isinstance(backend, EmbeddedBackend)
    assert backend.gemma.engine.adapters.names == ("adapter", "second", "c=d")
    with pytest.raises(ValueError, match=f"'{tiny_folder.name}' is a model here"):  # the base would answer for it
        loaded(model=str(tiny_folder), adapter=[f"{tiny_folder.name}={folders[0]}"])


@pytest.mark.parametrize("own", [{"adapter": ["a"]}, {"quantize": "int8"}, {"resize": "report"}])
def test_what_is_for_weights_here_does_not_go_with_an_upstream(own: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--adapter, --quantize and --resize are for weights here"):
        loaded(upstream="http://127.0.0.1:1/v1", **own)


@pytest.fixture
def thinker(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A model that says one reasoning and one answer."""
    gemma = MedGemma.from_pretrained(thinking_folder(tiny_folder, tmp_path / "thinker"), device="cpu")
    speech = f"{BEGIN}thought\nA film. PA{END}It is PA.<end_of_turn>"
    script = gemma.tokenizer(speech, add_special_tokens=False).input_ids

    def scripted(logits: Any, sampling: Any, generators: Any, masks: Any, held: Any) -> Any:
        chosen = choose(logits, sampling, generators, masks, held)
        return replace(chosen, token_ids=[script[len(said)] for _, said in held])

    monkeypatch.setattr(samples, "choose", scripted)
    with served_model(gemma) as server:
        yield server


def test_reasoning_is_streamed_apart(thinker: Running) -> None:
    body = conversation(picture=False, max_tokens=64, reasoning_effort="high")
    assert answers_of(thinker, body) == ("It is PA.", "A film. PA", "stop")
    said, thought, reason = answers_of(thinker, {**body, "max_tokens": 7})
    assert (said, reason) == ("", "length") and "A film. PA".startswith(thought)
    with running(lambda metrics: Loaded(UpstreamBackend(f"{thinker.url}/v1", Settings()))) as before:
        assert answers_of(before, body) == ("It is PA.", "A film. PA", "stop")
        assert answers_of(before, {**body, "max_tokens": 7}) == (said, thought, reason)
