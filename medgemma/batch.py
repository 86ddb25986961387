"""OpenAI batch files: a line a request in, a line an answer out; a run that was killed goes on where it was.

Answers are appended to `OUT.partial` and reach the disk before the next requests are begun. An answer's id is made of
its request's line and the model, so that what is there already is known again and nothing is answered twice.
"""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from medgemma.asking import Asked, Asking
from medgemma.engine.request import Completion, Request
from medgemma.openai_chat import ChatBody, asked_of
from medgemma.openai_content import Intake
from medgemma.openai_reply import completion_body
from medgemma.prompts.content import VolumeView, finding_lines
from medsiglip.checkpoints.identity import free_name, is_mended

URL = "/v1/chat/completions"
Generate = Callable[[Sequence[Request]], list[list[Completion]]]
"""`Engine.generate`."""


class BatchProblem(NamedTuple):
    """A line that got no answer, or what is to be known of one."""

    name: str
    """Its line number, and its custom_id if it has one."""
    reason: str


@dataclass(frozen=True)
class _Line:
    number: int
    custom_id: str | None
    reply_id: str
    body: Any = None
    error: str | None = None

    @property
    def name(self) -> str:
        return f"line {self.number}" + (f" ({self.custom_id})" if self.custom_id else "")


@dataclass(frozen=True)
class Answerer:
    """What answers a batch."""

    asking: Asking
    generate: Generate
    name: str
    """The model's, for the replies."""
    identity: str
    """The model's (`medsiglip.checkpoints.identity`), the replies' system_fingerprint; another's are not reused."""
    view: VolumeView = VolumeView()
    dtype: str = ""
    """Of the weights in memory."""

    @property
    def names(self) -> set[str]:
        """What a request may call the model: as it was given, a folder's name alone, its adapter's name."""
        return {self.name, Path(self.name).name, self.asking.adapter or self.name}

    @property
    def key(self) -> str:
        """Of everything that changes an answer."""
        return f"{self.identity} {self.dtype} {self.view}"


def answer_batch(
    requests: Path,
    out: Path,
    answerer: Answerer,
    *,
    on_problem: Callable[[BatchProblem], None],
    on_warning: Callable[[BatchProblem], object] = lambda warning: None,
    on_progress: Callable[[int], object] = lambda n: None,
    on_stale: Callable[[Path], object] = lambda aside: None,
    group: int = 16,
) -> None:
    """Answer a batch file.

    Args:
        requests: JSON lines with custom_id, method (POST), url (/v1/chat/completions) and body.
        out: JSON lines in the order of the requests; it appears when all are there.
        answerer: see `Answerer`.
        on_problem: told of each line that got no answer; `out` holds its error.
        on_warning: told what a user should know of a line, such as a volume that is not axial.
        on_progress: told how many lines are done.
        on_stale: told where answers are that the model gave before its files changed.
        group: requests that are answered together, and then kept.

    Raises:
        ValueError: `out` is the requests' file, or holds lines of other requests.
        OSError: a file cannot be read or written.
    """
    if out.exists() and out.samefile(requests):
        raise ValueError(f"{out}: the requests' own file; give another --out")
    partial = out.with_name(out.name + ".partial")
    wanted = {line.reply_id for line in _lines(requests, answerer.key)}
    if _is_stale(out, wanted, answerer.identity):
        aside = free_name(out)
        out.replace(aside)
        on_stale(aside)
    done = _kept(out, wanted, whole=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _appending(partial) as journal:
        done |= _kept(partial, wanted)
        waiting = (line for line in _lines(requests, answerer.key) if line.reply_id not in done)
        on_progress(len(done))
        while lines := list(islice(waiting, group)):
            replies = _answered(lines, answerer, on_warning)
            for line, reply in zip(lines, replies, strict=True):
                done[line.reply_id] = reply
                if fault := _fault_of(reply):
                    on_problem(BatchProblem(line.name, fault))
                else:
                    journal.write(_as_line(reply))
            journal.flush()
            os.fsync(journal.fileno())
            on_progress(len(lines))
    whole = out.with_name(out.name + ".whole")
    with whole.open("w", encoding="utf-8") as file:
        file.writelines(_as_line(done[line.reply_id]) for line in _lines(requests, answerer.key))
    whole.replace(out)
    partial.unlink()


def _answered(
    lines: Sequence[_Line], answerer: Answerer, on_warning: Callable[[BatchProblem], object]
) -> list[dict[str, Any]]:
    """The output line of each input line; one that fails does not touch the others."""
    faults = {line.number: line.error for line in lines if line.error}
    asked: dict[int, tuple[_Line, ChatBody, Asked]] = {}
    for line in lines:
        if line.error:
            continue
        try:
            body = ChatBody.read(line.body)
            if body.stream:
                raise ValueError("stream: a batch cannot stream")
            if body.model and body.model not in answerer.names:
                raise ValueError(f"model: {body.model!r} does not answer here; ask for {answerer.name!r}, or for none")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                asked[line.number] = line, body, asked_of(body, answerer.asking, Intake(answerer.view))
            warned = [" ".join(str(warning.message).split()) for warning in caught]
            for text in dict.fromkeys([*warned, *finding_lines(asked[line.number][2].request.pictures)]):
                on_warning(BatchProblem(line.name, text))
        except ValueError as error:
            faults[line.number] = " ".join(str(error).split())
    completions = _generated([a.request for _, _, a in asked.values()], answerer.generate)
    replies = {}
    for (number, (line, body, one)), samples in zip(asked.items(), completions, strict=True):
        try:
            if isinstance(samples, ValueError):
                raise samples
            replies[number] = completion_body(
                one,
                samples,
                answerer.asking,
                name=answerer.name,
                identity=answerer.identity,
                reply_id=line.reply_id.replace("batch_req", "chatcmpl"),
                created_s=int(time.time()),
                logprobs=bool(body.logprobs),
            )
        except ValueError as error:
            faults[number] = " ".join(str(error).split())
    return [_output(line, replies.get(line.number), faults.get(line.number)) for line in lines]


def _generated(requests: Sequence[Request], generate: Generate) -> list[list[Completion] | ValueError]:
    """The samples of each request; where the engine refuses one, such as too many samples, the others go on alone."""
    try:
        return list(generate(requests)) if requests else []
    except ValueError as error:
        if len(requests) == 1:
            return [error]
    return [result for request in requests for result in _generated([request], generate)]


def _output(line: _Line, reply: dict[str, Any] | None, fault: str | None) -> dict[str, Any]:
    """OpenAI's output line: a request that could not be answered is a reply of status 400."""
    if fault is not None:
        reply = {"error": {"message": fault, "type": "invalid_request_error", "param": None, "code": None}}
    response = {"status_code": 200 if fault is None else 400, "request_id": line.reply_id, "body": reply}
    return {"id": line.reply_id, "custom_id": line.custom_id, "response": response, "error": None}


def _fault_of(reply: dict[str, Any]) -> str | None:
    error = reply["response"]["body"].get("error")
    return str(error["message"]) if error else None


# Reading requests


def _lines(requests: Path, key: str) -> Iterator[_Line]:
    """The request lines; blank ones are left out. One at a time, since pictures are in them."""
    first_use: dict[str, int] = {}
    with requests.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                yield _line(number, text.strip(), key, first_use)


def _line(number: int, text: bytes, key: str, first_use: dict[str, int]) -> _Line:
    digest = hashlib.sha256(key.encode() + b"\n" + text).hexdigest()[:32]
    reply_id = f"batch_req_{digest}"
    unique_id = f"batch_req_{hashlib.sha256(f'{digest} line {number}'.encode()).hexdigest()[:32]}"
    try:
        request = json.loads(text)
    except ValueError as error:
        return _Line(number, None, unique_id, error=f"no JSON: {error}")
    custom_id = request.get("custom_id") if isinstance(request, dict) else None
    if not isinstance(custom_id, str) or not custom_id:
        return _Line(number, None, unique_id, error="no custom_id, which names the answer; add one")
    if custom_id in first_use:
        earlier = f"custom_id {custom_id!r} is line {first_use[custom_id]}'s already; give each line its own"
        return _Line(number, custom_id, unique_id, error=earlier)
    first_use[custom_id] = number
    for name, expected in (("method", "POST"), ("url", URL)):
        if request.get(name) != expected:
            return _Line(number, custom_id, reply_id, error=f"{name} is {request.get(name)!r}, expected {expected!r}")
    return _Line(number, custom_id, reply_id, body=request.get("body"))


# What is kept


def _is_stale(out: Path, wanted: set[str], identity: str) -> bool:
    """Whether `out` is of the same weights with other files: a tokenizer, template or setting mended since."""
    old = {
        reply["response"]["body"].get("system_fingerprint") or ""
        for reply in _replies(out)
        if reply and _fault_of(reply) is None and reply["id"] not in wanted
    }
    return bool(old) and all(is_mended(one, identity) for one in old)


def _replies(path: Path) -> Iterator[dict[str, Any] | None]:
    """The replies of a file, one a line; None for a line that is none."""
    for text in filter(None, path.read_text(encoding="utf-8").split("\n") if path.is_file() else ()):
        try:
            reply = json.loads(text)
            is_reply = bool(reply["id"]) and "error" in reply and isinstance(reply["response"]["body"], dict)
        except (ValueError, KeyError, TypeError):
            is_reply = False
        yield reply if is_reply else None


def _kept(path: Path, wanted: set[str], whole: bool = False) -> dict[str, dict[str, Any]]:
    """Answers of an earlier run by id; errors are tried again, and those of mended lines dropped."""
    kept: dict[str, dict[str, Any]] = {}
    for reply in _replies(path):
        fault = _fault_of(reply) if reply else None
        if reply and reply["id"] in wanted:
            if fault is None:
                kept[reply["id"]] = reply
        elif whole and fault is None:
            raise ValueError(f"{path} holds answers to other requests or of another model; give another --out")
    return kept


def _appending(partial: Path) -> IO[str]:
    """Open the journal for more lines, without the half line that a kill may have left."""
    if partial.is_file():
        data = partial.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(partial, data.rfind(b"\n") + 1)
    return partial.open("a", encoding="utf-8")


def _as_line(reply: dict[str, Any]) -> str:
    return json.dumps(reply, ensure_ascii=False) + "\n"
