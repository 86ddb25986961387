"""Sinkhorn's optimal transport in the logarithmic domain, with the cost made anew in tiles: memory is O(N + M).

The regularisation falls on a few points first, then on all. Two bounds come out: potentials that no constraint forbids
bound the distance from below; from above a matching (`matching`), or, of sets of two sizes, a plan with the right sums.

Letters: N, M points, d numbers each, R rows of a tile, K candidates of a point. The cost is the Euclidean distance.

Sources: Cuturi, arXiv:1306.0895 (2013); Schmitzer, arXiv:1610.06519 (2016), for the falling regularisation; Thibault et
    al., arXiv:1711.01851 (2017), for the overrelaxation; Altschuler, Weed and Rigollet, arXiv:1705.09634 (2017),
    algorithm 2, for the plan.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.selection.transport.exact import Transport
from finetune.selection.transport.matching import matched

LN2 = math.log(2)
"""Powers are of 2: where they underflow, torch's exp takes fifty times as long as its exp2 on some CPUs."""
TILE_CELLS, TILE_ROWS = 1 << 18, 64
"""Costs that exist at once, at most: 1 MiB in float32, which a core's own cache holds."""
COARSE_POINTS = 1000
"""Of each set, on which the regularisation falls first."""
COARSE_SHARES, COARSE_ROUNDS = (0.4, 0.2, 0.1, 0.05), 5
FINE_SHARES = (0.05, 0.025, 0.0125, 0.00625)
"""Regularisations as shares of the mean cost: on few points, with so many rounds of both potentials at each, and on
all, with one."""
RELAXATION = 1.7
"""How far a round goes: 1 is Sinkhorn's own, from 2 on it need not end."""
NEAREST, OTHERS = 4, 8
"""Partners of a point that a matching may take: so many of all points, and as many of an eighth of them, another one
for each tile, so that points that lie on one another do not all want the same partners."""
ROUNDING = 2.0**-22
"""Of float32, as a share: some of the last bits."""
ABOVE_POTENTIALS = 0.1
"""Of sets of two sizes, where the value lies between both bounds: the lower one is by far the nearer there."""


def sinkhorn(x: NDArray[np.float32], y: NDArray[np.float32], seed: int = 0) -> Transport:
    """Estimate the distance of two sets of points of equal weight.

    Args:
        x: (N, d).
        y: (M, d).
        seed: Of the points on which it begins, and of partners that are drawn.
    """
    centre = np.median(y, axis=0)  # one far point does not move it, so that near ones are not rounded
    scale = max(float(np.abs(points - centre.astype(np.float64)).max()) for points in (x, y))
    if scale == 0:
        return Transport(0.0, np.zeros(len(x)), 0.0)
    one, other = (((points - centre.astype(np.float64)) / scale).astype(np.float32) for points in (x, y))
    value, by_point, error = _scaled(torch.from_numpy(one), torch.from_numpy(other), seed)
    return Transport(value * scale, by_point * scale, error)


def _scaled(one: torch.Tensor, other: torch.Tensor, seed: int) -> Transport:
    """Of points around 0, as far as 1 along an axis."""
    rng = torch.Generator().manual_seed(seed)
    few_x, few_y = (points[torch.randperm(len(points), generator=rng)[:COARSE_POINTS]] for points in (one, other))
    mean_cost = float(torch.cdist(few_x, few_y).mean())
    if mean_cost == 0:  # of these few, and not of all
        mean_cost = float(one.norm(dim=1).mean() + other.norm(dim=1).mean())
    g = torch.zeros(len(few_y))
    for share in COARSE_SHARES:
        for _ in range(COARSE_ROUNDS):
            f = _balanced(few_x, few_y, g, share * mean_cost)
            g = _balanced(few_y, few_x, f, share * mean_cost)
    g = _balanced(other, few_x, f, share * mean_cost)
    f = _balanced(one, other, g, share * mean_cost)
    for share in FINE_SHARES:
        g = torch.lerp(g, _balanced(other, one, f, share * mean_cost), RELAXATION)
        f = torch.lerp(f, _balanced(one, other, g, share * mean_cost), RELAXATION)
    if len(one) == len(other):
        return _matched(one, other, g, rng)
    return _planned(one, other, g, share * mean_cost)


def _balanced(x: torch.Tensor, y: torch.Tensor, g: torch.Tensor, epsilon: float) -> torch.Tensor:
    """(N,) potentials under which each point of x sends its whole weight, given those of y."""
    balanced, unit = torch.empty(len(x)), epsilon * LN2
    for rows in _tiles(len(x), len(y)):
        scores = torch.cdist(x[rows], y).mul_(-1 / unit).add_(g / unit)  # (R, M)
        highest = scores.amax(1, keepdim=True)
        balanced[rows] = highest[:, 0] + scores.sub_(highest).exp2_().sum(1).log2()
    return balanced.sub_(math.log2(len(y))).mul_(-unit)


def _matched(x: torch.Tensor, y: torch.Tensor, g: torch.Tensor, rng: torch.Generator) -> Transport:
    """Of sets of one size: what lies midway between the potentials and a matching."""
    f, partners_of_x = _candidates(x, y, g, rng)
    g, partners_of_y = _candidates(y, x, f, rng)
    by_point = matched(x, y, f, g, partners_of_x, partners_of_y) / len(x)
    return _between(x, y, f, g, by_point, 0.5)


def _candidates(
    x: torch.Tensor, y: torch.Tensor, g: torch.Tensor, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) the highest potentials of x that no pair with y forbids, and (N, 2 K) partners."""
    num_x, num_y = len(x), len(y)
    few = min(NEAREST, num_y)
    highest, partners = torch.empty(num_x), torch.empty(num_x, 2 * few, dtype=torch.int64)
    for rows in _tiles(num_x, num_y):
        above = _bounds(torch.cdist(x[rows], y), x[rows], y)[0].sub_(g)  # (R, M)
        found = above.topk(few, largest=False)
        some = torch.randperm(num_y, generator=rng)[: max(few, num_y // OTHERS)]
        highest[rows], partners[rows, :few] = found.values[:, 0], found.indices
        partners[rows, few:] = some[above[:, some].topk(few, largest=False).indices]
    return highest, partners


def _planned(x: torch.Tensor, y: torch.Tensor, g: torch.Tensor, epsilon: float) -> Transport:
    """Of sets of two sizes: what lies between the potentials and a plan with the right sums."""
    num_x, num_y, unit = len(x), len(y), epsilon * LN2
    f = _balanced(x, y, g, epsilon)
    got = torch.exp2((g - _balanced(y, x, f, epsilon)) / unit)  # by each point of y; 1 is its own weight
    kept = got.clamp(min=1).reciprocal()
    lacking = (1 - got * kept) / num_y
    sent, cost, to_lacking = (torch.empty(num_x, dtype=torch.float64) for _ in range(3))
    lowest = torch.empty(num_x)
    for rows in _tiles(num_x, num_y):
        costs = torch.cdist(x[rows], y)  # (R, M)
        plan = (g - costs).add_(f[rows, None]).div_(unit).exp2_().mul_(kept / (num_x * num_y))
        sent[rows] = plan.sum(1).double()
        least, most = _bounds(costs, x[rows], y)
        lowest[rows] = least.sub_(g).amin(1)
        to_lacking[rows] = (most @ lacking).double()
        cost[rows] = plan.mul_(most).sum(1).double()
    unsent = (1 / num_x - sent).clamp(min=0)
    by_point = cost + unsent * to_lacking / unsent.sum().clamp(min=1e-12)
    share = ROUNDING * float(f.abs().max() + g.abs().max()) / unit  # of the plan, that its sums may be wrong by
    by_point += share * (x.norm(dim=1).mean() + y.norm(dim=1).mean()) / num_x
    return _between(x, y, lowest, g, by_point.numpy(), ABOVE_POTENTIALS)


def _bounds(costs: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, M) what pairs cost at least and at most; of near ones, cdist rounds the difference of large squares."""
    squares = costs.square_()
    slack = ROUNDING * (1 + math.sqrt(x.shape[1])) * (x.square().sum(1, keepdim=True) + y.square().sum(1))
    return (squares - slack).clamp_(min=0).sqrt_(), squares.add_(slack).sqrt_()


def _between(
    x: torch.Tensor, y: torch.Tensor, f: torch.Tensor, g: torch.Tensor, by_point: NDArray[np.float64], share: float
) -> Transport:
    """What lies a share of the way from what potentials bound to the sum of `by_point`, both less sure by rounding."""
    found = float(by_point.sum())
    if found == 0:
        return Transport(0.0, by_point, 0.0)
    slack = ROUNDING * sum(float(one.norm(dim=1).double().mean()) for one in (x, y))
    slack += ROUNDING * sum(float(one.abs().double().mean()) for one in (f, g))
    upper = found + slack
    lower = min(max(float(f.double().mean() + g.double().mean()) - slack, 0.0), upper)
    value = lower + share * (upper - lower)
    return Transport(value, by_point * (value / found), (upper - value) / value)


def _tiles(num_x: int, num_y: int) -> list[slice]:
    rows = max(1, min(TILE_ROWS, TILE_CELLS // num_y))
    return [slice(start, start + rows) for start in range(0, num_x, rows)]
