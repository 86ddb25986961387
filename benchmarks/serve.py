"""The server under load: many streaming clients, a long prompt beside them, and memory over thousands of requests.

    OMP_NUM_THREADS=1 python -m benchmarks.serve --seconds 60 --clients 64 --requests 5000

A decoder of nano's width with random weights and a context of 131,072, so that answers have their whole length; each
answer is 64 tokens. *load*: one client, then all, streaming for so many seconds each: tokens a second and the time to
the first token. *long*: gaps between the tokens of eight streams while a prompt of 20,000 tokens is computed, over
their median. *memory*: the server's resident memory before and after so many requests of one token.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.measure import Neighbours, append, machine, provenance

ANSWER_TOKENS = 64
LONG_TOKENS = 20_000
GOALS = {"tokens_ratio": 6.0, "first_token_p50_ratio": 15.0, "first_token_p99_ratio": 40.0, "gap_ratio": 5.0}


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

    def __init__(self, model: Path, clients: int) -> None:
        command = [sys.executable, "-c", "from medgemma.cli import main; main()", "serve", "--model", str(model)]
        command += ["--port", "8799", "--encoder", "", "--quiet", "--max-rows", str(max(32, clients))]
        self.url = "http://127.0.0.1:8799"
        self.process = subprocess.Popen(command)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                if httpx2.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.5)
        raise RuntimeError("the server did not start")

    def resident_mb(self) -> float:
        """Memory of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def close(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


async def stream(client: httpx2.AsyncClient, prompt: str, tokens: int) -> list[float]:
    """When each piece of one answer came, the asking first."""
    times = [time.perf_counter()]
    body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "temperature": 1.0, "top_k": 50}
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                if "error" in json.loads(line[6:]):
                    raise RuntimeError(line)
                times.append(time.perf_counter())
    return times


async def load(url: str, clients: int, seconds: float) -> dict[str, Any]:
    """So many clients, each asking again once it has its answer."""
    first, count, answers = [], 0, 0
    until = time.perf_counter() + seconds

    async def one(number: int, client: httpx2.AsyncClient) -> None:
        nonlocal count, answers
        turn = 0
        while time.perf_counter() < until:
            times = await stream(client, f"Film {number} of day {turn}: the lungs are", ANSWER_TOKENS)
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
        "pieces_per_s": count / taken,
        "first_token_p50_s": statistics.median(first),
        "first_token_p99_s": first[min(len(first) - 1, int(0.99 * len(first)))],
    }


async def beside_a_long_prompt(url: str, long_tokens: int) -> dict[str, float]:
    """Gaps of eight streams, over their median, while a long prompt is computed."""
    async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
        words = "the lungs are clear and the heart is not enlarged " * (long_tokens // 10)
        streams = [asyncio.create_task(stream(client, f"Film {n}:", 1500)) for n in range(8)]
        await asyncio.sleep(2)
        begun = time.perf_counter()
        long = await stream(client, words, 4)
        ended = time.perf_counter()
        gaps, before = [], []
        for times in await asyncio.gather(*streams):
            for earlier, later in zip(times[2:], times[3:], strict=False):
                (gaps if begun <= earlier and later <= ended else before if later < begun else []).append(
                    later - earlier
                )
        usual = statistics.median(gaps)
        return {
            "first_token_s": long[1] - long[0],
            "median_gap_s": usual,
            "median_gap_before_s": statistics.median(before),
            "largest_gap_s": max(gaps),
            "gap_ratio": max(gaps) / usual,
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


def main() -> None:
    """Measure, print, append."""
    options = _options()
    neighbours = Neighbours()
    with tempfile.TemporaryDirectory() as root:
        served = Served(folder(Path(root)), options.clients)
        try:
            asyncio.run(load(served.url, 1, 2))
            alone = asyncio.run(load(served.url, 1, options.seconds))
            together = asyncio.run(load(served.url, options.clients, options.seconds))
            long = asyncio.run(beside_a_long_prompt(served.url, options.long_tokens))
            asyncio.run(many(served.url, options.requests // 5))
            early = served.resident_mb()
            asyncio.run(many(served.url, options.requests))
            late = served.resident_mb()
        finally:
            served.close()
    ratios = {
        "tokens_ratio": together["pieces_per_s"] / alone["pieces_per_s"],
        "first_token_p50_ratio": together["first_token_p50_s"] / alone["first_token_p50_s"],
        "first_token_p99_ratio": together["first_token_p99_s"] / alone["first_token_p50_s"],
        "gap_ratio": long["gap_ratio"],
    }
    record = {
        **provenance(),
        "machine": machine(),
        "others_share": neighbours.share(),
        "alone": alone,
        "together": together,
        "long_prompt": long,
        "memory_mb": {"early": early, "late": late, "requests": options.requests},
        "ratios": ratios,
        "goals": GOALS,
    }
    append(record, options.out)
    print(
        json.dumps(
            {name: record[name] for name in ("alone", "together", "long_prompt", "memory_mb", "ratios")}, indent=1
        )
    )


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
