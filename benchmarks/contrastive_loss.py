"""The sigmoid loss between pictures and texts in tiles beside open_clip's: peak memory, time, and the same gradients.

    OPEN_CLIP_PYTHON=.venv-open-clip/bin/python python -m benchmarks.contrastive_loss --rounds 3

A step is the loss of 4,096 pairs of So400m's width and its backward pass, on unit vectors that need a gradient. Cases
are open_clip's SigLipLoss as it is; its own blocks (pictures of a rank by texts of a rank, as its ring of ranks makes
them) each under torch's checkpoint, which is the least memory it can have; and ours. Every case is a process of its own
in the Python named by OPEN_CLIP_PYTHON; cases take turns, and ratios are taken within a round. Memory is the peak of
resident memory over what the process had before the first step. Linux only: memory is read from /proc.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.measure import Neighbours, append, machine, provenance

PAIRS, WIDTH, BLOCKS = 4096, 1152, 8
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Pictures and texts (N, D), scale and bias to a scalar."""


def main() -> None:
    """Measure, print tables, append a record; with --case, be one case."""
    options = _options()
    if options.case:
        print(json.dumps(step(options.case, options.steps)))
        return
    python, neighbours = os.environ.get("OPEN_CLIP_PYTHON"), Neighbours()
    if not python:
        sys.exit("set OPEN_CLIP_PYTHON to the Python of an environment with torch and open_clip_torch==3.3.0")
    rounds = [_round(python, options.steps, number) for number in range(options.rounds)]
    record: dict[str, Any] = {
        "benchmark": "contrastive_loss",
        **provenance(),
        "machine": machine(),
        "open_clip": _version(python),
        "shape": {"pairs": PAIRS, "width": WIDTH, "blocks": BLOCKS},
        "rounds": rounds,
        "share_of_other_programs": neighbours.share(),
    }
    append(record, options.out)
    print(table(record))


def table(record: Mapping[str, Any]) -> str:
    """Markdown: each case, and what ours needs of its memory and time."""
    lines = ["| case | peak, MiB | CPU-seconds a step | ours / its memory | ours / its time | largest difference |"]
    lines += ["|---|---|---|---|---|---|"]
    for case in CASES:
        of_case = [each[case] for each in record["rounds"]]
        peak, cpu_s = (statistics.median(one[key] for one in of_case) for key in ("peak", "cpu_s"))
        memory, seconds = (
            statistics.median(each["ours"][key] / each[case][key] for each in record["rounds"])
            for key in ("peak", "cpu_s")
        )
        first = record["rounds"][0]
        off = max(abs(a - b) / abs(b) for a, b in zip(first["ours"]["said"], first[case]["said"], strict=True))
        lines.append(f"| {case} | {peak / 2**20:.0f} | {cpu_s:.2f} | {memory:.2f} | {seconds:.2f} | {off:.1e} |")
    return "\n".join(lines)


# The cases


def open_clips(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """SigLipLoss of one process."""
    loss: torch.Tensor = _siglip_loss()(images, texts, scale, bias)
    return loss


def open_clips_blocks(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Its blocks, one kept at a time."""
    of_block, total = _siglip_loss()._loss, torch.zeros(())
    for row, some in enumerate(images.chunk(BLOCKS)):
        for column, others in enumerate(texts.chunk(BLOCKS)):
            arguments = (some, others, scale, bias, row != column)
            total = total + checkpoint(of_block, *arguments, use_reentrant=False) / BLOCKS
    return total


def ours(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Relations told by a number a row: here each of its own."""
    from finetune.losses.contrastive import tiled_sigmoid_loss

    numbers = torch.arange(len(images))

    def relate(rows: slice, columns: slice) -> torch.Tensor:
        return torch.where(numbers[rows, None] == numbers[columns], 1.0, -1.0)

    return tiled_sigmoid_loss(images, texts, scale, bias, relate)


CASES: Mapping[str, Loss] = {
    "open_clip": open_clips,
    "open_clip, its blocks under checkpoint": open_clips_blocks,
    "ours": ours,
}


def step(case: str, steps: int) -> dict[str, Any]:
    """The quickest of some steps, the most memory over all of them, and some numbers to compare."""
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(PAIRS, WIDTH, generator=rng)).requires_grad_() for _ in range(2))
    scale, bias = torch.tensor(100.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    few = [tensor[:64] for tensor in (images, texts)]
    CASES[case](*few, scale, bias).backward()  # imports, and first calls
    inputs, timed = (images, texts, scale, bias), []
    for tensor in inputs:
        tensor.grad = torch.zeros_like(tensor)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    for _ in range(steps):
        for tensor in inputs:
            tensor.grad.zero_()  # type: ignore[union-attr]
        start = time.process_time()
        loss = CASES[case](*inputs)
        loss.backward()
        timed.append(time.process_time() - start)
    gradients = [tensor.grad for tensor in inputs if tensor.grad is not None]
    said = [loss.item(), *(float(gradient.norm()) for gradient in gradients)]
    return {"cpu_s": min(timed), "peak": _memory("VmHWM") - before, "said": said}


def _siglip_loss() -> Any:
    """Of the file alone: the package imports torchvision, whose compiled part may not fit a CPU torch."""
    found = find_spec("open_clip")
    assert found is not None and found.submodule_search_locations
    file = spec_from_file_location("open_clip_loss", Path(found.submodule_search_locations[0]) / "loss.py")
    assert file is not None and file.loader is not None
    module = module_from_spec(file)
    file.loader.exec_module(module)
    return module.SigLipLoss()


def _round(python: str, steps: int, number: int) -> dict[str, Any]:
    order = list(CASES) if number % 2 == 0 else list(reversed(CASES))
    found = {}
    for case in order:
        command = [python, "-m", "benchmarks.contrastive_loss", "--case", case, "--steps", str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        found[case] = json.loads(done.stdout)
        print(f"  round {number + 1}  {case:40} {found[case]['peak'] / 2**20:8.0f} MiB", file=sys.stderr)
    return found


def _memory(name: str) -> int:
    """Bytes, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _version(python: str) -> str:
    command = [python, "-c", "from importlib.metadata import version; print(version('open_clip_torch'))"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _options() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="a case's, in one process; the quickest counts")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "contrastive_loss.jsonl")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
