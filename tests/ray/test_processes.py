"""Many processes at once: bounds that hold at every operation, items that are there once, and kills at random points.

Short; `make test-ray LONG=1` sets REPLAY_CLIENTS, REPLAY_SECONDS and REPLAY_KILLS. A kill takes as long as Python and
Ray take to start, seconds on a busy machine: REPLAY_KILLS may be had in parts of different REPLAY_SEED.
"""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from experience.replay import Expired, Extension, RateLimited, Table, Unavailable, rate_limiters, selectors
from tests.ray.everywhere import OnRay, pid_of

CLIENTS = int(os.environ.get("REPLAY_CLIENTS", "4"))
SECONDS = float(os.environ.get("REPLAY_SECONDS", "2"))
KILLS = int(os.environ.get("REPLAY_KILLS", "6"))
SEED = int(os.environ.get("REPLAY_SEED", "0"))


@ray.remote(num_cpus=0)
def change(replay: Any, number: int) -> tuple[int, int]:
    """Insert or sample for SECONDS; return how many of each were done."""
    chosen, inserted, sampled, end = np.random.default_rng(number), 0, 0, time.time() + SECONDS
    while time.time() < end:
        try:
            count = 1 + int(chosen.integers(4))
            if number % 2:
                batch = replay.sample("t", count, timeout=0.2)
                sampled += len(batch)
                assert (batch.data[:, 0] == batch.data[:, -1]).all()
                replay.update_priorities("t", batch.info.key, chosen.random(len(batch)))
            else:
                data = np.repeat(chosen.random((count, 1)), 20, axis=1)
                inserted += len(replay.insert_many(data, {"t": np.ones(count)}, timeout=5)["t"])
        except RateLimited:
            pass
    return inserted, sampled


@pytest.mark.parametrize("max_times_sampled", [0, 3])
def test_the_bounds_hold_at_every_operation(new: OnRay, tmp_path: Path, max_times_sampled: int) -> None:
    limiter = rate_limiters.SampleToInsertRatio(2.0, 20, 10)

    def check(state: Any, keys: Any) -> None:
        seen = state.limiter
        above = seen.difference > limiter.max_diff and seen.size > limiter.min_size_to_sample
        fits = seen.size == len(state) <= 50
        holds = seen.inserts <= 20 or (seen.difference >= limiter.min_diff and not above)
        with (tmp_path / ("right" if fits and holds else "wrong")).open("ab") as file:
            file.write(b"." * len(keys))

    told = [Extension(on_insert=check, on_sample=check)]
    table = Table("t", selectors.Prioritized(0.6), selectors.Fifo(), 50, limiter, max_times_sampled, told)
    replay = new([table])
    done = ray.get([change.remote(replay, number) for number in range(CLIENTS)])
    inserted, sampled = (sum(one) for one in zip(*done, strict=True))
    info = replay.info()["t"]
    assert not (tmp_path / "wrong").exists()
    assert (tmp_path / "right").stat().st_size == info.inserts + info.samples
    assert info.samples == sampled and info.inserts >= inserted > 20
    assert info.insert_waits.waiting == info.sample_waits.waiting == 0


@ray.remote(num_cpus=0)
def put(replay: Any, number: int) -> int:
    """Insert numbers for SECONDS; return how many."""
    count, end = 0, time.time() + SECONDS
    while time.time() < end:
        replay.insert(10**6 * number + count, {"q": 1})
        count += 1
    return count


@ray.remote(num_cpus=0)
def get(replay: Any, stop: Path) -> list[int]:
    """Sample until nothing comes any more."""
    found: list[int] = []
    while True:
        ended = stop.exists()
        try:
            found += replay.sample("q", 3, timeout=0.3).data.tolist()
        except RateLimited:
            if ended:
                return found


def test_no_item_is_lost_or_doubled(new: OnRay, tmp_path: Path) -> None:
    replay = new([Table.queue("q", 50)])
    samplers = [get.remote(replay, tmp_path / "stop") for _ in range(CLIENTS // 2)]
    counts = ray.get([put.remote(replay, number) for number in range(CLIENTS // 2)])
    (tmp_path / "stop").touch()
    found = sorted(item for one in ray.get(samplers) for item in one)
    assert found == [10**6 * number + item for number, count in enumerate(counts) for item in range(count)]
    assert len(found) > CLIENTS


@ray.remote(num_cpus=0)
class Inserter:
    """A process that inserts, or writes, and writes down what was acknowledged, and is killed."""

    def pid(self) -> int:
        return os.getpid()

    def run(self, replay: Any, number: int, folder: Path) -> None:
        said = os.open(folder / f"said-{number}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        give = write if number % 2 else insert
        for item in range(10**6):
            if (folder / "stop").exists():
                return
            names = [10**6 * number + 3 * item + place for place in range(3 if item % 3 else 1)]
            try:
                give(replay, names)
            except (Unavailable, Expired):
                time.sleep(0.05)  # whether it was done is not known: the next
                continue
            os.write(said, "".join(f"{name}\n" for name in names).encode())


def insert(replay: Any, names: list[int]) -> None:
    if len(names) == 1:
        replay.insert(data(names[0]), {"q": 1})
    else:
        whole = {"n": np.array(names), "x": np.stack([data(name)["x"] for name in names])}
        replay.insert_many(whole, {"q": np.ones(len(names))})


def write(replay: Any, names: list[int]) -> None:
    with replay.trajectory_writer(1) as writer:
        for name in names:
            writer.append(data(name))
            writer.create_item("q", 1, {key: writer.history[key][-1] for key in ("n", "x")})


def data(name: int) -> dict[str, Any]:
    return {"n": np.int64(name), "x": np.full(1 << 12, name)}


def test_kills_at_random_points(new: OnRay, tmp_path: Path) -> None:
    """Of the actor, of clients and writers, by SIGKILL; what was acknowledged is there, once and whole.

    The queue is emptied now and then: the start of an actor with all items of the run would take the longest.
    """
    chosen = random.Random(SEED)
    table = Table.queue("q", 10**6)
    replay = new([table], folder=tmp_path / "replay", sync=True, least_row_bytes=1 << 14)
    inserters: list[Any] = []
    alive: list[tuple[int, Any]] = []

    def begin() -> None:
        inserters.append(Inserter.remote())
        pid = ray.get(inserters[-1].pid.remote())
        alive.append((pid, inserters[-1].run.remote(replay, len(inserters), tmp_path)))

    for _ in range(3):
        begin()
    killed, found = Counter[str](), Counter[int]()
    for kill in range(KILLS):
        victim = "client" if kill % 3 == 2 else "actor"
        pid = alive.pop(0)[0] if victim == "client" else pid_of(replay)
        time.sleep(chosen.random() * 0.5)
        if kill % 6 == 1:  # amid or after a checkpoint
            replay._actors[0].begin("call", "checkpoint", ())
            time.sleep(chosen.random() * 0.05)
        os.kill(pid, signal.SIGKILL)
        killed[victim] += 1
        if victim == "client":
            begin()
        if kill % 10 == 9:
            pid_of(replay)  # it is back
            found += held(replay)
    (tmp_path / "stop").touch()
    ray.get([run for _, run in alive])
    pid_of(replay)
    found += held(replay)
    said = [int(line) for path in tmp_path.glob("said-*") for line in path.read_text().splitlines()]
    assert killed["actor"] and killed["client"] and len(said) > KILLS
    assert not set(said) - set(found), "what was acknowledged is lost"
    assert set(found.values()) == {1}, "an item is there twice"


def held(replay: Any) -> Counter[int]:
    """Sample what the queue holds now."""
    found, missing = Counter[int](), replay.info()["q"].size
    while missing:
        batch = replay.sample("q", min(missing, 500))
        assert (batch.data["x"] == batch.data["n"][:, None]).all()
        found.update(batch.data["n"].tolist())
        missing -= len(batch)
    return found
