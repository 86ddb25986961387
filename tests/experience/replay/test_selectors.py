"""Which item is drawn: frequencies after churn, orders with ties, weights that are exact."""

import os
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experience.replay.tables.order import Order
from experience.replay.tables.selectors import Fifo, Lifo, MaxHeap, MinHeap, Prioritized, Selector, Uniform, made
from experience.replay.tables.weights import BlockSums

SEEDS = int(os.environ.get("REPLAY_SEEDS", "2"))


def churned(selector: Selector, count: int, seed: int) -> tuple[Any, dict[int, float]]:
    """A state after inserts one by one and in batches, updates, deletes and replacements; and row to priority."""
    random, state, held = np.random.default_rng(seed), made(selector), dict[int, float]()
    free = list(range(2 * count))
    while len(held) < count or random.random() < 0.9:
        what = random.random()
        if what < 0.3 or len(held) < 2:
            rows = [free.pop() for _ in range(min(len(free), 1 + int(random.integers(count))))]
            priorities = random.integers(0, 10, len(rows)).astype(float)
            held |= dict(zip(rows, priorities.tolist(), strict=True))
            if len(rows) == 1:
                state.insert(rows[0], priorities[0])
            elif rows:
                state.insert_many(np.array(rows), priorities)
        elif what < 0.6:
            for row in random.choice(list(held), size=max(1, len(held) // 3), replace=False).tolist():
                state.delete(row)
                del held[row]
                free.append(row)
        else:
            rows = random.choice(list(held), size=min(len(held), 4), replace=False)
            priorities = random.integers(0, 10, len(rows)).astype(float)
            (state.update if what < 0.8 else state.replace_many)(rows, priorities)
            held |= dict(zip(rows.tolist(), priorities.tolist(), strict=True))
    return state, held


@pytest.mark.parametrize(("selector", "exponent"), [(Uniform(), 0.0), (Prioritized(0.6), 0.6), (Prioritized(1.0), 1.0)])
@pytest.mark.parametrize("count", [3, 10, 300])
def test_frequencies_after_churn(selector: Selector, exponent: float, count: int) -> None:
    """Chi-square of 50,000 draws in each of 2 seeds (`make test-faults LONG=1`: 20); p above 0.001 / seeds in each."""
    for seed in range(SEEDS):
        state, held = churned(selector, count, seed)
        weights = {
            row: 1.0 if isinstance(selector, Uniform) else (p**exponent if p else 0.0) for row, p in held.items()
        }
        total = sum(weights.values())
        drawn = state.draw_many(50_000, np.random.default_rng(100 + seed))
        expected = {row: weight / total for row, weight in weights.items()}
        assert drawn.probabilities == pytest.approx([expected[row] for row in drawn.rows.tolist()], abs=1e-9)
        counts = Counter(drawn.rows.tolist())
        assert all(weights[row] > 0 for row in counts)
        rows = [row for row, weight in weights.items() if weight > 0]
        found = stats.chisquare([counts[row] for row in rows], [50_000 * expected[row] for row in rows])
        assert found.pvalue > 0.001 / SEEDS
        one_by_one = Counter(state.draw(np.random.default_rng(k))[0] for k in range(300))
        assert all(weights[row] > 0 for row in one_by_one)


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("max_size", [1, 3, 64, 200])
def test_the_order_of_insertion_is_that_of_a_list(max_size: int, newest_first: bool) -> None:
    for seed in range(8):
        random, order, rows = np.random.default_rng(seed), Order(newest_first=newest_first, max_size=max_size), []
        deletes = 0.3 * (seed % 2)
        for _ in range(300):
            free = [row for row in range(max_size) if row not in rows]
            some = random.permutation(free)[: 1 + int(random.integers(max_size))]
            if len(some) and random.random() < 0.5:
                rows += some.tolist()
                order.insert_many(some, some)
            elif len(some) and random.random() < 0.5:
                rows.append(int(some[0]))
                order.insert(rows[-1], 0.0)
            elif rows and random.random() < deletes:
                order.delete(rows.pop(int(random.integers(len(rows)))))
            elif rows and random.random() < 0.5:
                count = int(random.integers(len(rows))) + 1
                assert order.turn_many(count).tolist() == rows[:count]
                rows = rows[count:] + rows[:count]
            elif rows:
                assert order.turn() == rows[0]
                rows = rows[1:] + rows[:1]
            if rows:
                assert order.first() == rows[0] and order.draw(random)[0] == rows[-1 if newest_first else 0]
            assert order.oldest(7).tolist() == rows[:7]
        again = Order(newest_first=newest_first, max_size=max_size)
        again.restore(order.state())
        assert again.oldest(max_size).tolist() == order.oldest(max_size).tolist() == rows


def test_without_any_weight_all_are_alike() -> None:
    state = made(Prioritized(0.6))
    state.insert_many(np.array([5, 7, 9]), np.zeros(3))
    drawn = state.draw_many(30_000, np.random.default_rng(0))
    assert set(drawn.probabilities) == {1 / 3}
    assert stats.chisquare(list(Counter(drawn.rows.tolist()).values())).pvalue > 0.001
    state.update(np.array([7]), np.array([1e-300]))
    assert state.draw(np.random.default_rng(0)) == (7, 1.0)


def test_the_largest_priorities_stay_finite() -> None:
    state = made(Prioritized(2.0))
    state.insert(0, 1e300)
    state.insert_many(np.array([1, 2]), np.array([1e300, 0.0]))
    drawn = state.draw_many(100, np.random.default_rng(0))
    assert set(drawn.rows.tolist()) == {0, 1} and set(drawn.probabilities) == {0.5}


def test_a_zero_to_the_zeroth_is_zero() -> None:
    state = made(Prioritized(0.0))
    state.insert_many(np.array([0, 1, 2]), np.array([0.0, 1.0, 2.0]))
    drawn = state.draw_many(1000, np.random.default_rng(0))
    assert set(drawn.rows.tolist()) == {1, 2} and set(drawn.probabilities) == {0.5}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (Fifo(), [0, 1, 2, 3, 4, 5]),
        (Lifo(), [5, 4, 3, 2, 1, 0]),
        (MinHeap(), [1, 4, 0, 3, 5, 2]),  # 2's update to the others' priority is the newest event
        (MaxHeap(), [0, 3, 5, 2, 1, 4]),
    ],
)
def test_order_with_ties(selector: Selector, expected: list[int]) -> None:
    state, random = made(selector), np.random.default_rng(0)
    for row, priority in enumerate([3.0, 1.0, 9.0, 3.0, 1.0, 3.0]):
        state.insert(row, priority)
    state.update(np.array([2]), np.array([3.0]))
    found = []
    for _ in expected:
        row, probability = state.draw(random)
        assert probability == 1 and state.draw_many(2, random).rows.tolist() == [row, row]
        state.delete(row)
        found.append(row)
    assert found == expected


def test_replacing_is_deleting_and_inserting() -> None:
    for selector in (Fifo(), Lifo(), MinHeap(), MaxHeap(), Uniform(), Prioritized(1.0)):
        one, other = made(selector), made(selector)
        for state in (one, other):
            state.insert_many(np.array([0, 1, 2, 3]), np.array([2.0, 5.0, 1.0, 3.0]))
        one.replace(1, 2.0)
        other.delete(1)
        other.insert(1, 2.0)
        draws = [Counter(s.draw_many(40_000, np.random.default_rng(1)).rows.tolist()) for s in (one, other)]
        assert all(abs(draws[0][row] - draws[1][row]) < 800 for row in range(4)), selector


def test_a_heap_forgets_what_was_updated() -> None:
    state = made(MaxHeap())
    state.insert_many(np.array([0, 1]), np.array([0.0, 0.5]))
    for priority in range(1000):
        state.update(np.array([0]), np.array([float(priority)]))
    assert len(state._heap) < 100 and state.draw(np.random.default_rng(0))[0] == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [1, 7, 64, 65, 5000])
def test_sums_are_exact_and_every_place_has_its_share(count: int) -> None:
    random, sums = np.random.default_rng(0), BlockSums()
    weights = random.random(count) * (random.random(count) < 0.5)
    weights[-1] = 0.25
    sums.make_room(count)
    for _ in range(3):  # what was there before leaves nothing behind
        sums.set_many(np.arange(count), random.random(count) * 1e12)
        assert sums.total > 0
    sums.set_many(np.arange(count), weights)
    assert sums.total == pytest.approx(weights.sum(), rel=1e-14)
    edges = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
    there = np.flatnonzero(weights)
    inside = (edges[there] + edges[there + 1]) / 2
    assert sums.draw_many(inside).tolist() == there.tolist() == [sums.draw(float(one)) for one in inside]
    border = [0.0, np.nextafter(1.0, 0), *np.nextafter(edges[1:-1], 0), *edges[1:-1]]
    drawn = [*sums.draw_many(np.array(border)).tolist(), *(sums.draw(float(one)) for one in border)]
    assert (weights[drawn] > 0).all()
