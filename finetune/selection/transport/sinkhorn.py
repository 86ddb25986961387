"""Sinkhorn's optimal transport in the logarithmic domain, with the cost made anew in tiles: memory is O(N + M).

The regularisation falls on a few points first, then on all. Two bounds come out: potentials that no constraint forbids
bound the distance from below, a plan with the right marginals from above. The lower one is by far the nearer.

Letters: N, M points, d numbers each, R rows of a tile. The cost is the Euclidean distance.

Sources: Cuturi, arXiv:1306.0895 (2013); Schmitzer, arXiv:1610.06519 (2016), for the falling regularisation; Thibault et
    al., arXiv:1711.01851 (2017), for the overrelaxation; Altschuler, Weed and Rigollet, arXiv:1705.09634 (2017),
    algorithm 2, for the plan.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.selection.transport.exact import Transport

TILE_CELLS = 4 << 20
"""Costs that exist at once: 16 MiB in float32."""
COARSE_POINTS = 1000
"""Of each set, on which the regularisation falls first."""
COARSE_SHARES, COARSE_ROUNDS = (0.4, 0.2, 0.1, 0.05, 0.025, 0.0125), 10
FINE_SHARES, FINE_ROUNDS = (0.0125, 0.00625), 2
"""Regularisations as shares of the mean cost, on few points and on all; rounds at each, of both potentials."""
RELAXATION = 1.7
"""How far a round goes: 1 is Sinkhorn's own, from 2 on it need not end."""
ABOVE = 0.1
"""Where the value lies between both bounds; `benchmarks.transport` measures how near that is."""


def sinkhorn(x: NDArray[np.float32], y: NDArray[np.float32], seed: int = 0) -> Transport:
    """Estimate the distance of two sets of points of equal weight.

    Args:
        x: (N, d).
        y: (M, d).
        seed: Of the points on which it begins.
    """
    centre = y.mean(axis=0)
    one, other = (torch.from_numpy(np.ascontiguousarray(points - centre, np.float32)) for points in (x, y))
    rng = torch.Generator().manual_seed(seed)
    few_x, few_y = (points[torch.randperm(len(points), generator=rng)[:COARSE_POINTS]] for points in (one, other))
    mean_cost = float(torch.cdist(few_x, few_y).mean())
    if mean_cost == 0:
        return Transport(0.0, np.zeros(len(x)), 0.0)
    g = torch.zeros(len(few_y))
    for share in COARSE_SHARES:
        for _ in range(COARSE_ROUNDS):
            f = _balanced(few_x, few_y, g, share * mean_cost)
            g = _balanced(few_y, few_x, f, share * mean_cost)
    g = _balanced(other, few_x, f, share * mean_cost)
    f = _balanced(one, other, g, share * mean_cost)
    for share in FINE_SHARES:
        for _ in range(FINE_ROUNDS):
            g = torch.lerp(g, _balanced(other, one, f, share * mean_cost), RELAXATION)
            f = torch.lerp(f, _balanced(one, other, g, share * mean_cost), RELAXATION)
    f = _balanced(one, other, g, share * mean_cost)
    return _bounded(one, other, f, g, share * mean_cost)


def _balanced(x: torch.Tensor, y: torch.Tensor, g: torch.Tensor, epsilon: float) -> torch.Tensor:
    """(N,) potentials under which each point of x sends its whole weight, given those of y."""
    balanced = torch.empty(len(x))
    for rows in _tiles(len(x), len(y)):
        scores = torch.cdist(x[rows], y).mul_(-1 / epsilon).add_(g / epsilon)  # (R, M)
        highest = scores.amax(1, keepdim=True)
        balanced[rows] = -epsilon * (highest[:, 0] + scores.sub_(highest).exp_().sum(1).log())
    return balanced + epsilon * math.log(len(y))


def _bounded(x: torch.Tensor, y: torch.Tensor, f: torch.Tensor, g: torch.Tensor, epsilon: float) -> Transport:
    """What lies between both bounds; f balances g."""
    num_x, num_y = len(x), len(y)
    got = torch.exp((g - _balanced(y, x, f, epsilon)) / epsilon)  # by each point of y; 1 is its own weight
    kept = got.clamp(min=1).reciprocal()
    lacking = (1 - got * kept) / num_y
    sent, cost, to_lacking, lowest = (torch.empty(num_x, dtype=torch.float64) for _ in range(4))
    for rows in _tiles(num_x, num_y):
        costs = torch.cdist(x[rows], y)  # (R, M)
        plan = g - costs
        lowest[rows] = -plan.amax(1).double()
        plan = plan.add_(f[rows, None]).div_(epsilon).exp_().mul_(kept / (num_x * num_y))
        sent[rows] = plan.sum(1).double()
        to_lacking[rows] = (costs @ lacking).double()
        cost[rows] = plan.mul_(costs).sum(1).double()
    unsent = (1 / num_x - sent).clamp(min=0)
    by_point = cost + unsent * to_lacking / unsent.sum().clamp(min=1e-12)
    upper, lower = float(by_point.sum()), float(lowest.mean() + g.double().mean())
    value = lower + ABOVE * (upper - lower)
    return Transport(value, np.asarray(by_point * (value / upper)), (upper - value) / value)


def _tiles(num_x: int, num_y: int) -> list[slice]:
    rows = max(1, TILE_CELLS // num_y)
    return [slice(start, start + rows) for start in range(0, num_x, rows)]
