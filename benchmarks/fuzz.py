"""Damaged and lying files of every format through the decoder pool: what became of them, one JSON line a format.

    python -m benchmarks.fuzz --inputs 1000 --seed 0

Formats that the results already hold for this commit, seed and number are left out, so an interrupted run goes on.
The exit status is 1 if any input gave something else than pictures or one clear line, or hung for two seconds.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import append, provenance
from medsiglip.imaging import DecoderPool
from tests.medsiglip.imaging.fuzz_inputs import FORMATS, mutations
from tests.medsiglip.imaging.fuzz_run import LIMITS, Outcome, peak_memory_mib, run

MOST_FAULTS_SHOWN = 50


def main() -> None:
    """Run the formats that are left, and append each as it ends."""
    options = _options()
    facts = provenance()
    recorded = _recorded(options.out, facts["commit"], options.inputs, options.seed)
    num_faults = 0
    for format in options.formats:
        if format not in recorded or facts["uncommitted"]:
            record = {"benchmark": "fuzz", **facts, **fuzz(format, options.inputs, options.seed)}
            append(record, options.out)
            print(_line(record), file=sys.stderr)
            num_faults += len(record["faults"])
    sys.exit(1 if num_faults else 0)


def fuzz(format: str, inputs: int, seed: int) -> dict[str, Any]:
    """Run one format with a pool of its own, one worker, file by file."""
    start = time.perf_counter()
    with DecoderPool(1, LIMITS) as pool:
        outcome = run(mutations(format, inputs, seed), pool)
        peak_mib = max(outcome.peak_mib, peak_memory_mib())
    return {
        "format": format,
        "seed": seed,
        **_counts(outcome),
        "peak_child_mib": peak_mib,
        "seconds": time.perf_counter() - start,
    }


def _counts(outcome: Outcome) -> dict[str, Any]:
    return {
        "inputs": outcome.inputs,
        "pictures": outcome.pictures,
        "refused": outcome.refused,
        "crashes_by_signal": dict(outcome.crashes),
        "out_of_memory": outcome.out_of_memory,
        "deadline": outcome.deadline,
        "slowest_s": outcome.slowest_s,
        "slowest": outcome.slowest,
        "faults": outcome.faults[:MOST_FAULTS_SHOWN],
    }


def _recorded(out: Path, commit: str | None, inputs: int, seed: int) -> set[str]:
    """Formats already run."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    wanted = {"commit": commit, "inputs": inputs, "seed": seed, "uncommitted": False}
    return {record["format"] for record in map(json.loads, lines) if wanted.items() <= record.items()}


def _line(record: dict[str, Any]) -> str:
    counts = f"{record['inputs']:6} inputs {record['pictures']:6} pictures {record['refused']:6} refused"
    contained = f"crashes {record['crashes_by_signal']} memory {record['out_of_memory']} deadline {record['deadline']}"
    cost = f"slowest {record['slowest_s']:.2f} s, peak {record['peak_child_mib']:.0f} MiB"
    return f"{record['format']:20} {counts}  {contained}  {cost}  faults {len(record['faults'])}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="a format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, metavar="FORMAT")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fuzz.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
