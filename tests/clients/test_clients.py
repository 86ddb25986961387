"""Ollama's client, LangChain and schemathesis, each of their own making, against our server (`make test-clients`)."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.medgemma.server.conftest import Running, data_url, encoded, png
from tests.medgemma.server.conftest import encoder as encoder
from tests.medgemma.server.conftest import nano as nano
from tests.medgemma.server.conftest import served as served
from tests.nano import needs_nano

PYTHON = os.environ["CLIENTS_PYTHON"]
pytestmark = [needs_nano, pytest.mark.slow]


def test_other_clients_get_the_same_answer(served: Running) -> None:
    script = Path(__file__).with_name("talk.py")
    done = subprocess.run([PYTHON, script, served.url, encoded(png())], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    content = [
        {"type": "image_url", "image_url": {"url": data_url(png())}},
        {"type": "text", "text": "Which imaging modality is this?"},
    ]
    body = {"messages": [{"role": "user", "content": content}]}
    expected = served.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    assert said.pop("models")[0] == "nano"
    assert expected and set(said.values()) == {expected}


def test_no_body_that_our_openapi_allows_is_a_server_error(served: Running) -> None:
    command = [str(Path(PYTHON).with_name("schemathesis")), "run", f"{served.url}/openapi.json"]
    command += ["--checks", "not_a_server_error", "--phases", "fuzzing", "--max-examples", "8", "--max-time", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
