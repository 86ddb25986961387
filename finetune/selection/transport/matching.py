"""A matching of two sets of one size that is the cheapest one over few pairs: what potentials deem cheap.

With potentials near those of the best matching, the pairs that they leave nearly free hold it, or one hardly dearer.
The two orders along the sets' principal axes are added, so that there always is a full matching.

Letters: N points in each set, K candidates of each, d numbers, E pairs.

Source for the solver: Jonker and Volgenant, Computing 38 (1987), as scipy has it for sparse graphs.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

AXES = 2
LEVELS = 10_000
"""To a mean cost: to the solver they are whole numbers, since with broken ones it may never end."""


def matched(
    x: torch.Tensor,
    y: torch.Tensor,
    f: torch.Tensor,
    g: torch.Tensor,
    partners_of_x: torch.Tensor,
    partners_of_y: torch.Tensor,
) -> NDArray[np.float64]:
    """(N,) what each point of x costs, as far as its partner.

    Args:
        x: (N, d).
        y: (N, d).
        f: (N,) potentials of x: no pair costs less than the sum of both of its own.
        g: (N,) those of y.
        partners_of_x: (N, K) for each point of x some of y.
        partners_of_y: (N, K) for each point of y some of x.
    """
    rows, columns = _pairs(x, y, partners_of_x, partners_of_y)
    costs = (x[rows] - y[columns]).norm(dim=1)  # (E,)
    above = (costs - f[rows] - g[columns]).clamp(min=0)
    levels = (above * (LEVELS / costs.mean())).round() + 1  # to scipy 0 is no pair
    graph = csr_array((levels.double().numpy(), (rows, columns)), shape=(len(x), len(y)))
    own, partners = min_weight_full_bipartite_matching(graph)
    found: NDArray[np.float64] = (x[own] - y[partners]).norm(dim=1).double().numpy()
    return found[np.argsort(own)]


def _pairs(
    x: torch.Tensor, y: torch.Tensor, partners_of_x: torch.Tensor, partners_of_y: torch.Tensor
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns, each pair once."""
    every, axes = torch.arange(len(x)), _principal_axes(x, y)
    orders = [torch.stack([(points @ axes).argsort(0).T.reshape(-1) for points in (x, y)])]
    own = torch.stack([every.repeat_interleave(partners_of_x.shape[1]), partners_of_x.reshape(-1)])
    theirs = torch.stack([partners_of_y.reshape(-1), every.repeat_interleave(partners_of_y.shape[1])])
    rows, columns = torch.cat([*orders, own, theirs], 1).numpy()
    place = np.unique(rows * len(y) + columns)
    return place // len(y), place % len(y)


def _principal_axes(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(d, AXES) at most."""
    both = torch.cat([x, y])
    axes: torch.Tensor = torch.linalg.eigh(torch.cov(both.T).reshape(x.shape[1], x.shape[1])).eigenvectors
    return axes[:, -AXES:]
