"""nano behind the server, on a port of this machine."""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from PIL import Image
from pydicom.data import get_testdata_file

from medgemma import MedGemma
from medgemma.server.app import create_app
from medgemma.server.embedded import EmbeddedBackend, hear_warnings
from medgemma.server.encoding import Encoding
from medgemma.server.metrics import Metrics
from medgemma.server.settings import Settings
from medgemma.server.state import Loaded
from medsiglip import MedSigLIP
from tests import tiny


@dataclass
class Running:
    url: str
    backend: Any

    def client(self, **options: Any) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=60, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        with self.client() as client:
            return client.post(path, json=body, **options)


@contextmanager
def running(load: Callable[[Metrics], Loaded], settings: Settings | None = None) -> Iterator[Running]:
    app = create_app(settings or Settings(), load)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started or app.state.server.loaded is None and app.state.server.fault is None:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    loaded = app.state.server.loaded
    try:
        yield Running(f"http://127.0.0.1:{port}", loaded.backend if loaded else None)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def nano() -> MedGemma:
    return MedGemma.from_pretrained("nano", device="cpu")


@pytest.fixture(scope="session")
def encoder() -> MedSigLIP:
    return MedSigLIP.from_pretrained("nano", device="cpu")


@pytest.fixture(scope="module")
def served(nano: MedGemma, encoder: MedSigLIP) -> Iterator[Running]:
    hear_warnings()

    def load(metrics: Metrics) -> Loaded:
        return Loaded(EmbeddedBackend(nano, Settings(), metrics.tokens), Encoding(encoder))

    with running(load) as server:
        yield server


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(tiny.picture_array(seed)).save(file, "PNG")
    return file.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{encoded(data)}"


@pytest.fixture(scope="session")
def ct_file() -> Path:
    return Path(str(get_testdata_file("CT_small.dcm")))
