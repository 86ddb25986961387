"""Sinkhorn of `finetune.selection.transport` beside exact solvers: time, error, and the memory that it adds.

    python -m benchmarks.transport --points 5000 --exact scipy
    python -m benchmarks.transport --points 10000 --exact none     # Sinkhorn's time and memory alone

Two sets of states of 17 numbers: `normal`, and `cycles`, where each of N / 100 episodes goes along a cycle from a start
of its own. The exact solvers are scipy's assignment and POT's network simplex; each runs once, since they take minutes.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Neighbours, append, machine, provenance
from finetune.selection.transport.exact import exact
from finetune.selection.transport.sinkhorn import sinkhorn

RESULTS = Path(__file__).parent / "results" / "transport.jsonl"
NUMBERS = 17


def main() -> None:
    """Measure, print a line a set, and append the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--exact", choices=EXACT, default="scipy")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.sets:
        x, y = SETS[name](asked.points)
        neighbours, before = Neighbours(), _peak_mib()
        timed = [_timed(sinkhorn, x, y) for _ in range(asked.repeats)]
        added, found = _peak_mib() - before, timed[0][1]
        ours = float(np.median([one for one, _ in timed]))
        print(
            f"{name}: {asked.points} by {asked.points}: {ours:.1f} s in {added:.0f} MiB, {found.value:.4f}", flush=True
        )
        seconds, value = _timed(EXACT[asked.exact], x, y)
        record = {
            "set": name,
            "points": asked.points,
            "exact": asked.exact,
            "seconds": {"sinkhorn": [one for one, _ in timed], "exact": seconds},
            "times_as_fast": seconds / ours if value else None,
            "value": {"sinkhorn": found.value, "exact": value},
            "claimed_error": found.error,
            "error": found.value / value - 1 if value else None,
            "added_mib": {"sinkhorn": added, "cost matrix": asked.points**2 * 8 / 2**20},
            "others_share": neighbours.share(),
        }
        append({**provenance(), **machine(), **record}, RESULTS)
        if value:
            times, error = record["times_as_fast"], 100 * record["error"]
            print(f"  {times:.1f} times as fast as {asked.exact} ({seconds:.0f} s), {error:+.2f} % of {value:.4f}")


def _timed(solve: Callable, x: np.ndarray, y: np.ndarray) -> tuple:
    """Seconds of the one thread that both use, so that neighbours on the machine count little."""
    start = time.process_time()
    found = solve(x, y)
    return time.process_time() - start, found


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _normal(points: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(points, NUMBERS)), 0.3 + 1.2 * rng.normal(size=(points, NUMBERS))
    return one.astype(np.float32), other.astype(np.float32)


def _cycles(points: int) -> tuple[np.ndarray, np.ndarray]:
    return _along(1, 1.0, points), _along(2, 2.0, points)


def _along(seed: int, amplitude: float, points: int) -> np.ndarray:
    rng, mixing = np.random.default_rng(seed), np.random.default_rng(7).normal(size=(6, NUMBERS))
    phase = (rng.uniform(0, 2 * np.pi, (points // 100, 1)) + 0.1 * np.arange(100)).ravel()
    waves = [f(k * phase) for k in (1, 2, 3) for f in (np.sin, np.cos)]
    waves[4] *= amplitude
    states = np.stack(waves, axis=1) @ mixing + 0.1 * rng.normal(size=(len(phase), NUMBERS))
    return states.astype(np.float32)


def _pot(x: np.ndarray, y: np.ndarray) -> float:
    import ot

    equal = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    return float(ot.emd2(*equal, ot.dist(x.astype(np.float64), y.astype(np.float64), "euclidean"), numItermax=10**8))


SETS = {"normal": _normal, "cycles": _cycles}
EXACT = {"none": lambda x, y: None, "scipy": lambda x, y: exact(x, y).value, "pot": _pot}


if __name__ == "__main__":
    main()
