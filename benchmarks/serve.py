"""The server under load, row by row against what is asked of it; under ten minutes on a quiet machine.

    OMP_NUM_THREADS=1 python -m benchmarks.serve --seconds 60 --clients 64 --requests 5000

A decoder of nano's width with random weights and a context of 131,072, so that answers have their whole length; each
answer is 64 tokens. Every token has its event, for log-probabilities are asked for: tokens that are no text (a byte of
a character, a control token) would have none, and random weights say them in runs.

*load*: one client, then all, streaming for so many seconds each: tokens a second and the time to the first token.
*long*: gaps between the tokens of eight streams while a prompt of 20,000 tokens is computed, over their median.
*memory*: the server's resident memory before and after so many requests of one token.
*pictures*: sixteen clients, each request with a picture of its own, answered greedily and with as many tokens by this
server and by `transformers serve` of the same environment, in turns.
"""

import argparse
import asyncio
import base64
import io
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from benchmarks.measure import Neighbours, append, machine, provenance

ANSWER_TOKENS = 64
LONG_TOKENS = 20_000
SENTENCE, SENTENCE_TOKENS = "the lungs are clear and the heart is not enlarged ", 13
PICTURE_CLIENTS, PICTURE_PX, PICTURE_TOKENS, PICTURE_ROUNDS = 16, 512, 16, 2
TRANSFORMERS = [str(Path(sys.executable).parent / "transformers"), "serve"]
OURS = [sys.executable, "-c", "from medgemma.cli import main; main()", "serve"]


class Goal(NamedTuple):
    """What a row must reach."""

    label: str
    least: float | None = None
    most: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether a figure is good enough."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


GOALS = {
    "tokens_ratio": Goal("tokens a second, all clients over one", least=6.0),
    "first_token_p50_ratio": Goal("first token, median, over an idle server's", most=15.0),
    "first_token_p99_ratio": Goal("first token, p99, over an idle server's", most=40.0),
    "gap_ratio": Goal("largest gap beside a long prompt, over the median", most=5.0),
    "pictures_ratio": Goal("requests a second with pictures, over transformers serve", least=3.0),
    "memory_ratio": Goal("memory after all requests, over that before", most=1.05),
}


def folder(root: Path) -> Path:
    """Nano's files with random weights and a long context."""
    import torch
    from transformers import Gemma3ForConditionalGeneration

    from medgemma.checkpoints.layouts import save_in_hub_layout
    from medgemma.nano import NANO_FOLDER

    out = root / "random-nano"
    shutil.copytree(NANO_FOLDER, out)
    model = Gemma3ForConditionalGeneration.from_pretrained(NANO_FOLDER, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.05)
    model.config.text_config.max_position_embeddings = 131_072
    save_in_hub_layout(model, out, torch.float32)
    return out


class Served:
    """A server in a process of its own."""

    def __init__(self, command: Sequence[str], port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([*command, "--port", str(port)])
        until = time.monotonic() + 120
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if httpx2.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.5)
        self.close()
        raise RuntimeError(f"{command[0]} did not start")

    def resident_mb(self) -> float:
        """Memory of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def close(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


async def stream(client: httpx2.AsyncClient, prompt: str, tokens: int, times: list[float]) -> None:
    """Note when each token of one answer came, the asking first."""
    times.append(time.perf_counter())
    body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "temperature": 1.0, "top_k": 50, "logprobs": 0}
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                if "error" in json.loads(line[6:]):
                    raise RuntimeError(line)
                times.append(time.perf_counter())


async def load(url: str, clients: int, seconds: float) -> dict[str, Any]:
    """So many clients, each asking again once it has its answer."""
    first, count, answers = [], 0, 0
    until = time.perf_counter() + seconds

    async def one(number: int, client: httpx2.AsyncClient) -> None:
        nonlocal count, answers
        turn = 0
        while time.perf_counter() < until:
            times: list[float] = []
            await stream(client, f"Film {number} of day {turn}: the lungs are", ANSWER_TOKENS, times)
            first.append(times[1] - times[0])
            count, answers, turn = count + len(times) - 1, answers + 1, turn + 1

    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        begun = time.perf_counter()
        await asyncio.gather(*(one(number, client) for number in range(clients)))
        taken = time.perf_counter() - begun
    first.sort()
    return {
        "clients": clients,
        "answers": answers,
        "tokens_per_s": count / taken,
        "first_token_p50_s": statistics.median(first),
        "first_token_p99_s": first[min(len(first) - 1, int(0.99 * len(first)))],
    }


async def beside_a_long_prompt(url: str, long_tokens: int) -> dict[str, float]:
    """Gaps of eight streams, over their median, while a long prompt is computed."""
    async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
        heard: list[list[float]] = [[] for _ in range(8)]
        streams = [asyncio.create_task(stream(client, f"Film {n}:", 8000, times)) for n, times in enumerate(heard)]
        await asyncio.sleep(2)
        long: list[float] = []
        await stream(client, SENTENCE * (long_tokens // SENTENCE_TOKENS), 4, long)
        for task in streams:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    gaps, before = [], []
    for times in heard:
        for earlier, later in itertools.pairwise(times[2:]):
            if long[0] <= earlier and later <= long[-1]:
                gaps.append(later - earlier)
            elif later < long[0]:
                before.append(later - earlier)
    return {
        "first_token_s": long[1] - long[0],
        "median_gap_s": statistics.median(gaps),
        "median_gap_before_s": statistics.median(before),
        "largest_gap_s": max(gaps),
    }


async def many(url: str, requests: int) -> None:
    """Requests of one token, sixteen at a time."""
    gate = asyncio.Semaphore(16)
    async with httpx2.AsyncClient(base_url=url, timeout=300) as client:

        async def one(number: int) -> None:
            async with gate:
                body = {"messages": [{"role": "user", "content": f"Question {number}?"}], "max_tokens": 1}
                (await client.post("/v1/chat/completions", json=body)).raise_for_status()

        await asyncio.gather(*(one(number) for number in range(requests)))


async def pictures(url: str, model: str, seconds: float, first: int) -> dict[str, float]:
    """Sixteen clients, each request with a picture that was not asked about before.

    Args:
        url: of the server.
        model: its name there.
        seconds: to go on asking.
        first: number of the first picture.
    """
    import numpy as np
    from PIL import Image

    numbers, until = itertools.count(first), time.perf_counter() + seconds
    answers = tokens = 0

    def body() -> dict[str, Any]:
        pixels = np.random.default_rng(next(numbers)).integers(0, 256, (PICTURE_PX // 8, PICTURE_PX // 8), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((PICTURE_PX, PICTURE_PX)).convert("RGB").save(file, "JPEG")
        image = {
            "type": "image_url",
            "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"},
        }
        content = [image, {"type": "text", "text": "Is there a pneumothorax?"}]
        sampling = {"max_tokens": PICTURE_TOKENS, "temperature": 0, "stream": False}
        return {"model": model, "messages": [{"role": "user", "content": content}], **sampling}

    async with httpx2.AsyncClient(base_url=url, timeout=300, limits=httpx2.Limits(max_connections=None)) as client:

        async def one() -> None:
            nonlocal answers, tokens
            while time.perf_counter() < until:
                response = await client.post("/v1/chat/completions", json=body())
                response.raise_for_status()
                answers, tokens = answers + 1, tokens + response.json()["usage"]["completion_tokens"]

        begun = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(PICTURE_CLIENTS)))
        taken = time.perf_counter() - begun
    return {"requests_per_s": answers / taken, "tokens_an_answer": tokens / answers}


def beside_transformers(ours: str, model: Path, seconds: float) -> dict[str, Any]:
    """Both servers in turns, so that a busy machine slows both."""
    theirs = Served([*TRANSFORMERS, str(model)], 8798)
    try:
        for url, name in ((ours, ""), (theirs.url, str(model))):
            asyncio.run(pictures(url, name, 1, 1_000_000))
        rounds = [
            [
                asyncio.run(pictures(url, name, seconds, place * 100_000))
                for url, name in ((ours, ""), (theirs.url, str(model)))
            ]
            for place in range(PICTURE_ROUNDS)
        ]
    finally:
        theirs.close()
    lengths = {round(one["tokens_an_answer"], 2) for pair in rounds for one in pair}
    if len(lengths) != 1:
        raise RuntimeError(f"answers of unlike length: {sorted(lengths)} tokens")
    return {"rounds": rounds, "ratio": statistics.median(a["requests_per_s"] / b["requests_per_s"] for a, b in rounds)}


def measured(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """All figures."""
    model = folder(root)
    quiet = ["--encoder", "", "--quiet", "--max-rows", str(max(32, options.clients)), "--max-answer-tokens", "8192"]
    served = Served([*OURS, "--model", str(model), *quiet], 8799)
    try:
        asyncio.run(load(served.url, 1, 2))
        alone = asyncio.run(load(served.url, 1, options.seconds))
        together = asyncio.run(load(served.url, options.clients, options.seconds))
        long = asyncio.run(beside_a_long_prompt(served.url, options.long_tokens))
        asyncio.run(many(served.url, options.requests // 5))
        early = served.resident_mb()
        asyncio.run(many(served.url, options.requests))
        late = served.resident_mb()
        seen = beside_transformers(served.url, model, options.seconds / 6)
    finally:
        served.close()
    ratios = {
        "tokens_ratio": together["tokens_per_s"] / alone["tokens_per_s"],
        "first_token_p50_ratio": together["first_token_p50_s"] / alone["first_token_p50_s"],
        "first_token_p99_ratio": together["first_token_p99_s"] / alone["first_token_p50_s"],
        "gap_ratio": long["largest_gap_s"] / long["median_gap_s"],
        "pictures_ratio": seen["ratio"],
        "memory_ratio": late / early,
    }
    memory = {"early": early, "late": late, "requests": options.requests}
    return {
        "alone": alone,
        "together": together,
        "long_prompt": long,
        "memory_mb": memory,
        "pictures": seen,
        "ratios": ratios,
    }


def main() -> None:
    """Measure, print, append."""
    options = _options()
    neighbours = Neighbours()
    with tempfile.TemporaryDirectory() as root:
        found = measured(options, Path(root))
    goals = {name: goal._asdict() for name, goal in GOALS.items()}
    append(
        {**provenance(), "machine": machine(), "others_share": neighbours.share(), **found, "goals": goals}, options.out
    )
    print(json.dumps(found, indent=1))
    print(f"errors of {options.clients} streaming clients in {options.seconds:g} s: 0")
    for name, goal in GOALS.items():
        value = found["ratios"][name]
        aim = f"at least {goal.least:g}" if goal.least is not None else f"at most {goal.most:g}"
        print(f"{goal.label}: {value:.2f}, {aim}: {'met' if goal.is_met(value) else 'NOT MET'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--long-tokens", type=int, default=LONG_TOKENS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serve.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
