"""Ollama's and Google's shapes, vectors, labels, and what every server must tell."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgemma import MedGemma
from medgemma.server.encoding import Encoding, read_probes
from medgemma.server.settings import Settings
from medgemma.server.state import Loaded
from medgemma.server.upstream import UpstreamBackend
from medsiglip import MedSigLIP, ZeroShotClassifier
from medsiglip.probing.head import Layer, ProbeHead, write_head
from tests.medgemma.server.conftest import Running, data_url, encoded, png, running
from tests.nano import needs_nano

pytestmark = needs_nano
QUESTION = "Is this an X-ray?"


def openai(served: Running, content: Any, **more: Any) -> str:
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 16, **more}
    answer: str = served.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    return answer


def test_ollama_chat_and_generate(served: Running) -> None:
    expected = openai(
        served, [{"type": "image_url", "image_url": {"url": data_url(png())}}, {"type": "text", "text": QUESTION}]
    )
    common: dict[str, Any] = {"model": "nano:latest", "options": {"num_predict": 16, "temperature": 0, "num_ctx": 4096}}
    chat = {**common, "messages": [{"role": "user", "content": QUESTION, "images": [encoded(png())]}]}
    lines = [json.loads(line) for line in served.post("/api/chat", chat).text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == expected
    assert [line["done"] for line in lines] == [*[False] * (len(lines) - 1), True] and lines[-1]["eval_count"] > 0
    generate = {**common, "prompt": QUESTION, "images": [encoded(png())], "stream": False}
    reply = served.post("/api/generate", generate).json()
    assert reply["response"] == expected and reply["done"] and reply["done_reason"] == "stop"
    form = served.post("/api/chat", {**chat, "format": "json", "stream": False, "options": {"num_predict": 400}}).json()
    assert form["done_reason"] == "length" or isinstance(json.loads(form["message"]["content"]), dict)
    wrong = served.post("/api/chat", {**chat, "options": {"mirostat": 2}})
    assert wrong.status_code == 400 and "mirostat: is not supported" in wrong.json()["error"]
    assert served.post("/api/chat", {**chat, "model": "llama3"}).status_code == 404
    assert served.client().get("/api/tags").json()["models"][0]["name"] == "nano"


def test_predict_in_googles_shape(served: Running) -> None:
    one = {"@requestFormat": "chatCompletions", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16}
    single = served.post("/predict", {"instances": [one]}).json()["predictions"]
    assert single["choices"][0]["message"]["content"] == openai(served, QUESTION)
    several = served.post("/predict", {"instances": [one, {**one, "max_tokens": 1}]}).json()["predictions"]
    assert [p["usage"]["completion_tokens"] for p in several] == [single["usage"]["completion_tokens"], 1]
    wrong = served.post("/predict", {"instances": [one, {**one, "stop": [1]}]})
    assert wrong.status_code == 400 and "instance 2, stop" in wrong.json()["error"]["message"]
    assert wrong.json()["error"]["object"] == "error"
    other = served.post("/predict", {"instances": [{**one, "@requestFormat": "raw"}]})
    assert other.status_code == 400


def test_vectors_are_the_encoders(served: Running, encoder: MedSigLIP, ct_file: Path) -> None:
    part = {"type": "image_dicom", "image_dicom": {"input_bytes": encoded(ct_file.read_bytes())}}
    data = served.post("/v1/embeddings", {"input": ["a chest film", part], "encoding_format": "base64"}).json()["data"]
    vectors = np.stack([np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data])
    np.testing.assert_allclose(vectors[0], encoder.encode_texts(["a chest film"])[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert [one["input"] for one in data] == [0, 1]
    film = {"image": {"input_bytes": encoded(png())}}
    predicted = served.post("/predict", {"instances": [{"text": "a chest film"}, film]}).json()["predictions"]
    np.testing.assert_allclose(predicted[0]["embedding"], vectors[0], atol=1e-5)
    assert predicted[1]["input_type"] == "image" and predicted[1]["model_temperature"] == pytest.approx(
        encoder.logit_scale
    )
    long = served.post("/v1/embeddings", {"input": "word " * 100})
    assert long.status_code == 400 and "64" in long.json()["error"]["message"]


def test_labels_and_choices(served: Running, nano: MedGemma, encoder: MedSigLIP) -> None:
    part = {"type": "image_bytes", "image_bytes": {"input_bytes": encoded(png())}}
    [found] = served.post("/v1/classify", {"input": [part], "labels": ["head CT", "hand X-ray"]}).json()["data"]
    local = ZeroShotClassifier(encoder, ["head CT", "hand X-ray"]).classify_vectors(
        np.array(served.post("/v1/embeddings", {"input": [part]}).json()["data"][0]["embedding"], np.float32)[None]
    )
    assert found["probabilities"] == pytest.approx(
        dict(zip(local.labels, local.probabilities[0].tolist(), strict=True))
    )
    asked = {"input": [part], "question": QUESTION, "choices": ["yes", "no"]}
    [answer] = served.post("/v1/classify", asked).json()["data"]
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    from medsiglip.imaging import Source, read_pictures

    scores = nano.score(read_pictures(Source("x", data=png())), QUESTION, ["yes", "no"])
    assert answer["logprobs"] == pytest.approx({"yes": scores[0].logprob, "no": scores[1].logprob}, abs=1e-4)
    assert served.post("/v1/classify", {"input": [part]}).status_code == 400


def test_plain_completions_continue_a_text(served: Running) -> None:
    body = {"prompt": "The lungs", "max_tokens": 8}
    whole = served.post("/v1/completions", {**body, "logprobs": 2}).json()["choices"][0]
    assert whole["text"] == "".join(whole["logprobs"]["tokens"])  # nothing is trimmed
    lines = [line[6:] for line in served.post("/v1/completions", {**body, "stream": True}).text.split("\n\n") if line]
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1]) == whole["text"]
    assert lines[-1] == "[DONE]"


def test_what_it_tells_of_itself(served: Running) -> None:
    with served.client() as client:
        assert client.get("/health").json() == {"status": "ok"}
        metrics = client.get("/metrics").text
        assert 'medgemma_requests_total{path="/v1/chat/completions",status="200"}' in metrics
        assert "medgemma_generated_tokens_total" in metrics
        assert client.get("/v1/models/nano").json()["id"] == "nano"
        assert client.get("/v1/models/other").status_code == 404
        paths = client.get("/openapi.json").json()["paths"]
        assert {"/v1/chat/completions", "/v1/embeddings", "/v1/classify", "/api/chat", "/predict"} <= set(paths)


def test_several_texts_are_one_answer(served: Running) -> None:
    """The choices of the first text, then those of the second; whole and streamed."""
    texts = ["The lungs", "The heart", "Q: PA or AP?\nA:"]
    common = {"max_tokens": 8, "temperature": 1.0, "seed": 3, "n": 2}
    alone = [served.post("/v1/completions", {**common, "prompt": text}).json() for text in texts]
    expected = [choice["text"] for reply in alone for choice in reply["choices"]]
    whole = served.post("/v1/completions", {**common, "prompt": texts}).json()
    assert [choice["index"] for choice in whole["choices"]] == list(range(6))
    assert [choice["text"] for choice in whole["choices"]] == expected
    assert whole["usage"] == {
        name: sum(reply["usage"][name] for reply in alone)
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    }
    streamed = [""] * 6
    body = {**common, "prompt": texts, "stream": True, "stream_options": {"include_usage": True}}
    for line in served.post("/v1/completions", body).text.split("\n\n"):
        event = json.loads(line[6:]) if line.startswith("data: {") else {"choices": []}
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["text"]
        usage = event.get("usage") or whole["usage"]
    assert streamed == expected and usage == whole["usage"]
    refused = served.post("/v1/completions", {**common, "prompt": ["fine", "<start_of_image>"]})
    assert refused.status_code == 400 and "choices" not in refused.json()


def test_every_token_has_its_event_where_logprobs_are_asked_for(served: Running) -> None:
    """Bytes of a character and control tokens are no text: else a client would hear nothing while they are said."""
    body = {"prompt": "肺", "max_tokens": 48, "temperature": 2.0, "seed": 5, "logprobs": 0, "stream": True}
    lines = served.post("/v1/completions", {**body, "stream_options": {"include_usage": True}}).text.split("\n\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    told = [len(choice["logprobs"]["tokens"]) for event in events for choice in event["choices"]]
    assert told == [1] * events[-1]["usage"]["completion_tokens"]
    assert any(choice["text"] == "" for event in events[:-2] for choice in event["choices"])


def test_probes_are_called_by_name(encoder: MedSigLIP, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((3, encoder.embedding_width)).astype(np.float32)
    pixels = f"voi+{encoder.preprocessing.policy}"
    layers = ((Layer(weight, np.zeros(3, np.float32)),),)
    head = ProbeHead("linear", ("a", "b", "c"), True, layers, (1.0,), encoder.identity, pixels)
    write_head(head, tmp_path / "own")
    encoding = Encoding(encoder, read_probes([f"view={tmp_path / 'own'}"], encoder))
    part = {"type": "image_bytes", "image_bytes": {"input_bytes": encoded(png())}}
    with running(lambda metrics: Loaded(UpstreamBackend("http://127.0.0.1:9/v1", Settings()), encoding)) as server:
        [found] = server.post("/v1/classify", {"input": [part], "probe": "view"}).json()["data"]
        [vector] = server.post("/v1/embeddings", {"input": [part]}).json()["data"]
        other = server.post("/v1/classify", {"input": [part], "probe": "organ"})
    expected = head.classify_vectors(np.array([vector["embedding"]], np.float32))
    assert list(found["probabilities"].values()) == pytest.approx(expected.probabilities[0].tolist(), abs=1e-5)
    assert found["label"] == "abc"[expected.probabilities[0].argmax()]
    assert other.status_code == 400 and "no such probe here; ask for view" in other.json()["error"]["message"]
    write_head(replace(head, encoder="another"), tmp_path / "foreign")
    for given, message in (("foreign", "another"), ("missing", "no probe")):
        with pytest.raises(ValueError, match=message):
            read_probes([f"view={tmp_path / given}"], encoder)
    with pytest.raises(ValueError, match="give each as NAME=FOLDER"):
        read_probes([str(tmp_path / "own")], encoder)


WORDING = [
    ("/v1/chat/completions", {"temperature": "hot"}, "temperature: is not a number"),
    ("/v1/chat/completions", {"top_p": 0}, "top_p: must be above 0"),
    ("/v1/chat/completions", {"stop": ["a", 5]}, "stop 2: is not a text"),
    ("/v1/chat/completions", {"stop": ["a"] * 5}, "stop: must hold 4 or fewer"),
    ("/v1/chat/completions", {"stream": "maybe"}, "stream: is not true or false"),
    ("/v1/chat/completions", {"reasoning_effort": "max"}, "reasoning_effort: must be 'none', 'minimal'"),
    ("/v1/completions", {"prompt": [[1, 2]]}, "prompt 1: is not a text"),
    ("/v1/completions", {"prompt": []}, "prompt: must hold 1 or more"),
    ("/v1/embeddings", {"input": ["a", {"type": "image_bytes", "image_bytes": {"input_bytes": 5}}]},
     "input 2, image_bytes.input_bytes: is not a text"),
    ("/v1/classify", {"input": [{"type": "audio"}]}, "input 1: is of type audio, expected text, image_url"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "message"), WORDING)
def test_a_wrong_field_is_one_plain_line(served: Running, path: str, fields: dict[str, Any], message: str) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields} if "chat" in path else fields
    refused = served.post(path, body)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith(message)
    assert refused.json()["error"]["param"] == message.partition(":")[0]
