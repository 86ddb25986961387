"""Tables in one process: what is inserted comes back stacked, who goes and when, and what is refused."""

import gc
import threading
import time
from typing import Any, NamedTuple

import numpy as np
import pytest

from experience.replay import Extension, RateLimited, Replay, SignatureMismatch, Table, rate_limiters, selectors
from experience.transformations.trees import ArraySpec


def table(name: str = "t", sampler: Any = None, remover: Any = None, max_size: int = 1000, **options: Any) -> Table:
    limiter = options.pop("rate_limiter", rate_limiters.MinSize(1))
    return Table(name, sampler or selectors.Uniform(), remover or selectors.Fifo(), max_size, limiter, **options)


class Pair(NamedTuple):
    left: Any
    right: Any


def step(number: int) -> dict[str, Any]:
    return {
        "observation": {"pixels": np.full((2, 3), number, np.uint8), "goal": (np.float32(number), number)},
        "reward": number / 2,
        "pair": Pair(np.arange(number, number + 2, dtype=np.float16), bool(number % 2)),
    }


def all_of(replay: Replay, name: str = "t") -> list[Any]:
    """What a table holds, oldest first."""
    state = replay.core.tables[name].state
    found = []
    for row in state.order.oldest(len(state)):
        held = state.contents.of(row)
        assert held is not None
        found.append(held.arena.values(held.row)[0].item())  # type: ignore[union-attr]
    return found


def test_a_batch_is_stacked_and_its_items_are_what_was_inserted() -> None:
    replay = Replay([table()])
    keys = [replay.insert(step(number), priorities={"t": 1.0})["t"] for number in range(5)]
    batch = replay.sample("t", num_samples=64)
    numbers = batch.data["observation"]["goal"][1]
    assert (
        batch.data["observation"]["pixels"].shape == (64, 2, 3)
        and batch.data["observation"]["pixels"].dtype == np.uint8
    )
    assert (batch.data["observation"]["pixels"][:, 1, 2] == numbers).all()
    assert batch.data["pair"].left.dtype == np.float16 and batch.data["pair"].right.dtype == np.bool_
    assert batch.info.key.tolist() == [keys[number] for number in numbers]
    assert len(batch) == 64 and set(batch.info.probability) == {0.2} and set(batch.info.table_size) == {5}
    item = batch[-1]
    assert isinstance(item.data["pair"], Pair) and item.data["reward"] == numbers[-1] / 2
    assert item.info.key == keys[numbers[-1]] and isinstance(item.info.key, int)
    assert [sample.info.key for sample in batch] == batch.info.key.tolist()


def test_a_batch_is_the_caller_s_own() -> None:
    replay = Replay([table()])
    given = np.zeros(3)
    replay.insert(given, {"t": 1})
    given[:] = 9
    batch = replay.sample("t")
    assert batch.data.flags.writeable and batch.data.flags.c_contiguous
    batch.data[:] = 7
    assert replay.sample("t").data.tolist() == [[0, 0, 0]]


def test_data_that_differs_in_shape_is_the_caller_s_own_too() -> None:
    replay = Replay([table(sampler=selectors.Fifo())])
    given = [np.zeros(2), np.zeros(3)]
    replay.insert(given[1], {"t": 1})
    replay.reset("t")
    for one in given:
        replay.insert(one, {"t": 1})
        one[:] = 9
    for _ in range(2):
        batch = replay.sample("t", 3)
        assert batch.data.tolist() == [[0, 0]] * 3
        batch.data[:] = 7
    with replay.trajectory_writer(2) as writer:
        for one in (np.zeros(2), np.zeros(4)):
            writer.append({"x": one})
        writer.create_item("t", 1, writer.history["x"][:])
    replay.delete("t", replay.sample("t").info.key)
    replay.delete("t", replay.sample("t").info.key)
    for _ in range(2):
        (found,) = replay.sample("t").data
        assert [one.tolist() for one in found] == [[0, 0], [0, 0, 0, 0]]
        found[0][:] = found[1][:] = 7


def test_times_sampled_counts_within_a_batch() -> None:
    replay = Replay([table()])
    replay.insert_many(np.arange(3), {"t": np.ones(3)})
    seen = {key: 0 for key in range(3)}
    for _ in range(4):
        info = replay.sample("t", 50).info
        for key, times in zip(info.key.tolist(), info.times_sampled.tolist(), strict=True):
            seen[key] += 1
            assert times == seen[key]


def test_many_inserts_are_one_after_another() -> None:
    """Also across the table's end, several times over, and with removers that may choose the new item."""
    for remover in (selectors.Fifo(), selectors.Lifo(), selectors.MinHeap(), selectors.MaxHeap()):
        one, many = (Replay([table(remover=remover, max_size=7)]) for _ in range(2))
        priorities = np.random.default_rng(0).integers(0, 4, 50).astype(float)
        for number in range(50):
            one.insert(number, {"t": priorities[number]})
        start = 0
        for size in (3, 1, 5, 20, 0, 21):
            many.insert_many(np.arange(start, start + size), {"t": priorities[start : start + size]})
            start += size
        assert all_of(one) == all_of(many), remover
        assert one.info()["t"][:6] == many.info()["t"][:6]
    assert all_of(Replay([table()])) == []


def test_a_newest_first_remover_takes_the_new_item() -> None:
    replay = Replay([table(remover=selectors.Lifo(), max_size=3)])
    for number in range(5):
        replay.insert(number, {"t": 1})
    info = replay.info()["t"]
    assert all_of(replay) == [0, 1, 2] and (info.inserts, info.deletes, info.size) == (5, 2, 3)


def test_a_queue_gives_each_item_once_in_order() -> None:
    replay = Replay([Table.queue("q", 10)])
    replay.insert_many(np.arange(10), {"q": np.ones(10)})
    with pytest.raises(RateLimited, match=r"table 'q': insert was blocked .* 1 more samples free it"):
        replay.insert(10, {"q": 1}, timeout=0)
    assert replay.sample("q", 4).data.tolist() == [0, 1, 2, 3]
    replay.insert_many(np.arange(10, 14), {"q": np.ones(4)})
    assert replay.sample("q", 20, timeout=0).data.tolist() == list(range(4, 14))  # fewer than asked for
    with pytest.raises(RateLimited, match=r"sample of 20 items was blocked .* holds 0 items, min_size_to_sample is 1"):
        replay.sample("q", 20, timeout=0)


def test_a_stack_gives_the_newest_first() -> None:
    replay = Replay([Table.stack("s", 10)])
    replay.insert_many(np.arange(5), {"s": np.ones(5)})
    assert replay.sample("s", 5).data.tolist() == [4, 3, 2, 1, 0]


def test_an_item_goes_when_it_was_sampled_often_enough() -> None:
    replay = Replay([table(max_times_sampled=3)])
    replay.insert_many(np.arange(4), {"t": np.ones(4)})
    batch = replay.sample("t", 100, timeout=0)
    assert sorted(batch.data.tolist()) == sorted([*range(4)] * 3)
    assert sorted(batch.info.times_sampled.tolist()) == sorted([1, 2, 3] * 4)
    assert replay.info()["t"].size == 0 and replay.num_bytes == 0


def test_tables_share_data_and_memory_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    replay = Replay([table("a"), table("b", remover=selectors.Lifo()), Table.queue("q", 100)])
    for _ in range(100):
        replay.insert(np.zeros(10_000), {"a": 1, "b": 1, "q": 1})
    assert replay.num_bytes == 100 * 80_000
    replay.reset("a")
    replay.sample("q", 100)
    assert replay.num_bytes == 100 * 80_000
    replay.delete("b", replay.sample("b", 500).info.key)
    replay.reset("b")
    assert replay.num_bytes == 0
    assert all(column.nbytes == 0 for arena in replay.core.store.arenas.values() for column in arena.columns)


def test_max_bytes_removes_what_the_remover_selects() -> None:
    replay = Replay([table()], max_bytes=10 * 800)
    for number in range(25):
        replay.insert(np.full(100, number), {"t": 1})
        assert replay.num_bytes <= 8000
    assert replay.info()["t"].size == 10 and sorted(set(replay.sample("t", 200).data[:, 0])) == list(range(15, 25))
    with pytest.raises(ValueError, match="takes 8800 bytes with this insert, and no item is left .* max_bytes=8000"):
        replay.insert(np.zeros(1100), {"t": 1})
    assert replay.num_bytes == 0 and replay.info()["t"].size == 0


def test_updates_and_deletes_pass_over_what_is_gone() -> None:
    replay = Replay([table(sampler=selectors.MaxHeap(), max_size=2)])
    old, *keys = [replay.insert(number, {"t": 1})["t"] for number in range(3)]
    assert len({old, *keys}) == 3  # the third lies where the first was, under another key
    assert replay.update_priorities("t", [old, keys[0], -1, 10**15], [9, 5, 7, 7]) == 1
    assert replay.sample("t").info.key.tolist() == [keys[0]] and replay.sample("t")[0].info.priority == 5
    assert replay.delete("t", [keys[0], keys[0], old]) == 1
    assert replay.update_priorities("t", [keys[0]], [3]) == 0 and all_of(replay) == [2]


def test_a_key_that_is_not_given_yet_finds_nothing() -> None:
    replay = Replay([table(sampler=selectors.Prioritized(1.0), max_size=3)])
    first, second = replay.insert_many(np.arange(2), {"t": np.ones(2)})["t"].tolist()
    replay.delete("t", [first])
    coming = first + (1 << 32)
    unknown = [coming, first - 1, coming - 1, 63, -64, -(1 << 32), 2]
    assert replay.update_priorities("t", unknown, np.full(len(unknown), 5.0)) == 0
    assert replay.delete("t", unknown) == 0
    assert replay.sample("t", 5).info.key.tolist() == [second] * 5
    assert replay.insert(7, {"t": 1})["t"] == coming and replay.delete("t", [coming, 2]) == 1


def test_data_of_differing_shapes() -> None:
    replay = Replay([table(sampler=selectors.Fifo(), max_times_sampled=1)])
    given = [{"tokens": np.arange(n, dtype=np.int32), "text": "Ä" * n, "x": np.float32(n)} for n in (3, 5, 2, 2)]
    for one in given:
        replay.insert(one, {"t": 1})
    first = replay.sample("t", 2).data
    assert [one.tolist() for one in first["tokens"]] == [[0, 1, 2], [0, 1, 2, 3, 4]] and first["text"] == [
        "ÄÄÄ",
        "Ä" * 5,
    ]
    assert first["x"].tolist() == [3, 5]
    assert replay.sample("t", 2).data["tokens"].tolist() == [[0, 1], [0, 1]]  # these are alike
    assert replay.num_bytes == 0
    replay.insert_many(
        {"tokens": np.zeros((2, 7), np.int32), "text": np.array(["a", "b"]), "x": np.ones(2)}, {"t": [1, 1]}
    )
    assert replay.num_bytes >= 2 * 7 * 4
    replay.sample("t", 2)
    assert replay.num_bytes == 0
    replay.insert(1.0, {"t": 1})
    replay.insert({"y": 1.0}, {"t": 1})
    batch = replay.sample("t", 2)
    with pytest.raises(ValueError, match="2 structures in one batch; iterate"):
        _ = batch.data
    assert [item.data for item in batch] == [1.0, {"y": 1.0}]


SIGNATURE = {"x": ArraySpec((None, 2), np.dtype("f4")), "n": ArraySpec((), np.dtype(np.int64))}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"x": np.zeros((5, 2), "f8"), "n": 1}, r"table 't', x: expected float32 of shape \(None, 2\), got float64"),
        ({"x": np.zeros((5, 3), "f4"), "n": 1}, r"x: expected .*\(None, 2\), got float32 of \(5, 3\)"),
        ({"x": np.zeros((5, 2), "f4")}, "expected the fields x, n, got x"),
        (np.zeros(3), r"expected the fields x, n, got \(one value\)"),
    ],
)
def test_a_signature_is_held_to(data: Any, message: str) -> None:
    replay = Replay([table(signature=SIGNATURE)])
    replay.insert({"x": np.zeros((5, 2), "f4"), "n": 1}, {"t": 1})
    replay.insert_many({"x": np.zeros((3, 4, 2), "f4"), "n": np.arange(3)}, {"t": np.ones(3)})
    with pytest.raises(SignatureMismatch, match=message):
        replay.insert(data, {"t": 1})
    assert replay.info()["t"].size == 4


@pytest.mark.parametrize("priority", ["high", None])
def test_a_priority_that_is_no_number_is_refused(priority: Any) -> None:
    replay = Replay([table()])
    with pytest.raises(ValueError, match="got the priority .*; expected a finite number from 0"):
        replay.insert(0, {"t": priority})
    assert not replay.info()["t"].size and not replay.num_bytes


@pytest.mark.parametrize("priority", [float("nan"), -1.0, float("inf")])
def test_bad_priorities_change_nothing(priority: float) -> None:
    replay = Replay([table()])
    key = replay.insert(0, {"t": 1})["t"]
    with pytest.raises(ValueError, match="got the priority .*; expected a finite number from 0"):
        replay.insert(0, {"t": priority})
    with pytest.raises(ValueError, match="expected 2 priorities, finite and from 0"):
        replay.insert_many(np.zeros(2), {"t": [1, priority]})
    with pytest.raises(ValueError, match="expected as many priorities as keys"):
        replay.update_priorities("t", [key], [priority])
    assert replay.info()["t"].inserts == 1 and replay.sample("t")[0].info.priority == 1


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one, each with its own name"):
        Replay([table(), table()])
    with pytest.raises(ValueError, match="got max_size=0"):
        table(max_size=0)
    replay = Replay([table("a"), table("b")])
    with pytest.raises(ValueError, match="got the table 'c'; expected one of a, b"):
        replay.insert(0, {"a": 1, "c": 1})
    with pytest.raises(ValueError, match="got no table to insert into"):
        replay.insert(0, {})
    assert replay.info()["a"].size == 0 and replay.num_bytes == 0


def test_extensions_hear_everything() -> None:
    heard: list[tuple[str, Any]] = []

    def hear(name: str) -> Any:
        return lambda state, *keys: heard.append((name, *(one.tolist() for one in keys)))

    told = Extension(*(hear(name) for name in ("insert", "sample", "update", "delete", "reset")))
    replay = Replay([table(max_size=2, extensions=[told])])
    first, second, third = replay.insert_many(np.arange(3), {"t": np.ones(3)})["t"].tolist()
    replay.update_priorities("t", [second, first], [2, 2])
    replay.sample("t")
    replay.delete("t", [second])
    replay.reset("t")
    drawn = heard[-3][1]
    assert heard == [
        ("insert", [first]),
        ("insert", [second]),
        ("delete", [first]),
        ("insert", [third]),
        ("update", [second]),
        ("sample", drawn),
        ("delete", [second]),
        ("reset",),
    ]


def test_one_seed_gives_one_sequence() -> None:
    def draws(seed: int) -> list[int]:
        replay = Replay(
            [table(sampler=selectors.Prioritized(0.6), remover=selectors.Uniform(), max_size=50)], seed=seed
        )
        replay.insert_many(np.arange(200), {"t": np.arange(200.0)})
        keys: list[int] = replay.sample("t", 500).info.key.tolist()
        return keys

    assert draws(1) == draws(1) != draws(2)


def test_a_blocked_call_goes_on_when_it_can_and_says_what_it_waits_for() -> None:
    replay = Replay([table(rate_limiter=rate_limiters.SampleToInsertRatio(1.0, 2, (0.0, 3.0)))])
    replay.insert_many(np.arange(3), {"t": np.ones(3)})
    done = threading.Event()

    def insert() -> None:
        replay.insert(3, {"t": 1})
        done.set()

    thread = threading.Thread(target=insert)
    thread.start()
    while not replay.info()["t"].insert_waits.waiting:
        time.sleep(0.001)
    with pytest.raises(RateLimited, match=r"1 inserts of others wait too; .*above max_diff 3; 1 more samples free it"):
        replay.insert(4, {"t": 1}, timeout=0.01)
    assert not done.is_set() and "above max_diff" in replay.info()["t"].why_no_insert
    replay.sample("t")
    thread.join(10)
    assert done.is_set() and replay.info()["t"].insert_waits._replace(blocked_s=0) == (0, 0.0, 2, 0)
    assert replay.sample("t", timeout=0)[0].info.rate_limited is False


def test_a_sample_that_waited_says_so() -> None:
    replay = Replay([table(rate_limiter=rate_limiters.MinSize(2))])
    replay.insert(0, {"t": 1})
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(replay.sample("t", 2)))
    thread.start()
    while not replay.info()["t"].sample_waits.waiting:
        time.sleep(0.001)
    replay.insert(1, {"t": 1})
    thread.join(10)
    assert found[0].info.rate_limited.tolist() == [True, True]


def test_an_empty_arena_is_not_kept_in_memory() -> None:
    replay = Replay([table(max_size=10)])
    replay.insert_many(np.zeros((10, 100_000)), {"t": np.ones(10)})
    columns = replay.core.store.arenas.values()
    replay.reset("t")
    gc.collect()
    assert sum(column.nbytes for arena in columns for column in arena.columns) == 0
