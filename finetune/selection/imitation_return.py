"""Imitation return by primal Wasserstein: the reward of PWIL of a policy's rollouts. Larger is better.

Every step of an episode is coupled greedily to the demonstrations: each of D pairs of state and action has the weight
1 / D, each of T steps has 1 / T, and a step takes the nearest weight that is left. Its reward falls with what that
costs. The horizon T, the scale and the demonstrations are the same for all policies that are compared; a policy trained
with another reward of its own is judged by this one too.

Source: Dadashi et al., Primal Wasserstein Imitation Learning, arXiv:2006.04678 (2020), algorithm 1 and section 3:
    r = alpha exp(-beta T c / sqrt(|S| + |A|)), alpha 5, beta 5, c the coupled cost of a step.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.selection.demonstrations import Demonstrations
from finetune.selection.scaling import Scaling, scaling_of
from finetune.selection.scores import Score

Actions = NDArray[np.float32] | NDArray[np.int64]
"""(N, a) float32, or (N,) int64 where one of several is chosen."""
ALPHA, BETA = 5.0, 5.0
LEFT = 1e-12
"""A weight below this is used up."""
SLACK = 1e-6
"""Share of a step's weight that need not be placed, lest rounding leave the last step without demonstrations."""


@dataclass(frozen=True)
class Pwil:
    """The reward, made of demonstrations."""

    atoms: NDArray[np.float32]
    """(D, d + a) scaled pairs."""
    scaling: Scaling
    horizon: int
    """T: steps of an episode; those beyond it find no demonstration left and earn 0."""
    num_actions: int
    """Of several to choose from; 0 where actions are numbers."""
    alpha: float = ALPHA
    """The largest reward."""
    beta: float = BETA
    """How fast the reward falls with the cost."""

    def pairs(self, states: NDArray[np.float32], actions: Actions) -> NDArray[np.float32]:
        """(N, d + a) scaled pairs of states and actions.

        Raises:
            ValueError: They are of another space than the demonstrations'.
        """
        if (actions.ndim == 1) != (self.num_actions > 0):
            raise ValueError(f"got {actions.ndim - 1} axes of actions; the demonstrations' are of another action space")
        return self.scaling(_joined(states, actions, self.num_actions))

    def begin(self) -> "Coupling":
        """The coupling of a new episode, all weights in place."""
        return Coupling(self, np.full(len(self.atoms), 1 / len(self.atoms)))

    def rewards(self, states: NDArray[np.float32], actions: Actions) -> NDArray[np.float64]:
        """(N,) rewards of the steps of one episode."""
        coupling = self.begin()
        return np.array([coupling.reward(pair) for pair in self.pairs(states, actions)])


@dataclass
class Coupling:
    """What is left of the demonstrations in an episode."""

    pwil: Pwil
    weights: NDArray[np.float64]
    """(D,)."""

    def reward(self, pair: NDArray[np.float32]) -> float:
        """The reward of the next step, given its scaled (d + a,) pair; its weight is used up."""
        distances = np.sqrt(np.square(self.pwil.atoms - pair, dtype=np.float64).sum(axis=1))
        distances[self.weights <= LEFT] = np.inf
        needed, cost = (1 - SLACK) / self.pwil.horizon, 0.0
        while needed > LEFT:
            nearest = int(distances.argmin())
            if not math.isfinite(distances[nearest]):
                return 0.0  # the demonstrations are used up: the episode is longer than the horizon
            moved = min(needed, self.weights[nearest])
            cost += moved * distances[nearest]
            needed -= moved
            self.weights[nearest] -= moved
            if self.weights[nearest] <= LEFT:
                distances[nearest] = np.inf
        scale = self.pwil.beta * self.pwil.horizon / math.sqrt(len(pair))
        return self.pwil.alpha * math.exp(-scale * cost)


def pwil_of(demonstrations: Demonstrations, horizon: int, alpha: float = ALPHA, beta: float = BETA) -> Pwil:
    """Make the reward.

    Args:
        demonstrations: Of the expert.
        horizon: Most steps of an episode: of a time limit, or of the longest demonstration.
        alpha: The largest reward.
        beta: How fast the reward falls with the cost.
    """
    num_actions = int(demonstrations.actions.max()) + 1 if demonstrations.is_discrete else 0
    joined = _joined(demonstrations.observations, demonstrations.actions, num_actions)
    scaling = scaling_of(joined)
    return Pwil(scaling(joined), scaling, horizon, num_actions, alpha, beta)


def longest(demonstrations: Demonstrations) -> int:
    """Steps of the longest episode."""
    return int(demonstrations.num_steps().max())


def imitation_return(pwil: Pwil, rollouts: Demonstrations) -> Score:
    """Score a policy by the mean over its episodes of the summed rewards.

    Raises:
        ValueError: Its states or actions are of another space.
    """
    totals = np.zeros(len(rollouts.episode_ids))
    for number in range(len(totals)):
        rows = rollouts.episodes == number
        totals[number] = pwil.rewards(rollouts.observations[rows], rollouts.actions[rows]).sum()
    return Score(totals, np.ones(len(totals)), rollouts.groups, larger_is_better=True)


def _joined(states: NDArray[np.float32], actions: Actions, num_actions: int) -> NDArray[np.float32]:
    """(N, d + a): actions that are one of several as a 1 among 0; one that no demonstration took is all 0."""
    if num_actions:
        actions = (actions[:, None] == np.arange(num_actions)).astype(np.float32)
    return np.concatenate([states, actions.astype(np.float32)], axis=1)
