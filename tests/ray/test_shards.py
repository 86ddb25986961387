"""Several actors as one replay: probabilities over all of them, keys, limits, and what is read of each."""

import math
from typing import Any

import numpy as np
import pytest

from experience.replay import Fields, RateLimited, Replay, Table, rate_limiters, selectors
from experience.replay.on_ray.actor import Standing
from experience.replay.on_ray.shards import by_shard, global_keys, shard_of, shares
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


def test_a_group_s_shard_is_the_same_from_every_process() -> None:
    """CRC-32 of a, b and c: e8b7be43, 71beeff9, 06b9df6f."""
    assert [shard_of(Fields(group=name), 4, 9) for name in "abc"] == [3, 1, 3]
    assert shard_of(Fields(), 4, 9) == shard_of(None, 4, 9) == 9


def test_one_shard_is_the_least() -> None:
    with pytest.raises(ValueError, match="got shards=0; expected 1 or more"):
        Replay.on_ray(None, [table()], shards=0)


def test_fields_of_all_shards(new: OnRay) -> None:
    replay = new([Table.queue("q", 9, max_age=1)], shards=2)
    for version in (3, 3, 4, 4):
        replay.insert(version, {"q": 1}, fields=Fields(version, tokens=10))
    info = replay.info()["q"]
    assert (info.counts, info.policy_version, info.tokens, info.size) == ("items", 4, 40, 4)
    assert replay.set_policy_version("q", 5) == 2 and replay.info()["q"].stale == 2
    assert replay.sample("q", 9, timeout=0).info.staleness.tolist() == [1, 1]


@pytest.mark.parametrize("least_row_bytes", [1, 1 << 20])
def test_groups_lie_in_one_shard_each_and_come_whole(new: OnRay, least_row_bytes: int) -> None:
    """Twelve groups of three, of priority 0 to 11, their items inserted mixed: one by one, and in calls of many."""
    grouped = table(selectors.Prioritized(1.0), group_size=3)
    replay = new([grouped], shards=3, least_row_bytes=least_row_bytes)
    names = np.arange(36) % 12
    fields = [Fields(group=f"prompt {name}", tokens=place) for place, name in enumerate(names.tolist())]
    keys = np.zeros(36, np.int64)
    for place in range(10):
        keys[place] = replay.insert(place, {"t": names[place]}, fields=fields[place])["t"]
    keys[10:] = replay.insert_many(np.arange(10, 36), {"t": names[10:]}, fields=fields[10:])["t"]
    info = replay.info()["t"]
    assert (info.size, info.groups, info.incomplete) == (36, 12, 0)
    assert len({tuple(keys[names == name] % 3) for name in range(12)}) == 3  # all shards, each group in one
    counts = np.zeros(12)
    for _ in range(5):
        batch = replay.sample("t", 1000)
        places = batch.data.reshape(-1, 3)
        assert (places == places[:, :1] + [0, 12, 24]).all() and (keys[batch.data] == batch.info.key).all()
        assert batch.info.tokens.tolist() == batch.data.tolist() and set(batch.info.table_size.tolist()) == {12}
        assert np.allclose(batch.info.probability, names[batch.data] / 66, rtol=1e-12)
        counts += np.bincount(names[places[:, 0]], minlength=12)
    expected = 5000 * np.arange(12) / 66
    assert counts[0] == 0 and ((counts - expected)[1:] ** 2 / expected[1:]).sum() < 29.6  # 10 degrees, p = 0.001
    assert replay.delete("t", keys[names == 5][:1]) == 3 and replay.info()["t"].groups == 11


def test_a_queue_of_groups_over_shards_gives_each_once(new: OnRay) -> None:
    replay = new([Table.queue("q", 100, group_size=2)], shards=2)
    fields = [Fields(group=f"g{number % 10}") for number in range(21)]
    replay.insert_many({"x": np.arange(21), "y": np.ones((21, 2))}, {"q": np.ones(21)}, fields=fields)
    batch = replay.sample("q", 50, timeout=0.3)
    pairs = batch.data["x"].reshape(-1, 2)
    assert sorted(pairs.tolist()) == [[number, number + 10] for number in range(10)]
    with pytest.raises(RateLimited, match="1 items are not counted: their groups are not complete"):
        replay.sample("q", timeout=0.05)


def test_what_cannot_go_to_its_shard_is_refused(new: OnRay) -> None:
    replay = new([Table.queue("q", 100, group_size=2)], shards=2)
    with pytest.raises(ValueError, match=r"'q': a writer stays with one shard.*use insert or insert_many, or shards=1"):
        replay.trajectory_writer(1)
    fields = [Fields(group=f"g{number}") for number in range(9)]
    for data, priorities in ((np.arange(8), np.ones(9)), (np.arange(9), np.ones(8)), (7, np.ones(9))):
        with pytest.raises(ValueError, match="got 9 fields; expected as many steps, stacked, and as many priorities"):
            replay.insert_many(data, {"q": priorities}, fields=fields)
    assert replay.info()["q"].size == 0
