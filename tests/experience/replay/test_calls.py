"""The calls of a replay, here and on Ray alike: `make test-ray` runs this file too, and others of this folder."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experience.replay import (
    Expired,
    Fields,
    Pattern,
    RateLimited,
    Replay,
    SignatureMismatch,
    Table,
    rate_limiters,
    selectors,
)
from experience.transformations.trees import ArraySpec

New = Callable[..., Any]


@pytest.fixture
def new() -> Iterator[New]:
    """Makes replays, and closes them."""
    made = []

    def make(tables: list[Table], **options: Any) -> Any:
        made.append(Replay(tables, **options))
        return made[-1]

    yield make
    for replay in made:
        replay.close()


def uniform(name: str = "t", max_size: int = 1000, **options: Any) -> Table:
    limiter = options.pop("rate_limiter", rate_limiters.MinSize(1))
    return Table(name, selectors.Uniform(), selectors.Fifo(), max_size, limiter, **options)


def test_inserts_samples_updates_deletes(new: New) -> None:
    replay = new(
        [Table("t", selectors.Prioritized(1.0), selectors.Fifo(), 100, rate_limiters.MinSize(1)), uniform("u")]
    )
    key = replay.insert({"x": np.arange(3), "n": 7}, {"t": 1.0, "u": 1.0})["t"]
    keys = replay.insert_many({"x": np.zeros((4, 3), np.int64), "n": np.arange(4)}, {"t": np.zeros(4)})["t"]
    batch = replay.sample("t", 20)
    assert batch.data["n"].tolist() == [7] * 20 and batch.data["x"].shape == (20, 3)
    assert set(batch.info.key.tolist()) == {key} and batch.info.probability.tolist() == [1.0] * 20
    assert replay.update_priorities("t", [key, *keys], [0, 0, 0, 0, 3]) == 5
    assert replay.sample("t")[0].data["n"] == 3 and replay.delete("t", [keys[3], keys[3]]) == 1
    assert replay.info()["t"][1:6] == (4, 100, 5, 21, 1) and replay.info()["u"].size == 1
    replay.reset("t")
    assert replay.info()["t"].inserts == 0 and not replay.can_sample("t") and replay.can_insert("t", 5)


def test_faults_have_their_names(new: New) -> None:
    replay = new([Table.queue("q", 2, signature={"x": ArraySpec((2,), np.dtype("f8"))})])
    with pytest.raises(SignatureMismatch, match=r"x: expected float64 of shape \(2,\), got float32"):
        replay.insert({"x": np.zeros(2, "f4")}, {"q": 1})
    with pytest.raises(ValueError, match="priority nan"):
        replay.insert({"x": np.zeros(2)}, {"q": float("nan")})
    with pytest.raises(ValueError, match="got the table 'r'; expected one of q"):
        replay.sample("r")
    with pytest.raises(RateLimited, match="holds 0 items, min_size_to_sample is 1; .*1 more inserts free it"):
        replay.sample("q", 3, timeout=0.01)
    assert replay.info()["q"].inserts == 0


def test_blocked_calls_go_on(new: New) -> None:
    replay = new([Table.queue("q", 3)])
    threads = [threading.Thread(target=replay.insert, args=(number, {"q": 1})) for number in range(8)]
    for thread in threads:
        thread.start()
    while replay.info()["q"].insert_waits.waiting < 5:
        time.sleep(0.01)
    assert sorted(replay.sample("q", 8).data.tolist()) == list(range(8))
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_writers(new: New) -> None:
    replay = new([Table.queue("q", 1000), Table.queue("p", 1000)])
    with replay.trajectory_writer(3) as writer:
        for number in range(250):
            writer.append({"x": np.full(4, number), "r": float(number)})
            if number >= 2:
                writer.create_item("q", 1.0, {"x": writer.history["x"][-3:], "r": writer.history["r"][-1]})
    data = replay.sample("q", 248).data
    assert data["r"].tolist() == list(range(2, 250)) and data["x"][:, 0, 0].tolist() == list(range(248))
    with pytest.raises(Expired, match="kept no more"), replay.trajectory_writer(1) as writer:
        writer.append({"x": 1})
        writer.append({"x": 2})
        writer.create_item("q", 1.0, writer.history["x"][:])
    with replay.structured_writer([Pattern("p", lambda step: {"pair": step["x"][-2:]})]) as writer:
        for number in range(5):
            writer.append({"x": number})
        writer.end_episode()
    assert replay.sample("p", 4).data["pair"].tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_items_know_their_fields(new: New) -> None:
    replay = new([uniform(max_age=2)])
    replay.insert(1.0, {"t": 1}, fields=Fields(3))
    replay.insert_many(np.arange(2.0, 4.0), {"t": [1, 1]}, fields=[Fields(5, tokens=7), Fields(5, tokens=8)])
    with replay.trajectory_writer(1) as writer:
        writer.append(4.0)
        writer.create_item("t", 1.0, writer.history[-1], Fields(4, tokens=9))
    assert replay.info()["t"].tokens == 24 and replay.set_policy_version("t", 6) == 1
    info = replay.sample("t", 200).info
    assert set(zip(info.tokens.tolist(), info.staleness.tolist(), strict=True)) == {(7, 1), (8, 1), (9, 2)}


def test_batches_come_until_there_are_none(new: New) -> None:
    replay = new([Table.queue("q", 100)])
    replay.insert_many(np.arange(17), {"q": np.ones(17)})
    found = [batch.data.tolist() for batch in replay.batches("q", 5, timeout=0.2)]
    assert sorted(item for one in found for item in one) == list(range(17)) and len(found) >= 4


def test_a_folder_brings_it_back(new: New, tmp_path: Path) -> None:
    replay = new([uniform()], folder=tmp_path)
    replay.insert_many(np.arange(10), {"t": np.ones(10)})
    replay.checkpoint()
    replay.insert(10, {"t": 1})
    replay.sync()
    expected = replay.sample("t", 50).data.tolist()
    replay.close()
    again = Replay([uniform()], folder=tmp_path)
    assert again.info()["t"][3:5] == (11, 50) and len(set(expected)) > 5


def test_fields_groups_and_ages(new: New) -> None:
    replay = new(
        [uniform(group_size=2, max_age=1, rate_limiter=rate_limiters.MinSize(9, "tokens")), Table.queue("q", 9)]
    )
    each = [Fields(version, group, tokens=5) for version, group in ((3, "a"), (3, "b"), (4, "a"))]
    replay.insert_many(np.arange(3), {"t": np.ones(3)}, fields=each)
    batch = replay.sample("t", 3)
    assert batch.data.tolist() == [0, 2] * 3 and batch.info.staleness.tolist() == [1, 0] * 3
    assert batch.info.group.tolist() == ["a"] * 6 and set(batch.info.tokens.tolist()) == {5}
    info = replay.info()["t"]
    assert (info.counts, info.inserts, info.samples, info.groups, info.incomplete) == ("tokens", 10, 30, 1, 1)
    replay.insert(3, {"t": 1}, fields=Fields(4, "b", tokens=7))
    assert replay.set_policy_version("t", 6) == 4 and replay.info()["t"].stale == 4
    with replay.trajectory_writer(1) as writer:
        writer.append({"x": 1})
        writer.create_item("q", 1.0, writer.history["x"][-1], Fields(2, "w", 3))
    assert replay.sample("q").info[6:] == (2, 0, 3, "w")
    with pytest.raises(ValueError, match=r"in groups of 2; expected group=... in fields=Fields\(...\), got Fields"):
        replay.insert(3, {"t": 1}, fields=Fields(tokens=3))
