"""The completion loss over Gemma's vocabulary beside dense, TRL's default and torch's own: memory, time, accuracy.

    python -m benchmarks.losses --rounds 3
    python -m benchmarks.losses --rounds 3 --loss divergence

A step is forward and backward of a two-layer Gemma 3 of width 256 with 262,144 tokens on 2 × 512 of them, its `.grad`
in place, with a trained (tied) or a frozen head. Every case is a process of its own, cases take turns, and ratios are
taken within a round. Memory is the peak of resident memory over what the process had before the first step, less that
of the floor: the same network with a trivial loss. All cases run in the Python named by TRL_PYTHON, where TRL is
(`make test-trl`); without it TRL's rows are left out. Linux only: memory is read from /proc. The second command
measures the divergence from a teacher (`benchmarks.divergence_cases`).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import divergence_cases
from benchmarks.measure import Neighbours, append, machine, provenance
from finetune.losses.completion import IGNORED, completion_loss, next_tokens

HIDDEN, VOCABULARY, ROWS, TOKENS = 256, 262_144, 2, 512
CHUNK = 64
"""Tokens that torch's own function takes at once: its automatic choice is one token at this shape."""
Loss = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
"""Model, ids (B, T) and labels (B, T) to a scalar."""
LIMITS: Mapping[str, float] = {
    "memory above the floor / dense": 0.12,
    "memory above the floor / dense, frozen": 0.05,
    "time / dense": 1.0,
    "time / dense, frozen": 1.0,
    "time / TRL": 0.5,
    "time / TRL, frozen": 0.5,
    "time / torch's own": 1.1,
    "time / torch's own, frozen": 1.1,
    "time, half the tokens masked / all": 0.65,
    "relative error": 1e-6,
}


def main() -> None:
    """Measure, print tables, append a record; with --case, be one case."""
    options = _options()
    if options.case:
        print(json.dumps(_one_case(options)))
        return
    neighbours, python = Neighbours(), os.environ.get("TRL_PYTHON") or sys.executable
    has_trl = subprocess.run([python, "-c", "import trl"], capture_output=True, check=False).returncode == 0
    of_divergence = options.loss == "divergence"
    cases = [
        case
        for case in (divergence_cases.CASES if of_divergence else CASES)
        if has_trl or not case.startswith(("TRL", "Liger"))
    ]
    measured = partial(_round, python, options.loss, kept=options.resume)
    rounds = [measured(cases, options.steps, number) for number in range(options.rounds)]
    if of_divergence and has_trl:
        rounds[0] |= measured(_long_cases(), 1, 0)
    record: dict[str, Any] = {
        "benchmark": "losses" if not of_divergence else "losses, divergence",
        **provenance(),
        "machine": machine(),
        "trl": _trl_version(python) if has_trl else None,
        "shape": {"hidden": HIDDEN, "vocabulary": VOCABULARY, "rows": ROWS, "tokens": TOKENS, "torch_chunk": CHUNK},
        "rounds": rounds,
        "accuracy": _kept(options.resume, 0, "accuracy", partial(_run, python, options.loss, "accuracy", 1)),
        "share_of_other_programs": neighbours.share(),
    }
    record["figures"] = divergence_figures(record) if of_divergence else figures(record)
    append(record, options.out)
    print(table(record, divergence_cases.LIMITS if of_divergence else LIMITS))


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """Each figure of `LIMITS`: the median over rounds of the ratio within one; the largest error."""
    found = {"relative error": max(record["accuracy"].values())}
    for way in ("", ", frozen"):
        peers = {f"dense{way}": "dense", f"TRL{way}": "TRL", f"torch's own{way}": "torch's own"}
        for case, peer in peers.items():
            if case in record["rounds"][0]:
                found[f"time / {peer}{way}"] = _median(record, f"ours{way}", case, "cpu_s")
        found[f"memory above the floor / dense{way}"] = _median(record, f"ours{way}", f"dense{way}", "peak", way)
    found["time, half the tokens masked / all"] = _median(record, "ours, half masked", "ours", "cpu_s")
    return {name: found[name] for name in LIMITS if name in found}


def divergence_figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The same of `divergence_cases.LIMITS`; the long cases have one round."""
    found = {"relative error": max(record["accuracy"].values())}
    first, ours = record["rounds"][0], "ours, 2×256"
    for size in ("2×256", "2×512"):
        if f"TRL dense, {size}" in first:
            above = {c: first[f"{c}, {size}"]["peak"] - first[f"floor, {size}"]["peak"] for c in ("ours", "TRL dense")}
            found[f"memory above the floor / TRL dense, {size}"] = above["ours"] / above["TRL dense"]
    for peer in ("TRL dense", "TRL fused", "Liger"):
        if f"{peer}, 2×256" in first:
            found[f"time / {peer}"] = _median(record, ours, f"{peer}, 2×256", "cpu_s")
    found["time, half the tokens masked / all"] = _median(record, f"{ours}, half masked", ours, "cpu_s")
    return {name: found[name] for name in divergence_cases.LIMITS if name in found}


def table(record: Mapping[str, Any], limits: Mapping[str, float]) -> str:
    """Markdown: the cases, then every figure beside its limit."""
    lines = ["| case | peak, MiB | CPU-seconds a step | seconds a step |", "|---|---|---|---|"]
    for case in record["rounds"][0]:
        found = [each[case] for each in record["rounds"] if case in each]
        one = {key: statistics.median(each[key] for each in found) for key in ("peak", "cpu_s", "s")}
        lines.append(f"| {case} | {one['peak'] / 2**20:.0f} | {one['cpu_s']:.2f} | {one['s']:.2f} |")
    lines += ["", "| figure | measured | at most | |", "|---|---|---|---|"]
    for name, value in record["figures"].items():
        met = "met" if value <= limits[name] else "**missed**"
        lines.append(f"| {name} | {value:.3g} | {limits[name]:g} | {met} |")
    return "\n".join(lines)


# The cases


def floor(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """No head at all."""
    return _hidden(model, ids).square().mean()


def dense(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As transformers' own loss does it."""
    loss: torch.Tensor = model(input_ids=ids, labels=labels, use_cache=False).loss
    return loss


def ours(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """One tile loop over the rows with a label."""
    states, targets = next_tokens(_hidden(model, ids), labels)
    return completion_loss(states, model.lm_head.weight, targets, denominator=len(targets))


def torchs_own(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """torch.nn.functional.linear_cross_entropy in chunks, on the rows with a label."""
    states, targets = next_tokens(_hidden(model, ids), labels)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK)
    return F.linear_cross_entropy(states, model.lm_head.weight, targets, options=options)


def trls_default(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The fused head that SFTTrainer puts in for its loss_type "nll", with the outputs that it asks for."""
    from trl.trainer.utils import add_fused_lm_head

    if not getattr(model, "has_fused_head", False):
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
        model.has_fused_head = True
    loss: torch.Tensor = model(input_ids=ids, labels=labels, fused_lm_head=True).loss
    return loss


CASES: Mapping[str, Loss] = {
    "floor": floor,
    "dense": dense,
    "ours": ours,
    "torch's own": torchs_own,
    "TRL": trls_default,
    "ours, half masked": ours,
    "floor, frozen": floor,
    "dense, frozen": dense,
    "ours, frozen": ours,
    "torch's own, frozen": torchs_own,
    "TRL, frozen": trls_default,
}


def step(model: Any, loss_of: Loss, tokens: int, *, half: bool, steps: int) -> dict[str, float]:
    """The quickest of some steps, and the most memory over all of them."""
    ids, labels = _batch(tokens, half)
    timed = []
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    for _ in range(steps):
        start, cpu = time.perf_counter(), time.process_time()
        loss = loss_of(model, ids, labels)
        loss.backward()
        timed.append((time.process_time() - cpu, time.perf_counter() - start))
    cpu_s, wall_s = min(timed)
    return {"cpu_s": cpu_s, "s": wall_s, "peak": _memory("VmHWM") - before, "loss": loss.item()}


def accuracy() -> dict[str, float]:
    """Relative distance of float32's loss and gradients from dense ones in float64, at the same shape."""
    torch.manual_seed(0)
    states, head = torch.randn(ROWS * (TOKENS - 1), HIDDEN), torch.randn(VOCABULARY, HIDDEN) * 0.1
    targets = torch.randint(0, VOCABULARY, (len(states),))
    low = [t.clone().requires_grad_() for t in (states, head)]
    loss = completion_loss(*low, targets, denominator=len(targets))
    loss.backward()
    high = [t.double().requires_grad_() for t in (states, head)]
    total = 0.0
    for start in range(0, len(targets), CHUNK):
        rows = slice(start, start + CHUNK)
        part = F.cross_entropy(high[0][rows] @ high[1].T, targets[rows], reduction="sum") / len(targets)
        part.backward()
        total += part.item()
    found = {"loss": abs(loss.item() - total) / total}
    for name, ours_, exact in zip(("states", "head"), low, high, strict=True):
        assert ours_.grad is not None and exact.grad is not None
        found[name] = float((ours_.grad - exact.grad).norm() / exact.grad.norm())
    return found


def _one_case(options: argparse.Namespace) -> dict[str, float]:
    case, steps = options.case, options.steps
    half = case.endswith("half masked")
    if options.loss == "completion":
        if case == "accuracy":
            return accuracy()
        return step(_model(frozen=case.endswith("frozen")), CASES[case], TOKENS, half=half, steps=steps)
    if case == "accuracy":
        return divergence_cases.accuracy(HIDDEN, VOCABULARY, 2 * divergence_cases.CHUNK)
    loss_of = {**divergence_cases.CASES, **divergence_cases.LONG_CASES}[case]
    model = divergence_cases.with_teacher(lambda seed: _model(frozen=False, seed=seed))
    return step(model, loss_of, 512 if "2×512" in case else 256, half=half, steps=steps)


def _model(frozen: bool, seed: int = 0) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(seed)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=1024, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config).train()
    model.lm_head.weight.requires_grad_(not frozen)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    return model


def _batch(tokens: int, half: bool) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (ROWS, tokens), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    if half:
        labels[:, : tokens // 2] = IGNORED
    return ids, labels


def _hidden(model: Any, ids: torch.Tensor) -> torch.Tensor:
    hidden: torch.Tensor = model.model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden


# Processes


def _long_cases() -> list[str]:
    """Those that the memory holds: a process that is killed for it would take others along."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    fits = [case for case in divergence_cases.LONG_CASES if "dense" not in case or free > divergence_cases.LONG_BYTES]
    if len(fits) < len(divergence_cases.LONG_CASES):
        print(f"  dense, 2×512 is left out: {free / 2**30:.0f} GiB are free", file=sys.stderr)
    return fits


def _round(
    python: str, loss: str, cases: list[str], steps: int, number: int, *, kept: Path | None
) -> dict[str, dict[str, float]]:
    """All cases once; every second round in reverse order."""
    found = {}
    for case in cases if number % 2 == 0 else reversed(cases):
        found[case] = _kept(kept, number, case, partial(_run, python, loss, case, steps))
        print(f"  round {number + 1}  {case:24} {found[case]['cpu_s']:8.2f} CPU-s", file=sys.stderr)
    return {case: found[case] for case in cases}


def _run(python: str, loss: str, case: str, steps: int) -> dict[str, float]:
    command = [python, "-m", "benchmarks.losses", "--loss", loss, "--case", case, "--steps", str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    said: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


def _kept(path: Path | None, number: int, case: str, run: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a stopped run has measured already, else measured now and kept for the next."""
    lines = path.read_text(encoding="utf-8").splitlines() if path and path.is_file() else []
    for line in map(json.loads, lines):
        if (line["round"], line["case"]) == (number, case):
            return dict(line["found"])
    found = run()
    if path:
        append({"round": number, "case": case, "found": found}, path)
    return found


def _median(record: Mapping[str, Any], case: str, peer: str, key: str, way: str | None = None) -> float:
    def value(each: Mapping[str, Any], name: str) -> float:
        return float(each[name][key] - (each[f"floor{way}"][key] if way is not None else 0))

    return statistics.median(value(each, case) / value(each, peer) for each in record["rounds"])


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _trl_version(python: str) -> str:
    command = [python, "-c", "from importlib.metadata import version; print(version('trl'))"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="a case's, in one process; the quickest counts")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "losses.jsonl")
    parser.add_argument("--resume", type=Path, help="keeps what is measured; a stopped run goes on with the same file")
    parser.add_argument("--loss", choices=("completion", "divergence"), default="completion")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
