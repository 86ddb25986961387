"""What every benchmark shares: rounds of alternating order, and the facts of the machine they ran on."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "numpy", "pillow")


def seconds_of(cases: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Wall seconds of each case: one warm-up, then `repeats` rounds, every second round in reverse order.

    All cases take turns within a round, so that a slow minute of the machine falls on all of them.
    """
    for case in cases.values():
        case()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats):
        for name in list(cases) if turn % 2 == 0 else reversed(cases):
            start = time.perf_counter()
            cases[name]()
            seconds[name].append(time.perf_counter() - start)
            print(f"  round {turn + 1}/{repeats}  {name:32} {seconds[name][-1]:8.3f} s", file=sys.stderr)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Median seconds of each case."""
    return {name: statistics.median(values) for name, values in seconds.items()}


class Neighbours:
    """How much of the machine other programs used while the benchmark ran; timings beside a busy one mislead."""

    def __init__(self) -> None:
        self._start = _processor_seconds()

    def share(self) -> float | None:
        """Share of all cores since the start that went to others, 0..1; None where /proc is missing."""
        if self._start is None or (now := _processor_seconds()) is None:
            return None
        busy, own, wall = (after - before for after, before in zip(now, self._start, strict=True))
        return max(0.0, busy - own) / (wall * (os.cpu_count() or 1))


def machine() -> dict[str, Any]:
    """Processor, cores, torch threads and versions."""
    import torch

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def provenance() -> dict[str, Any]:
    """When, by which command and from which commit."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", "benchmarks." + Path(sys.argv[0]).stem, *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def append(record: Mapping[str, Any], out: Path) -> None:
    """One more JSON line; earlier runs stay."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _processor_seconds() -> tuple[float, float, float] | None:
    """Seconds of the machine's busy cores, of this process with its children, and of the clock."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, interrupts, soft_interrupts, *_ = map(int, stat.read_text().split()[1:11])
    ticks = user + nice + system + interrupts + soft_interrupts
    own = os.times()
    own_s = own.user + own.system + own.children_user + own.children_system
    return ticks / os.sysconf("SC_CLK_TCK"), own_s, time.perf_counter()


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
