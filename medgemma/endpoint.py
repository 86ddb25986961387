"""Answers from an OpenAI-compatible server (vLLM, SGLang, llama.cpp, a cloud): chat completions over HTTP.

A picture goes as a PNG data URL of its decoded pixels at full size; the server resizes it as its model wants. What the
server does wrong is retried where that can help, and then named.
"""

import base64
import io
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import httpx2

from medgemma.answers import split_thinking
from medgemma.engine.request import Sampling

if TYPE_CHECKING:
    from medgemma.prompts.content import Part
    from medsiglip.imaging import Picture

KEY_VARIABLE = "MEDGEMMA_ENDPOINT_KEY"
"""Environment variable with the server's key; there is no option for it, so that it is in no shell history."""
RETRIED_STATUS = frozenset({408, 409, 425, 429, *range(500, 600)})
MAX_REPLY_BYTES = 16 << 20
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
CLASSIFY = "/classify"
KEPT_STUDIES = 16
"""Sets of files whose PNGs are kept; questions about one picture follow one another."""


class EndpointRefused(ValueError):
    """The server will answer no item: wrong key, address or model."""


class EndpointFault(ValueError):
    """One item has no answer from the server, after all attempts."""

    def __init__(self, reason: str, attempts: int) -> None:
        super().__init__(f"{reason} (attempts: {attempts})")
        self.attempts = attempts


class Reply(NamedTuple):
    """One answer of the server."""

    text: str
    thinking: str
    tokens: int
    """Generated, as far as the server says; else 0."""
    finish_reason: str
    attempts: int


@dataclass(frozen=True)
class _Fault:
    """What went wrong in one attempt."""

    reason: str
    is_retried: bool = True
    retry_after_s: float | None = None


_Read = TypeVar("_Read")


class Endpoint:
    """A server that answers chat completions. Use it in a `with` block; its methods may be called from threads.

    Args:
        url: Of the server, with or without `/v1` and `/chat/completions`; http or https.
        model: The name to ask for; None takes the only one that the server lists.
        timeout_s: For one whole answer.
        retries: Further attempts after a failed one.
        sleep: Waits between attempts.

    Raises:
        ValueError: The URL is none, or holds a password or a query.
        EndpointRefused: The server cannot be reached, or `model` is None and it does not list exactly one.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        timeout_s: float = 300.0,
        retries: int = 5,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.url = base_url(url)
        self._timeout_s, self._retries, self._sleep = timeout_s, retries, sleep
        key = os.environ.get(KEY_VARIABLE, "").strip()
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            limits=httpx2.Limits(max_connections=None),
        )
        self._shown = lru_cache(maxsize=KEPT_STUDIES)(shown)
        try:
            self.model = model or self._only_model()
        except EndpointRefused:
            self._client.close()
            raise

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    @property
    def fingerprint(self) -> str:
        """What stands for the weights, which a server does not show: its address and the model's name there."""
        return f"{self.model} at {self.url}"

    @property
    def identity(self) -> str:
        """The same: what else answers depend on is not shown either."""
        return self.fingerprint

    def answer(
        self, files: Sequence[str], prompt: str, sampling: Sampling, *, system: str = "", sample: int = 0
    ) -> Reply:
        """Ask for one answer.

        Args:
            files: Pictures, put before the text in this order.
            prompt: The text.
            sampling: How; one answer is asked for, whatever its `num_samples`, and its `stop_ids` stay here.
            system: A system turn; empty for none.
            sample: Number of the draw; its seed is `sampling.seed + sample`.

        Raises:
            EndpointFault: There is no answer after all attempts, or the server refuses this item.
            EndpointRefused: It refuses every item.
            ImageError: A picture cannot be read.
        """
        content = [*self._shown(tuple(files)), {"type": "text", "text": prompt}]
        messages: list[Mapping[str, Any]] = [{"role": "user", "content": content}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        return self.chat(messages, sampling, sample)

    def chat(self, messages: Sequence[Mapping[str, Any]], sampling: Sampling, sample: int = 0) -> Reply:
        """Ask for the next turn of a conversation.

        Args:
            messages: As the API takes them, the system turn (if any) included.
            sampling: As in `answer`.
            sample: As in `answer`.

        Raises:
            EndpointFault: There is no answer after all attempts, or the server refuses these messages.
            EndpointRefused: It refuses everything.
        """
        reply, attempts = self._asked("/chat/completions", self._body(messages, sampling, sample), _reply)
        return reply._replace(attempts=attempts)

    def probabilities(
        self, content: Sequence[Mapping[str, Any]], question: str, choices: Sequence[str]
    ) -> dict[str, float]:
        """Ask `medgemma serve` how likely each choice is as the answer; they sum to 1.

        Args:
            content: Parts of a message, put before the question.
            question: The text.
            choices: The answers.

        Raises:
            As `chat`; EndpointRefused: Another server, which has no such door.
        """
        body = {"model": self.model, "input": list(content), "question": question, "choices": list(choices)}
        return self._asked(CLASSIFY, json.dumps(body).encode(), _probabilities)[0]

    def post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask for anything else that the server has.

        Args:
            path: Behind the URL, such as "/load_lora_adapter".
            body: Sent as JSON.

        Returns:
            The JSON object that came back; empty where a text did.

        Raises:
            As `chat`.
        """
        return self._asked(path, json.dumps(body).encode(), _object)[0]

    def _asked(self, path: str, body: bytes, read: "Callable[[bytes], _Read | _Fault]") -> "tuple[_Read, int]":
        """What comes back, and after how many attempts."""
        attempts = 0
        while True:
            found = self._attempt(path, body, read)
            attempts += 1
            if not isinstance(found, _Fault):
                return found, attempts
            if not found.is_retried or attempts > self._retries:
                raise EndpointFault(found.reason, attempts)
            self._sleep(_wait_s(attempts, found.retry_after_s))

    def _body(self, messages: Sequence[Mapping[str, Any]], sampling: Sampling, sample: int) -> bytes:
        body = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            **({"top_k": sampling.top_k} if sampling.top_k is not None else {}),
            **({"top_p": sampling.top_p} if sampling.top_p < 1 else {}),
            **({} if sampling.temperature == 0 else {"seed": sampling.seed + sample}),
        }
        return json.dumps(body).encode()

    def _attempt(self, path: str, body: bytes, read: "Callable[[bytes], _Read | _Fault]") -> "_Read | _Fault":
        headers = {"Content-Type": "application/json"}
        try:
            status, sent, raw = self._send("POST", path, content=body, headers=headers)
        except httpx2.TimeoutException:
            return _Fault(f"no answer within {self._timeout_s:g} s")
        except httpx2.TransportError as fault:
            return _Fault(f"the connection failed: {_short(str(fault)) or type(fault).__name__}")
        if status in (401, 403):
            raise EndpointRefused(f"{self.url}: HTTP {status}; set {KEY_VARIABLE} to a key that the server takes")
        if status == 404 and path == CLASSIFY and b"model_not_found" not in raw:
            raise EndpointRefused(f"{self.url}: tells no probabilities of choices; only medgemma serve does")
        if status == 404:
            raise EndpointRefused(f"{self.url}: HTTP 404: {said(raw)}; correct --endpoint or --endpoint-model")
        if status != 200:
            retried = status in RETRIED_STATUS
            return _Fault(f"HTTP {status}: {said(raw)}", retried, _retry_after_s(sent.get("retry-after")))
        return read(raw)

    def _send(self, method: str, path: str, **request: Any) -> tuple[int, httpx2.Headers, bytes]:
        """Return status, headers and body. httpx's own limit is for each piece read; this one is for the whole."""
        deadline = time.monotonic() + self._timeout_s
        raw = bytearray()
        with self._client.stream(method, self.url + path, **request) as response:
            for piece in response.iter_bytes():
                raw += piece
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout("the answer did not end in time")
                if len(raw) > MAX_REPLY_BYTES:
                    raise httpx2.RemoteProtocolError(f"more than {MAX_REPLY_BYTES >> 20} MB came back")
            return response.status_code, response.headers, bytes(raw)

    def _only_model(self) -> str:
        try:
            status, _, raw = self._send("GET", "/models")
        except httpx2.TransportError as fault:
            raise EndpointRefused(f"{self.url}: cannot be reached ({_short(str(fault))}); start the server") from fault
        try:
            names = [str(entry["id"]) for entry in json.loads(raw)["data"]] if status == 200 else []
        except (ValueError, KeyError, TypeError):
            names = []
        if len(names) != 1:
            listed = ", ".join(names[:10]) or f"none (HTTP {status})"
            raise EndpointRefused(f"{self.url}: lists the models {listed}; say which with --endpoint-model NAME")
        return names[0]


def base_url(url: str) -> str:
    """Return the URL that `/chat/completions` is appended to.

    Raises:
        ValueError: It is no http(s) URL, or holds a password or a query, which would end up in the results.
    """
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as fault:
        raise ValueError(f"got the endpoint {url!r}; expected a URL such as http://127.0.0.1:8000/v1") from fault
    if parts.userinfo or parts.query:
        raise ValueError(f"the endpoint's URL holds a password or a query; give the key in {KEY_VARIABLE} instead")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError(f"got the endpoint {url!r}; expected a URL such as http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return str(parts.copy_with(path=path or "/v1", fragment=None))


def shown(files: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the parts of a message that show files, as a model on this machine is shown them: volumes slice by slice.

    Each picture is a PNG data URL of the pixels as decoded (windows applied), at full size.

    Raises:
        ImageError: A file cannot be read.
    """
    from medgemma.prompts.content import open_study, study_parts

    return shown_parts(study_parts(open_study(files)))


def shown_parts(parts: "Sequence[Part]") -> list[Mapping[str, Any]]:
    """Return texts and pictures as the parts of a message."""
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": png_data_url(part)}}
        for part in parts
    ]


def png_data_url(picture: "Picture") -> str:
    """A picture's pixels as decoded, at full size."""
    from PIL import Image

    from medsiglip.imaging.frame import is_grey_plane

    pixels = picture.pixels[..., 0] if is_grey_plane(picture.pixels) else picture.pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _reply(raw: bytes) -> Reply | _Fault:
    try:
        found = json.loads(raw)
    except ValueError:
        is_page = raw.lstrip()[:1] == b"<"
        return _Fault("got a web page (HTML) instead of JSON" if is_page else "got no JSON, or it is cut off")
    if isinstance(found, dict) and found.get("error"):
        return _Fault(f"the server says: {said(raw)}")
    try:
        choice = found["choices"][0]
        message = choice["message"]
        content = message["content"]
    except (LookupError, TypeError):
        return _Fault("the answer has no choice")
    reason = str(choice.get("finish_reason") or "")
    if content is None and reason == "length":  # a thought used up the tokens: asked again, it would again
        content = ""
    if not isinstance(content, str) or not (content.strip() or reason == "length"):
        return _Fault(f"the answer is empty (finish_reason {choice.get('finish_reason')})")
    spoken = split_thinking(content)
    thoughts = message.get("reasoning_content") or message.get("reasoning") or spoken.thinking or ""
    usage = found.get("usage") or {}
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Reply(spoken.text, str(thoughts), tokens if isinstance(tokens, int) else 0, reason, attempts=1)


def _probabilities(raw: bytes) -> dict[str, float] | _Fault:
    try:
        [item] = json.loads(raw)["data"]
        return {str(choice): float(share) for choice, share in item["probabilities"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return _Fault("the answer holds no probabilities of the choices")


def said(raw: bytes) -> str:
    """Return the message of an error body, short, on one line."""
    try:
        error = json.loads(raw)
    except ValueError:
        return "a web page (HTML)" if raw.lstrip()[:1] == b"<" else _short(raw[:400].decode("utf-8", "replace"))
    while isinstance(error, dict) and ("error" in error or "message" in error or "detail" in error):
        error = error.get("error") or error.get("message") or error.get("detail")
    return _short(str(error))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:200] + "…"


def _wait_s(attempts: int, retry_after_s: float | None) -> float:
    """Return the wait before the next attempt: what the server asks for, else doubling, with jitter, up to a minute."""
    if retry_after_s is not None:
        return min(retry_after_s, LONGEST_WAIT_S)
    return float(min(FIRST_WAIT_S * 2 ** (attempts - 1), LONGEST_WAIT_S) * random.uniform(0.5, 1.0))


def _retry_after_s(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds seconds or a date (RFC 9110, section 10.2.3)."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (until - datetime.now(UTC)).total_seconds()) if until.tzinfo else None


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
