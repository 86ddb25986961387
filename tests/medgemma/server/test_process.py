"""`medgemma serve` as a process: loads behind its port, drains at SIGTERM, and says nothing of what it was asked."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from tests.nano import needs_nano


@needs_nano
@pytest.mark.slow
def test_it_drains_when_told_to_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        main = "import sys; sys.argv[0] = 'medgemma'; from medgemma.cli import main; main()"
        command = [sys.executable, "-c", main, "serve", "--port", "0"]
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        url = f"http://127.0.0.1:{_port(log, process)}"
        seen = {httpx2.get(f"{url}/v1/models").status_code}
        while 200 not in seen:
            assert process.poll() is None
            time.sleep(0.2)
            seen.add(httpx2.get(f"{url}/v1/models").status_code)
        assert seen == {200, 503}
        schema = {"type": "array", "items": {"type": "integer", "maximum": 9, "minimum": 0}, "minItems": 700}
        body = {
            "messages": [{"role": "user", "content": "Count for Mr Quetzalcoatl."}],
            "max_tokens": 600,
            "stream": True,
            "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
        }
        lines: list[str] = []
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as reply:
            for line in reply.iter_lines():
                lines.append(line)
                if len(lines) == 20:
                    process.send_signal(signal.SIGTERM)
        assert lines[-2:] == ["data: [DONE]", ""] or "data: [DONE]" in lines[-3:]
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    told = log.read_text()
    assert "POST /v1/chat/completions 200" in told and "Quetzalcoatl" not in told and "Traceback" not in told


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text()):
            return int(found.group(1))
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_a_port_that_is_taken_is_one_line() -> None:
    from typer.testing import CliRunner

    from medgemma.cli import app

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["serve", "--port", str(port)])
    assert f"port {port} of 127.0.0.1 cannot be had" in str(result.exception)
