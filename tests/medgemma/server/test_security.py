"""What must never be asked, held, told or fetched."""

import gzip
import http.client
import io
import json
import logging
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from pydicom import dcmread

from medgemma import MedGemma
from medgemma.server import fetching
from medgemma.server.embedded import EmbeddedBackend
from medgemma.server.fetching import Fetcher, check_prefix
from medgemma.server.settings import Limits, Settings
from medgemma.server.state import Loaded
from medgemma.server.unpacking import PixelBudget
from medsiglip.imaging import open_images
from tests.medgemma.server.conftest import Running, data_url, encoded, png, running
from tests.nano import needs_nano

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Is this an X-ray?"}], "max_tokens": 4}


@contextmanager
def serving(nano: MedGemma, settings: Settings) -> Iterator[Running]:
    with running(lambda metrics: Loaded(EmbeddedBackend(nano, settings, metrics.tokens)), settings) as server:
        yield server


def message_of(response: Any) -> str:
    return str(response.json()["error"]["message"])


# Who may ask


@needs_nano
def test_a_token_is_asked_for_and_pages_of_others_are_refused(nano: MedGemma) -> None:
    settings = Settings(token="sécret", hosts=("127.0.0.1",), origins=("https://viewer.example",))
    good = {"Authorization": "Bearer sécret".encode()}
    with serving(nano, settings) as server:
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic sécret".encode()}):
            assert server.post("/v1/chat/completions", BODY, headers=headers).status_code == 401
        assert server.post("/v1/chat/completions", BODY, headers=good).status_code == 200
        assert server.client().get("/health").status_code == 200
        assert server.client().get("/metrics").status_code == 401
        evil = server.post("/v1/chat/completions", BODY, headers={**good, "Origin": "https://evil.example"})
        assert evil.status_code == 403 and "access-control-allow-origin" not in evil.headers
        sandboxed = server.post("/v1/chat/completions", BODY, headers={**good, "Origin": "null"})
        assert sandboxed.status_code == 403
        known = server.post("/v1/chat/completions", BODY, headers={**good, "Origin": "https://viewer.example"})
        assert known.headers["access-control-allow-origin"] == "https://viewer.example"
        rebound = server.post("/v1/chat/completions", BODY, headers={**good, "Host": "evil.example"})
        assert rebound.status_code == 403


def test_tokens_are_compared_in_constant_time() -> None:
    from medgemma.server import gate

    source = Path(gate.__file__).read_text()
    assert "hmac.compare_digest(" in source and "== settings.token" not in source


# What may be held


@needs_nano
def test_limits_are_named(nano: MedGemma) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(png())}}

    def asked(count: int) -> dict[str, Any]:
        return {**BODY, "messages": [{"role": "user", "content": [picture] * count}]}

    limits = Limits(body_bytes=200_000, images=2, pixels=60_000, answer_tokens=8, open_requests=2)
    with serving(nano, Settings(limits)) as server:
        assert server.post("/v1/chat/completions", {**BODY, "x": "x" * 200_000}).status_code == 413
        with server.client() as client:  # in pieces, its length unsaid
            pieces = client.post("/v1/chat/completions", content=(b"x" * 50_000 for _ in range(5)))
        assert pieces.status_code == 413
        for name in ("max_tokens", "max_completion_tokens"):
            assert "answers 8 tokens at most" in message_of(server.post("/v1/chat/completions", {**BODY, name: 9}))
        many = server.post("/v1/chat/completions", asked(3))
        assert many.status_code == 400 and "part 3: more pictures" in message_of(many)
        turns = [*asked(2)["messages"], {"role": "assistant", "content": "Two."}, *asked(1)["messages"]]
        together = server.post("/v1/chat/completions", {**BODY, "messages": turns})
        assert together.status_code == 400 and "message 3 part 1: more pictures" in message_of(together)
        big = io.BytesIO()
        Image.new("L", (300, 300)).save(big, "PNG")
        large = {"type": "image_url", "image_url": {"url": data_url(big.getvalue())}}
        pixels = server.post("/v1/chat/completions", {**BODY, "messages": [{"role": "user", "content": [large]}]})
        assert pixels.status_code == 400 and "part 1: more pixels" in message_of(pixels)
        backend = server.backend
        backend.places.taken = 2
        busy = server.post("/v1/chat/completions", BODY)
        backend.places.taken = 0
        assert busy.status_code == 429 and busy.headers["retry-after"] == "1"
    slow = replace(Limits(), seconds=0.001)
    with serving(nano, Settings(slow)) as server:
        assert server.post("/v1/chat/completions", BODY).status_code == 504
    assert nano.engine.num_running == 0


@needs_nano
def test_bodies_together_have_a_limit_and_give_back_what_they_held(nano: MedGemma) -> None:
    with serving(nano, Settings(Limits(bodies_bytes=1000))) as server:
        refused = server.post("/v1/chat/completions", {**BODY, "user": "x" * 1000})
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        for _ in range(4):
            assert server.post("/v1/chat/completions", {**BODY, "user": "x" * 300}).status_code == 200
            assert server.post("/v1/chat/completions", {**BODY, "x": "x" * 300}).status_code == 400


@needs_nano
@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'{"messages": NaN}', b"[" * 100_000, b"\xff", b"1" * 9999, b'{"prompt": "\\ud800x"}'],
)
def test_what_is_no_body_is_a_400(served: Running, data: bytes) -> None:
    with served.client() as client:
        for path in (
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/classify",
            "/api/chat",
            "/predict",
        ):
            assert client.post(path, content=data).status_code == 400


def bombs() -> dict[str, bytes]:
    """Files of some KB to a few MB that claim or hold very much more."""
    import nibabel
    import numpy as np
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    png_bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(png_bomb, "PNG")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(150 * 2**20))
    nifti = nibabel.Nifti1Image(np.zeros((512, 512, 300), np.int16), np.eye(4)).to_bytes()
    claims = dcmread(str(get_testdata_file("JPEG2000.dcm")))
    claims.Rows = claims.Columns = 60_000
    dicom = io.BytesIO()
    claims.save_as(dicom)
    return {
        "png": png_bomb.getvalue(),
        "zip": zipped.getvalue(),
        "nifti": gzip.compress(nifti, 1),
        "dicom": dicom.getvalue(),
    }


def test_decompression_bombs_cost_little() -> None:
    for kind, data in bombs().items():
        budget = PixelBudget(2**29, 2**29)
        tracemalloc.start()
        begun = time.process_time()
        with pytest.raises(ValueError, match="more pixels|unpacks to more|the limit of|exceeds limit"):
            budget.check(data)
            list(open_images(data))  # a header that lies is seen by the decoder, in a process of its own
        seconds, (_, peak) = time.process_time() - begun, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 200 * 2**20 and seconds < 1, f"{kind}: {peak} bytes, {seconds} s"


def test_honest_files_pass_the_budget(ct_file: Path) -> None:
    budget = PixelBudget(128 * 128 + 100 * 10_000, 2**20)
    budget.check(ct_file.read_bytes())
    assert budget.pixels == 100 * 10_000
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(ct_file, "a.dcm")
    budget.check(zipped.getvalue())
    assert budget.pixels == 100 * 10_000 - 128 * 128


# What is told


@needs_nano
def test_nothing_of_a_request_is_logged(served: Running, caplog: pytest.LogCaptureFixture, ct_file: Path) -> None:
    part = {"type": "image_dicom", "image_dicom": {"input_bytes": encoded(ct_file.read_bytes())}}
    content = [part, {"type": "text", "text": "Is Mr Quetzalcoatl ill? <eos>"}]
    with caplog.at_level(logging.DEBUG):
        for body in (BODY | {"messages": [{"role": "user", "content": content}]}, {"Quetzalcoatl": 1}):
            served.post("/v1/chat/completions?name=Quetzalcoatl", body)
            served.post("/Quetzalcoatl", body)
    told = " ".join(record.getMessage() for record in caplog.records if record.name.startswith("medgemma"))
    assert "POST /v1/chat/completions 400" in told and "POST other 404" in told
    patient = str(dcmread(ct_file).PatientName).partition("^")[0]
    assert patient and "Quetzalcoatl" not in told and patient not in told


# What is fetched


class Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/films/away":
            self.send_response(302)
            self.send_header("location", "http://127.0.0.1/secret")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * (5000 if self.path == "/films/big" else 3))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def fetcher(web: int, asked: list[str], resolve: Any) -> Fetcher:
    def connect(address: str, host: str, port: int, timeout_s: float) -> http.client.HTTPConnection:
        asked.append(address)
        return http.client.HTTPConnection("127.0.0.1", web, timeout=timeout_s)

    return Fetcher(("https://pictures.example/films/",), 4096, resolve=resolve, connect=connect)


def test_only_what_is_allowed_is_fetched(web: int) -> None:
    asked: list[str] = []
    fetch = fetcher(web, asked, lambda host, port: ["93.184.216.34"])
    assert fetch("https://pictures.example/films/1.png") == b"xxx" and asked == ["93.184.216.34"]
    for url in (
        "http://pictures.example/films/1.png",
        "https://pictures.example/other/1.png",
        "https://pictures.example/filmsX",
        "https://pictures.example/films/../other",
        "https://pictures.example/films/%2e%2e/other",
        "https://pictures.example:8443/films/1.png",
        "https://user@pictures.example/films/1.png",
        "https://pictures.example@evil.example/films/1.png",
        "https://evil.example/films/1.png",
        "https://127.0.0.1/films/1.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "https://pictures.example/films/\r\nHost: evil",
        "https://[::1",
    ):
        with pytest.raises(ValueError, match="the address"):
            fetch(url)
    assert len(asked) == 1
    with pytest.raises(ValueError, match="redirects, which is not followed"):
        fetch("https://pictures.example/films/away")
    with pytest.raises(ValueError, match="holds more than"):
        fetch("https://pictures.example/films/big")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1", "192.168.0.9", "0.0.0.0"]
)
def test_names_of_private_addresses_are_not_asked(web: int, address: str) -> None:
    asked: list[str] = []
    fetch = fetcher(web, asked, lambda host, port: ["93.184.216.34", address])
    with pytest.raises(ValueError, match="private network"):
        fetch("https://pictures.example/films/1.png")
    assert not asked
    allowed = replace(fetch, may_be_private=True)
    assert allowed("https://pictures.example/films/1.png") == b"xxx"


def test_a_name_that_changes_its_address_reaches_nothing(web: int) -> None:
    """Resolved once: what it stands for a moment later is never asked."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    asked: list[str] = []
    fetch = fetcher(web, asked, lambda host, port: next(answers))
    fetch("https://pictures.example/films/1.png")
    assert asked == ["93.184.216.34"]
    with pytest.raises(ValueError, match="private network"):
        fetch("https://pictures.example/films/1.png")


def test_the_connection_goes_to_the_address_that_was_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(address: Any, timeout_s: float) -> None:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(fetching.socket, "create_connection", refuse)
    fetch = Fetcher(("https://pictures.example/films/",), 4096, resolve=lambda host, port: ["93.184.216.34"])
    with pytest.raises(ValueError, match="cannot be read"):
        fetch("https://pictures.example/films/1.png")
    assert asked == [("93.184.216.34", 443)]


def test_a_file_that_comes_too_slowly_is_left(web: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 31.0, 31.0])
    monkeypatch.setattr(fetching, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(ValueError, match="no whole file within 30 s"):
        fetcher(web, [], lambda host, port: ["93.184.216.34"])("https://pictures.example/films/1.png")


def test_a_prefix_that_allows_too_much_is_refused() -> None:
    for prefix in ("http://pictures.example/", "https://", "pictures.example", "https://a@pictures.example/"):
        with pytest.raises(ValueError, match="--url-allow"):
            check_prefix(prefix)


@needs_nano
def test_files_and_addresses_of_requests_are_not_opened(served: Running) -> None:
    for url in ("file:///etc/passwd", "/etc/passwd", "http://127.0.0.1:1/x", "https://example.org/x.png"):
        for part in (
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "image_dicom", "image_dicom": {"dicom_source": url}},
        ):
            refused = served.post("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]})
            assert refused.status_code == 400 and "nothing is fetched" in json.dumps(refused.json())
