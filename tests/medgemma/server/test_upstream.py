"""Another server behind ours: the same answers, DICOM as data, and every fault of it a clean one of ours."""

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from medgemma import MedGemma
from medgemma.answers.streaming import MarkerStream
from medgemma.checkpoints.convert import convert
from medgemma.nano import NANO_FOLDER
from medgemma.server.settings import Limits, Settings
from medgemma.server.state import Loaded
from medgemma.server.upstream import UpstreamBackend, upstream_command
from tests.medgemma.server.conftest import Running, data_url, encoded, png, running
from tests.nano import needs_nano

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Is this an X-ray?"}], "max_tokens": 12}


@contextmanager
def before(url: str, **options: Any) -> Iterator[Running]:
    settings = options.pop("settings", Settings())
    with running(lambda metrics: Loaded(UpstreamBackend(url, settings, **options)), settings) as server:
        yield server


@needs_nano
def test_ours_before_ours_answers_the_same(served: Running, ct_file: Path) -> None:
    part = {"type": "image_dicom", "image_dicom": {"input_bytes": encoded(ct_file.read_bytes())}}
    content = [part, {"type": "text", "text": "Which imaging modality is this?"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 12}
    with before(served.url) as server:
        assert server.client().get("/v1/models").json()["data"][0]["id"] == "nano"
        for asked in (BODY, body, {**body, "logprobs": True, "top_logprobs": 2}, {**BODY, "n": 2}):
            first, second = (there.post("/v1/chat/completions", asked).json() for there in (served, server))
            assert second["choices"] == first["choices"] and second["usage"] == first["usage"]
        raw = {"prompt": "The lungs", "max_tokens": 6}
        texts = [there.post("/v1/completions", raw).json()["choices"][0]["text"] for there in (served, server)]
        assert texts[0] == texts[1]
        unknown = server.post("/v1/chat/completions", {**BODY, "model": "gpt"})
        assert unknown.status_code == 404


@needs_nano
@pytest.mark.slow
def test_transformers_serve_answers_with_what_we_convert(nano: MedGemma, tmp_path: Path) -> None:
    """Whole and streamed, with a picture: what plain transformers says is what we say."""
    convert(NANO_FOLDER, tmp_path / "nano", dtype="float32")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [
        str(Path(sys.executable).with_name("transformers")),
        "serve",
        str(tmp_path / "nano"),
        "--port",
        str(port),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, **quiet) as process:
        try:
            _until_healthy(url, process)
            picture = {"type": "image_url", "image_url": {"url": data_url(png())}}
            with before(f"{url}/v1", model=str(tmp_path / "nano")) as server:
                for shown in ([], [picture]):
                    content = [*shown, {"type": "text", "text": "Is this an X-ray?"}]
                    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 24}
                    reply = server.post("/v1/chat/completions", body).json()
                    pictures = [Image.open(io.BytesIO(png()))] if shown else []
                    local = nano.ask(pictures, "Is this an X-ray?", max_new_tokens=24)[0]
                    assert reply["choices"][0]["message"]["content"] == local.text, reply
                    assert reply["usage"]["completion_tokens"] > 0
        finally:
            process.terminate()


def _until_healthy(url: str, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert process.poll() is None
        try:
            if httpx2.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.2)
    raise AssertionError("transformers serve did not start")


@pytest.fixture
def fake() -> Iterator[Any]:
    """A server that writes what a test says; `fake.asked` is what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            server.asked.append(json.loads(self.rfile.read(length)))
            status, kind, data = server.reply
            self.send_response(status)
            self.send_header("content-type", kind)
            if status == 429:
                self.send_header("retry-after", "7")
            if status == 307:
                self.send_header("location", f"{server.url}/chat/completions")
            self.end_headers()
            if data is None:
                server.hang.wait(5)
            elif isinstance(data, list):  # piece by piece, until the other side is gone
                with suppress(OSError):
                    for piece in data:
                        self.wfile.write(piece)
                        server.hang.wait(0.1)
            else:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.reply, server.hang = [], (200, "", b""), threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.hang.set()
    server.shutdown()
    server.server_close()
    thread.join()


def events(*bodies: Any, done: bool = True) -> tuple[int, str, bytes]:
    lines = [f"data: {json.dumps(body)}\n\n" for body in bodies]
    return 200, "text/event-stream; charset=utf-8", "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def said(text: str, reason: str | None = None, **more: Any) -> Any:
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": reason}]}


FAULTS = [
    ((200, "text/html", b"<html>sign in</html>"), 502, "gave no stream of events"),
    ((500, "text/html", b"<html>oops</html>"), 502, "answers HTTP 500"),
    (
        (400, "application/json", b'{"error": {"message": "At most 1 image(s) may be provided"}}'),
        400,
        "At most 1 image",
    ),
    ((401, "application/json", b"{}"), 502, "MEDGEMMA_ENDPOINT_KEY"),
    ((429, "application/json", b"{}"), 429, "is busy"),
    ((307, "text/plain", b""), 502, "HTTP 307"),
    (events(said("The lungs"), done=False), 502, "cut off"),
    (events(said("The lungs"), {"error": {"message": "out of memory"}}), 502, "out of memory"),
    ((200, "text/event-stream", b"data: {no json\n\n"), 502, "no JSON"),
    ((200, "text/event-stream", b"data: " + b"x" * 2**21), 502, "lines without end"),
]


@pytest.mark.parametrize(("reply", "status", "message"), FAULTS, ids=[message for _, _, message in FAULTS])
def test_a_fault_there_is_a_clean_one_here(fake: Any, reply: Any, status: int, message: str) -> None:
    fake.reply = reply
    with before(fake.url, model="m") as server:
        whole = server.post("/v1/chat/completions", BODY)
        assert whole.status_code == status and message in whole.json()["error"]["message"]
        assert status != 429 or whole.headers["retry-after"] == "7"
        streamed = server.post("/v1/chat/completions", {**BODY, "stream": True})
        assert "[DONE]" not in streamed.text and message in streamed.text


def test_one_that_is_down_or_slow(fake: Any) -> None:
    fake.reply = (200, "text/event-stream", None)
    with before(fake.url, model="m", settings=Settings(Limits(seconds=0.5))) as server:
        assert server.post("/v1/chat/completions", BODY).status_code == 504
    _, kind, said_slowly = events(*[said("word ")] * 60)
    fake.reply = (200, kind, [event + b"\n\n" for event in said_slowly.split(b"\n\n")])  # each piece in time, not all
    with before(fake.url, model="m", settings=Settings(Limits(seconds=0.5))) as server:
        assert server.post("/v1/chat/completions", BODY).status_code == 504
    with before("http://127.0.0.1:9/v1", model="m") as server:
        down = server.post("/v1/chat/completions", BODY)
        assert down.status_code == 502 and "cannot be reached" in down.json()["error"]["message"]


def test_proxies_of_the_environment_are_not_asked(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    fake.reply = events(said("Yes.", "stop"))
    with before(fake.url, model="m") as server:
        reply = httpx2.post(f"{server.url}/v1/chat/completions", json=BODY, trust_env=False)
    assert reply.status_code == 200 and len(fake.asked) == 1


def test_thoughts_are_divided_and_pictures_go_as_data(fake: Any) -> None:
    pieces = ["<unu", "sed94>thou", "ght\nA film.", " PA<unused", "95>\nIt is ", "PA."]
    fake.reply = events(
        *map(said, pieces), said("", "stop"), {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 7}}
    )
    content = [{"type": "image_url", "image_url": {"url": data_url(png())}}, {"type": "text", "text": "View?"}]
    asked = {"messages": [{"role": "user", "content": content}], "repetition_penalty": 1.1, "reasoning_effort": "high"}
    with before(fake.url, model="m", max_images=1) as server:
        reply = server.post("/v1/chat/completions", asked).json()
        message = reply["choices"][0]["message"]
        assert message == {"role": "assistant", "content": "It is PA.", "reasoning_content": "A film. PA"}
        assert reply["usage"] == {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}
        [there] = fake.asked
        assert there["messages"][0]["content"].startswith("SYSTEM INSTRUCTION: think silently")
        assert there["messages"][1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
        assert there["repetition_penalty"] == there["repeat_penalty"] == 1.1 and there["temperature"] == 0
        two = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": content[:1] * 2}]})
        assert two.status_code == 400 and "more pictures" in two.json()["error"]["message"]
        address = [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]
        refused = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": address}]})
        assert refused.status_code == 400 and len(fake.asked) == 1
    fake.reply = events(said("", None, reasoning="Hm."), said("Yes.", "length"))
    with before(fake.url, model="m") as server:
        message = server.post("/v1/chat/completions", BODY).json()["choices"][0]["message"]
        assert message["reasoning_content"] == "Hm." and message["content"] == "Yes."


def test_a_text_may_hold_line_separators(fake: Any) -> None:
    """U+2028 and U+0085 end a line by Unicode's rules, and not an event."""
    text = "one\u2028two\x85three"
    raw = f"data: {json.dumps(said(text, 'stop'), ensure_ascii=False)}\n\ndata: [DONE]\n\n"
    fake.reply = (200, "text/event-stream", raw.encode())
    with before(fake.url, model="m") as server:
        assert server.post("/v1/chat/completions", BODY).json()["choices"][0]["message"]["content"] == text
        events = server.post("/v1/chat/completions", {**BODY, "stream": True}).text.splitlines()
        assert text in "".join(json.loads(e[6:])["choices"][0]["delta"].get("content", "") for e in events if "{" in e)


@pytest.mark.parametrize("step", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("text", "spoken", "thought"),
    [
        ("<unused94>thought\nabc<unused95>Yes.", "Yes.", "abc"),
        ("<unused94>abc", "", "abc"),
        ("<unused94>thought\n", "", ""),
        ("a < b <unused9", "a < b <unused9", ""),
        ("thought\nno", "thought\nno", ""),
    ],
)
def test_markers_are_found_however_they_are_cut(step: int, text: str, spoken: str, thought: str) -> None:
    stream = MarkerStream()
    pieces = [stream.add(text[i : i + step]) for i in range(0, len(text), step)] + [stream.end()]
    assert "".join(piece.text for piece in pieces) == spoken
    assert "".join(piece.thinking for piece in pieces) == thought


def test_how_each_server_is_started() -> None:
    assert "--limit-mm-per-prompt '{\"image\": 85}'" in upstream_command("vllm", "google/medgemma-4b-it", 85)
    with pytest.raises(ValueError, match="use one of vllm, sglang"):
        upstream_command("other", "m", 1)
