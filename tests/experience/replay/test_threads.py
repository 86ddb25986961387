"""Many threads at once: the limiter's bounds hold at every operation, and no item is lost or doubled."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from experience.replay import Extension, RateLimited, Replay, Table, rate_limiters, selectors
from experience.replay.tables.state import TableState

CLIENTS = int(os.environ.get("REPLAY_THREADS", "24"))
SECONDS = float(os.environ.get("REPLAY_SECONDS", "1"))


def at_once(clients: int, work: Callable[[int], None]) -> None:
    """Run a function in threads; a thread that does not end, or fails, fails the test."""
    faults: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SECONDS + 30
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    assert not faults, faults[0]
    assert not any(thread.is_alive() for thread in threads), "a call waits for ever"


@pytest.mark.parametrize("max_times_sampled", [0, 3])
def test_the_bounds_hold_at_every_operation(max_times_sampled: int) -> None:
    limiter = rate_limiters.SampleToInsertRatio(2.0, 20, 10)
    wrong: list[str] = []

    def check(state: TableState, keys: object) -> None:
        seen = state.limiter
        if seen.size != len(state) or len(state) > 50:
            wrong.append(f"{seen.size} counted, {len(state)} there")
        above = seen.difference > limiter.max_diff and seen.size > limiter.min_size_to_sample
        if seen.inserts > 20 and (seen.difference < limiter.min_diff or above):
            wrong.append(f"difference {seen.difference}")

    table = Table("t", selectors.Prioritized(0.6), selectors.Fifo(), 50, limiter, max_times_sampled)
    table = Table(**{**vars(table), "extensions": [Extension(on_insert=check, on_sample=check)]})
    replay, end = Replay([table]), time.monotonic() + SECONDS
    inserted, sampled = Counter[int](), Counter[int]()

    def client(number: int) -> None:
        random = np.random.default_rng(number)
        while time.monotonic() < end:
            try:
                what = random.random()
                if number % 2:
                    count = 1 + int(random.integers(5))
                    batch = replay.sample("t", count, timeout=0.05)
                    sampled[number] += len(batch)
                    assert (batch.data[:, 0] == batch.data[:, -1]).all()
                elif what < 0.8:
                    replay.insert(np.full(20, random.random()), {"t": random.random()}, timeout=0.05)
                    inserted[number] += 1
                elif what < 0.95:
                    count = 1 + int(random.integers(4))
                    replay.insert_many(np.full((count, 20), what), {"t": np.ones(count)}, timeout=10)
                    inserted[number] += count
                else:
                    info = replay.info()["t"]
                    replay.update_priorities("t", np.arange(info.size), np.ones(info.size))
            except RateLimited:
                pass

    at_once(CLIENTS, client)
    info = replay.info()["t"]
    assert not wrong, wrong[:3]
    assert info.samples == sum(sampled.values()) > 0
    assert info.inserts >= sum(inserted.values()) > 0 and info.insert_waits.waiting == info.sample_waits.waiting == 0


def test_a_queue_hands_out_every_item_once() -> None:
    count, consumers = max(9_600, 20 * CLIENTS), 8
    replay = Replay([Table.queue("q", 37)])
    heard: list[list[int]] = [[] for _ in range(consumers)]

    def client(number: int) -> None:
        if number >= consumers:
            for item in range(number - consumers, count, CLIENTS):
                replay.insert(item, {"q": 1})
            return
        while True:
            try:
                heard[number] += replay.sample("q", 1 + number % 3, timeout=1).data.tolist()
            except RateLimited:
                return

    at_once(CLIENTS + consumers, client)
    assert sorted(item for one in heard for item in one) == list(range(count))
    for one in heard:  # what one writer inserted comes in its order
        for writer in range(CLIENTS):
            mine = [item for item in one if item % CLIENTS == writer]
            assert mine == sorted(mine)
    assert replay.num_bytes == 0
