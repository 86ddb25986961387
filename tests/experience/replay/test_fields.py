"""Items of language models: what a limiter counts, groups that come together, and the age at which an item goes."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experience.replay import Fields, Pattern, RateLimited, Replay, Table, rate_limiters, selectors


def table(sampler: Any = None, max_size: int = 1000, **options: Any) -> Table:
    limiter = options.pop("rate_limiter", rate_limiters.MinSize(1))
    return Table("t", sampler or selectors.Uniform(), selectors.Fifo(), max_size, limiter, **options)


def inserted(replay: Replay, *fields: Fields, priorities: Any = None) -> list[int]:
    keys: list[int] = replay.insert_many(
        np.arange(len(fields)), {"t": np.ones(len(fields)) if priorities is None else priorities}, fields=fields
    )["t"].tolist()
    return keys


# What a limiter counts


def test_a_queue_of_tokens_takes_items_while_there_is_room_for_one_token() -> None:
    replay = Replay([table(selectors.Fifo(), rate_limiter=rate_limiters.Queue(1000, "tokens"), max_times_sampled=1)])
    for tokens in (600, 399, 5000):
        replay.insert(0, {"t": 1}, timeout=0, fields=Fields(tokens=tokens))
    blocked = (
        r"5999 inserts of tokens and 0 samples of tokens so far: with one insert more, inserts \* 1 - samples is 6000, "
        r"above max_diff 1000; 5000 more samples of tokens free it, or 5999 deletions of tokens"
    )
    with pytest.raises(RateLimited, match=blocked):
        replay.insert(0, {"t": 1}, timeout=0, fields=Fields(tokens=1))
    batch = replay.sample("t", 3, timeout=0)
    assert batch.info.tokens.tolist() == [600, 399, 5000] and replay.info()["t"].samples == 5999
    assert replay.can_insert("t", 1000) and not replay.can_insert("t", 1001)


def test_samples_wait_for_tokens_and_for_episodes() -> None:
    for limiter, few, enough in (
        (rate_limiters.MinSize(10, "tokens"), Fields(tokens=9), Fields(tokens=1)),
        (rate_limiters.MinSize(2, "episodes"), Fields(), Fields(episodes=1)),
    ):
        replay = Replay([table(rate_limiter=limiter)])
        replay.insert(0, {"t": 1}, fields=few)
        with pytest.raises(RateLimited, match=rf"holds \d {limiter.counts}, min_size_to_sample is"):
            replay.sample("t", timeout=0)
        replay.insert(0, {"t": 1}, fields=enough)
        assert len(replay.sample("t", 50, timeout=0)) == 50


def test_a_writer_counts_an_episode_once_in_each_table() -> None:
    limiter = rate_limiters.SampleToInsertRatio(1.0, 2, (0.0, 4.0), "episodes")
    replay = Replay([table(rate_limiter=limiter), Table.queue("q", 100)])
    patterns = [
        Pattern("t", lambda step: step["x"][-1], fields=lambda x: Fields(policy_version=int(x), group="g")),
        Pattern("q", lambda step: step["x"][-2:], fields=Fields(tokens=2)),
    ]
    with replay.structured_writer(patterns) as writer:
        for episode in range(3):
            for step in range(5):
                writer.append({"x": 10 * episode + step})
            assert writer.end_episode(timeout=0)
            assert replay.info()["t"].inserts == episode + 1 and replay.info()["t"].size == 5 * (episode + 1)
    info = replay.sample("t", 30, timeout=0).info
    assert set(info.policy_version.tolist()) <= {10 * e + s for e in range(3) for s in range(5)}
    assert set(info.group) == {"g"} and replay.info()["t"].policy_version == 24
    assert replay.sample("q", 12).info.tokens.tolist() == [2] * 12


# Groups


@pytest.mark.parametrize(
    ("sampler", "weights"),
    [
        (selectors.Uniform(), [1, 1, 1, 1, 1, 1]),
        (selectors.Prioritized(1.0), [1, 2, 3, 0, 5, 6]),
        (selectors.Prioritized(0.5), [1**0.5, 2**0.5, 3**0.5, 0, 5**0.5, 6**0.5]),
    ],
)
def test_whole_groups_come_as_often_as_their_priority_says(sampler: Any, weights: list[float]) -> None:
    """Groups of four whose items came mixed; a fifth item of each, another group, is not complete and never comes."""
    replay = Replay([table(sampler, group_size=4)])
    each = [Fields(group=f"prompt {number % 6}", tokens=number) for number in range(30)]
    priorities = [[6, 2, 3, 0, 5, 1][n % 6] * [0.5, 1.5, 1.0, 1.0, 9.0][n // 6] for n in range(30)]
    keys = inserted(replay, *each, priorities=np.array(priorities, float))
    replay.update_priorities("t", [keys[n] for n in (0, 6, 5, 11)], [0.25, 0.75, 3, 9])
    replay.update_priorities("t", [keys[n] for n in (12, 18, 17, 23)], [1.5, 1.5, 6, 6])
    assert replay.info()["t"][-2:] == (6, 6)
    batch = replay.sample("t", 20_000)
    groups, tokens = batch.info.group.reshape(-1, 4), batch.info.tokens.reshape(-1, 4)
    assert (groups == groups[:, :1]).all() and (tokens - tokens[:, :1] == [0, 6, 12, 18]).all()
    counts = Counter(groups[:, 0].tolist())
    expected = np.array(weights) / sum(weights)
    assert counts.keys() == {f"prompt {n}" for n in range(6) if weights[n]}
    squares = [(counts[f"prompt {n}"] - 20_000 * p) ** 2 / (20_000 * p) for n, p in enumerate(expected) if p]
    assert sum(squares) < {5: 20.5, 4: 18.5}[len(squares) - 1]  # chi-square of so many degrees of freedom: p = 0.001
    told = dict(zip(batch.info.group.tolist(), batch.info.probability.tolist(), strict=True))
    assert told == pytest.approx({f"prompt {n}": expected[n] for n in range(6) if weights[n]})
    assert set(batch.info.table_size) == {6}


def test_groups_in_order_of_completion_and_with_the_highest_priority() -> None:
    order, best = (
        Replay([table(s, group_size=2, max_times_sampled=1)]) for s in (selectors.Fifo(), selectors.MaxHeap())
    )
    for replay in (order, best):
        each = [Fields(group=name) for name in "abcbaadd"]
        inserted(replay, *each, priorities=np.array([1, 8, 9, 2, 1, 9, 3, 3.0]))
        assert replay.info()["t"][-2:] == (3, 2)
    assert order.sample("t", 9, timeout=0).info.group.tolist() == ["b", "b", "a", "a", "d", "d"]
    assert best.sample("t", 2, timeout=0).info.group.tolist() == ["b", "b", "d", "d"]
    with pytest.raises(RateLimited, match=r"2 items are not counted: their groups are not complete"):
        order.sample("t", timeout=0)
    assert order.info()["t"].size == 2  # c, and the third a
    inserted(order, Fields(group="c"))
    assert set(order.sample("t").info.group) == {"c"}


def test_what_takes_an_item_out_takes_its_group() -> None:
    replay = Replay([table(group_size=3, max_size=7)])
    keys = inserted(replay, *[Fields(group=name) for name in "aaabb"])
    assert replay.delete("t", [keys[4]]) == 1 and replay.delete("t", [keys[0], keys[1]]) == 3
    inserted(replay, *[Fields(group=name) for name in "bbcccde"])  # an eighth item, and the oldest group goes
    assert (replay.info()["t"].size, replay.info()["t"].groups) == (5, 1)
    assert set(replay.sample("t", 20).info.group) == {"c"}


def test_a_full_queue_of_incomplete_groups_goes_on_taking_items() -> None:
    replay = Replay([Table.queue("t", 2, group_size=2)])
    for number in range(2):
        replay.insert(0, {"t": 1}, timeout=0, fields=Fields(group=str(number)))
    assert replay.info()["t"].why_no_insert == ""


# Age


def ages(max_age: int | None) -> set[int]:
    """The staleness of 300 samples of items of versions 0 to 5, the learner at 5, that is told 6 then."""
    replay = Replay([table(max_age=max_age)])
    inserted(replay, *[Fields(policy_version=version) for version in (0, 5, 3, 4, 1, 2)])
    replay.set_policy_version("t", 6)
    return set(replay.sample("t", 300).info.staleness.tolist())


def test_what_is_too_old_is_never_sampled_and_without_a_maximum_it_is() -> None:
    assert ages(None) == {1, 2, 3, 4, 5, 6} and ages(2) == {1, 2} and ages(10) == {1, 2, 3, 4, 5, 6}


def test_old_items_are_dropped_and_counted() -> None:
    replay = Replay([table(max_age=1)])
    keys = inserted(replay, *[Fields(policy_version=version) for version in (3, 4, 3, 5, 3)])
    info = replay.info()["t"]
    assert (info.size, info.stale, info.deletes, info.policy_version, info.inserts) == (2, 3, 3, 5, 5)
    assert sorted(set(replay.sample("t", 50).info.key.tolist())) == [keys[1], keys[3]]
    assert replay.set_policy_version("t", 6) == 1 and replay.set_policy_version("t", 2) == 0
    assert replay.info()["t"].policy_version == 6
    assert replay.set_policy_version("t", 9) == 1 and replay.num_bytes == 0


def test_a_queue_whose_items_grew_old_is_not_full() -> None:
    replay = Replay([Table.queue("t", 3, max_age=0)])
    inserted(replay, *[Fields(policy_version=0)] * 3)
    assert not replay.can_insert("t") and replay.set_policy_version("t", 1) == 3
    assert replay.can_insert("t", 3) and replay.info()["t"].difference == 0 and not replay.can_sample("t")
    inserted(replay, *[Fields(policy_version=1)] * 3)
    assert len(replay.sample("t", 9, timeout=0)) == 3


def test_a_group_is_as_old_as_its_oldest_item() -> None:
    replay = Replay([table(group_size=2, max_age=1)])
    inserted(replay, Fields(3, "a"), Fields(2, "b"), Fields(3, "b"), Fields(3, "a"))
    assert replay.set_policy_version("t", 4) == 2 and set(replay.sample("t", 9).info.group) == {"a"}


# Kept


THREE = [
    table(selectors.Prioritized(0.6), 60, group_size=3, max_age=4),
    Table("u", selectors.Uniform(), selectors.Fifo(), 20, rate_limiters.MinSize(9, "tokens"), max_age=2),
    Table("q", selectors.Fifo(), selectors.Fifo(), 90, rate_limiters.Queue(4000, "tokens"), 1, max_age=1),
]


def used(folder: Path | None) -> Replay:
    replay, random = Replay(THREE, seed=1, folder=folder), np.random.default_rng(0)
    for number in range(300):
        fields = Fields(number // 20, f"g{number % 7}", 1 + int(random.integers(9)), 1)
        replay.insert(number, dict.fromkeys("tuq", random.random()), timeout=0, fields=fields)
        if number > 20 and number % 10 == 9:
            info = replay.sample("t", 2, timeout=0).info
            replay.update_priorities("t", info.key, random.random(len(info.key)))
            replay.set_policy_version("u", (number + 15) // 20)
            replay.sample("q", 2, timeout=0)
        if number == 170 and folder:
            replay.checkpoint()
    return replay


def test_the_same_draws_come_again(tmp_path: Path) -> None:
    never = used(None)
    used(tmp_path).close()
    again = Replay(THREE, folder=tmp_path)
    for _ in range(2):
        assert [one[:7] + one[11:] for one in again.info().values()] == [
            one[:7] + one[11:] for one in never.info().values()
        ]
        for name in "tuq":
            one, other = (replay.sample(name, 20, timeout=0) for replay in (again, never))
            assert [column.tolist() for column in one.info] == [column.tolist() for column in other.info]
            assert one.data.tolist() == other.data.tolist()
        again.checkpoint()
    kept = again.info()["q"]
    assert kept.stale > 0 and kept.inserts - kept.samples > kept.difference  # by what grew old unread


# Refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokens": -1}, "got tokens=-1; expected a whole number from 0"),
        ({"policy_version": 1.5}, "got policy_version=1.5; expected a whole number from 0"),
        ({"policy_version": True}, "got policy_version=True; expected a whole number"),
        ({"episodes": "one"}, "got episodes='one'; expected a whole number"),
        ({"group": 7}, "got group=7; expected a name, such as '7'"),
    ],
)
def test_fields_that_are_none_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fields(**values)


def test_a_table_says_what_it_needs_to_know() -> None:
    for options, message in (
        (
            {"max_age": 2},
            r"'t': its items go when they are older than max_age=2; expected policy_version=... in fields",
        ),
        ({"group_size": 4}, r"its items come in groups of 4; expected group=..."),
        ({"rate_limiter": rate_limiters.MinSize(9, "tokens")}, r"counts tokens; expected tokens=... from 1"),
    ):
        replay = Replay([table(**options)])
        for fields in (None, Fields(episodes=1)):
            with pytest.raises(ValueError, match=message):
                replay.insert(0, {"t": 1}, fields=fields)
            with pytest.raises(ValueError, match=message):
                replay.insert_many(np.arange(2), {"t": np.ones(2)}, fields=fields and [fields] * 2)
            with pytest.raises(ValueError, match=message), replay.trajectory_writer(1) as writer:
                writer.append(0)
                writer.create_item("t", 1, writer.history[-1], fields)
        assert replay.info()["t"].inserts == 0 and replay.num_bytes == 0
    with pytest.raises(ValueError, match="got 1 fields for 2 steps; expected one each"):
        Replay([table()]).insert_many(np.arange(2), {"t": np.ones(2)}, fields=[Fields()])
    with pytest.raises(ValueError, match="got policy_version=-1; expected a whole number from 0"):
        Replay([table()]).set_policy_version("t", -1)
    with pytest.raises(ValueError, match="got group_size=9; expected 0 to max_size=8"):
        table(max_size=8, group_size=9)
    with pytest.raises(ValueError, match="got max_age=-1; expected a whole number from 0"):
        table(max_age=-1)
    with pytest.raises(ValueError, match="got counts='words'; expected items, episodes or tokens"):
        rate_limiters.MinSize(1, "words")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 1.5}, "got group_size=1.5; expected a whole number from 0"),
        ({"group_size": "2"}, "got group_size='2'; expected a whole number from 0"),
        ({"max_age": float("nan")}, "got max_age=nan; expected a whole number from 0"),
        ({"max_size": 2.5}, "got max_size=2.5; expected a whole number from 1"),
        ({"max_times_sampled": True}, "got max_times_sampled=True; expected a whole number from 0"),
    ],
)
def test_a_table_of_parts_of_items_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(**options)


def test_what_is_no_fields_is_refused_before_anything_is_stored() -> None:
    """Else an item stays behind whose data is gone."""
    replay, wrong = Replay([table()]), {"group": "a"}
    message = r"got fields of type dict; expected Fields\("
    with pytest.raises(ValueError, match=message):
        replay.insert(0, {"t": 1}, fields=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        replay.insert_many(np.arange(2), {"t": np.ones(2)}, fields=[Fields(), wrong])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=message), replay.trajectory_writer(1) as writer:
        writer.append(0)
        writer.create_item("t", 1, writer.history[-1], wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="policy_version=.*; expected a whole number from 0, below"):
        Fields(policy_version=2**63)
    with pytest.raises(ValueError, match="got 1 fields for 2 steps; expected one each, in a list"):
        replay.insert_many(np.arange(2), {"t": np.ones(2)}, fields=Fields())  # type: ignore[arg-type]
    assert replay.info()["t"].size == 0 and replay.num_bytes == 0


def test_calls_that_would_wait_for_ever_by_mistake_are_refused() -> None:
    replay = Replay([table()])
    with pytest.raises(ValueError, match="got timeout=nan; expected seconds"):
        replay.sample("t", timeout=float("nan"))
    with pytest.raises(ValueError, match=r"got num_samples=1.5; expected a whole number from 1"):
        replay.sample("t", 1.5, timeout=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got policy_version=None; expected a whole number from 0"):
        replay.set_policy_version("t", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got a queue of size 0; expected a whole number from 1"):
        rate_limiters.Queue(0)
    with pytest.raises(ValueError, match="got min_size_to_sample=nan; expected a whole number from 1"):
        rate_limiters.MinSize(float("nan"))  # type: ignore[arg-type]
