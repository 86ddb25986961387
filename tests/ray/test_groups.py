"""Large data in groups in the object store: who owns it, what is read of it, and when it goes."""

import time
from typing import Any

import numpy as np
import pytest
import ray

from experience.replay import Expired, Table, Unavailable, rate_limiters, selectors
from experience.replay.data.arena import LeafSpec
from experience.replay.on_ray.calls import Groups
from experience.replay.on_ray.groups import GROUP_BYTES, GroupArena
from tests.ray.everywhere import OnRay

ROW = 1 << 17
"""Floats of a row of half a megabyte."""


def fifo(size: int = 100, **options: Any) -> Table:
    return Table("t", selectors.Fifo(), selectors.Fifo(), size, rate_limiters.MinSize(1), **options)


def uniform(size: int) -> Table:
    return Table("t", selectors.Uniform(), selectors.Fifo(), size, rate_limiters.MinSize(1))


def group(first: int, count: int) -> Any:
    return {
        "x": np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], ROW, axis=1),
        "n": np.arange(count),
    }


def arena() -> GroupArena:
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    return GroupArena(None, [LeafSpec(np.dtype(np.float64), (1 << 16,))], {})


def test_rows_are_gathered_to_groups_and_read_back() -> None:
    held = arena()
    rows = [held.put([np.full(1 << 16, number, float)], 1) for number in range(11)]
    assert held.row_bytes * 8 == GROUP_BYTES and held.num_bytes == 11 * held.row_bytes
    first, second = (held.take(0, [row]).numbers[0] for row in (rows[0], rows[8]))
    assert first != second
    assert held.read(0, np.array([rows[9], rows[0], rows[9]]))[:, 5].tolist() == [9, 0, 9]
    assert held.values(rows[10])[0][0] == 10
    held.drop(rows)
    assert held.num_bytes == held.kept_bytes == 0 and not len(held)
    many = held.put_many([np.arange(20.0)[:, None] * np.ones(1 << 16)], 20, 1)
    assert len(np.unique(held.take(0, many).numbers)) == 1  # what comes together lies together
    assert held.read(0, many)[:, 0].tolist() == list(range(20))


def test_the_store_holds_twice_what_is_in_use_at_most() -> None:
    held, chosen = arena(), np.random.default_rng(0)
    values = {held.put([np.full(1 << 16, number, float)], 1): number for number in range(160)}
    for row in chosen.permutation(list(values)).tolist():
        held.drop([row])
        del values[row]
        assert held.kept_bytes <= 2 * (held.num_bytes + GROUP_BYTES) + GROUP_BYTES
        if len(values) % 31 == 0:
            assert held.num_bytes == len(values) * held.row_bytes
            assert [held.read(0, one)[3] for one in values] == list(values.values())
    assert held.kept_bytes == 0


def test_a_batch_of_groups_is_the_caller_s_own(new: OnRay) -> None:
    replay = new([fifo()])
    replay.insert_many(group(0, 9), {"t": np.ones(9)})
    replay.insert({"x": np.full(ROW, 9, np.float32), "n": np.int64(0)}, {"t": 1.0})
    for _ in range(2):
        batch = replay.sample("t", 3)
        assert (
            batch.data["x"].shape == (3, ROW) and (batch.data["x"] == 0).all() and batch.data["n"].tolist() == [0] * 3
        )
        batch.data["x"][:] = 7


def test_a_client_keeps_what_it_has_read_and_lets_go_what_is_gone(new: OnRay) -> None:
    replay = new([uniform(16)])
    for turn in range(4):
        replay.insert_many(group(turn * 8, 8), {"t": np.ones(8)})
        found = set(replay.sample("t", 200).data["x"][:, ROW - 1].tolist())
        assert found == set(range(max(0, turn - 1) * 8, turn * 8 + 8))
        assert len(replay._groups[0].known()) <= 3
    assert len(replay._groups[0].known()) == 2


@ray.remote(num_cpus=0)
class Client:
    """A process that inserts, and can be killed."""

    def insert(self, replay: Any) -> None:
        replay.insert_many(group(0, 8), {"t": np.ones(8)})
        with replay.trajectory_writer(2) as writer:
            for number in range(8, 12):
                writer.append({"x": np.full(ROW, number, np.float32), "n": 0})
                writer.create_item("t", 1.0, {"x": writer.history["x"][-1], "n": writer.history["n"][-1]})


def test_a_client_s_death_takes_nothing_with_it(new: OnRay) -> None:
    """An object of Ray dies with the process that put it: the actor puts them, not the client."""
    replay = new([Table.queue("t", 100)])
    client = Client.remote()
    ray.get(client.insert.remote(replay))
    ray.kill(client)
    with pytest.raises(ray.exceptions.RayActorError):
        for _ in range(100):
            ray.get(client.insert.remote(replay))
            time.sleep(0.05)
    data = replay.sample("t", 12).data
    assert data["x"][:, 0].tolist() == data["x"][:, ROW - 1].tolist() == list(range(12))


def test_the_actor_s_death_brings_groups_back(new: OnRay, tmp_path: Any) -> None:
    replay = new([fifo()], folder=tmp_path)
    replay.insert_many(group(0, 9), {"t": np.ones(9)})
    replay.checkpoint()
    replay.insert_many(group(9, 4), {"t": np.ones(4)})
    known = replay.sample("t").data["x"][0, 0]
    replay.close()
    again = new([fifo()], folder=tmp_path)
    assert known == 0 and again.info()["t"].size == 13
    for number in range(13):
        batch = again.sample("t")
        assert (batch.data["x"] == number).all()
        again.delete("t", batch.info.key)


def test_a_reference_that_has_expired_is_named(new: OnRay) -> None:
    """The actor dies between its answer and the reading of what it refers to."""
    replay = new([fifo()])
    replay.insert_many(group(0, 9), {"t": np.ones(9)})
    known, reference = replay._begin_sample(0, "t", 3, None)
    (sampled,) = ray.get(reference)
    ray.kill(replay._actors[0].handle)
    with pytest.raises(Unavailable):
        while True:
            replay.info()
    end = time.monotonic() + 60
    with pytest.raises(Expired, match="lay in the object store of an actor, or a machine, that has died since"):
        while time.monotonic() < end:  # until Ray has heard of the death everywhere
            Groups().batch(sampled, known)
            time.sleep(0.2)
