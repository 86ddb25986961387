"""A checkpoint of MedGemma 4B's size on this machine: asking beside plain transformers, memory, info and convert.

    python -m benchmarks.full_size FOLDER --rounds 2 --answer-tokens 16

FOLDER holds weights of the released shape, real or random: times and memory are the same for both. Every case is a
process of its own, loading included; the two sides take turns, compute in bfloat16 and say as many tokens, which are
compared. Memory is the most that a process had resident, mapped weight files included; for convert, the most of it that
was anonymous. Linux only: memory is read from /proc.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Neighbours, append, machine, provenance

FINDINGS = (
    "a pneumothorax", "a pleural effusion", "consolidation", "edema", "atelectasis", "cardiomegaly", "a nodule",
    "a mass", "a fracture", "a hernia", "emphysema", "fibrosis", "pleural thickening", "a device",
)  # fmt: skip
QUESTIONS = tuple(f"Is there {finding}?" for finding in FINDINGS)
TARGETS: Mapping[str, tuple[str, float]] = {
    "peak memory of asking one question / weights": ("at most", 1.10),
    "peak memory of asking fourteen / weights": ("at most", 1.10),
    "anonymous memory of convert, GiB": ("at most", 1.0),
    "one question from the shell, ours / transformers'": ("at most", 1.15),
    "fourteen questions, transformers' / ours": ("at least", 8.0),
    "a further question / the first": ("at most", 0.1),
}


def main() -> None:
    """Measure, print a table, append a record; with --case, be one side of one case."""
    options = _options()
    if options.case:
        print(json.dumps(CASES[options.case](options.folder, options.films, options.answer_tokens)))
        return
    neighbours = Neighbours()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        films = [Path(scratch) / f"film{number}.png" for number in range(2)]
        for number, film in enumerate(films):
            _film(number).save(film)
        tokens = options.answer_tokens
        peer = not options.without_peer
        rounds = [_round(options.folder, films, tokens, number, peer) for number in range(options.rounds)]
        info = _watched([_medgemma(), "info", str(options.folder)])
        convert = _watched([_medgemma(), "convert", str(options.folder), f"{scratch}/converted", "--quiet"])
    record: dict[str, Any] = {
        "benchmark": "full_size",
        **provenance(),
        "machine": {**machine(), "bfloat16_instructions": "avx512_bf16" in Path("/proc/cpuinfo").read_text()},
        "weight_bytes": sum(file.stat().st_size for file in options.folder.glob("*.safetensors")),
        "answer_tokens": options.answer_tokens,
        "rounds": rounds,
        "info": info,
        "convert": convert,
        "share_of_other_programs": neighbours.share(),
    }
    record["figures"] = figures(record)
    append(record, options.out)
    print(table(record["figures"]))


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """Ratios within a round, for a slow minute falls on both sides; the median over rounds."""
    rounds, weights = record["rounds"], record["weight_bytes"]

    def median(ratio: Callable[[Mapping[str, Any]], float]) -> float:
        return statistics.median(ratio(each) for each in rounds)

    found = {
        "peak memory of asking one question / weights": max(
            each["ours, from the shell"]["peak_bytes"] / weights for each in rounds
        ),
        "peak memory of asking fourteen / weights": max(each["ours"]["peak_bytes"] / weights for each in rounds),
        "anonymous memory of convert, GiB": record["convert"]["peak_anonymous_bytes"] / 2**30,
        "a further question / the first": median(lambda each: each["ours"]["further_s"] / each["ours"]["first_s"]),
    }
    if all("transformers" in each for each in rounds):
        found["one question from the shell, ours / transformers'"] = median(
            lambda each: each["ours, from the shell"]["seconds"] / each["transformers, from the shell"]["seconds"]
        )
        found["fourteen questions, transformers' / ours"] = median(
            lambda each: each["transformers"]["fourteen_s"] / each["ours"]["fourteen_s"]
        )
    return found


def table(found: Mapping[str, float]) -> str:
    """Markdown: every figure that was measured, beside its limit."""
    lines = ["| figure | measured | limit | |", "|---|---|---|---|"]
    for name, (way, limit) in ((name, target) for name, target in TARGETS.items() if name in found):
        met = found[name] <= limit if way == "at most" else found[name] >= limit
        lines.append(f"| {name} | {found[name]:.2f} | {way} {limit:g} | {'met' if met else 'missed'} |")
    return "\n".join(lines)


# The cases, each in a process of its own


def ours(folder: Path, films: Sequence[Path], answer_tokens: int) -> dict[str, Any]:
    """A question on one film, a further one on it, then fourteen on another."""
    from medgemma import MedGemma

    started = time.perf_counter()
    gemma = MedGemma.from_pretrained(folder, device="cpu", dtype="bfloat16")
    seconds = {"load_s": time.perf_counter() - started}

    def ask(what: str, film: Path, questions: Sequence[str]) -> list[int]:
        begun = time.perf_counter()
        answers = gemma.ask(film, questions, max_new_tokens=answer_tokens)
        seconds[what] = time.perf_counter() - begun
        return [answer.tokens for answer in answers]

    counts = ask("first_s", films[0], QUESTIONS[:1]) + ask("further_s", films[0], QUESTIONS[1:2])
    counts += ask("fourteen_s", films[1], QUESTIONS)
    return {**seconds, "tokens": counts}


def transformers_once(folder: Path, films: Sequence[Path], answer_tokens: int) -> dict[str, Any]:
    """One question on one film."""
    return _transformers(folder, films[:1], QUESTIONS[:1], answer_tokens)


def transformers_fourteen(folder: Path, films: Sequence[Path], answer_tokens: int) -> dict[str, Any]:
    """Fourteen questions on one film, one after the other, as its users ask them."""
    return _transformers(folder, films[1:], QUESTIONS, answer_tokens)


def _transformers(folder: Path, films: Sequence[Path], questions: Sequence[str], answer_tokens: int) -> dict[str, Any]:
    import torch
    from transformers import AutoProcessor, Gemma3ForConditionalGeneration

    started = time.perf_counter()
    processor = AutoProcessor.from_pretrained(folder)
    model = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()
    loaded = time.perf_counter()
    image = Image.open(films[0]).convert("RGB")
    counts = []
    for question in questions:
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
        with torch.inference_mode():
            said = model.generate(**inputs, max_new_tokens=answer_tokens, do_sample=False)
        counts.append(said.shape[1] - inputs["input_ids"].shape[1])
    return {"load_s": loaded - started, "fourteen_s": time.perf_counter() - loaded, "tokens": counts}


CASES: Mapping[str, Callable[[Path, Sequence[Path], int], dict[str, Any]]] = {
    "ours": ours,
    "transformers, from the shell": transformers_once,
    "transformers": transformers_fourteen,
}


# Processes and their memory


def _round(
    folder: Path, films: Sequence[Path], answer_tokens: int, number: int, peer: bool
) -> dict[str, dict[str, Any]]:
    """All cases once, ours alone without the peer; every second round in reverse order."""
    tokens = str(answer_tokens)
    asked = ["ask", str(films[0]), "-q", QUESTIONS[0], "--model", str(folder), "--max-new-tokens", tokens]
    commands = {"ours, from the shell": [_medgemma(), *asked, "--dtype", "bfloat16", "--json", "--quiet"]}
    for case in CASES if peer else ["ours"]:
        itself = [sys.executable, "-m", "benchmarks.full_size", str(folder), "--case", case, "--answer-tokens", tokens]
        commands[case] = [*itself, "--films", *map(str, films)]
    found = {}
    for case in list(commands) if number % 2 == 0 else reversed(commands):
        found[case] = _watched(commands[case])
        print(f"  round {number + 1}  {case:30} {found[case]['seconds']:8.1f} s", file=sys.stderr)
    return found


def _watched(command: Sequence[str]) -> dict[str, Any]:
    """Run a command: its seconds, the most memory it had, and what it printed as JSON, if it did."""
    started = time.perf_counter()
    peak = {"VmRSS": 0, "RssAnon": 0}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        while process.poll() is None:
            for name, size in _memory_of(process.pid).items():
                peak[name] = max(peak[name], size)
            time.sleep(0.05)
        said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode} of {' '.join(command)}")
    seconds = time.perf_counter() - started
    last = (said.strip().splitlines() or [""])[-1]
    told = json.loads(last) if last.startswith("{") else {}
    kept = {name: value for name, value in told.items() if name.endswith("_s") or name == "tokens"}
    return {**kept, "seconds": seconds, "peak_bytes": peak["VmRSS"], "peak_anonymous_bytes": peak["RssAnon"]}


def _memory_of(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return {}
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon") if name in fields}


def _film(seed: int) -> Image.Image:
    """1024 px, grey, smooth: nobody's."""
    blocks = np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)
    return Image.fromarray(blocks).resize((1024, 1024), Image.Resampling.BICUBIC)


def _medgemma() -> str:
    return str(Path(sys.executable).with_name("medgemma"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--answer-tokens", type=int, default=16)
    parser.add_argument("--without-peer", action="store_true", help="ours alone: memory, and a further question")
    parser.add_argument("--scratch", type=Path, default=os.environ.get("TMPDIR"), help="where the converted copy goes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "full_size.jsonl")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--films", type=Path, nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
