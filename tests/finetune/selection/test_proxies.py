"""Action error, support, imitation return: closed forms and plain references."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.selection.action_error import action_error
from finetune.selection.demonstrations import Demonstrations
from finetune.selection.imitation_return import imitation_return, longest, pwil_of
from finetune.selection.support import fit_support, support_score


def demonstrations(states: list[list[float]], actions: list, lengths: list[int]) -> Demonstrations:
    ids = tuple(f"e{n}" for n in range(len(lengths)))
    kind = np.int64 if isinstance(actions[0], int) else np.float32
    episodes = np.repeat(np.arange(len(lengths)), lengths)
    return Demonstrations(np.array(states, np.float32), np.array(actions, kind), episodes, ids, ids)


def test_action_error_by_hand() -> None:
    held_out = demonstrations([[0], [1], [2]], [[1.0, 0.0], [1.0, 2.0], [0.0, 0.0]], [2, 1])
    score = action_error(lambda states: np.repeat(states, 2, axis=1), held_out)
    assert score.totals.tolist() == [1 + 1, 4 + 4] and score.counts.tolist() == [2, 1]
    assert score.value == pytest.approx(10 / 3) and not score.larger_is_better
    assert score.per_episode.tolist() == [1, 8]


def test_action_error_of_a_linear_policy_in_closed_form() -> None:
    """Expert s @ W, policy s @ V: the mean of |s (V - W)|^2 is trace((V - W)^T S (V - W)), S = s^T s / N."""
    rng = np.random.default_rng(0)
    states, expert, policy = rng.normal(size=(200, 4)), rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    held_out = demonstrations(states.tolist(), (states @ expert).tolist(), [200])
    found = action_error(lambda s: (s @ policy).astype(np.float32), held_out).value
    away = policy - expert
    assert found == pytest.approx(np.trace(away.T @ (states.T @ states / 200) @ away), rel=1e-5)


def test_action_error_of_choices_is_the_share_that_differs() -> None:
    held_out = demonstrations([[0], [1], [2], [3]], [0, 1, 2, 2], [4])
    assert action_error(lambda states: np.array([0, 1, 0, 0]), held_out).value == 0.5
    with pytest.raises(ValueError, match=r"shape \(2,\), the demonstrations' \(\): they are of another action space"):
        action_error(lambda states: np.zeros((4, 2), np.float32), held_out)


def test_support_falls_with_the_distance() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(600, 4)).astype(np.float32)
    expert = demonstrations(states[:400].tolist(), [[0.0]] * 400, [200, 200])
    support = fit_support(expert, steps=300)
    found = [
        support_score(support, demonstrations((states[400:] + shift).tolist(), [[0.0]] * 200, [100, 100])).value
        for shift in (0, 1, 2, 4, 8)
    ]
    assert found == sorted(found, reverse=True) and found[0] < 0 and found[-1] < 10 * found[0]


def test_support_is_the_same_again() -> None:
    expert = demonstrations([[0, 1], [1, 0], [2, 2]], [[0.0]] * 3, [3])
    one, other = (fit_support(expert, seed=3, steps=20).novelty(expert.observations) for _ in range(2))
    assert one.tobytes() == other.tobytes()
    score = support_score(fit_support(expert, seed=3, steps=20), expert)
    assert score.larger_is_better and score.totals.tolist() == [-one.sum()]


def reference(
    atoms: NDArray[np.float64], pairs: NDArray[np.float64], horizon: int, alpha: float = 5, beta: float = 5
) -> list[float]:
    """Algorithm 1 of the paper in units: every weight divided into pieces so small that none is ever split."""
    pieces = math.lcm(len(atoms), horizon)
    left = [pieces // len(atoms)] * len(atoms)
    rewards = []
    for pair in pairs:
        order = sorted(range(len(atoms)), key=lambda n: math.dist(atoms[n], pair))
        cost, needed = 0.0, pieces // horizon
        for n in order:
            taken = min(needed, left[n])
            left[n] -= taken
            needed -= taken
            cost += taken / pieces * math.dist(atoms[n], pair)
        rewards.append(alpha * math.exp(-beta * horizon / math.sqrt(len(pair)) * cost) if needed == 0 else 0.0)
    return rewards


@pytest.mark.parametrize(("num_atoms", "horizon"), [(6, 4), (4, 6), (12, 12), (5, 3)])
def test_the_reward_of_pwil_is_a_plain_references(num_atoms: int, horizon: int) -> None:
    rng = np.random.default_rng(num_atoms)
    states, actions = rng.normal(size=(num_atoms, 2)), rng.normal(size=(num_atoms, 1))
    pwil = pwil_of(demonstrations(states.tolist(), actions.tolist(), [num_atoms]), horizon)
    joined = np.concatenate([states, actions], axis=1)
    scale = lambda values: (values - joined.mean(axis=0)) / joined.std(axis=0)  # noqa: E731
    steps = rng.normal(size=(horizon, 3))
    found = pwil.rewards(steps[:, :2].astype(np.float32), steps[:, 2:].astype(np.float32))
    assert found == pytest.approx(reference(scale(joined), scale(steps), horizon), rel=1e-4)


def test_the_experts_own_steps_earn_the_most() -> None:
    expert = demonstrations([[0], [1], [2], [3]], [[0.0], [1.0], [0.0], [1.0]], [4])
    assert longest(expert) == 4
    pwil = pwil_of(expert, longest(expert))
    assert imitation_return(pwil, expert).value == pytest.approx(4 * 5)
    away = demonstrations([[9], [1], [2]], [[0.0], [1.0], [0.0]], [1, 2])
    score = imitation_return(pwil, away)
    assert score.totals[1] == pytest.approx(10) and 0 < score.totals[0] < 1 and score.counts.tolist() == [1, 1]


def test_steps_beyond_the_horizon_earn_nothing() -> None:
    expert = demonstrations([[0], [1]], [[0.0], [1.0]], [2])
    long = demonstrations([[0], [1], [0], [1]], [[0.0], [1.0], [0.0], [1.0]], [4])
    assert pwil_of(expert, 2).rewards(long.observations, long.actions).tolist() == pytest.approx([5, 5, 0, 0])


def test_choices_are_apart_by_which_was_taken() -> None:
    expert = demonstrations([[0], [1]], [0, 1], [2])
    pwil = pwil_of(expert, 2)
    right, wrong = (imitation_return(pwil, demonstrations([[0], [1]], taken, [2])).value for taken in ([0, 1], [1, 0]))
    assert right == pytest.approx(10) and wrong < right
    with pytest.raises(ValueError, match="another action space"):
        imitation_return(pwil, demonstrations([[0.0]], [[0.0]], [1]))
    with pytest.raises(ValueError, match="got 4 numbers a step; the demonstrations have 3"):
        imitation_return(pwil, demonstrations([[0.0, 1.0]], [0], [1]))
