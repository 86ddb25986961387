import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from finetune.imitation.interaction import Interaction
from finetune.imitation.pwil import PWIL, Coupling, learn_pwil
from finetune.imitation.td3 import TD3Settings
from tests.finetune.imitation.toys import Point, demonstrations, expert

NO_ACTION = np.zeros(0)
TWO = np.array([[0.0], [2.0]])
"""Two atoms; of unit variance they lie at -1 and 1."""


def coupling(atoms: Any, horizon: int) -> Coupling:
    return Coupling(atoms, PWIL(alpha=5.0, beta=0.5, time_horizon=horizon), atoms.shape[1])


def rewards(one: Coupling, episode: Any) -> list[float]:
    one.begin_episode()
    return [one.step_reward(step, NO_ACTION, math.nan) for step in episode]


def test_rewards_by_hand() -> None:
    # horizon 2: each step takes one atom. The second lies where the first did, and must go to the other: cost 2 / 2.
    assert rewards(coupling(TWO, 2), [[0.0], [0.0]]) == pytest.approx([5.0, 5 * math.exp(-0.5 * 2 * 1)])
    # horizon 1: one step takes both: half of nothing and half of 2
    assert rewards(coupling(TWO, 1), [[0.0]]) == pytest.approx([5 * math.exp(-0.5 * 1 * 1)])
    # horizon 4: two steps share an atom, and the third takes the other, at 2 / 4
    assert rewards(coupling(TWO, 4), [[0.0]] * 3) == pytest.approx([5.0, 5.0, 5 * math.exp(-0.5 * 4 * 0.5)])


def plain_rewards(atoms: Any, episode: Any, horizon: int) -> list[float]:
    """Algorithm 1 with exact weights and a list of atoms."""
    scaled = (atoms - atoms.mean(0)) / atoms.std(0)
    free = [[Fraction(1, len(atoms)), atom] for atom in scaled]
    found = []
    for step in (episode - atoms.mean(0)) / atoms.std(0):
        left, cost = Fraction(1, horizon), 0.0
        while left:
            nearest = min(free, key=lambda one: math.dist(one[1], step))
            moved = min(left, nearest[0])
            cost += float(moved) * math.dist(nearest[1], step)
            left -= moved
            nearest[0] -= moved
            free = [one for one in free if one[0]]
        found.append(5 * math.exp(-0.5 * horizon / math.sqrt(atoms.shape[1]) * cost))
    return found


@pytest.mark.parametrize("num_atoms, horizon", [(7, 7), (7, 20), (20, 7), (50, 30)])
def test_rewards_are_those_of_a_plain_reference(num_atoms: int, horizon: int) -> None:
    generator = np.random.default_rng(num_atoms)
    atoms, episode = generator.normal(size=(num_atoms, 3)), generator.normal(size=(horizon, 3))
    expected = plain_rewards(atoms, episode, horizon)
    assert rewards(coupling(atoms, horizon), episode) == pytest.approx(expected, rel=1e-9)


def test_the_greedy_cost_is_never_below_that_of_the_best_coupling() -> None:
    generator = np.random.default_rng(0)
    atoms, episode = generator.normal(size=(30, 2)), generator.normal(size=(30, 2))
    one = coupling(atoms, 30)
    cost = sum(-math.log(reward / 5) / one.sigma for reward in rewards(one, episode))
    distances = np.linalg.norm((atoms[:, None] - episode[None]) / atoms.std(0), axis=-1)
    best = distances[linear_sum_assignment(distances)].sum() / 30
    assert best <= cost < 2 * best
    assert rewards(one, atoms[::-1]) == pytest.approx(
        [5.0] * 30
    )  # the demonstration itself, in any order, costs nothing


def test_an_episode_longer_than_the_horizon_is_named() -> None:
    with pytest.raises(ValueError, match="longer than time_horizon=2"):
        rewards(coupling(TWO, 2), [[0.0]] * 3)


def test_the_agent_comes_nearer_to_the_expert_without_a_reward() -> None:
    settings = PWIL(
        time_horizon=20,
        subsampling=1,
        prefill=500,
        td3=TD3Settings(hidden_units=32, batch_size=32, discount=0.9),
        interaction=Interaction(steps=500, random_steps=100, checkpoint_every=500),
    )
    errors: list[float] = []
    points = np.random.default_rng(0).uniform(-1, 1, (100, 2)).astype(np.float32)
    wanted = np.stack([expert(one) for one in points])
    steps: list[int] = []

    def look(step: int, policy: Any) -> None:
        act = policy.act()
        steps.append(step)
        errors.append(float(np.abs(np.stack([act(one) for one in points]) - wanted).mean()))

    learn_pwil(Point(), demonstrations(5), settings, 0, look)
    assert steps == [500]
    assert errors[0] < 0.45  # one that does nothing is off by 0.66
