"""Optimal transport between two sets of points with equal weights, solved exactly.

Letters: N, M points, d numbers each. The cost is the Euclidean distance, so the value is the 1-Wasserstein distance.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import eye_array, kron, vstack
from scipy.spatial.distance import cdist

ASSIGNED_POINTS = 2000
"""Sets of one size up to this are solved exactly as an assignment."""
PROGRAM_CELLS = 250_000
"""N · M up to which sets of different sizes are solved exactly as a linear program."""


class Transport(NamedTuple):
    """What it costs to carry one set onto another."""

    value: float
    by_point: NDArray[np.float64]
    """(N,) what each point of the first set adds; their sum is `value`."""
    error: float
    """The distance is within this share of `value`; 0 where it is exact up to rounding."""


def exact(x: NDArray[np.float32], y: NDArray[np.float32]) -> Transport:
    """Solve exactly: sets of one size as an assignment, others as a linear program. Memory grows with N · M.

    Args:
        x: (N, d) points with the weight 1 / N each.
        y: (M, d) points with the weight 1 / M each.
    """
    cost = cdist(x, y)  # (N, M) float64
    if len(x) == len(y):
        rows, columns = linear_sum_assignment(cost)
        by_point = np.zeros(len(x))
        by_point[rows] = cost[rows, columns] / len(x)
        return Transport(float(by_point.sum()), by_point, 0.0)
    plan = _program(cost / (cost.max() or 1.0))  # the solver gives up on numbers far from 1
    by_point = (plan * cost).sum(axis=1)
    return Transport(float(by_point.sum()), by_point, 0.0)


def is_small(num_x: int, num_y: int) -> bool:
    """Whether sets of these sizes are solved exactly."""
    return num_x * num_y <= PROGRAM_CELLS or (num_x == num_y <= ASSIGNED_POINTS)


def _program(cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, M) the cheapest plan whose rows sum to 1 / N and whose columns sum to 1 / M."""
    num_x, num_y = cost.shape
    of_rows = kron(eye_array(num_x), np.ones((1, num_y)))  # (N, N M)
    of_columns = kron(np.ones((1, num_x)), eye_array(num_y))  # (M, N M)
    equal = vstack([of_rows, of_columns], format="csr")
    sums = np.concatenate([np.full(num_x, 1 / num_x), np.full(num_y, 1 / num_y)])
    found = linprog(cost.ravel(), A_eq=equal, b_eq=sums, method="highs")
    assert found.success, found.message
    plan: NDArray[np.float64] = found.x.reshape(num_x, num_y)
    return plan
