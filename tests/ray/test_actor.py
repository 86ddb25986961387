"""What only an actor can do: die and come back, be found by its name, and answer with several batches."""

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import ray.util

from experience.replay import Replay, Table, Unavailable, rate_limiters, selectors
from tests.ray.everywhere import OnRay


def test_the_actor_s_death_loses_nothing_acknowledged(new: OnRay, tmp_path: Path) -> None:
    replay = new([Table.queue("q", 1000)], folder=tmp_path)

    def inserts() -> int:
        for _ in range(400):
            try:
                return int(replay.info()["q"].inserts)
            except Unavailable:
                time.sleep(0.05)
        raise AssertionError("the actor does not come back")

    done = 0
    for kills in range(5):
        if kills:
            ray.kill(replay._actors[0].handle, no_restart=False)
        for _ in range(20):
            while inserts() == done:  # one that was under way is looked for, and done again if it is not there
                with suppress(Unavailable):
                    replay.insert(done, {"q": 1})
            done += 1
            assert inserts() == done
    assert inserts() == done == 100
    assert replay.sample("q", done).data.tolist() == list(range(done))


def test_who_asks_for_a_name_gets_the_same_replay(new: OnRay) -> None:
    replay = new([Table.queue("q", 5)], seed=1)
    replay.insert(3, {"q": 1})
    name = ray.util.list_named_actors(all_namespaces=True)[0]["name"]
    assert Replay.on_ray(None, [Table.queue("r", 5)], name=name).sample("q").data.tolist() == [3]


def counted_calls(replay: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of `sample`, as they are begun: batches asked for beside the first."""
    calls, begin = list[int](), replay._begin_sample

    def counting(*arguments: Any) -> Any:
        calls.append(arguments[-1])
        return begin(*arguments)

    monkeypatch.setattr(replay, "_begin_sample", counting)
    return calls


def test_a_call_brings_as_many_batches_as_the_limiter_lets_through(new: OnRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten inserts free twenty samples: six batches of three, and two of the seventh in time."""
    limiter = rate_limiters.RateLimiter(2.0, 1, 0.0, math.inf)
    replay = new([Table("t", selectors.Uniform(), selectors.Fifo(), 100, limiter)], least_row_bytes=1 << 20)
    keys = replay.insert_many(np.arange(10), {"t": np.ones(10)})["t"]
    calls = counted_calls(replay, monkeypatch)
    found = list(replay.batches("t", 3, timeout=0.3))
    assert sorted(map(len, found)) in ([2, *[3] * 6], [1, 1, *[3] * 6]) and replay.info()["t"].samples == 20
    assert all((keys[batch.data] == batch.info.key).all() for batch in found)
    assert calls[:2] == [3, 3] and len(calls) < 7
    found[0].data[:] = -1  # its own memory
    assert min(batch.data.min() for batch in found[1:]) >= 0


@pytest.mark.parametrize("in_flight", [1, 2, 8])
def test_no_more_is_asked_for_than_may_be(new: OnRay, in_flight: int) -> None:
    replay = new([Table("t", selectors.Uniform(), selectors.Fifo(), 9, rate_limiters.MinSize(1))])
    replay.insert(7, {"t": 1})
    batches = replay.batches("t", 2, in_flight=in_flight)
    for number in range(10):
        assert next(batches).data.tolist() == [7, 7]
        assert 2 * (number + 1) <= replay.info()["t"].samples <= 2 * (number + 1 + in_flight)


def test_batches_of_many_structures_come_together(new: OnRay) -> None:
    replay = new([Table("u", selectors.Uniform(), selectors.Fifo(), 99, rate_limiters.MinSize(1))])
    keys = {replay.insert({"xy"[number % 2]: number}, {"u": 1})["u"]: number for number in range(20)}
    for _, batch in zip(range(40), replay.batches("u", 1), strict=False):
        ((info, data),) = batch
        assert data == {"xy"[keys[info.key] % 2]: keys[info.key]}


def test_queues_and_groups_give_one_batch_a_call(new: OnRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of a queue may make the next wait, and so may not bring it along."""
    replay = new([Table.queue("q", 40)])
    replay.insert_many(np.arange(40), {"q": np.ones(40)})
    calls = counted_calls(replay, monkeypatch)
    found = [batch.data.tolist() for batch in replay.batches("q", 5, timeout=0.2)]
    assert sorted(sum(found, [])) == list(range(40)) and {len(one) for one in found} == {5}
    assert len(calls) >= 8
