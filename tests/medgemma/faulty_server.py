"""A chat-completions server on 127.0.0.1 that does to each request what a test says."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import PIL.Image


@dataclass
class Server:
    """What was asked, and what is done to it."""

    fault: Callable[[str, int], str]
    """(text of the prompt, how often it was asked before) to one of the faults below; empty: it is answered."""
    url: str = ""
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    """Bodies in order of arrival."""
    keys: list[str] = field(default_factory=list)
    hang: threading.Event = field(default_factory=threading.Event)
    """Set at the end: releases the requests that were left hanging."""
    at_once: int = 0
    most_at_once: int = 0
    barrier: threading.Barrier | None = None
    """If given, no request is answered before so many are there."""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(fault: Callable[[str, int], str] = lambda prompt, before: "", parallel: int = 0) -> Iterator[Server]:
    """Serve in a thread until the block ends."""
    server = Server(fault, barrier=threading.Barrier(parallel) if parallel else None)
    handler = type("Bound", (_Handler,), {"server_state": server})
    http = _Quiet(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        server.hang.set()
        http.shutdown()
        http.server_close()
        thread.join()


def text_of(body: Mapping[str, Any]) -> str:
    """The text of the last turn."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else str(content[-1]["text"])


def pictures_of(body: Mapping[str, Any]) -> list[PIL.Image.Image]:
    """The pictures of the last turn, decoded."""
    urls = [part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [PIL.Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in urls]


class _Quiet(ThreadingHTTPServer):
    """Says nothing of clients that went away."""

    def handle_error(self, *_: object) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    server_state: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": "tiny"}]}).encode())

    def do_POST(self) -> None:
        state = self.server_state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            before = sum(text_of(other) == text_of(body) for other in state.asked)
            state.asked.append(body)
            state.keys.append(self.headers.get("Authorization", ""))
            state.at_once += 1
            state.most_at_once = max(state.most_at_once, state.at_once)
        if state.barrier is not None:
            state.barrier.wait(timeout=20)
        self._answer(state.fault(text_of(body), before), text_of(body))
        with state.lock:
            state.at_once -= 1

    def _answer(self, fault: str, prompt: str) -> None:
        whole = json.dumps(completion(f"about {prompt}")).encode()
        if fault == "html":
            self._send(200, b"<!doctype html><title>Sign in</title>", kind="text/html")
        elif fault == "hang":
            self.server_state.hang.wait(timeout=20)
        elif fault == "drip":
            self._send(200, b" ", length=1 << 20)
            for _ in range(1000):
                if self.server_state.hang.wait(timeout=0.02):
                    break
                self.wfile.write(b" ")
        elif fault == "cut":
            self._send(200, whole[:20], length=len(whole))
        elif fault == "short":
            self._send(200, whole[:20])
        elif fault == "no choice":
            self._send(200, json.dumps({"choices": []}).encode())
        elif fault == "empty":
            self._send(200, json.dumps(completion(None)).encode())
        elif fault.startswith("thought"):
            cut = completion({"thought": None, "thought in place": "<unused94>thought\nLet me"}.get(fault, ""))
            cut["choices"][0]["finish_reason"] = "length"
            cut["choices"][0]["message"] |= {"reasoning_content": "Let me"} if fault == "thought" else {}
            self._send(200, json.dumps(cut).encode())
        elif fault == "error":
            self._send(200, json.dumps({"error": {"message": "out of memory", "code": 1}}).encode())
        elif fault.startswith("status"):
            code, _, after = fault.removeprefix("status ").partition(" after ")
            error = json.dumps({"error": {"message": "says\n no"}}).encode()
            self._send(int(code), error, headers={"Retry-After": after} if after else {})
        else:
            self._send(200, json.dumps(completion(fault.removeprefix("say ") or f"about {prompt}")).encode())

    def _send(
        self,
        status: int,
        body: bytes,
        kind: str = "application/json",
        length: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = length is not None


def completion(text: str | None) -> dict[str, Any]:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"model": "tiny", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}
