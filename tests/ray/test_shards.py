"""Several actors as one replay: probabilities over all of them, keys, limits, and what is read of each."""

import math
from typing import Any

import numpy as np
import pytest

from experience.replay import Fields, RateLimited, Replay, Table, rate_limiters, selectors
from experience.replay.on_ray.actor import Standing
from experience.replay.on_ray.shards import by_shard, global_keys, shares
from tests.ray.everywhere import OnRay


def table(sampler: Any = None, size: int = 100, **options: Any) -> Table:
    return Table("t", sampler or selectors.Uniform(), selectors.Fifo(), size, rate_limiters.MinSize(1), **options)


def test_shares_by_hand() -> None:
    assert shares([Standing(3, 6.0, True), Standing(1, 2.0, True)]).tolist() == [0.75, 0.25]
    assert shares([Standing(3, None, True), Standing(1, None, True)]).tolist() == [0.75, 0.25]
    assert shares([Standing(3, 0.0, True), Standing(1, 2.0, True)]).tolist() == [0.0, 1.0]
    assert shares([Standing(3, 0.0, True), Standing(1, 0.0, True)]).tolist() == [0.75, 0.25]  # as in one table
    assert shares([Standing(3, 6.0, False), Standing(1, 2.0, True)]).tolist() == [0.0, 1.0]
    assert not shares([Standing(0, None, False), Standing(0, None, False)]).any()
    assert shares([Standing(1, 1e290, True)] * 4).tolist() == [0.25] * 4


def test_keys_name_their_shard() -> None:
    keys = np.array([0, 5, (1 << 40) + 3])
    everyone = np.concatenate([global_keys(keys, shard, 3) for shard in range(3)])
    assert len(set(everyone.tolist())) == 9
    for shard, (which, own) in enumerate(by_shard(everyone, 3)):
        assert which.tolist() == [3 * shard, 3 * shard + 1, 3 * shard + 2] and own.tolist() == keys.tolist()


@pytest.mark.parametrize("least_row_bytes", [1, 1 << 20])
def test_the_probability_is_over_all_shards(new: OnRay, least_row_bytes: int) -> None:
    """Items 0..11 of priority 0..11 over three shards: 66 in all, of which item i has i."""
    replay = new([table(selectors.Prioritized(1.0))], shards=3, least_row_bytes=least_row_bytes)
    for start in range(0, 12, 2):
        replay.insert_many(np.arange(start, start + 2), {"t": np.arange(start, start + 2)})
    counts = np.zeros(12)
    for _ in range(10):
        batch = replay.sample("t", 2000)
        assert np.allclose(batch.info.probability, batch.data / 66, rtol=1e-12)
        assert set(batch.info.table_size.tolist()) == {12}
        counts += np.bincount(batch.data, minlength=12)
    expected = 20_000 * np.arange(12) / 66
    assert counts[0] == 0
    statistic = ((counts - expected)[1:] ** 2 / expected[1:]).sum()
    assert statistic < 29.6  # chi-square of 10 degrees of freedom: p = 0.001
    shard = batch.info.key % 3
    assert np.mean(shard[1:] != shard[:-1]) > 0 and len(set(shard.tolist())) == 3  # mixed, not one after another


def test_a_key_reaches_its_item(new: OnRay) -> None:
    replay = new([table(selectors.Prioritized(1.0))], shards=2)
    keys = [replay.insert({"x": number, "text": "Ä" * number}, {"t": 1.0})["t"] for number in range(6)]
    assert len(set(keys)) == 6 and replay.info()["t"][:6] == ("t", 6, 200, 6, 0, 0)
    assert replay.update_priorities("t", keys, [0, 0, 0, 0, 5, 0]) == 6
    assert {(item.info.key, item.data["x"].item(), item.data["text"]) for item in replay.sample("t", 9)} == {
        (keys[4], 4, "ÄÄÄÄ")
    }
    assert replay.delete("t", [keys[4], keys[0], keys[0]]) == 2 and replay.info()["t"].size == 4
    replay.reset("t")
    assert replay.info()["t"].size == 0


def test_a_queue_of_two_shards_gives_each_item_once(new: OnRay) -> None:
    replay = new([Table.queue("q", 4)], shards=2)
    for number in range(8):
        replay.insert(number, {"q": 1}, timeout=5)
    with pytest.raises(RateLimited, match="1 more samples free it"):
        replay.insert(8, {"q": 1}, timeout=0.01)
    assert sorted(replay.sample("q", 100, timeout=0.3).data.tolist()) == list(range(8))
    with pytest.raises(RateLimited, match=r"sample was blocked for 0\.\d+ s; shard 0: the table holds 0 .*shard 1:"):
        replay.sample("q", timeout=0.05)


def test_a_writer_stays_with_its_shard(new: OnRay) -> None:
    replay = new([Table.queue("q", 100)], shards=2)
    for _ in range(2):
        with replay.trajectory_writer(2) as writer:
            for number in range(4):
                writer.append({"x": number})
                if number:
                    writer.create_item("q", 1, writer.history["x"][-2:])
    assert sorted(replay.sample("q", 6).data.tolist()) == sorted([[0, 1], [1, 2], [2, 3]] * 2)


def test_a_folder_of_shards(new: OnRay, tmp_path: Any) -> None:
    replay = new([table()], shards=2, folder=tmp_path, name="shards of a folder")
    replay.insert_many(np.arange(5), {"t": np.ones(5)})
    replay.insert_many(np.arange(5, 9), {"t": np.ones(4)})
    replay.checkpoint()
    replay.insert(9, {"t": 1})
    replay.sync()
    replay.close()
    with pytest.raises(ValueError, match="holds a replay of 2 shards; got shards=1; give as many"):
        new([table()], folder=tmp_path)
    again = new([table()], shards=2, folder=tmp_path)
    assert set(again.sample("t", 300).data.tolist()) == set(range(10))
    assert math.isclose(again.sample("t").info.probability[0], 0.1)


def test_one_shard_is_the_least() -> None:
    with pytest.raises(ValueError, match="got shards=0; expected 1 or more"):
        Replay.on_ray(None, [table()], shards=0)


def test_fields_of_all_shards_and_no_groups(new: OnRay) -> None:
    replay = new([Table.queue("q", 9, max_age=1)], shards=2)
    for version in (3, 3, 4, 4):
        replay.insert(version, {"q": 1}, fields=Fields(version, tokens=10))
    info = replay.info()["q"]
    assert (info.counts, info.policy_version, info.tokens, info.size) == ("items", 4, 40, 4)
    assert replay.set_policy_version("q", 5) == 2 and replay.info()["q"].stale == 2
    assert replay.sample("q", 9, timeout=0).info.staleness.tolist() == [1, 1]
    with pytest.raises(
        ValueError, match=r"'g': the items of a group lie in one actor; give shards=1, or no group_size"
    ):
        new([Table.queue("g", 9, group_size=2)], shards=2)
