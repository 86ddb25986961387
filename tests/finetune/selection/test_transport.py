"""Optimal transport against POT's exact solver, and against itself."""

import numpy as np
import ot
import pytest
import torch
from numpy.typing import NDArray

from finetune.selection.demonstrations import Demonstrations
from finetune.selection.state_distance import state_distance
from finetune.selection.transport import sinkhorn as module
from finetune.selection.transport.exact import exact, is_small
from finetune.selection.transport.matching import matched
from finetune.selection.transport.sinkhorn import sinkhorn


def points(seed: int, number: int, numbers: int = 5, shift: float = 0.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=(number, numbers)) + shift).astype(np.float32)


def pot(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    cost = ot.dist(x.astype(np.float64), y.astype(np.float64), metric="euclidean")
    return float(ot.emd2(np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y)), cost))


@pytest.mark.parametrize(("num_x", "num_y"), [(1, 1), (1, 7), (40, 40), (30, 47), (90, 12)])
def test_exact_is_pots(num_x: int, num_y: int) -> None:
    x, y = points(0, num_x), points(1, num_y, shift=0.5)
    found = exact(x, y)
    assert found.value == pytest.approx(pot(x, y), abs=1e-6)
    assert found.by_point.sum() == pytest.approx(found.value) and found.error == 0
    assert exact(y, x).value == pytest.approx(found.value, abs=1e-6)


def test_a_shift_costs_its_length() -> None:
    x = points(0, 50)
    assert exact(x, x).value == 0
    assert exact(x, x + np.array([3, 4, 0, 0, 0], np.float32)).value == pytest.approx(5, abs=1e-5)


@pytest.mark.parametrize(("num_x", "num_y", "numbers"), [(600, 600, 17), (500, 800, 3)])
def test_sinkhorn_is_within_two_percent(num_x: int, num_y: int, numbers: int) -> None:
    x, y = points(0, num_x, numbers), points(1, num_y, numbers, shift=0.3)
    truth, found = pot(x, y), sinkhorn(x, y)
    assert found.value == pytest.approx(truth, rel=0.02)
    assert abs(found.value - truth) <= found.error * found.value
    assert found.by_point.sum() == pytest.approx(found.value)
    assert num_x != num_y or found.error < 0.01  # which a matching proves


def points_on_one_another(seed: int, most: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).integers(0, most, (600, 2)).astype(np.float32)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (points_on_one_another(0, 3), points_on_one_another(1, 4)),
        (points(0, 600, 1), points(1, 600, 1) ** 2),
        (points(0, 600), points(1, 600, shift=100)),
        (points(0, 3), points(1, 3)),
    ],
    ids=["on one another", "a line", "far", "three"],
)
def test_what_is_claimed_holds(x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
    truth, found = exact(x, y).value, sinkhorn(x, y)
    assert abs(found.value - truth) <= found.error * found.value + 1e-5 * truth
    assert found.error < 0.02


def test_a_matching_takes_the_cheapest_of_its_pairs() -> None:
    """All pairs are candidates: it is the exact one. Of useless ones the orders along the axes are left."""
    x, y = (torch.from_numpy(points(seed, 40)) for seed in (0, 1))
    none, every = torch.zeros(40), torch.arange(40).repeat(40, 1)
    assert matched(x, y, none, none, every, every).mean() == pytest.approx(exact(x.numpy(), y.numpy()).value, rel=1e-4)
    useless = torch.zeros(40, 1, dtype=torch.int64)
    assert matched(x, y, none, none, useless, useless).shape == (40,)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = points(0, 300), points(1, 200)  # of one size, other partners are drawn in other tiles
    whole = sinkhorn(x, y)
    monkeypatch.setattr(module, "TILE_CELLS", 7 * 200)
    assert sinkhorn(x, y).value == pytest.approx(whole.value, rel=1e-5)


def test_equal_points_cost_nothing() -> None:
    assert sinkhorn(np.ones((5, 2), np.float32), np.ones((4, 2), np.float32)).value == 0
    x = points(0, 300)
    assert sinkhorn(x, x) == (0.0, pytest.approx(np.zeros(300)), 0.0)


def test_small_sets_are_solved_exactly() -> None:
    assert is_small(500, 500) and is_small(2000, 2000) and is_small(100, 2500)
    assert not is_small(2001, 2000) and not is_small(10_000, 10_000)


def rollouts(states: NDArray[np.float32], lengths: list[int]) -> Demonstrations:
    number = len(lengths)
    episodes = np.repeat(np.arange(number), lengths)
    ids = tuple(f"e{n}" for n in range(number))
    return Demonstrations(states, np.zeros((len(states), 1), np.float32), episodes, ids, ids)


def test_each_episode_has_its_share() -> None:
    """On the scale of the demonstrations (standard deviation 1, mean 0): one episode lies on them, one is 3 away."""
    expert = rollouts(np.array([[-1], [1]], np.float32), [2])
    agent = rollouts(np.array([[-1], [1], [2], [4]], np.float32), [2, 2])
    score = state_distance(agent, expert)
    assert score.value == pytest.approx(exact(agent.observations, expert.observations).value, abs=1e-6)
    assert score.value == pytest.approx(1.5, abs=1e-6) and not score.larger_is_better
    assert score.totals.sum() / 4 == pytest.approx(score.value) and score.counts.tolist() == [2, 2]


def test_a_scale_of_the_demonstrations_is_used() -> None:
    """What the numbers are measured in changes nothing."""
    expert, agent = points(0, 60, 3), points(1, 50, 3, shift=1)
    unit = np.array([1, 1000, 0.01], np.float32)
    one = state_distance(rollouts(agent, [50]), rollouts(expert, [60])).value
    other = state_distance(rollouts(agent * unit, [50]), rollouts(expert * unit, [60])).value
    assert one == pytest.approx(other, rel=1e-4)


def test_a_number_that_never_changes_is_left_alone() -> None:
    expert, agent = points(0, 40, 2), points(1, 40, 2)
    expert[:, 1] = agent[:, 1] = 0.1
    one = state_distance(rollouts(agent, [40]), rollouts(expert, [40])).value
    agent[:, 1] = 0.2
    assert 0 < state_distance(rollouts(agent, [40]), rollouts(expert, [40])).value - one < 0.1


@pytest.mark.parametrize("num_y", [130, 100])
@pytest.mark.parametrize("far", ["clusters", "point", "numbers", "tiny numbers"])
def test_the_claim_holds_where_float32_rounds(far: str, num_y: int) -> None:
    """Near points far from the others: what they cost is less than the last bits of what the others do."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(number, 3)) for number in (130, num_y))
    if far == "clusters":
        x[:65], y[: num_y // 2] = x[:65] + 1e6, y[: num_y // 2] + 1e6
    elif far == "point":
        x[0] = y[0] = 1e6
    else:
        x, y = (points * (1e25 if far == "numbers" else 1e-25) for points in (x, y))
    one, other = x.astype(np.float32), y.astype(np.float32)
    true, found = exact(one, other).value, sinkhorn(one, other)
    assert abs(true - found.value) <= found.error * found.value * (1 + 1e-6) and found.value > 0
    assert found.by_point.sum() == pytest.approx(found.value)


def test_points_that_the_first_look_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COARSE_POINTS", 2)
    x = np.zeros((60, 3), np.float32)
    y = x.copy()
    y[-1] = 3  # which few draws of two points hold
    for seed in range(3):
        assert sinkhorn(x, y, seed).value == pytest.approx(np.sqrt(27) / 60, rel=1e-4)
