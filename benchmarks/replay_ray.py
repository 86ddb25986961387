"""A replay on Ray beside dm-reverb: inserts and samples a second of eight client processes.

    PYTHON_WITH_RAY -m benchmarks.replay_ray --peer PYTHON_WITH_REVERB

Items of float32, random, which no compression makes smaller: 1 KB, 64 KB, 1 MB, in tables of 20,000, 4,000 and 400
that are full. Uniform sampler, oldest removed, MinSize(1). Ours inserts groups by `insert_many` and samples stacked
batches; the peer appends to a trajectory writer, and samples by `client.sample` and by a batched `TrajectoryDataset`,
of which the faster counts. Both are up all the time and take turns in every round; a figure is the median of rounds.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CLIENTS = 8
IN_FLIGHT = 20
"""Items of a writer of the peer that are not yet acknowledged; 100 of 1 KB."""


class Size(NamedTuple):
    """Items of one size."""

    name: str
    floats: int
    capacity: int
    group: int
    """Items of an insert, and of a sample."""


SIZES = {
    one.name: one
    for one in (
        Size("1KB", 256, 20_000, 100),
        Size("64KB", 16_384, 4_000, 32),
        Size("1MB", 262_144, 400, 4),
    )
}


def count_until(begin: float, end: float, calls: Iterator[int]) -> tuple[int, float]:
    """Make calls between two times of the clock; return the items, and the seconds that they took."""
    time.sleep(max(0.0, begin - time.time()))
    items, start = 0, time.time()
    for many in calls:
        items += many
        if time.time() >= end:
            break
    return items, time.time() - start


def rate(found: list[tuple[int, float]]) -> float:
    """Items a second of all clients."""
    return sum(items / seconds for items, seconds in found)


class Ours:
    """A replay on a local Ray cluster, and clients in tasks of it."""

    def __init__(self) -> None:
        import ray

        from experience.replay import Replay, Table, rate_limiters, selectors

        os.environ.setdefault("RAY_worker_niceness", "0")  # it is 15; the peer's processes have 0
        ray.init(log_to_driver=False, include_dashboard=False, num_cpus=CLIENTS, object_store_memory=4 << 30)
        self._ray = ray

        def table(size: Size) -> Table:
            return Table("t", selectors.Uniform(), selectors.Fifo(), size.capacity, rate_limiters.MinSize(1))

        self._replays = {name: Replay.on_ray(None, [table(size)], name=name) for name, size in SIZES.items()}

        @ray.remote(num_cpus=1)
        def client(replay: Any, what: str, size: Size, begin: float, end: float) -> tuple[int, float]:
            calls = _inserts(replay, size) if what == "insert" else _samples(replay, size)
            next(calls)
            return count_until(begin, end, calls)

        self._client = client
        for name, size in SIZES.items():
            calls = _inserts(self._replays[name], size)
            for _ in range(size.capacity // size.group):
                next(calls)

    def measure(self, what: str, name: str, seconds: float) -> float:
        """Return items a second."""
        begin = time.time() + 1.5
        arguments = self._replays[name], what, SIZES[name], begin, begin + seconds
        return rate(self._ray.get([self._client.remote(*arguments) for _ in range(CLIENTS)]))


def _inserts(replay: Any, size: Size) -> Iterator[int]:
    data = np.random.default_rng(os.getpid()).random((size.group, size.floats), np.float32)
    priorities = np.ones(size.group)
    while True:
        replay.insert_many({"x": data}, {"t": priorities})
        yield size.group


def _samples(replay: Any, size: Size) -> Iterator[int]:
    while True:
        yield len(replay.sample("t", size.group).data["x"])


class Peer:
    """dm-reverb, a process for the server and one a client, told line by line what to measure."""

    def __init__(self, python: str) -> None:
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [python, str(Path(__file__)), "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._ask("ready")

    def measure(self, what: str, name: str, seconds: float) -> float:
        """Return items a second."""
        return self._ask(f"{what} {name} {seconds}")

    def close(self) -> None:
        """End it."""
        self._process.communicate("\n", timeout=60)

    def _ask(self, line: str) -> float:
        assert self._process.stdin and self._process.stdout
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the peer ended at {line!r}")
        return float(answer)


def serve() -> None:
    """Be the peer: read what to measure, and write what was measured."""
    import reverb  # before the fork: its import takes long

    forked = multiprocessing.get_context("fork")
    to_server, port_from = forked.Pipe()
    server = forked.Process(target=_reverb_server, args=(reverb, port_from), daemon=True)
    server.start()
    address = f"localhost:{to_server.recv()}"
    pipes = []
    for _ in range(CLIENTS):
        mine, its = forked.Pipe()
        forked.Process(target=_reverb_client, args=(reverb, address, its), daemon=True).start()
        pipes.append(mine)
    for name in SIZES:
        _tell(pipes, "fill", name, 0.0)
    for line in sys.stdin:
        if line.strip() == "ready":
            print(0.0, flush=True)
        elif line.strip():
            what, name, seconds = line.split()
            print(rate(_tell(pipes, what, name, float(seconds))), flush=True)
        else:
            break


def _tell(pipes: list[Any], what: str, name: str, seconds: float) -> list[tuple[int, float]]:
    begin = time.time() + 0.5
    for pipe in pipes:
        pipe.send((what, name, begin, begin + seconds))
    return [pipe.recv() for pipe in pipes]


def _reverb_server(reverb: Any, pipe: Any) -> None:
    import tensorflow as tf

    def table(size: Size) -> Any:
        signature = {"x": tf.TensorSpec((1, size.floats), tf.float32)}
        selector = reverb.selectors
        limiter = reverb.rate_limiters.MinSize(1)
        return reverb.Table(size.name, selector.Uniform(), selector.Fifo(), size.capacity, limiter, signature=signature)

    server = reverb.Server([table(size) for size in SIZES.values()])
    pipe.send(server.port)
    server.wait()


def _reverb_client(reverb: Any, address: str, pipe: Any) -> None:
    client = reverb.Client(address)
    while True:
        what, name, begin, end = pipe.recv()
        size = SIZES[name]
        if what == "fill":
            calls = _reverb_inserts(client, size)
            for _ in range(-(-size.capacity // size.group // CLIENTS)):
                next(calls)
            pipe.send((0, 1.0))
            continue
        calls = _reverb_calls(reverb, client, address, what, size)
        next(calls)
        pipe.send(count_until(begin, end, calls))


def _reverb_calls(reverb: Any, client: Any, address: str, what: str, size: Size) -> Iterator[int]:
    if what == "insert":
        return _reverb_inserts(client, size)
    return _reverb_samples(client, size) if what == "client" else _reverb_dataset(reverb, address, size)


def _reverb_inserts(client: Any, size: Size) -> Iterator[int]:
    data = np.random.default_rng(os.getpid()).random((size.group, size.floats), np.float32)
    with client.trajectory_writer(num_keep_alive_refs=1) as writer:
        while True:
            for one in data:
                writer.append({"x": one})
                writer.create_item(size.name, 1.0, {"x": writer.history["x"][-1:]})
                writer.flush(block_until_num_items=max(IN_FLIGHT, size.group))
            writer.flush()
            yield size.group


def _reverb_samples(client: Any, size: Size) -> Iterator[int]:
    while True:
        yield sum(1 for one in client.sample(size.name, size.group, emit_timesteps=False) if one.data is not None)


def _reverb_dataset(reverb: Any, address: str, size: Size) -> Iterator[int]:
    dataset = reverb.TrajectoryDataset.from_table_signature(
        address, size.name, max_in_flight_samples_per_worker=2 * size.group
    )
    for sample in dataset.batch(size.group).as_numpy_iterator():
        yield len(sample.data["x"])


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default="", help="Python of an environment with dm-reverb; without: not measured.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    parser.add_argument("--serve", action="store_true", help="Internal: be the peer.")
    asked = parser.parse_args()
    if asked.serve:
        serve()
        return
    ours, peer = Ours(), Peer(asked.peer) if asked.peer else None
    found: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(asked.rounds):
        for name in asked.sizes:
            for what in ("insert", "sample"):
                found.setdefault((name, what, "ours"), []).append(ours.measure(what, name, asked.seconds))
                for kind in ([what] if what == "insert" else ["client", "dataset"]) if peer else []:
                    found.setdefault((name, what, kind), []).append(peer.measure(kind, name, asked.seconds))
    for (name, what, kind), values in found.items():
        print(
            f"{name:5} {what:7} {kind:8} {statistics.median(values):>10,.0f} ({min(values):,.0f} to {max(values):,.0f})"
        )
    print(json.dumps({" ".join(key): values for key, values in found.items()}))
    if peer:
        peer.close()


if __name__ == "__main__":
    main()
