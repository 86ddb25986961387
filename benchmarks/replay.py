"""Replay in process beside torchrl and cpprb: inserts and samples a second, one by one and in batches.

    python -m benchmarks.replay --peers PYTHON

1 KB of float32 an item, one thread, uniform and prioritized (exponent 0.6), sizes of 20,000 items, all full. Ours has
its limiter, remover and keys; the peers have none of these. PYTHON is an environment with torchrl and cpprb; without it
they are `not measured`. Figures are items a second of the thread's own time: the median of `--rounds` rounds, in each
of which all take turns. `--journal` measures the log of calls beside a bare loop that writes and syncs the same bytes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CAPACITY = 20_000
FLOATS = 256
SECONDS = 0.5

Measured = dict[str, float]


def rate(call: Callable[[], object], items: int) -> float:
    """Items a second of this thread's time."""
    call()
    begin, calls = time.thread_time(), 0
    while (spent := time.thread_time() - begin) < SECONDS:
        for _ in range(10):
            call()
        calls += 10
    return calls * items / spent


def ours(prioritized: bool) -> Measured:
    """Replay with one table."""
    import numpy as np

    from experience.replay import Replay, Table, rate_limiters, selectors

    sampler = selectors.Prioritized(0.6) if prioritized else selectors.Uniform()
    replay = Replay([Table("t", sampler, selectors.Fifo(), CAPACITY, rate_limiters.MinSize(1))])
    random = np.random.default_rng(0)
    one, many = random.random(FLOATS, np.float32), random.random((100, FLOATS), np.float32)
    priorities = random.random(100)
    for _ in range(CAPACITY // 100):
        replay.insert_many(many, {"t": priorities})
    keys = replay.sample("t", 256).info.key
    found = {
        "insert": rate(lambda: replay.insert(one, {"t": 0.5}), 1),
        "insert 100": rate(lambda: replay.insert_many(many, {"t": priorities}), 100),
        "sample": rate(lambda: replay.sample("t").data, 1),
        "sample 256": rate(lambda: replay.sample("t", 256).data, 256),
    }
    keys, updates = replay.sample("t", 256).info.key, random.random(256)
    return found | {"update 256": rate(lambda: replay.update_priorities("t", keys, updates), 256)}


def torchrl(prioritized: bool) -> Measured:
    """TensorDictReplayBuffer on LazyTensorStorage."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, ReplayBuffer

    torch.set_num_threads(1)
    if prioritized:
        return {}  # PrioritizedSampler cannot be made with the wheel from the index
    buffer = ReplayBuffer(storage=LazyTensorStorage(CAPACITY), batch_size=256)
    one = TensorDict({"x": torch.rand(FLOATS)}, [])
    many = TensorDict({"x": torch.rand(100, FLOATS)}, [100])
    for _ in range(CAPACITY // 100):
        buffer.extend(many)
    return {
        "insert": rate(lambda: buffer.add(one), 1),
        "insert 100": rate(lambda: buffer.extend(many), 100),
        "sample": rate(lambda: buffer.sample(1), 1),
        "sample 256": rate(lambda: buffer.sample(256), 256),
    }


def cpprb(prioritized: bool) -> Measured:
    """ReplayBuffer and PrioritizedReplayBuffer, in C++."""
    import cpprb
    import numpy as np

    kind = cpprb.PrioritizedReplayBuffer if prioritized else cpprb.ReplayBuffer
    options = {"alpha": 0.6} if prioritized else {}
    buffer = kind(CAPACITY, {"x": {"shape": FLOATS, "dtype": np.float32}}, **options)
    random = np.random.default_rng(0)
    one, many = random.random(FLOATS, np.float32), random.random((100, FLOATS), np.float32)
    priorities = random.random(100)
    first: dict[str, Any] = {"priorities": 0.5} if prioritized else {}
    batch: dict[str, Any] = {"priorities": priorities} if prioritized else {}
    for _ in range(CAPACITY // 100):
        buffer.add(x=many, **batch)
    found = {
        "insert": rate(lambda: buffer.add(x=one, **first), 1),
        "insert 100": rate(lambda: buffer.add(x=many, **batch), 100),
        "sample": rate(lambda: buffer.sample(1), 1),
        "sample 256": rate(lambda: buffer.sample(256), 256),
    }
    if prioritized:
        places, updates = random.integers(0, CAPACITY, 256), random.random(256)
        found["update 256"] = rate(lambda: buffer.update_priorities(places, updates), 256)
    return found


def journal(folder: Path) -> None:
    """Inserts of 100 KB, each synced, beside a bare loop that writes and syncs the same bytes."""
    import numpy as np

    from experience.replay import Replay, Table, rate_limiters, selectors

    table = Table("t", selectors.Uniform(), selectors.Fifo(), CAPACITY, rate_limiters.MinSize(1))
    replay = Replay([table], folder=folder / "ours", sync=True)
    many, priorities = np.random.default_rng(0).random((100, FLOATS), np.float32), np.ones(100)
    log = next((folder / "ours").glob("calls-*"))
    shares = []
    for _ in range(7):
        spent = {"ours": 0.0, "bare": 0.0}
        with (folder / "bare").open("wb", buffering=0) as file:
            for _ in range(40):
                before, begin = log.stat().st_size, time.perf_counter()
                replay.insert_many(many, {"t": priorities})
                spent["ours"] += time.perf_counter() - begin
                with log.open("rb") as written:
                    written.seek(before)
                    data = written.read()
                begin = time.perf_counter()
                file.write(data)
                os.fsync(file.fileno())
                spent["bare"] += time.perf_counter() - begin
        shares.append(spent["bare"] / spent["ours"])
    print(
        f"journal: {statistics.median(shares):.0%} of bare writing and syncing ({min(shares):.0%} to {max(shares):.0%})"
    )


def main() -> None:
    """Measure, and print a table a sampler."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default="", help="Python of an environment with torchrl and cpprb.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--journal", action="store_true")
    parser.add_argument("--run", nargs=2, metavar=("WHO", "SAMPLER"), help="Internal: measure this one here.")
    asked = parser.parse_args()
    if asked.run:
        print(json.dumps(globals()[asked.run[0]](asked.run[1] == "prioritized")))
    elif asked.journal:
        with tempfile.TemporaryDirectory() as folder:
            journal(Path(folder))
    else:
        for sampler in ("uniform", "prioritized"):
            show(sampler, asked.peers, asked.rounds)


def show(sampler: str, peers: str, rounds: int) -> None:
    """Print the medians of one sampler, and the least and most."""
    pythons = {"ours": sys.executable, "torchrl": peers, "cpprb": peers}
    found: dict[str, list[Measured]] = {name: [] for name, python in pythons.items() if python}
    for _ in range(rounds):
        for name, measured in found.items():
            measured.append(run(pythons[name], name, sampler))
    for name in pythons:
        for what in found[name][0] if name in found else ["not measured"]:
            values = [one[what] for one in found.get(name, [])]
            spread = f"{statistics.median(values):>14,.0f} ({min(values):,.0f} to {max(values):,.0f})" if values else ""
            print(f"{sampler:12} {name:8} {what:12}{spread}")


def run(python: str, name: str, sampler: str) -> Measured:
    """Measure one library in its environment, which may be this one."""
    if Path(python).absolute() == Path(sys.executable).absolute():
        here: Measured = globals()[name](sampler == "prioritized")
        return here
    command = [python, str(Path(__file__)), "--run", name, sampler]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found: Measured = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
