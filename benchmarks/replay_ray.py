"""A replay on Ray beside dm-reverb: inserts and samples a second of eight client processes.

    PYTHON_WITH_RAY -m benchmarks.replay_ray --peer PYTHON_WITH_REVERB

Items of float32, random, which no compression makes smaller: 1 KB, 64 KB, 1 MB, in tables of 20,000, 4,000 and 400
that are full. Uniform sampler, oldest removed, MinSize(1). Ours inserts groups by `insert_many` and samples stacked
batches; the peer appends to a trajectory writer, and samples by `client.sample` and by a batched `TrajectoryDataset`,
of which the faster counts. Clients of ours have read the table before, as they have in steady use. Both are up all the
time and take turns in every round; a figure is the median of rounds. Beside other programs the clock says little: items
a second of processors' time are of all processes of a side, clients included, and say what a busy machine gets done.
`--journal` measures inserts into a replay with a folder, each call synced, beside a bare loop that writes and syncs as
many bytes a call.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CLIENTS = 8
CALLS = "insert", "client", "dataset"
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


def count_until(begin: float, end: float, calls: Iterator[int]) -> int:
    """Make calls between two times of the clock; return the items that they had."""
    time.sleep(max(0.0, begin - time.time()))
    items = 0
    for many in calls:
        if time.time() >= end:
            break
        items += many
    return items


def rates(begin: float, end: float, others: int, counts: Callable[[], list[int]]) -> list[float]:
    """Items a second of all clients, by the clock, and of the processors' time that this process's tree took.

    Args:
        begin: When they do, by the clock.
        end: When they do.
        others: A child whose tree is not counted.
        counts: Waits for the clients, and returns the items of each.
    """
    time.sleep(max(0.0, begin - time.time()))
    before = processor_seconds(os.getpid(), others)
    time.sleep(max(0.0, end - time.time()))
    spent = processor_seconds(os.getpid(), others) - before
    items = sum(counts())
    return [items / (end - begin), items / max(spent, 0.01)]


def processor_seconds(root: int, others: int) -> float:
    """Of a process and what it started, one child with what that started left out."""
    ticks, children = {}, defaultdict[int, list[int]](list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        ticks[int(path.parent.name)] = int(fields[11]) + int(fields[12])
        children[int(fields[1])].append(int(path.parent.name))
    tree, found = [root], 0
    while tree:
        process = tree.pop()
        found += ticks.get(process, 0)
        tree += [child for child in children[process] if child != others]
    return found / os.sysconf("SC_CLK_TCK")


class Ours:
    """A replay on a local Ray cluster, and clients in tasks of it."""

    def __init__(self, sizes: Sequence[Size], folder: Path | None = None) -> None:
        import ray

        from experience.replay import Replay, Table, rate_limiters, selectors
        from experience.replay.on_ray.client import IN_THE_MESSAGE

        os.environ.setdefault("RAY_worker_niceness", "0")  # it is 15; the peer's processes have 0
        os.environ.setdefault(*IN_THE_MESSAGE)
        ray.init(log_to_driver=False, include_dashboard=False, num_cpus=1, object_store_memory=4 << 30)
        self._ray = ray

        def table(size: Size) -> Table:
            return Table("t", selectors.Uniform(), selectors.Fifo(), size.capacity, rate_limiters.MinSize(1))

        kept = {size.name: {"folder": folder / size.name, "sync": True} if folder else {} for size in sizes}
        self._replays = {
            size.name: Replay.on_ray(None, [table(size)], name=size.name, **kept[size.name]) for size in sizes
        }
        self._clients = [ray.remote(num_cpus=0)(_Client).remote(self._replays) for _ in range(CLIENTS)]
        ray.get([one.measure.remote("none", sizes[0], 0.0, 0.0) for one in self._clients])
        for size in sizes:
            calls = _inserts(self._replays[size.name], size)
            for _ in range(size.capacity // size.group):
                next(calls)

    def measure(self, what: str, name: str, seconds: float, peer: int = 0, clients: int = CLIENTS) -> list[float]:
        """Return items a second, by the clock and of processors; `peer`: its process."""
        if what != "insert":
            self._ray.get([one.measure.remote("warm", SIZES[name], 0.0, 0.0) for one in self._clients])
        begin = time.time() + 2
        begun = [one.measure.remote(what, SIZES[name], begin, begin + seconds) for one in self._clients[:clients]]
        return rates(begin, begin + seconds, peer, lambda: self._ray.get(begun))


class _Client:
    """A client of ours."""

    def __init__(self, replays: dict[str, Any]) -> None:
        self._replays = replays

    def measure(self, what: str, size: Size, begin: float, end: float) -> int:
        """Return how many items went through between two times."""
        if what == "none":
            return 0
        if what == "warm":  # so many draws leave 5 % of the groups unseen
            return sum(1 for _ in islice(_samples(self._replays[size.name], size), 3 * size.capacity // size.group))
        calls = (_inserts if what == "insert" else _samples)(self._replays[size.name], size)
        next(calls)
        return count_until(begin, end, calls)


def _inserts(replay: Any, size: Size) -> Iterator[int]:
    data = np.random.default_rng(os.getpid()).random((size.group, size.floats), np.float32)
    priorities = np.ones(size.group)
    while True:
        replay.insert_many({"x": data}, {"t": priorities})
        yield size.group


def _samples(replay: Any, size: Size) -> Iterator[int]:
    for batch in replay.batches("t", size.group):
        yield len(batch.data["x"])


class Peer:
    """dm-reverb, a process for the server and one a client, told line by line what to measure."""

    def __init__(self, python: str, sizes: Sequence[Size]) -> None:
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [python, str(Path(__file__)), "--serve", "--sizes", *(size.name for size in sizes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._ask("ready")

    @property
    def process(self) -> int:
        """Of the server, and of what it started."""
        return self._process.pid

    def measure(self, what: str, name: str, seconds: float) -> list[float]:
        """Return items a second, by the clock and of processors."""
        return self._ask(f"{what} {name} {seconds}")

    def close(self) -> None:
        """End it."""
        self._process.communicate("\n", timeout=60)

    def _ask(self, line: str) -> list[float]:
        assert self._process.stdin and self._process.stdout
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the peer ended at {line!r}")
        return list(map(float, answer.split()))


def serve(sizes: Sequence[Size]) -> None:
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
    for size in sizes:
        _tell(pipes, "fill", size.name, 0.1)
    for line in sys.stdin:
        if line.strip() == "ready":
            print(0.0, flush=True)
        elif line.strip():
            what, name, seconds = line.split()
            print(*_tell(pipes, what, name, float(seconds)), flush=True)
        else:
            break


def _tell(pipes: list[Any], what: str, name: str, seconds: float) -> list[float]:
    begin = time.time() + 2
    for pipe in pipes:
        pipe.send((what, name, begin, begin + seconds))
    return rates(begin, begin + seconds, 0, lambda: [pipe.recv() for pipe in pipes])


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
            pipe.send(0)
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


def journal(folder: Path, sizes: Sequence[Size], rounds: int, seconds: float) -> None:
    """Print what inserts get through that are synced in a folder, as shares of a bare loop of the same bytes."""
    ours = Ours(sizes, folder)
    for size in sizes:
        shares: dict[int, list[float]] = {1: [], CLIENTS: []}
        for clients, found in [*shares.items()] * rounds:
            with next((folder / size.name).glob("calls-*")).open("rb") as log:
                log.seek(-size.group * (4 * size.floats + 8), os.SEEK_END)
                call = log.read()
            mine, _ = ours.measure("insert", size.name, seconds, clients=clients)
            found.append(mine / bare(folder / "bare", call, seconds) / size.group)
        for clients, found in shares.items():
            spread = f"{statistics.median(found):.0%} ({min(found):.0%} to {max(found):.0%})"
            print(f"journal {size.name:5} {clients} clients: {spread} of bare writing and syncing")


def bare(path: Path, call: bytes, seconds: float) -> float:
    """Write and sync the bytes of a call, one after another; return how many a second."""
    calls, end = 0, time.time() + seconds
    with path.open("wb", buffering=0) as file:
        while time.time() < end:
            file.write(call)
            os.fsync(file.fileno())
            calls += 1
    return calls / seconds


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default="", help="Python of an environment with dm-reverb; without: not measured.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    parser.add_argument("--calls", nargs="*", default=list(CALLS), help="Of insert, client and dataset (the peer's).")
    parser.add_argument("--journal", action="store_true")
    parser.add_argument("--serve", action="store_true", help="Internal: be the peer.")
    asked = parser.parse_args()
    if asked.serve:
        serve([SIZES[name] for name in asked.sizes])
        return
    sizes = [SIZES[name] for name in asked.sizes]
    if asked.journal:
        with tempfile.TemporaryDirectory() as folder:
            journal(Path(folder), sizes, asked.rounds, asked.seconds)
        return
    ours, peer = Ours(sizes), Peer(asked.peer, sizes) if asked.peer else None
    found: dict[tuple[str, str, str], list[list[float]]] = {}
    for _ in range(asked.rounds):
        for name in asked.sizes:
            for what in asked.calls:
                if what != "dataset":
                    mine = ours.measure(what, name, asked.seconds, peer.process if peer else 0)
                    found.setdefault((name, what, "ours"), []).append(mine)
                if peer:
                    found.setdefault((name, what, "dm-reverb"), []).append(peer.measure(what, name, asked.seconds))
                now = {kind: round(values[-1][0]) for (*of, kind), values in found.items() if of == [name, what]}
                print(name, what, now, file=sys.stderr)
    for (name, what, kind), values in found.items():
        clock, processors = (
            f"{statistics.median(one):>10,.0f} ({min(one):,.0f} to {max(one):,.0f})"
            for one in zip(*values, strict=True)
        )
        print(f"{name:5} {what:8} {kind:10} {clock:32} of a core {processors}")
    print(json.dumps({" ".join(key): values for key, values in found.items()}))
    if peer:
        peer.close()


if __name__ == "__main__":
    main()
