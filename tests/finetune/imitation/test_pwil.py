import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from finetune.imitation.interaction import Interaction
from finetune.imitation.pwil import PWIL, Coupled, learn_pwil
from finetune.imitation.td3 import TD3Settings
from finetune.selection.demonstrations import Demonstrations
from finetune.selection.imitation_return import pwil_of
from tests.finetune.imitation.toys import Point, demonstrations, expert

TWO = np.array([[0.0], [2.0]])
"""Two atoms; of unit variance they lie at -1 and 1."""


def rewards(atoms: Any, episode: Any, horizon: int) -> list[float]:
    """Of an episode whose steps are numbers, the last of which is the action."""
    count, episode = len(atoms), np.asarray(episode)
    split = atoms[:, :-1], atoms[:, -1:]
    demonstrations = Demonstrations(*split, np.zeros(count, np.int64), ("a",), ("a",))
    one = Coupled(pwil_of(demonstrations, horizon, alpha=5.0, beta=0.5))
    one.step_reward(*np.split(episode[0], [-1]), math.nan)  # of another episode, which is over
    one.begin_episode()
    return [one.step_reward(*np.split(step, [-1]), math.nan) for step in episode]


def test_rewards_by_hand() -> None:
    # horizon 2: each step takes one atom. The second lies where the first did, and must go to the other: cost 2 / 2.
    assert rewards(TWO, [[0.0], [0.0]], 2) == pytest.approx([5.0, 5 * math.exp(-0.5 * 2 * 1)], rel=1e-5)
    # horizon 1: one step takes both: half of nothing and half of 2
    assert rewards(TWO, [[0.0]], 1) == pytest.approx([5 * math.exp(-0.5 * 1 * 1)], rel=1e-5)
    # horizon 4: two steps share an atom, and the third takes the other, at 2 / 4
    assert rewards(TWO, [[0.0]] * 3, 4) == pytest.approx([5.0, 5.0, 5 * math.exp(-0.5 * 4 * 0.5)], rel=1e-5)


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
    assert rewards(atoms, episode, horizon) == pytest.approx(expected, rel=1e-4)


def test_the_greedy_cost_is_never_below_that_of_the_best_coupling() -> None:
    generator = np.random.default_rng(0)
    atoms, episode = generator.normal(size=(30, 2)), generator.normal(size=(30, 2))
    sigma = 0.5 * 30 / math.sqrt(2)
    cost = sum(-math.log(reward / 5) / sigma for reward in rewards(atoms, episode, 30))
    distances = np.linalg.norm((atoms[:, None] - episode[None]) / atoms.std(0), axis=-1)
    best = distances[linear_sum_assignment(distances)].sum() / 30
    assert best <= cost * (1 + 1e-5) and cost < 2 * best
    assert rewards(atoms, atoms[::-1], 30) == pytest.approx([5.0] * 30)  # itself, in any order, costs nothing


def test_what_goes_beyond_the_horizon_earns_nothing() -> None:
    assert rewards(TWO, [[0.0]] * 3, 2)[2] == 0.0


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
