"""Ollama's and Google's shapes, vectors, labels, and what every server must tell."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgemma import MedGemma
from medsiglip import MedSigLIP, ZeroShotClassifier
from tests.medgemma.server.conftest import Running, data_url, encoded, png
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
